"""A job as one of its processes sees it.

A job is started by ``torchrun``, by a scheduler that sets torch's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT), or by ``--num-gpus N`` through :func:`meddlr_greedy.jobs.launch.launch`. Its processes share a small
key-value store. There every process leaves a heartbeat each second, which one other process watches, and there the
first process that fails says why. All others see that within a second and end, whatever they are waiting for: a lost
process hangs nobody.
"""

import os
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import Iterator, List, Optional

import torch
import torch.distributed as dist

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.end_request import SIGNALS
from meddlr_greedy.jobs.environment import Environment
from meddlr_greedy.jobs.failure import FailureHandler, Member
from meddlr_greedy.jobs.rendezvous import begin_attempt
from meddlr_greedy.jobs.start import live_on_without_launcher
from meddlr_greedy.jobs.store import KeyValueStore, connect
from meddlr_greedy.jobs.watch import HEARTBEAT_S, Watch
from meddlr_greedy.signals import handling_signals

__all__ = ["Job"]


class Job:
    """The job of this process; :meth:`join` makes it.

    Args:
        member: This process as the other parts of this package see it.
        local_rank: See below.
        store: The keys of the attempt, over a connection of the main thread.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        local_rank: Number of this process on its machine, from 0.
        end_request: Whether a signal asked any process of the job to end.
    """

    _current: Optional["Job"] = None

    def __init__(self, member: Member, local_rank: int, store: KeyValueStore):
        self.rank, self.world_size, self.local_rank = member.rank, member.world_size, local_rank
        self.end_request = member.end_request
        self._member, self._store = member, store
        self._failure = FailureHandler(member, store)

    @classmethod
    def current(cls) -> "Job":
        """The job of this process.

        Raises:
            UserError: The process was started alone.
        """
        if cls._current is None:
            raise UserError(
                "MISC.GREEDY.RUN.TRAINER: found 'ParallelGreedyTrainer', but one process was started; start several"
                " with --num-gpus N or torchrun, or set 'auto'"
            )
        return cls._current

    @classmethod
    def join(cls) -> "Job":
        """Joins the job that the environment describes, and starts to watch it.

        Raises:
            UserError: An environment variable is missing or wrong, nobody answers at MASTER_ADDR, or another process
                has the same rank.
        """
        environment = Environment.read()
        holds_store = environment.rank == 0 and not environment.launcher_holds_store
        member = Member(
            environment.rank,
            environment.world_size,
            linger_s=3 * HEARTBEAT_S if holds_store else 0.0,
            launcher=os.getppid() if environment.launcher_holds_store else None,
        )
        try:
            store = begin_attempt(KeyValueStore(connect(environment, starts_store=holds_store)), member.rank)
            store_of_watch = KeyValueStore(connect(environment), store.attempt)
        except RuntimeError as error:
            where = f"{environment.master_addr}:{environment.master_port}"
            raise UserError(f"MASTER_ADDR: the store of the job at {where} is gone; was its process killed?") from error
        Watch(member, store_of_watch).start()
        live_on_without_launcher()
        cls._current = cls(member, environment.local_rank, store)
        return cls._current

    def init_process_group(self, backend: str) -> None:
        """Connects the processes for point-to-point and collective communication (``torch.distributed``)."""
        store = dist.PrefixStore(f"{self._store.prefix}groups", self._store.connection)
        # A process that waits long has not failed, since another one may be slow: the watch finds what has failed.
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.world_size, timeout=timedelta(days=7)
        )
        self._member.connected.set()

    def agree(self, key: str, value: Optional[str]) -> str:
        """The first process's value for ``key``, in all processes; they wait for it.

        Args:
            key: Names what is agreed on; used once.
            value: This process's value. Only that of the first process counts; the others may give None.
        """
        if self.rank == 0:
            assert value is not None
            self._store.write(f"agreed/{key}", value)
            return value
        return self._store.wait_for(f"agreed/{key}")

    def exchange(self, key: str, value: str) -> List[str]:
        """The values that all processes give for ``key``, in the order of their ranks; waits for all of them.

        Args:
            key: What they are about; used once.
            value: That of this process.
        """
        self._store.write(f"exchanged/{key}/{self.rank}", value)
        return [self._store.wait_for(f"exchanged/{key}/{rank}") for rank in range(self.world_size)]

    def introduce(self, modules: str) -> None:
        """Tells the others which modules run here, for their messages."""
        self._store.write_modules(self.rank, modules)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside the block, a signal asks for the end after an iteration; before it, it ends the process at once.

        The block lasts until the process has left the job. What is left to do after the last iteration is short, and
        must not be done by halves.
        """
        self._member.trains = True  # for good: the watch may read a signal from inside the block a little later
        with self.end_request.listening():
            yield

    def finish(self) -> None:
        """Waits until all processes have come here, then leaves the job."""
        dist.all_reduce(torch.zeros(1))  # on the CPU; a barrier would choose a GPU by itself, and connect all of them
        self._member.ended.set()
        dist.destroy_process_group()
        time.sleep(self._member.linger_s)

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Inside the block, an exception ends all processes of the job; one line says why, with rank and modules.

        A signal ends them all, too; while the network is trained, it does so after an iteration.
        """
        # Python notes the signal where the watch reads it.
        with self._failure.ending_together(), handling_signals(SIGNALS, lambda number, frame: None):  # noqa: ARG005
            yield
