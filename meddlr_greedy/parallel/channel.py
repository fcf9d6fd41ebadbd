"""From one process to the next: batches travel down the chain while both sides compute.

A message is a dictionary of tensors and small values. Each side of a channel has a thread that does nothing but wait
and copy, and a queue with room for a few messages: the queue bounds the batches in flight, so that a fast process
cannot run away from a slow one. Shapes travel with each message, so they may change from batch to batch.

On CUDA the copies run on a stream of their own. Where the backend moves no CUDA tensors (gloo), they pass through
pinned host memory.
"""

import contextlib
import json
import queue
import threading
import time
from typing import Any, ContextManager, Dict, List, Optional

import torch
import torch.distributed as dist

from meddlr_greedy.jobs.failure import PeerLostError, is_lost_connection

__all__ = ["END", "Message", "Receiver", "Sender", "receive", "send"]

Message = Dict[str, Any]

#: The last message of a channel.
END: Message = {"kind": "end"}


def send(message: Message, peer: int, tag: int = 0, stage_on_cpu: bool = True, group: Any = None) -> None:
    """Sends a message, and waits until it has left.

    Args:
        message: Tensors, and values that JSON knows.
        peer: Rank to send to.
        tag: Keeps this channel apart from others between the same processes.
        stage_on_cpu: Whether the backend cannot take tensors from where they are.
        group: The processes of the channel; None: all of the job.
    """
    tensors = {}
    described = []
    for key, value in message.items():
        if isinstance(value, torch.Tensor):
            order = _memory_order(value)
            tensors[key] = value.resolve_conj().permute(order).contiguous()
            described.append([key, str(value.dtype)[len("torch.") :], list(tensors[key].shape), order])
    values = {key: value for key, value in message.items() if key not in tensors}
    header = json.dumps([described, values], default=int).encode()  # default: numpy's integers
    dist.send(torch.tensor([len(header)]), peer, group, tag)
    dist.send(torch.frombuffer(bytearray(header), dtype=torch.uint8), peer, group, tag)
    for tensor in tensors.values():
        if tensor.numel():
            tensor = _to_pinned(tensor) if stage_on_cpu and tensor.is_cuda else tensor
            dist.send(_as_bytes(tensor), peer, group, tag)


def receive(
    peer: int, tag: int = 0, device: Optional[torch.device] = None, stage_on_cpu: bool = True, group: Any = None
) -> Message:
    """Receives what :func:`send` sends; tensors arrive on ``device`` (None: the CPU)."""
    length = torch.zeros(1, dtype=torch.int64)
    dist.recv(length, peer, group, tag)
    header = torch.zeros(int(length), dtype=torch.uint8)
    dist.recv(header, peer, group, tag)
    described, message = json.loads(bytes(header.tolist()))
    cpu = torch.device("cpu")
    device = device or cpu
    to_cuda = device.type == "cuda"
    arrives_on = cpu if stage_on_cpu else device
    for key, dtype, shape, order in described:
        pinned = to_cuda and arrives_on.type == "cpu"
        tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=arrives_on, pin_memory=pinned)
        if tensor.numel():
            dist.recv(_as_bytes(tensor), peer, group, tag)
        tensor = tensor.to(device, non_blocking=True) if to_cuda else tensor
        message[key] = tensor.permute([order.index(axis) for axis in range(len(order))])
    return message


def _memory_order(tensor: torch.Tensor) -> List[int]:
    """The axes in the order of their strides.

    A tensor arrives with the strides that it had: sums run through memory in order, so a tensor laid out otherwise
    would give other bits.
    """
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A view of the memory: every backend moves bytes, not every one complex numbers."""
    return tensor.reshape(-1).view(torch.uint8)


def _to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return pinned


class _Side:
    """One side of a channel: a thread, its queue, its CUDA stream, and the time that was spent waiting for it.

    Args:
        peer: Rank on the other side.
        depth: Messages that may wait in the queue.
        device: Where tensors are.
        tag: See :func:`send`.
        stage_on_cpu: See :func:`send`.
        group: See :func:`send`.
    """

    def __init__(
        self,
        peer: int,
        depth: int,
        device: torch.device,
        tag: int = 0,
        stage_on_cpu: bool = True,
        group: Any = None,
    ):
        self.peer, self.device, self.tag, self.stage_on_cpu, self.group = peer, device, tag, stage_on_cpu, group
        self.waited_s = 0.0
        self.largest_bytes = 0
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._guarded, daemon=True, name=type(self).__name__)
        self._thread.start()

    def _on_stream(self) -> ContextManager:
        return torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()

    def _guarded(self) -> None:
        try:
            with self._on_stream():
                self._run()
        except BaseException as error:  # noqa: BLE001 (whatever it is, the main thread has to hear of it)
            self._error = error
            self._on_error()

    def _run(self) -> None:
        raise NotImplementedError

    def _on_error(self) -> None:
        raise NotImplementedError

    def _failure(self) -> BaseException:
        """What to raise: a broken connection is the peer's fault, everything else this side's own."""
        assert self._error is not None
        return PeerLostError(self.peer, self._error) if is_lost_connection(self._error) else self._error

    def _measure(self, message: Message) -> None:
        num_bytes = sum(t.nbytes for t in message.values() if isinstance(t, torch.Tensor))
        self.largest_bytes = max(self.largest_bytes, num_bytes)


class Sender(_Side):
    """Sends messages in the background; :meth:`put` waits where too many are on their way.

    Raises:
        PeerLostError: (by its methods) the other side is gone.
    """

    def put(self, message: Message) -> None:
        """Queues a message, whose tensors may not be computed yet; they must not be changed afterwards."""
        ready = None
        if self._stream is not None:  # the tensors may not be computed yet
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self.device))
        self._measure(message)
        start = time.perf_counter()
        while True:
            if self._error is not None:
                raise self._failure()
            with contextlib.suppress(queue.Full):
                self._queue.put((message, ready), timeout=0.2)
                break
        self.waited_s += time.perf_counter() - start

    def close(self) -> None:
        """Sends :data:`END`, and waits until everything has left."""
        self.put(END)
        self._thread.join()
        if self._error is not None:
            raise self._failure()

    def _run(self) -> None:
        while True:
            message, ready = self._queue.get()
            if self._stream is not None:
                self._stream.wait_event(ready)
            send(message, self.peer, self.tag, self.stage_on_cpu, self.group)
            if self._stream is not None:
                self._stream.synchronize()  # before the tensors are let go
            if message is END:
                return
            del message

    def _on_error(self) -> None:
        pass  # the next put finds it


class Receiver(_Side):
    """Receives messages in the background; :meth:`get` waits for the next.

    Raises:
        PeerLostError: (by its methods) the other side is gone.
    """

    def get(self) -> Message:
        """Returns the next message; its tensors are on the device of this side."""
        start = time.perf_counter()
        message = self._queue.get()
        self.waited_s += time.perf_counter() - start
        if message is None:
            raise self._failure()
        self._measure(message)
        if self._stream is not None:
            current = torch.cuda.current_stream(self.device)
            for tensor in message.values():
                if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                    tensor.record_stream(current)  # allocated on the receiver's stream, used on this one
        return message

    def _run(self) -> None:
        while True:
            message = receive(self.peer, self.tag, self.device, self.stage_on_cpu, self.group)
            if self._stream is not None:
                self._stream.synchronize()
            self._queue.put(message)
            if message.get("kind") == END["kind"]:
                return

    def _on_error(self) -> None:
        self._queue.put(None)
