"""Batches on the GPU before they are needed."""

import itertools
from typing import Any, Dict, Iterator, Optional, Tuple

import torch

from meddlr_greedy.ops.devices import to_device

__all__ = ["CopiedAhead"]

Batch = Dict[str, Any]


class CopiedAhead(Iterator[Batch]):
    """The batches of a loader on a CUDA device; while one is trained on, the next one is copied by a stream of its own.

    So two batches are on the device at a time.

    Args:
        batches: An iterator over batches in pinned memory.
        device: The CUDA device.
        count: How many batches there will be; not one more is read.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device, count: int):
        self._batches, self._device = itertools.islice(batches, count), device
        self._stream = torch.cuda.Stream(device)
        self._has_begun = False
        self._ahead: Optional[Tuple[Batch, torch.cuda.Event]] = None

    def __next__(self) -> Batch:
        if not self._has_begun:
            self._has_begun, self._ahead = True, self._copied()
        if self._ahead is None:
            raise StopIteration
        batch, arrived = self._ahead
        # The computing stream waits for the copy; the host waits for nothing.
        current = torch.cuda.current_stream(self._device)
        current.wait_event(arrived)
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(current)  # allocated on the other stream
        self._ahead = self._copied()
        return batch

    def _copied(self) -> Optional[Tuple[Batch, torch.cuda.Event]]:
        """The next batch of the loader on its way to the device, and the event that tells of its arrival."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        arrived = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            copied = to_device(batch, self._device)
            arrived.record(self._stream)
        return copied, arrived
