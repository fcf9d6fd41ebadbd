"""Many files at the same time, each in a process of its own."""

import concurrent.futures
import multiprocessing
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Generator, Optional, Sequence, Tuple, TypeVar, Union

import torch

from meddlr_greedy.errors import UserError

__all__ = ["in_parallel"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_parallel(
    function: Callable[..., _R], jobs: Sequence[_T], num_processes: int, on_step: Optional[Callable] = None
) -> Generator[Tuple[_T, Union[_R, UserError]], None, None]:
    """Results, or the UserErrors instead, as they come.

    Args:
        function: Called with each job and, in this process, with ``on_step``.
        jobs: What ``function`` is called with.
        num_processes: How many at the same time; 1 is this process.
        on_step: Called by ``function`` for each of its steps; not in other processes.
    """
    if num_processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _caught(function, job, *([on_step] if on_step else []))
        return
    context = multiprocessing.get_context("forkserver")
    # Imported once, in the process that the others are copies of.
    context.set_forkserver_preload([getattr(function, "func", function).__module__])
    pool = concurrent.futures.ProcessPoolExecutor(num_processes, context, torch.set_num_threads, (1,))
    try:
        futures = {pool.submit(_caught, function, job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise UserError(f"--jobs: a process ended ({error}); is there memory for {num_processes}?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _caught(function: Callable[..., _R], *arguments: Any) -> Union[_R, UserError]:
    try:
        return function(*arguments)
    except UserError as error:
        return error
    except MemoryError as error:
        return UserError(f"does not fit into memory ({error})")
