"""Jobs that start fast, for tests and benchmarks.

Their processes are forked from a server (:mod:`multiprocessing`'s forkserver) that has imported everything already. To
train, use :func:`meddlr_greedy.jobs.launch.launch`, whose processes start as from a command line.
"""

import contextlib
import multiprocessing
import os
import socket
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import torch
import torch.distributed as dist

__all__ = ["LocalJob", "preload"]

_CONTEXT = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """Names the modules that the server imports, once for all jobs; call it before the first job."""
    _CONTEXT.set_forkserver_preload(list(modules))


class LocalJob:
    """``num`` processes on this machine that each call ``function(*args)`` with the environment variables of a job.

    Args:
        num: Number of processes.
        function: The function that each process calls; it must be importable by its name.
        args: Its arguments.
        output: File to which the processes append what they print.
        threads: Intra-op threads of each process.
        gpus: Whether the processes may see the GPUs.
        store: The store of an earlier attempt, which this job continues.
        agent_store: Whether this process runs the store, which then outlives the job, as torchrun's does; else the
            first process of the job runs it.

    Attributes:
        processes: The processes, by rank.
        store: The store, where this process runs it.
    """

    def __init__(
        self,
        num: int,
        function: Callable[..., Any],
        args: Sequence[Any],
        output: Union[str, Path],
        threads: int = 1,
        gpus: bool = False,
        store: Optional[dist.TCPStore] = None,
        agent_store: bool = True,
    ):
        self.output = Path(output)
        self.store = store
        if self.store is None and agent_store:
            self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {
            **{key: value for key, value in os.environ.items() if key.startswith("MEDDLR")},
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port if self.store is not None else _free_port()),
            "TORCHELASTIC_USE_AGENT_STORE": str(agent_store),
            "WORLD_SIZE": str(num),
            "LOCAL_WORLD_SIZE": str(num),
            **({} if gpus else {"CUDA_VISIBLE_DEVICES": ""}),
        }
        self.processes: List[Any] = []
        for rank in range(num):
            environment_of_rank = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = _CONTEXT.Process(target=_run, args=(function, environment_of_rank, str(output), threads, args))
            process.start()
            self.processes.append(process)

    def text(self) -> str:
        """What the processes have printed so far."""
        with contextlib.suppress(FileNotFoundError):
            return self.output.read_text()
        return ""

    def wait(self, seconds: float = 600) -> List[int]:
        """Waits for all processes, and returns their exit statuses by rank.

        Raises:
            TimeoutError: Some processes are not done after ``seconds``. All are killed.
        """
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.kill()
        if late:
            raise TimeoutError(f"ranks {late} took more than {seconds:.0f} s\n{self.text()[-3000:]}")
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """Kills the processes that still run, and waits until they are gone."""
        for process in self.processes:
            process.kill()
            process.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(function: Callable, environment: Dict[str, str], output: str, threads: int, args: Sequence[Any]) -> None:
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.setpgrp()
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in a process from the command line
    os.environ.update(environment)
    torch.set_num_threads(threads)
    function(*args)
