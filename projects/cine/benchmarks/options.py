"""What the command line says of a benchmark."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How a benchmark runs.

    Attributes:
        device: "cpu" or "cuda".
        rounds: Rounds of each comparison; 0 keeps the number that the benchmark has for it.
        output: Folder of pictures.
        small: Whether networks and data are small, to see that all runs.
    """

    device: str
    rounds: int
    output: Path
    small: bool = False
