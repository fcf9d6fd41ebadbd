"""Trainings of a study: what is done, what is refused, how they end."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from meddlr_greedy.errors import PreemptedError, UserError
from projects.cine.support import trials as trials_module
from projects.cine.support.trials import Trial, ending_processes, run_trials, training_minutes
from tests.helpers.commands import start_trial


def test_real_trials(write_config, tmp_path, monkeypatch):
    monkeypatch.setattr(trials_module, "_start", start_trial)
    config = write_config(data="beat", arch="CineUnrolledCNN", modules=None)
    mask = ("AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc")  # processes know registered ones
    trials = [
        Trial(tmp_path / "searched", config, (*mask, "SEED", "1"), evaluates=False),
        Trial(tmp_path / "scored", config, (*mask, "SEED", "2")),
    ]
    run_trials(trials, 2, "test")
    assert all(trial.is_done for trial in trials)
    assert trials[0].validation() > 0
    assert trials[1].results()["datasets"]
    run_trials(trials, 2, "test")  # nothing is left to do
    # Nor after an update that brought a new key, nor after a move.
    moved = replace(trials[0], folder=trials[0].folder.rename(tmp_path / "moved"))
    note = moved.folder / "trial.yaml"
    noted = note.read_text()
    older = noted.replace("    LOSS_WEIGHTS: []\n", "")
    assert older != noted
    note.write_text(older)
    moved.claim_folder()
    assert yaml.safe_load(note.read_text())["MISC"]["GREEDY"]["LOSS_WEIGHTS"] == []
    for text, opts in ((older, ("MISC.GREEDY.NUM_MODULES", "2")), (noted + "UNKNOWN: 1\n", ()), (noted, ("SEED", "7"))):
        note.write_text(text)
        with pytest.raises(UserError, match="moved: holds a training with another config"):
            replace(moved, opts=(*moved.opts, *opts)).claim_folder()
    note.write_text(noted)
    moved.folder.rename(trials[0].folder)
    scored = replace(trials[0], evaluates=True)
    trained = (scored.folder / "metrics.json").read_text()
    run_trials([scored], 1, "test")
    assert scored.results()["datasets"] and (scored.folder / "metrics.json").read_text() == trained
    with pytest.raises(UserError, match="--jobs: found 0"):
        run_trials(trials, 0, "test")
    other = Trial(trials[0].folder, config, (*mask, "SEED", "3"), evaluates=False)
    with pytest.raises(UserError, match="searched: holds a training with another config"):
        run_trials([other], 2, "test")
    wrong = Trial(tmp_path / "wrong", config, (*mask, "DATASETS.VAL", "('beat_missing',)"))
    with pytest.raises(UserError, match="wrong.*console.txt"):
        run_trials([wrong], 1, "test")
    assert "beat_missing" in (tmp_path / "wrong" / "console.txt").read_text()
    diverging = Trial(tmp_path / "diverging", config, (*mask, "SOLVER.BASE_LR", "1e30"), evaluates=False)
    run_trials([diverging], 1, "test")
    assert diverging.diverged and diverging.validation() == float("-inf")
    again = replace(diverging)
    assert again.is_done and (diverging.folder / "exit_status.txt").read_text() == "3"
    (diverging.folder / "exit_status.txt").write_text("1")
    assert not again.diverged and not again.is_done


def test_minutes_are_those_of_all_iterations(tmp_path):
    rows = [{"iteration": 9, "time": 6.0}, {"iteration": 14, "time": 12.0}, {"iteration": 14, "val": 1.0}]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_minutes(tmp_path / "metrics.json") == pytest.approx(2.0)


def test_only_a_loss_that_is_not_finite_counts_as_diverged(tmp_path, monkeypatch):
    """Not what the trainings print, but how they end."""
    trial = Trial(tmp_path / "run", tmp_path / "config.yaml", evaluates=False)
    monkeypatch.setattr(Trial, "claim_folder", lambda self: self.folder.mkdir(exist_ok=True))
    for status, diverged in ((1, False), (-9, False), (3, True)):
        exit_status = 3 if status == 3 else 1
        code = f"import os; print('loss is nan'); os.kill(os.getpid(), 9) if {status} < 0 else os._exit({exit_status})"
        monkeypatch.setattr(Trial, "commands", lambda self, code=code: [[sys.executable, "-c", code]])
        if diverged:
            run_trials([trial], 1, "test")
        else:
            with pytest.raises(UserError, match="run: training or evaluation failed, see .*console.txt"):
                run_trials([trial], 1, "test")
        assert trial.diverged == diverged
        assert (trial.folder / "exit_status.txt").read_text() == str(status)


def _sleep():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_processes(number):
    before = signal.getsignal(number)
    with pytest.raises(PreemptedError, match=number.name), ending_processes() as processes:
        processes += [_sleep(), _sleep()]
        os.kill(os.getpid(), number)
    assert [process.returncode for process in processes] == [-signal.SIGTERM] * 2
    assert signal.getsignal(number) is before


def test_an_error_ends_the_processes_and_a_regular_end_finds_none(tmp_path):
    with pytest.raises(ZeroDivisionError), ending_processes() as processes:
        processes.append(_sleep())
        raise ZeroDivisionError
    assert processes[0].returncode == -signal.SIGTERM
    with ending_processes() as processes:
        processes.append(subprocess.Popen([sys.executable, "-c", ""]))
        processes[0].wait()
    assert processes[0].returncode == 0
