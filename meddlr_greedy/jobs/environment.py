"""The environment variables that say which process of which job this is: the names are those of torchrun."""

import os
import re
from dataclasses import dataclass
from typing import Optional

from meddlr_greedy.errors import UserError

__all__ = ["MAX_PROCESSES", "Environment", "in_job", "num_local_processes", "num_processes"]

#: More processes than any network can be spread over; a larger number is a mistake, and would be counted for hours.
MAX_PROCESSES = 10000


@dataclass(frozen=True)
class Environment:
    """What the environment variables say; :meth:`read` checks them.

    Attributes:
        world_size: Number of processes of the job (WORLD_SIZE).
        rank: Number of this process, from 0 (RANK).
        local_rank: Number of this process on its machine, from 0 (LOCAL_RANK; without it, RANK).
        master_addr: Host of the job's key-value store (MASTER_ADDR).
        master_port: Its port (MASTER_PORT).
        launcher_holds_store: Whether the launcher runs the store (TORCHELASTIC_USE_AGENT_STORE). torchrun and
            :func:`meddlr_greedy.jobs.launch.launch` do, and outlive the processes; a scheduler alone does not.
    """

    world_size: int
    rank: int
    local_rank: int
    master_addr: str
    master_port: int
    launcher_holds_store: bool

    @classmethod
    def read(cls) -> "Environment":
        """Reads the variables of this process.

        Raises:
            UserError: A variable is missing, or is no number in the allowed range.
        """
        world_size = num_processes()
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name, "").strip():
                raise UserError(f"{name}: missing, but WORLD_SIZE is {world_size}; start with torchrun")
        rank = _number("RANK", 0, world_size - 1)
        return cls(
            world_size=world_size,
            rank=rank,
            local_rank=_number("LOCAL_RANK", 0, num_local_processes() - 1, default=rank),
            master_addr=os.environ["MASTER_ADDR"].strip(),
            master_port=_number("MASTER_PORT", 1, 65535),
            launcher_holds_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )


def num_processes() -> int:
    """Number of processes of this job (WORLD_SIZE); 1 outside of a job.

    Raises:
        UserError: The variable is no number from 1 to :data:`MAX_PROCESSES`.
    """
    return _number("WORLD_SIZE", 1, MAX_PROCESSES, default=1)


def num_local_processes() -> int:
    """Number of processes of this job on this machine (LOCAL_WORLD_SIZE); without the variable, of the whole job.

    Raises:
        UserError: The variable is no number from 1 to WORLD_SIZE.
    """
    return _number("LOCAL_WORLD_SIZE", 1, num_processes(), default=num_processes())


def in_job() -> bool:
    """Whether this process was started as one of several.

    Raises:
        UserError: RANK says so, but WORLD_SIZE does not: each process would train alone, into the same folder.
    """
    if num_processes() > 1:
        return True
    if os.environ.get("RANK", "0").strip() not in ("", "0"):
        found = "1" if "WORLD_SIZE" in os.environ else "missing"
        raise UserError(
            f"RANK: found '{os.environ['RANK']}', but WORLD_SIZE is {found}; allowed is 0, or no such variable;"
            " start several processes with --num-gpus N or torchrun"
        )
    return False


def _number(name: str, lowest: int, highest: int, default: Optional[int] = None) -> int:
    found = os.environ.get(name)
    if found is None and default is not None:
        return default
    # int() alone would take "1_0" and digits of other scripts.
    is_number = re.fullmatch(r"\s*[0-9]{1,9}\s*", str(found)) is not None
    number = int(str(found)) if is_number else -1
    if not is_number or not lowest <= number <= highest:
        raise UserError(f"{name}: found '{found}', allowed are whole numbers from {lowest} to {highest}")
    return number
