"""Many files at the same time, each in a process of its own."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Callable, Generator, List, Optional, Sequence, Tuple, TypeVar, Union

import torch

from meddlr_greedy.errors import UserError, log_causes

__all__ = ["in_parallel"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_parallel(
    function: Callable[..., _R],
    jobs: Sequence[_T],
    num_processes: int,
    on_step: Optional[Callable] = None,
    log: Optional[Path] = None,
) -> Generator[Tuple[_T, Union[_R, UserError]], None, None]:
    """Results, or the UserErrors instead, as they come.

    Args:
        function: Called with each job and, in this process, with ``on_step``.
        jobs: What ``function`` is called with.
        num_processes: How many at the same time; 1 is this process.
        on_step: Called by ``function`` for each of its steps; not in other processes.
        log: Where other processes write the causes of errors, see :func:`meddlr_greedy.errors.log_causes`.

    Raises:
        UserError: A process was killed. No other one runs any more.
    """
    if num_processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _caught(function, job, *([on_step] if on_step else []))
        return
    context = multiprocessing.get_context("forkserver")
    # Imported once, in the process that the others are copies of.
    context.set_forkserver_preload([getattr(function, "func", function).__module__])
    pool = concurrent.futures.ProcessPoolExecutor(num_processes, context, _begin, (log,))
    processes: List[Any] = []
    try:
        futures = {pool.submit(_caught, function, job): job for job in jobs}
        processes = [*pool._processes.values()]
        for future in concurrent.futures.as_completed(futures):
            try:
                result = future.result()
            except BrokenProcessPool as error:
                time.sleep(0.2)  # a signal to all processes ends this one in its own words
                raise UserError(
                    f"--jobs: a process ended{_how(processes)}; is there memory for {num_processes}? What is done is"
                    " kept: run the command again"
                ) from error
            yield futures[future], result
    except BaseException:
        for process in processes:  # what they do is not needed any more, and may take hours
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(log: Optional[Path]) -> None:
    """What a process does first."""
    torch.set_num_threads(1)
    # A terminal sends them to all processes; the first one ends the others.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if log is not None:
        log_causes(log)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _how(processes: Sequence[Any]) -> str:
    """By which signal, as far as it is known: processes that are ended for another one get SIGTERM."""
    codes = [process.exitcode for process in processes if process.exitcode not in (None, 0, -signal.SIGTERM)]
    if not codes:
        return ""
    return f", killed by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f" with status {codes[0]}"


def _caught(function: Callable[..., _R], *arguments: Any) -> Union[_R, UserError]:
    try:
        return function(*arguments)
    except UserError as error:
        return error
    except MemoryError as error:
        return UserError(f"does not fit into memory ({error})")
