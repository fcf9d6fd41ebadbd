"""Many processes, one job: how they find each other, and how they end together.

A job is started by ``torchrun``, by a scheduler that sets torch's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT), or by ``--num-gpus N`` through :func:`launch`. Its processes share a small store. There every process
leaves a sign of life each second, which one other process watches, and there the first process that fails says why. All
others see that within a second and end, whatever they are waiting for: a lost peer hangs nobody.
"""

import os
import signal
import sys
import threading
import time
import traceback
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Callable, Iterator, List, Optional

import torch
import torch.distributed as dist

from meddlr_greedy.errors import OneLineError, Preempted, UserError, print_error
from meddlr_greedy.jobs.board import Board, PeerLost, is_lost_connection
from meddlr_greedy.jobs.end_request import JobEndRequest, end_at_once
from meddlr_greedy.jobs.environment import num_processes

__all__ = ["Job"]

HEARTBEAT_S = 1.0
#: Silence after which a process counts as lost. Dead ones are noticed sooner, by their closed connections.
SILENCE_S = 15.0
#: Patience with a process that has not come yet: importing torch on a cold disk can take long.
JOIN_S = 300.0
#: How long to wait for a better explanation before a lost connection is reported as such.
GRACE_S = 3.0
#: How long processes may take to end by themselves once one has failed.
END_S = 8.0


