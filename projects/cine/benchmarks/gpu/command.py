"""The parts one after the other, within eight minutes: each line says whether it ran, and what it found."""

import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from meddlr_greedy.console import say
from projects.cine.benchmarks.gpu import runs, steps
from projects.cine.benchmarks.gpu.line import Found, NotRunError, Part, Setting, row
from projects.cine.benchmarks.options import Options

__all__ = ["PARTS", "gpu"]

_TOTAL_S = 480.0

#: Name of a part -> the part, and the seconds that it may take.
PARTS: Dict[str, Tuple[Part, float]] = {
    "tests": (runs.tests, 60),
    "agreement with the CPU": (steps.agreement, 60),
    "synchronizations": (steps.synchronizations, 20),
    "training step": (steps.variants, 90),
    "full size": (steps.full_size, 110),
    "convolutions alone": (steps.convolutions, 30),
    "kernels": (steps.kernels, 15),
    "processes": (runs.processes, 75),
    "kill and resume": (runs.killed_and_resumed, 65),
    "commands": (runs.commands, 50),
}


def gpu(options: Options) -> Dict[str, Any]:
    """What one GPU shows; on the CPU a dry run, which ``--small`` keeps short."""
    end = time.monotonic() + _TOTAL_S
    rows: List[Dict[str, Any]] = []
    for name, (part, seconds) in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            deadline = min(time.monotonic() + seconds, end)
            begun = time.monotonic()
            for found in _lines(part, Setting(options.device, options.small, Path(folder), deadline)):
                now = time.monotonic()
                rows.append(row(name, found, now - begun))
                begun = now
                say(f"{name}: {found.case}: {found.result}")
    return {"rows": rows, "small": options.small}


def _lines(part: Part, setting: Setting) -> Iterator[Found]:
    """What a part finds; where it fails, the others go on, and the line says so."""
    try:
        setting.seconds_left  # noqa: B018 (raises where the time is over)
        yield from part(setting)
    except NotRunError as reason:
        yield Found("", f"not run: {reason}")
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what was found)
        text = str(error).strip()
        yield Found("", f"failed: {type(error).__name__}: {text.splitlines()[-1] if text else ''}"[:300], False)
