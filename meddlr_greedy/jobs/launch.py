"""Starts the processes of a job on this machine."""

import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence

import torch.distributed as dist

from meddlr_greedy.jobs.end_request import handling_signals
from meddlr_greedy.jobs.failure import END_S, report_failure
from meddlr_greedy.jobs.store import KeyValueStore

__all__ = ["launch"]


def launch(num: int, arguments: Sequence[str], module: str) -> int:
    """Runs a module, as ``python -m`` does, in ``num`` processes on this machine, until all have ended.

    Args:
        num: Number of processes.
        arguments: Of the command line.
        module: Name of the module that is run as the main program.

    Returns:
        The exit status: 0 if all ended well, else that of the process which failed first.
    """
    connection = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num)),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(connection.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
    }
    command = [sys.executable, "-m", module, *arguments]
    processes: List[subprocess.Popen] = []

    def forward(number: int, frame: Any) -> None:  # noqa: ARG001 (the signature of a handler)
        for process in processes:
            process.send_signal(number)

    with handling_signals(forward):
        try:
            for rank in range(num):
                ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(subprocess.Popen(command, env={**environment, **ranks}))
            return _wait_for_all(processes, KeyValueStore(connection))
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _wait_for_all(processes: List[subprocess.Popen], store: KeyValueStore) -> int:
    """Waits until all processes have ended; once one has failed, the others are given ``END_S`` seconds."""
    deadline: Optional[float] = None
    status = 0
    running: Dict[int, subprocess.Popen] = dict(enumerate(processes))
    while running and (deadline is None or time.monotonic() < deadline):
        time.sleep(0.1)
        for rank, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[rank]
            if process.returncode != 0:
                failed = _status_of_failed_process(rank, process.returncode, store.current_attempt())
                status = status or failed
                deadline = deadline or time.monotonic() + END_S
    return status


def _status_of_failed_process(rank: int, returncode: int, store: KeyValueStore) -> int:
    """The exit status of the job after a process failed; reports one that was killed and so could say nothing."""
    if returncode < 0:
        line = f"{store.process_name(rank)}: killed by {signal.Signals(-returncode).name}"
        report_failure(store, line, 1)
    return store.failure_status() or max(1, returncode)