class Job:
    """This process as one of several; :meth:`join` makes it.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        local_rank: Number of this process on its machine, from 0.
        end_request: Whether a signal asked any process of the job to end.
    """

    def __init__(self, rank: int, world_size: int, local_rank: int, connect: Callable[[], dist.TCPStore]):
        self.rank, self.world_size, self.local_rank = rank, world_size, local_rank
        self.end_request = JobEndRequest()
        self._trains = False
        self._connect = connect
        self._lingers_s = 0.0
        self._connected, self._ended = threading.Event(), threading.Event()
        self._signals, wake = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(wake, False)
        # Python's handlers wait for the main thread, which may be waiting inside torch.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.board = self._begin_attempt(Board(connect()))

    _current: Optional["Job"] = None

    @classmethod
    def current(cls) -> "Job":
        """The job of this process.

        Raises:
            UserError: where it was started alone.
        """
        if cls._current is None:
            raise UserError(
                "MISC.GREEDY.RUN.TRAINER: found 'ParallelGreedyTrainer', but one process was started; start"
                " several with"
                " --num-gpus N or torchrun, or set 'auto'"
            )
        return cls._current

    @classmethod
    def join(cls) -> "Job":
        """Joins the job that the environment describes, and starts to watch it.

        Raises:
            UserError: where a variable is missing, or nobody answers at MASTER_ADDR.
        """
        missing = [key for key in ("RANK", "MASTER_ADDR", "MASTER_PORT") if key not in os.environ]
        if missing:
            raise UserError(f"{missing[0]}: missing, but WORLD_SIZE is {num_processes()}; start with torchrun")
        rank, world_size = int(os.environ["RANK"]), num_processes()
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun's agent and launch() hold the store, and outlive the processes; a scheduler alone has none.
        holds_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        stores: List[dist.TCPStore] = []

        def connect() -> dist.TCPStore:
            is_master, patience = holds_store and not stores, timedelta(seconds=JOIN_S)
            stores.append(dist.TCPStore(address, port, is_master=is_master, wait_for_workers=False, timeout=patience))
            return stores[-1]

        try:
            job = cls(rank, world_size, int(os.environ.get("LOCAL_RANK", rank)), connect)
        except RuntimeError as error:
            raise UserError(f"MASTER_ADDR: nobody answers at {address}:{port} ({_first_line(error)})") from None
        if holds_store:  # so that the others can read why
            job._lingers_s = 3 * HEARTBEAT_S
        threading.Thread(target=job._watch, daemon=True, name="watch").start()
        cls._current = job
        return job

    def _begin_attempt(self, board: Board) -> Board:
        """The board of this attempt, of which the first process tells every other one that greets it.

        torchrun's count of restarts does not name an attempt: machines that restart because another one failed do not
        count it.
        """
        name = uuid.uuid4().hex
        if self.rank == 0:
            board.write("attempt", name)
            return board.attempt()
        board.write(f"greeting/{self.rank}", name)
        deadline = time.monotonic() + JOIN_S
        while time.monotonic() < deadline:
            attempt = board.read(f"answer/{name}")
            if attempt is not None:
                return Board(board.store, attempt)
            time.sleep(0.1)
        raise UserError(f"rank 0 has not come within {JOIN_S:.0f} s; were all processes started?")

    def _answer_greetings(self, board: Board) -> None:
        for rank in range(1, self.world_size):
            name = board.read(f"greeting/{rank}")
            if name is not None:  # perhaps of an attempt that is over: then another one will come
                board.write(f"answer/{name}", self.board.attempt_name)

    def init_process_group(self, backend: str) -> None:
        """Connects the processes for point-to-point and collective communication (``torch.distributed``)."""
        # Waiting is no failure (for a slow rank before, say): who watches the job is _watch.
        store = dist.PrefixStore(self.board.prefix + "groups", self.board.store)
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.world_size, timeout=timedelta(days=7)
        )
        self._connected.set()

    def agree(self, key: str, value: Optional[str]) -> str:
        """What the first process gives for ``key``, in all processes."""
        if self.rank == 0:
            assert value is not None
            self.board.write(f"agreed/{key}", value)
            return value
        return self.board.wait_for(f"agreed/{key}")

    def introduce(self, modules: str) -> None:
        """Tells the others what runs here, for their messages."""
        self.board.write(f"modules/{self.rank}", modules)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside the block, a signal asks for the end after an iteration; before it, it ends the process at once.

        The block lasts until the process has left the job: what is left to do after the last iteration is short, and
        half of it would be nothing.
        """
        self._trains = True  # for good: the watch may read a signal that arrived inside a little later
        with self.end_request.listening():
            yield

    def finish(self) -> None:
        """Waits until all processes have come here, then leaves the job."""
        dist.barrier()
        self._ended.set()
        dist.destroy_process_group()
        time.sleep(self._lingers_s)

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Inside, an exception ends all processes of the job, and is told once, in one line with rank and modules."""
        try:
            yield
        except PeerLost as error:
            self._fail_for_lost_peer(error.rank, _first_line(error))
        except Preempted as end:  # all processes end so, each by itself
            if self.rank == self.world_size - 1:
                print_error(str(end))
            self._leave(end.exit_status)
        except OneLineError as error:
            self.fail(str(error), error.exit_status)
        except (MemoryError, torch.cuda.OutOfMemoryError) as error:
            self.fail(f"out of memory: {_first_line(error)}", 1)
        except Exception as error:  # noqa: BLE001 (whatever it is, the others must not wait for this process)
            if _is_out_of_memory(error):
                self.fail(f"out of memory: {_first_line(error)}", 1)
            if is_lost_connection(error):
                self._wait_for_another_report()
            self.fail(f"{type(error).__name__}: {_first_line(error)}", 1, traceback.format_exc())

    def fail(self, message: str, status: int, details: str = "") -> None:
        """Ends the process and with it the job; says why unless another process was first."""
        with self._store_may_be_gone():
            line = f"{self.board.name(self.rank)}: {message}"
            if self.board.report_failure(line, status):
                print_error(line, details)
        self._leave(status)

    def _fail_for_lost_peer(self, rank: int, cause: str) -> None:
        self._wait_for_another_report()
        with self._store_may_be_gone():
            line = f"{self.board.name(rank)}: lost (killed, or out of reach: {cause})"
            if self.board.report_failure(line, 1):
                print_error(line)
        self._leave(1)

    def _wait_for_another_report(self) -> None:
        """Ends the process if another one says why in the next seconds: it knows better than a broken connection."""
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            with self._store_may_be_gone():
                status = self.board.failure_status()
                if status is not None:
                    self._leave(status)
            time.sleep(0.1)

    @contextmanager
    def _store_may_be_gone(self) -> Iterator[None]:
        """Ends the process where the store is gone, and with it the process that held it, the first one."""
        try:
            yield
        except RuntimeError as error:
            if self._ended.is_set():
                return
            if self.rank == 1:  # nobody can agree any more on who says it
                print_error(f"rank 0: lost, with the job's store (killed, or out of reach: {_first_line(error)})")
            self._leave(1)

    def _leave(self, status: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if self.rank == 0 and not self._connected.is_set():
            self._let_the_others_come()
        time.sleep(self._lingers_s)
        # Not sys.exit: threads of torch that wait for a lost peer would keep the process.
        os._exit(status)

    def _let_the_others_come(self) -> None:
        """Waits a little until the others have joined, and can read why this attempt is over."""
        deadline = time.monotonic() + END_S
        with suppress(RuntimeError):
            while time.monotonic() < deadline:
                self._answer_greetings(Board(self.board.store))
                if all(self.board.read(f"beat/{rank}") for rank in range(1, self.world_size)):
                    return
                time.sleep(0.1)

    def _watch(self) -> None:
        """Gives signs of life, watches those of the next rank, and ends the process when the job has failed."""
        watched = (self.rank + 1) % self.world_size
        last_beat, seen = None, time.monotonic()
        with self._store_may_be_gone():
            everywhere = Board(self._connect())  # of its own: the main thread may be waiting on the other
            board = Board(everywhere.store, self.board.attempt_name)
            while not self._ended.wait(HEARTBEAT_S if self._connected.is_set() else HEARTBEAT_S / 5):
                self._act_on_signals()
                if self.rank == 0 and not self._connected.is_set():
                    self._answer_greetings(everywhere)
                board.write(f"beat/{self.rank}", repr(time.time()))
                status = board.failure_status()
                if status is not None:
                    self._leave(status)
                self.end_request.exchange(board)
                beat = board.read(f"beat/{watched}")
                if beat != last_beat:
                    last_beat, seen = beat, time.monotonic()
                patience = JOIN_S if beat is None else SILENCE_S
                if time.monotonic() - seen > patience:
                    line = f"{board.name(watched)}: lost (no sign of life for {patience:.0f} s)"
                    if board.report_failure(line, 1):
                        print_error(line)
                    self._leave(1)

    def _act_on_signals(self) -> None:
        with suppress(BlockingIOError):
            arrived = set(os.read(self._signals, 100)) & {signal.SIGTERM, signal.SIGUSR1}
            if arrived and not self._trains:
                end_at_once(arrived.pop())


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
