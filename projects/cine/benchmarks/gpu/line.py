"""A line of the table, and what the parts that find them are given."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional

__all__ = ["NotRunError", "Found", "Part", "Setting", "row"]


class Found(NamedTuple):
    """What was found of one case.

    Attributes:
        case: What was tried.
        result: What came of it, with units.
        holds: Whether it is as it should be; ``None`` where nothing is asked of it.
    """

    case: str
    result: str
    holds: Optional[bool] = None


class NotRunError(Exception):
    """A part or a case cannot run here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """Where and how large a part runs.

    Attributes:
        device: "cuda" or "cpu".
        small: Whether networks and data are small: a dry run.
        folder: For files, empty at first.
        deadline: When the part has to end, on :func:`time.monotonic`'s clock.
    """

    device: str
    small: bool
    folder: Path
    deadline: float

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.startswith("cuda")

    @property
    def seconds_left(self) -> float:
        """Until the deadline.

        Raises:
            NotRunError: There are none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise NotRunError("the time of this part is over")
        return left


Part = Callable[[Setting], Iterator[Found]]


def row(part: str, found: Found, seconds: float) -> Dict[str, Any]:
    """A line of the table."""
    holds = {None: "", True: "yes", False: "NO"}[found.holds]
    return {"part": part, "case": found.case, "result": found.result, "holds": holds, "seconds": round(seconds, 1)}
