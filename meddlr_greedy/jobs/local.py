"""Jobs of several processes on this machine that start fast: forked from a server that has imported everything."""

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
    """Names the modules that the server imports, once, for all jobs; before the first job."""
    _CONTEXT.set_forkserver_preload(list(modules))


class LocalJob:
    """``num`` processes that each call ``function(*args)`` in the environment of a job.

    Args:
        num: Number of processes.
        function: What each calls; found by its name.
        args: Its arguments.
        output: File for what the processes print.
        threads: Intra-op threads of each process.
        gpus: Whether the processes may see the GPUs.
        store: That of an earlier attempt, which it continues.
        agent_store: Whether the store outlives the processes, as torchrun's does; else the first of them holds it.
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
            of_rank = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = _CONTEXT.Process(target=_run, args=(function, of_rank, str(output), threads, args))
            process.start()
            self.processes.append(process)

    def text(self) -> str:
        """What the processes have printed."""
        with contextlib.suppress(FileNotFoundError):
            return self.output.read_text()
        return ""

    def wait(self, seconds: float = 90) -> List[int]:
        """The exit status of each process; those that are not done in time are killed.

        Raises:
            TimeoutError: names them.
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
