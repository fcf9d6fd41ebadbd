"""Many files at the same time, each in a process of its own."""

import concurrent.futures
import multiprocessing
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple, TypeVar, Union

import torch

from meddlr_greedy.errors import UserError

__all__ = ["in_parallel"]

_Job, _Result = TypeVar("_Job"), TypeVar("_Result")


def in_parallel(
    function: Callable[..., _Result], jobs: Sequence[_Job], num_processes: int, on_step: Optional[Callable] = None
) -> Iterator[Tuple[_Job, Union[_Result, UserError]]]:
    """Results, or the UserErrors instead, as they come; in this process where there is one.

    Args:
        function: Called with each job and, in this process, with ``on_step``, which it calls for each slice.
        jobs: What ``function`` is called with.
        num_processes: How many at the same time.
        on_step: Called for each slice, or with the number of slices of a job when it is done in another process.
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
            if on_step:
                on_step(len(futures[future].slices))
    finally:
        pool.shutdown(cancel_futures=True)


def _caught(function: Callable[..., _Result], *arguments: Any) -> Union[_Result, UserError]:
    try:
        return function(*arguments)
    except UserError as error:
        return error
    except MemoryError as error:
        return UserError(f"does not fit into memory ({error})")
