"""Measurements of all processes of a chain, brought to the I/O rank."""

import time
from typing import Dict, List, Sequence

from meddlr.engine.train_loop import HookBase

__all__ = ["ShareMeasurements"]


class ShareMeasurements(HookBase):
    """Brings what every process of a chain has logged to the I/O rank, before it writes.

    Adds, for each process: ``rank_<r>/batches_per_s``; ``rank_<r>/wait_s``, the time for which it waited for its
    neighbors, per batch; ``rank_<r>/idle_share``, the same as a share of all time; and ``rank_<r>/in_flight_mb``, the
    memory of batches on their way to and from it. The bottleneck is the process that waits least.

    Args:
        periods: Iterations between two reports; each brings some.
    """

    def __init__(self, periods: Sequence[int]):
        self._periods = periods
        self._values: List[Dict[str, float]] = []

    def before_train(self) -> None:
        """Begins to measure."""
        self._start()

    def _start(self) -> None:
        self._since, self._waited_before = time.perf_counter(), self.trainer.waited_s()
        self._values = []

    def after_step(self) -> None:
        """Keeps what was logged; where the I/O rank writes in this iteration, brings it there."""
        trainer = self.trainer
        done = trainer.iter + 1
        values = {}
        if trainer.place.replica == 0 and not trainer.is_io_rank:
            latest = trainer.storage.latest()
            shared = [name for name in latest if "module_" in name or name == "data_time" and trainer.place.is_first]
            values = {name: latest[name] for name in shared}
        self._values.append(values)
        if done != trainer.max_iter and not any(done % period == 0 for period in self._periods):
            return  # nothing is written in this iteration
        values.update(self._rates())
        if trainer.is_io_rank:
            reports = trainer.checkpointer.reports("measurements", trainer.place.num_processes)
            for values_of_iterations in (self._values, *(report["values"] for report in reports)):
                self._put(values_of_iterations)
        else:
            trainer.checkpointer.report("measurements", {"values": self._values})
        self._start()

    def _rates(self) -> Dict[str, float]:
        """Speed and waiting of this process since the last report."""
        elapsed, count = time.perf_counter() - self._since, len(self._values)
        waited = self.trainer.waited_s() - self._waited_before
        values = {
            "batches_per_s": count / elapsed,
            "wait_s": waited / count,
            "idle_share": waited / elapsed,
            "in_flight_mb": self.trainer.in_flight_mb(),
        }
        return {f"rank_{self.trainer.job.rank}/{name}": value for name, value in values.items()}

    def _put(self, values_of_iterations: Sequence[Dict[str, float]]) -> None:
        for values in values_of_iterations:
            for name, value in values.items():
                is_smoothed = not name.startswith(("module_", "rank_"))
                self.trainer.storage.put_scalar(name, value, smoothing_hint=is_smoothed)
