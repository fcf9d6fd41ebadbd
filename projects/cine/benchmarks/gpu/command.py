"""The parts, within eight minutes: each line says whether it ran, and what it found."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

from meddlr_greedy.console import say
from projects.cine.benchmarks.gpu import runs, steps
from projects.cine.benchmarks.gpu.line import Found, NotRunError, Part, Setting, row
from projects.cine.benchmarks.options import Options

__all__ = ["PARTS", "gpu"]

_TOTAL_S = 480.0


class _Limited(NamedTuple):
    """A part, and the seconds that it may take."""

    part: Part
    seconds: float
    is_timed: bool = False  #: whether what it finds are times, so that no other part may run beside it
    is_here: bool = False  #: whether it runs in this process, and not in processes of its own


#: By name. What is not timed runs first: beside each other what has processes of its own.
PARTS: Dict[str, _Limited] = {
    "tests": _Limited(runs.tests, 150),
    "agreement with the CPU": _Limited(steps.agreement, 60, is_here=True),
    "synchronizations": _Limited(steps.synchronizations, 20, is_here=True),
    "training step": _Limited(steps.variants, 90, is_timed=True, is_here=True),
    "full size": _Limited(steps.full_size, 150, is_timed=True, is_here=True),
    "graphs": _Limited(steps.graphs, 30, is_timed=True, is_here=True),
    "convolutions alone": _Limited(steps.convolutions, 30, is_timed=True, is_here=True),
    "kernels": _Limited(steps.kernels, 15, is_timed=True, is_here=True),
    "processes": _Limited(runs.processes, 150),
    "kill and resume": _Limited(runs.killed_and_resumed, 150),
    "commands": _Limited(runs.commands, 150),
}


def gpu(options: Options) -> Dict[str, Any]:
    """What one GPU shows; on the CPU a dry run, which ``--small`` keeps short."""
    end = time.monotonic() + _TOTAL_S
    found: Dict[str, List[Dict[str, Any]]] = {}

    def run(name: str) -> None:
        found[name] = _rows(name, options, end)

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(run, name) for name, limited in PARTS.items() if not limited.is_here]
        for name, limited in PARTS.items():
            if limited.is_here and not limited.is_timed:
                run(name)
        for other in running:
            other.result()
    for name, limited in PARTS.items():
        if limited.is_timed:
            run(name)
    return {"rows": [row for name in PARTS for row in found[name]], "small": options.small}


def _rows(name: str, options: Options, end: float) -> List[Dict[str, Any]]:
    """The lines of a part, which are told as they are found."""
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        deadline = min(begun + PARTS[name].seconds, end)
        for found in _lines(PARTS[name].part, Setting(options.device, options.small, Path(folder), deadline)):
            now = time.monotonic()
            rows.append(row(name, found, now - begun))
            begun = now
            say(f"{name}: {found.case}: {found.result}")
    return rows


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
