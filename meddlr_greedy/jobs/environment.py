"""What the environment says of the job that this process belongs to."""

import os

from meddlr_greedy.errors import UserError

__all__ = ["in_job", "num_processes"]


def num_processes() -> int:
    """The number of processes of this job; 1 outside of a job."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise UserError(f"WORLD_SIZE: found '{os.environ['WORLD_SIZE']}', allowed is a number") from None


def in_job() -> bool:
    """Whether this process was started as one of several."""
    return num_processes() > 1
