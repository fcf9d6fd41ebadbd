"""Starts the processes of a job on this machine."""

import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence

import torch.distributed as dist

from meddlr_greedy.errors import print_error
from meddlr_greedy.jobs.board import Board
from meddlr_greedy.jobs.job import END_S

__all__ = ["launch"]


def launch(num: int, arguments: Sequence[str], module: str) -> int:
    """Runs ``python -m module arguments`` in ``num`` processes on this machine, until all have ended.

    Args:
        num: Number of processes.
        arguments: Of the command line.
        module: The entry point.

    Returns:
        The exit status: 0 if all ended well, else that of the process which failed first.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(1, (os.cpu_count() or 1) // num)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
    }
    command = [sys.executable, "-m", module, *arguments]
    processes: List[subprocess.Popen] = []

    def forward(number: int, frame: Any) -> None:
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        for rank in range(num):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env={**environment, **ranks}))
        return _wait_for_all(processes, Board(store))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, before in previous.items():
            signal.signal(number, before)


def _wait_for_all(processes: List[subprocess.Popen], everywhere: Board) -> int:
    """Waits; once a process has failed, the others are given ``END_S`` seconds."""
    deadline: Optional[float] = None
    status = 0
    running: Dict[int, subprocess.Popen] = dict(enumerate(processes))
    while running and (deadline is None or time.monotonic() < deadline):
        time.sleep(0.1)
        for rank, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[rank]
            if process.returncode == 0:
                continue
            board = everywhere.attempt()
            if process.returncode < 0:
                line = f"{board.name(rank)}: killed by {signal.Signals(-process.returncode).name}"
                if board.report_failure(line, 1):
                    print_error(line)
            status = status or board.failure_status() or (process.returncode if process.returncode > 0 else 1)
            deadline = deadline or time.monotonic() + END_S
    return status
