"""Fuzzes the readers of files: each input in a child of its own, forked from a process that has imported everything.

    python -m tests.fuzz.run --count 200 --seed 1
    python -m tests.fuzz.run --count 1 --first 137 --seed 1       # one input again, with what it printed

Input i of a seed is always the same. It counts as a fault if it ends otherwise than well or in one line with status 2,
takes longer than 20 s, needs more than 1 GB, or writes outside its output.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Set

import torch

from meddlr_greedy.errors import exit_with_one_line
from tests.fuzz.targets import OF_ALL_FILES, TARGETS, Target, TrainedRun, use_datasets

SECONDS = 20  # of the processor: others may use it, too
_SECONDS_OF_CLOCK = 300
KILOBYTES = 1_000_000


@dataclass
class Child:
    """An input being read."""

    number: int
    target: Target
    changes: str
    folder: Path
    before: Set[Path]
    pid: int
    started: float


def _files(folder: Path) -> Set[Path]:
    return {path for path in folder.rglob("*") if folder / "out" not in (path, *path.parents)}


def make_input(number: int, seed: int, valid: Dict[str, Path], folder: Path):
    """Writes input ``number`` into a folder; returns its kind and how it was changed."""
    rng = random.Random(seed * 1_000_003 + number)
    target = rng.choices(TARGETS, [target.weight for target in TARGETS])[0]
    if target.can_move:
        shutil.copytree(valid[target.name], folder)
    else:
        target.make(folder)
    glob, own = rng.choice(target.files)
    path = rng.choice(sorted(path for path in folder.glob(glob) if path.is_file()))
    change = rng.choice([*own, *OF_ALL_FILES])
    change(path, rng)
    return target, f"{path.relative_to(folder)}: {change.__name__}"


def _read(target: Target, folder: Path) -> None:
    """In the child: reads the input, as a command would."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    folder.with_suffix(".memory").write_text(str(_own_kilobytes()))
    with open(folder.with_suffix(".log"), "w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        status = 70
        try:
            exit_with_one_line(target.run)(folder)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 71
        except BaseException:  # noqa: BLE001 (reported by the parent)
            traceback.print_exc()
        finally:
            log.flush()
            os._exit(status)


def _valid_inputs(scratch: Path) -> Dict[str, Path]:
    """Kind of input -> a folder with a valid one, of those that are copied."""
    valid = {target.name: scratch / "valid" / target.name.replace(" ", "_") for target in TARGETS if target.can_move}
    for target in TARGETS:
        if target.can_move:
            target.make(valid[target.name])
    return valid


def _train(folder: Path) -> None:
    """Trains in a child, so that no thread and no open log is left here."""
    TrainedRun.folder = folder
    use_datasets(folder)
    pid = os.fork()
    if pid == 0:
        target = Target("training", lambda _: None, [], TrainedRun.train, lambda _: [])
        folder.mkdir()
        _read(target, folder)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"the training that runs are made of failed: {folder.with_suffix('.log').read_text()}")


def start(number: int, seed: int, valid: Dict[str, Path], scratch: Path) -> Child:
    """Forks a child for an input."""
    folder = scratch / str(number)
    target, changes = make_input(number, seed, valid, folder)
    before = _files(folder)
    pid = os.fork()
    if pid == 0:
        _read(target, folder)
    return Child(number, target, changes, folder, before, pid, time.monotonic())


def fault_of(child: Child, status: int, kilobytes: int, killed: bool) -> Optional[str]:
    """What is wrong with how a child ended."""
    text = child.folder.with_suffix(".log").read_text(errors="replace")
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    if killed:
        return f"took longer than {_SECONDS_OF_CLOCK} s"
    if kilobytes > KILOBYTES:
        return f"needed {kilobytes / 1e6:.1f} GB"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return f"took longer than {SECONDS} s"
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    if os.WEXITSTATUS(status) not in (0, 2):
        return f"status {os.WEXITSTATUS(status)}: {(errors or text.splitlines() or [''])[-1][:300]}"
    if "Traceback" in text:
        return "a traceback"
    if os.WEXITSTATUS(status) == 2 and len(errors) != 1:
        return f"{len(errors)} lines for one error"
    written = {path for path in _files(child.folder) - child.before if not path.is_relative_to(child.folder / "run")}
    return f"wrote {sorted(map(str, written))[0]}" if written else None


def finish(child: Child, wait: bool) -> Optional[Dict[str, str]]:
    """How a child ended; None where it still runs."""
    killed = time.monotonic() - child.started > _SECONDS_OF_CLOCK
    if killed:
        os.kill(child.pid, signal.SIGKILL)
    pid, status, usage = os.wait4(child.pid, 0 if killed or wait else os.WNOHANG)
    if not pid:
        return None
    log, memory = child.folder.with_suffix(".log"), child.folder.with_suffix(".memory")
    fault = fault_of(child, status, usage.ru_maxrss - int(memory.read_text()), killed)
    memory.unlink()
    found = _result(child, fault)
    if not fault:
        shutil.rmtree(child.folder)
        log.unlink()
    return found


def _result(child: Child, fault: Optional[str]) -> Dict[str, str]:
    """How an input ended, for the report."""
    return {
        "input": str(child.number),
        "kind": child.target.name,
        "changed": child.changes,
        "fault": fault or "",
        "printed": child.folder.with_suffix(".log").read_text(errors="replace")[-2000:],
    }


def _own_kilobytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def fuzz(numbers: range, seed: int, scratch: Path, processes: int = 2) -> List[Dict[str, str]]:
    """Reads inputs; returns how each ended, in any order."""
    valid = _valid_inputs(scratch)
    running: List[Child] = []
    results: List[Dict[str, str]] = []
    for number in numbers:
        running.append(start(number, seed, valid, scratch))
        while len(running) >= (processes if number != numbers[-1] else 1):
            for child in list(running):
                found = finish(child, wait=False)
                if found is not None:
                    running.remove(child)
                    results.append(found)
            time.sleep(0.002)
    return results


def fuzz_commands(numbers: range, seed: int, scratch: Path) -> List[Dict[str, str]]:
    """The same inputs through the real commands, each in a process started anew."""
    valid = _valid_inputs(scratch)
    results = []
    for number in numbers:
        folder = scratch / str(number)
        target, changes = make_input(number, seed, valid, folder)
        name, *arguments = target.command(folder)
        before = _files(folder)
        command = [sys.executable, "-m", f"meddlr_greedy.{name}", *arguments]
        with open(folder.with_suffix(".log"), "w") as log:
            ended = subprocess.run(command, stdout=log, stderr=log, timeout=180, check=False)
        child = Child(number, target, changes, folder, before, 0, 0)
        fault = fault_of(child, ended.returncode << 8, 0, killed=False)
        results.append(_result(child, fault))
    return results


def main() -> None:
    """Fuzzes, and prints how each input ended as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="inputs (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", action="store_true", help="through the real commands")
    parser.add_argument("--output", type=Path, help="how each input ended, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a child has no threads but its own
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        _train(Path(scratch) / "trained")
        numbers = range(args.first, args.first + args.count)
        results = (fuzz_commands if args.commands else fuzz)(numbers, args.seed, Path(scratch))
    faults = [result for result in results if result["fault"]]
    if args.output:
        args.output.write_text(json.dumps(results, indent=1))
    for fault in faults:
        print(json.dumps(fault, indent=1))
    print(f"{len(results)} inputs, {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
