"""Checkpoints of a network that is spread over the processes of a chain."""

import io
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import nn

from meddlr_greedy.engine.checkpoint import GreedyCheckpointer, plain_name
from meddlr_greedy.jobs.failure import PeerLostError, is_lost_connection
from meddlr_greedy.modeling.wrappers.inside import greedy_inside, prefix_inside
from meddlr_greedy.parallel.channel import END, Message, Sender, receive
from meddlr_greedy.parallel.place import Place
from meddlr_greedy.parallel.shards import merge_optimizers, merge_schedulers, select_optimizer, select_scheduler

#: Tag of reports to the I/O rank, so that they are not taken for batches.
REPORTS = 1
# Reports (measurements, states) that may wait for the I/O rank; more than a chain has batches in flight.
_WAITING_REPORTS = 1024


class ChainCheckpointer(GreedyCheckpointer):
    """Checkpoints in the format of a single process: gathered from the first chain, written by its last process.

    To gather, a process sends its part and goes on; the I/O rank comes last and finds everything there.

    Args:
        model: The network, of which this process keeps its modules.
        save_dir: Folder of the run.
        place: Where this process stands.
        **checkpointables: What else a checkpoint holds: ``optimizer``, ``scheduler`` and ``moving_averages`` of the own
            parameters, ``run``.
    """

    def __init__(self, model: nn.Module, save_dir: str, *, place: Place, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        greedy = greedy_inside(model)
        assert greedy is not None and greedy.whole is not None
        self._greedy, self._whole, self._prefix = greedy, greedy.whole, prefix_inside(model)
        own = greedy.own_state_dict()
        self._positions = [i for i, name in enumerate(self._whole.trainable) if name in own]
        self._place = place
        self._reports: Optional[Sender] = None
        self._gathered: Tuple[Optional[int], Dict[str, Any]] = (None, {})

    def connect(self) -> None:
        """Opens the channel to the I/O rank, for states and for other reports (:meth:`report`)."""
        if not self._place.is_io_rank:
            cpu = torch.device("cpu")
            self._reports = Sender(self._place.io_rank, depth=_WAITING_REPORTS, device=cpu, tag=REPORTS)

    def close(self) -> None:
        """Waits until all reports have left; on the I/O rank, until all processes have said that theirs have."""
        if self._reports is not None:
            self._reports.close()
        else:
            self.reports(END["kind"], self._place.num_processes)

    def report(self, kind: str, message: Message) -> None:
        """Sends a report to the I/O rank; for all other processes."""
        assert self._reports is not None
        self._reports.put({**message, "kind": kind})

    def reports(self, kind: str, num_processes: int) -> List[Message]:
        """Receives the next report of each other process; for the I/O rank.

        Args:
            kind: What the reports have to be.
            num_processes: The first so many ranks report.

        Returns:
            List[Message]: The reports, in the order of the ranks.

        Raises:
            PeerLostError: One of them is gone.
        """
        received = []
        for rank in (rank for rank in range(num_processes) if rank != self._place.io_rank):
            try:
                received.append(receive(rank, tag=REPORTS))
            except RuntimeError as error:
                if not is_lost_connection(error):
                    raise
                raise PeerLostError(rank, error) from error
            assert received[-1]["kind"] == kind, f"found {received[-1]['kind']}, expected {kind}"
        return received

    def gather(self, iteration: int) -> None:
        """Collects the state after an iteration, once, however often it is called; all processes have to call it."""
        if self._gathered[0] == iteration or self._place.replica > 0:
            return
        part = {**super().state(), "positions": self._positions}
        part.pop("run")  # that of the I/O rank is the run's
        if not self._place.is_io_rank:
            self.report("state", _pack(part))
            self._gathered = (iteration, {})
            return
        parts = [*map(_unpack, self.reports("state", self._place.num_stages)), part]
        positions = [p["positions"] for p in parts]
        whole = {
            "model": self._whole_weights([p["model"] for p in parts]),
            "optimizer": merge_optimizers([p["optimizer"] for p in parts], positions),
            "scheduler": merge_schedulers([p["scheduler"] for p in parts], positions),
        }
        if "ema" in part:
            whole["ema"] = {**part["ema"], "model": self._whole_weights([p["ema"]["model"] for p in parts])}
        self._gathered = (iteration, whole)

    def _weights(self) -> Dict[str, torch.Tensor]:
        return self._greedy.own_state_dict()

    def _whole_weights(self, parts: Sequence[Dict[str, torch.Tensor]]) -> Dict[str, torch.Tensor]:
        """The weights of the whole network, by the names and in the order of one process."""
        weights = {name: value for part in parts for name, value in part.items()}
        return {self._prefix + name: weights[name] for name in self._whole.shapes}

    def save(self, name: str, tag: bool = True, **kwargs: Any) -> None:
        """Gathers the state after ``iteration`` (one of ``kwargs``); the I/O rank writes it."""
        self.gather(kwargs["iteration"])
        if self._place.is_io_rank:
            super().save(name, tag, **kwargs)

    def save_averages(self, name: str, **kwargs: Any) -> None:
        """The same of the moving averages alone."""
        self.gather(kwargs["iteration"])
        if self._place.is_io_rank:
            super().save_averages(name, **kwargs)

    def state(self) -> Dict[str, Any]:
        """Returns the state of the whole network that was gathered last."""
        # The generators as they are now, not as they were inside an evaluation, when the rest may have been gathered.
        return {**self._gathered[1], "run": self.checkpointables["run"].state_dict()}

    def release(self) -> None:
        """Lets go of what was gathered: the whole network does not fit everywhere."""
        self._gathered = (self._gathered[0], {})

    def prune(self, keep: int) -> None:
        """Deletes old checkpoints, on the I/O rank alone."""
        if self._place.is_io_rank:
            super().prune(keep)

    def _own_part(self, key: str, state: Any) -> Any:
        selects = {"optimizer": select_optimizer, "scheduler": select_scheduler}
        return selects[key](state, self._positions) if key in selects else state

    def _shapes(self) -> Dict[str, Tuple[int, ...]]:
        return self._whole.shapes

    def _load_weights(self, weights: Dict[str, torch.Tensor]) -> None:
        own = {key: weights[plain_name(key)] for key in self._greedy.own_state_dict()}
        self._greedy.load_state_dict(own, strict=False)


def _pack(state: Dict[str, Any]) -> Message:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {"state": torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)}


def _unpack(message: Message) -> Dict[str, Any]:
    return torch.load(io.BytesIO(message["state"].numpy()), map_location="cpu", weights_only=True)
