"""Many trainings of one study: side by side, each in a process of its own, with a progress bar, and resumable.

A trial is a config with overrides. What is finished stays: a study that was ended continues where it was. A study that
is asked to end (SIGTERM, SIGUSR1, SIGHUP, Ctrl-C) ends its trainings, too; each of them saves a checkpoint.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import yaml
from meddlr.config import CfgNode
from tqdm import tqdm

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import NonFiniteLossError, PreemptedError, UserError
from meddlr_greedy.evaluation.report import RESULTS_FILE, RESULTS_FOLDER
from meddlr_greedy.files import written_atomically
from projects.cine.paths import RESULTS_PAGE

__all__ = [
    "SCORE",
    "Processes",
    "Trial",
    "add_options_of_trials",
    "ending_processes",
    "read_results",
    "results_file",
    "run_trials",
    "scores",
    "training_minutes",
]

#: The metric that decides a search, and the first of the results.
SCORE = "psnr_scan"
_LOG = "console.txt"
_EXIT_STATUS = "exit_status.txt"  # of the last process of a trial that failed
_END_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)

Processes = List["subprocess.Popen[bytes]"]


def add_options_of_trials(parser: CommandParser, output: Path) -> None:
    """Options of a study that trains several times in each way, with ``output`` as the folder of the trainings."""
    parser.add_argument("--output", type=Path, default=output, metavar="FOLDER", help="the trainings")
    parser.add_argument("--page", type=Path, default=RESULTS_PAGE, metavar="FILE", help="where the table goes")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each kind (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at a time (default: 2)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of all configs")


@dataclass(frozen=True)
class Trial:
    """One training and, where asked for, its evaluation on the test sets.

    Args:
        folder: Where weights, logs and results go (``OUTPUT_DIR``).
        config: Config file.
        opts: Overrides ``KEY, VALUE, KEY, VALUE, ...``.
        evaluates: Whether the test sets are scored; a search uses the validation sets alone.
    """

    folder: Path
    config: Path
    opts: Tuple[str, ...] = ()
    evaluates: bool = True

    @property
    def cfg(self) -> CfgNode:
        """The config that it trains with."""
        return load_config(str(self.config), ["OUTPUT_DIR", str(self.folder), *self.opts])

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to run."""
        return results_file(self.folder).is_file() if self.evaluates else bool(self._validations()) or self.diverged

    @property
    def diverged(self) -> bool:
        """Whether the training ended with a loss that is not finite, as one with a large learning rate can."""
        path = self.folder / _EXIT_STATUS
        return path.is_file() and path.read_text() == str(NonFiniteLossError.exit_status)

    def keep_exit_status(self, status: int) -> None:
        """Stores how a process of the trial failed, so that a study that is started again knows it."""
        with written_atomically(self.folder / _EXIT_STATUS) as partial:
            partial.write_text(str(status))

    def claim_folder(self) -> None:
        """Writes the config into the folder, so that no result is taken for that of another config.

        Raises:
            UserError: the folder holds a training with another config.
        """
        config = self.cfg
        note = self.folder / "trial.yaml"
        is_used = note.is_file() or (self.folder / "metrics.json").is_file()
        if is_used and not (note.is_file() and self._is_noted(note, config)):
            raise UserError(f"{self.folder}: holds a training with another config; remove it, or give another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_atomically(note) as partial:
            partial.write_text(config.dump())

    def _is_noted(self, note: Path, config: CfgNode) -> bool:
        """Whether the note is of this config; the folder may have moved since.

        A key that is younger than the note counts as its default: a new key of the plugin changes nothing by itself.
        """
        try:
            noted = load_config(str(note), ["OUTPUT_DIR", str(self.folder)])
        except UserError:  # a key that is gone, or another value than is allowed now
            return False
        return bool(yaml.safe_load(noted.dump()) == yaml.safe_load(config.dump()))

    def results(self) -> Dict[str, Any]:
        """What ``eval_net`` has written."""
        return read_results(self.folder)

    def validation(self) -> float:
        """:data:`SCORE` at the last validation of the training; minus infinity where it diverged."""
        return -math.inf if self.diverged else self._validations()[-1]

    def _validations(self) -> List[float]:
        rows = _rows(self.folder / "metrics.json")
        names = [name for row in rows for name in row if name.endswith(f"val_{SCORE}")]
        return [row[name] for row in rows for name in names[:1] if name in row]

    def commands(self) -> List[List[str]]:
        """The commands to run, one after the other."""
        given = ["--config-file", str(self.config)]
        opts = ["OUTPUT_DIR", str(self.folder), *self.opts]
        train = [sys.executable, "-m", "meddlr_greedy.train_net", "--resume", *given, *opts]
        evaluate = [sys.executable, "-m", "meddlr_greedy.eval_net", "--num-figures", "1", *given, *opts]
        if not self.evaluates:
            return [train]
        is_trained = (self.folder / "model_final.pth").is_file()  # the last that a training writes; a search may have
        return [evaluate] if is_trained else [train, evaluate]


def results_file(folder: Path) -> Path:
    """Where ``eval_net`` writes the results of the run in ``folder``."""
    return folder / RESULTS_FOLDER / RESULTS_FILE


def read_results(folder: Path) -> Dict[str, Any]:
    """What ``eval_net`` has written of the run in ``folder``."""
    results: Dict[str, Any] = json.loads(results_file(folder).read_text())
    return results


def run_trials(trials: Sequence[Trial], jobs: int, description: str) -> None:
    """Runs the trials that are not done, ``jobs`` at a time. A console.txt in each folder keeps what a trial prints.

    A search trial may diverge: it is done then. Any other failure ends all trials.

    Raises:
        UserError: names the first trial that failed, and its console.txt; the others are ended (they keep a
            checkpoint, from which the same command continues).
        PreemptedError: a signal asked this process to end; the trials are ended in the same way.
    """
    if jobs < 1:
        raise UserError(f"--jobs: found {jobs}, allowed is a positive number of trainings at the same time")
    for trial in trials:
        trial.claim_folder()
    waiting = [trial for trial in trials if not trial.is_done]
    running: Dict[Trial, Tuple[List[List[str]], subprocess.Popen[bytes]]] = {}
    bar = tqdm(total=len(trials), initial=len(trials) - len(waiting), desc=description, disable=None)
    with bar, ending_processes() as processes:
        while waiting or running:
            while waiting and len(running) < jobs:
                trial = waiting.pop(0)
                first, *others = trial.commands()
                running[trial] = (others, _start(first, trial, processes))
            time.sleep(0.2)
            for trial, (others, process) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                if status:
                    trial.keep_exit_status(status)
                    if trial.evaluates or not trial.diverged:
                        raise UserError(f"{trial.folder}: training or evaluation failed, see {trial.folder / _LOG}")
                if others:
                    running[trial] = (others[1:], _start(others[0], trial, processes))
                else:
                    del running[trial]
                    bar.update()


@contextmanager
def ending_processes() -> Iterator[Processes]:
    """Gives a list of processes, to be filled; those that still run are ended with the block, however it ends.

    They get SIGTERM, upon which a training saves a checkpoint. Start them in a session of their own, or Ctrl-C reaches
    them directly, and they save nothing.

    Raises:
        PreemptedError: a signal that asks for the end (Ctrl-C among them) arrived in the block.
    """

    def end(number: int, _frame: Any) -> None:
        raise PreemptedError(
            f"{signal.Signals(number).name} received: the trainings are ended; the same command continues"
        )

    processes: Processes = []
    before = {number: signal.signal(number, end) for number in _END_SIGNALS}
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()  # without effect on one that has ended
        for process in processes:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def scores(trials: Sequence[Trial], dataset: str) -> Dict[str, Any]:
    """The scores of trainings of one network.

    Args:
        trials: The trainings, evaluated.
        dataset: The test set.

    Returns:
        ``parameters`` of the network; for each training the mean ``psnr`` (dB) and ``ssim`` of the scans of the test
        set, and the ``minutes`` that it took.
    """
    results = [trial.results() for trial in trials]
    metrics = [result["datasets"][dataset]["reconstruction"] for result in results]
    out: Dict[str, Any] = {"parameters": results[0]["parameters"]}
    for name, metric in (("psnr", SCORE), ("ssim", "ssim (Wang)_scan")):
        out[name] = [values[metric]["mean"] for values in metrics]
    out["minutes"] = [training_minutes(trial.folder / "metrics.json") for trial in trials]
    return out


def training_minutes(metrics_file: Path) -> float:
    """Time of all iterations, from the time per iteration that a run has logged."""
    seconds = {row["iteration"]: row["time"] for row in _rows(metrics_file) if "time" in row}
    ends = sorted(seconds)
    lengths = [end - begin for begin, end in zip([-1, *ends], ends)]
    return sum(length * seconds[end] for length, end in zip(lengths, ends)) / 60


def _rows(metrics_file: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.is_file() else []


def _start(command: Sequence[str], trial: Trial, processes: Processes) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (trial.folder / _EXIT_STATUS).unlink(missing_ok=True)
    with open(trial.folder / _LOG, "ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    processes.append(process)
    return process
