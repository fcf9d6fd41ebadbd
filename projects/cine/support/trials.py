"""Many trainings of one study: side by side, each in a process of its own, with a bar, and resumable.

A trial is a config with overrides. What is finished stays: a study that was ended continues where it was.
"""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import yaml
from meddlr.config import CfgNode
from tqdm import tqdm

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.tables import RESULTS_FILE, RESULTS_FOLDER
from meddlr_greedy.files import written_atomically

__all__ = ["SCORE", "Trial", "run_trials", "scores", "training_minutes"]

#: The metric that decides a search, and the first of the results.
SCORE = "psnr_scan"
_LOG = "console.txt"
_NON_FINITE = "stopped before the update"  # said where a loss is not finite


@dataclass(frozen=True)
class Trial:
    """One training and, where asked for, its evaluation on the test sets.

    Args:
        folder: Where weights, logs and results go (``OUTPUT_DIR``).
        config: Config file.
        opts: Overrides ``KEY, VALUE, KEY, VALUE, ...``.
        evaluates: Whether the test sets are scored; a search looks at the validation sets alone.
    """

    folder: Path
    config: Path
    opts: Tuple[str, ...] = ()
    evaluates: bool = True

    @property
    def is_done(self) -> bool:
        return self._results.is_file() if self.evaluates else bool(self._validations()) or self.diverged

    @property
    def diverged(self) -> bool:
        """Whether the training ended with a loss that is not finite, as one with a large learning rate can."""
        log = self.folder / _LOG
        return log.is_file() and _NON_FINITE in log.read_text()

    def claim_folder(self) -> None:
        """Notes the config in the folder, so that no result is taken for that of another one.

        Raises:
            UserError: the folder holds a training with another config.
        """
        config = load_config(str(self.config), ["OUTPUT_DIR", str(self.folder), *self.opts])
        note = self.folder / "trial.yaml"
        is_used = note.is_file() or (self.folder / "metrics.json").is_file()
        if is_used and not (note.is_file() and self._is_noted(note, config)):
            raise UserError(f"{self.folder}: holds a training with another config; remove it, or give another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_atomically(note) as partial:
            partial.write_text(config.dump())

    def _is_noted(self, note: Path, config: CfgNode) -> bool:
        """Whether the note is of this config, wherever the folder was then.

        A key that is younger than the note counts as its default: a new key of the plugin changes nothing by itself.
        """
        try:
            noted = load_config(str(note), ["OUTPUT_DIR", str(self.folder)])
        except UserError:  # a key that is gone, or another value than is allowed now
            return False
        return bool(yaml.safe_load(noted.dump()) == yaml.safe_load(config.dump()))

    @property
    def _results(self) -> Path:
        return self.folder / RESULTS_FOLDER / RESULTS_FILE

    def results(self) -> Dict[str, Any]:
        """What ``eval_net`` wrote."""
        return json.loads(self._results.read_text())

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


def run_trials(trials: Sequence[Trial], jobs: int, description: str) -> None:
    """Runs those that are not done, ``jobs`` at a time; a console.txt in each folder keeps what it prints.

    Raises:
        UserError: names the first trial that failed, and its console.txt; the others are ended (they keep a
            checkpoint, from which the same command continues).
    """
    if jobs < 1:
        raise UserError(f"--jobs: found {jobs}, allowed is a positive number of trainings at the same time")
    for trial in trials:
        trial.claim_folder()
    waiting = [trial for trial in trials if not trial.is_done]
    running: Dict[Trial, Tuple[List[List[str]], subprocess.Popen[bytes]]] = {}
    with tqdm(total=len(trials), initial=len(trials) - len(waiting), desc=description, disable=None) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    trial = waiting.pop(0)
                    first, *others = trial.commands()
                    running[trial] = (others, _start(first, trial))
                time.sleep(0.2)
                for trial, (others, process) in list(running.items()):
                    status = process.poll()
                    if status is None:
                        continue
                    if status and (trial.evaluates or not trial.diverged):
                        raise UserError(f"{trial.folder}: training or evaluation failed, see {trial.folder / _LOG}")
                    if others:
                        running[trial] = (others[1:], _start(others[0], trial))
                    else:
                        del running[trial]
                        bar.update()
        finally:
            for _, process in running.values():
                process.terminate()  # a training saves a checkpoint
            for _, process in running.values():
                process.wait()


def scores(trials: Sequence[Trial], dataset: str) -> Dict[str, Any]:
    """Of each training: the test set's mean PSNR and SSIM, and the minutes it took; and the number of parameters."""
    results = [trial.results() for trial in trials]
    of_dataset = [r["datasets"][dataset]["reconstruction"] for r in results]
    out: Dict[str, Any] = {"parameters": results[0]["parameters"]}
    for name, metric in (("psnr", SCORE), ("ssim", "ssim (Wang)_scan")):
        out[name] = [values[metric]["mean"] for values in of_dataset]
    out["minutes"] = [training_minutes(trial.folder / "metrics.json") for trial in trials]
    return out


def training_minutes(metrics_file: Path) -> float:
    """Time of all iterations, from the time per iteration that a run has logged."""
    of_iteration = {row["iteration"]: row["time"] for row in _rows(metrics_file) if "time" in row}
    ends = sorted(of_iteration)
    lengths = [end - begin for begin, end in zip([-1, *ends], ends)]
    return sum(length * of_iteration[end] for length, end in zip(lengths, ends)) / 60


def _rows(metrics_file: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.is_file() else []


def _start(command: Sequence[str], trial: Trial) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(trial.folder / _LOG, "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
