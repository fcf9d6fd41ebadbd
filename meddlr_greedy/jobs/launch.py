"""Starts the processes of a job on this machine."""

import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence

import torch.distributed as dist

from meddlr_greedy.errors import PreemptedError
from meddlr_greedy.jobs import start
from meddlr_greedy.jobs.end_request import INTERRUPTED, SIGNALS, TWICE, outside_the_training
from meddlr_greedy.jobs.failure import END_S, report_failure
from meddlr_greedy.jobs.store import KeyValueStore
from meddlr_greedy.signals import handling_signals

__all__ = ["launch"]

#: How long processes may take to end once Ctrl-C has insisted.
_INSIST_S = 2.0


def launch(num: int, arguments: Sequence[str], module: str) -> int:
    """Runs a module, as ``python -m`` does, in ``num`` processes on this machine, until all have ended.

    It hands signals on to the processes. Where it is killed, they end, too.

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
        "TORCH_CPP_LOG_LEVEL": "FATAL",  # else torch prints pages of C++ frames where a process is lost
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(connection.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
    }
    command = [sys.executable, start.__file__, str(os.getpid()), module, *arguments]
    processes: List[subprocess.Popen] = []
    received: List[int] = []

    def hand_on(number: int, frame: Any) -> None:  # noqa: ARG001 (the signature of a handler)
        received.append(number)
        for process in processes:
            # The processes may have got Ctrl-C, too; a second one would end them at once.
            process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    with handling_signals(SIGNALS, hand_on):
        try:
            for rank in range(num):
                ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(subprocess.Popen(command, env={**environment, **ranks}))
            return _wait_for_all(processes, KeyValueStore(connection), received)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _wait_for_all(processes: List[subprocess.Popen], store: KeyValueStore, received: Sequence[int] = ()) -> int:
    """Waits until all processes have ended; once one has failed, the others are given ``END_S`` seconds."""
    deadline: Optional[float] = None
    status = 0
    running: Dict[int, subprocess.Popen] = dict(enumerate(processes))
    while running and (deadline is None or time.monotonic() < deadline):
        time.sleep(0.1)
        if received.count(signal.SIGINT) > 1 and status != INTERRUPTED:
            report_failure(store.current_attempt(), TWICE, INTERRUPTED)
            status, deadline = INTERRUPTED, time.monotonic() + _INSIST_S
        for rank, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[rank]
            if process.returncode != 0:
                failed = _status_of_failed_process(rank, process.returncode, store.current_attempt(), received)
                status = status or failed
                deadline = deadline or time.monotonic() + END_S
    return status


def _status_of_failed_process(rank: int, returncode: int, store: KeyValueStore, received: Sequence[int]) -> int:
    """The exit status of the job after a process failed; reports one that was killed and so could say nothing."""
    if returncode < 0 and received and -returncode in SIGNALS:  # it had not come so far as to handle signals
        report_failure(store, outside_the_training(received[0]), PreemptedError.exit_status)
    elif returncode < 0:
        hint = " (out of memory, perhaps)" if returncode == -signal.SIGKILL else ""
        line = f"{store.process_name(rank)}: killed by {signal.Signals(-returncode).name}{hint}"
        report_failure(store, line, 1)
    return store.failure_status() or max(1, returncode)
