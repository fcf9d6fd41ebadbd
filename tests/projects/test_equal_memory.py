"""The equal-memory study: its trainings, its candidates, its table."""

import json
from dataclasses import replace

import pytest
import yaml

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.search import FEATURES, STEPS, with_value
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.studies import equal_memory
from projects.cine.studies.budget import FULL, SMALL, Budget, Candidate
from projects.cine.studies.equal_memory import BEST, GREEDY, OWN, Study
from projects.cine.support.trials import Trial, run_trials


@pytest.fixture
def example():
    return Example.of_shape(load_config(str(SMALL.backprop)), (16, 128, 20, 8))


@pytest.mark.parametrize("size", [SMALL, FULL])
def test_configs_of_the_pair_differ_in_depth_and_training_alone(size):
    backprop, greedy = (load_config(str(config)) for config in (size.backprop, size.greedy))
    for section in ("SOLVER", "DATASETS", "AUG_TRAIN", "DATALOADER"):
        assert backprop[section] == greedy[section]
    assert greedy.MISC.GREEDY.META_ARCHITECTURE == backprop.MODEL.META_ARCHITECTURE
    steps = backprop.MODEL.UNROLLED.NUM_UNROLLED_STEPS
    assert steps == 5 and backprop.MODEL.UNROLLED.NUM_FEATURES >= 16
    assert greedy.MODEL.UNROLLED.NUM_UNROLLED_STEPS == 3 * steps


@pytest.mark.stress
def test_candidates_fill_the_budget(example):
    """A minute of plans."""
    steps = 3
    reference = plan_step(load_config(str(SMALL.backprop), [STEPS, str(steps)]), example)
    budget = Budget.of_steps(SMALL, example, steps)
    assert budget.bytes == reference.peak
    backprop, greedy = budget.backprop(), budget.greedy(4 * reference.operations)
    assert (steps, budget.features) in [(c.steps, c.features) for c in backprop]
    for candidate in (*backprop, *greedy):
        assert 0.95 <= candidate.memory.peak / reference.peak <= 1
        cfg = load_config(str(candidate.config), candidate.opts)
        assert plan_step(cfg, example).peak == candidate.memory.peak
    for candidate in greedy:
        assert candidate.modules >= 2 and candidate.memory.operations <= 4 * reference.operations
    assert max(c.memory.parameters for c in greedy) > 2 * reference.parameters


def test_a_budget_that_nothing_fills(example):
    budget = Budget(SMALL, example, 1, 1, 1000, plan_step(load_config(str(SMALL.backprop)), example))
    with pytest.raises(UserError, match="no network fills 95% to 100 % of 0 MB, planned"):
        budget.backprop()


def test_a_budget_of_bytes_is_filled_by_the_widest(example):
    memory = plan_step(load_config(str(SMALL.backprop), [STEPS, "2", FEATURES, "10"]), example).peak
    budget = Budget.of_steps(replace(SMALL, memory=memory), example, 2)
    cfg = load_config(str(SMALL.backprop), [STEPS, "2", FEATURES, str(budget.features)])
    wider = with_value(cfg, FEATURES, budget.features + 1)
    assert plan_step(cfg, example).peak <= budget.bytes == memory < plan_step(wider, example).peak
    narrow = Candidate(SMALL.backprop, 1, 4, 1, plan_step(cfg, example))
    with pytest.raises(UserError, match="MB, measured .steps1-features4-modules1: "):
        budget.measured([narrow])
    whole = Candidate(SMALL.backprop, 2, budget.features, 1, plan_step(cfg, example))
    assert list(budget.measured([narrow, whole])) == [whole]
    with pytest.raises(UserError, match="--times"):
        budget.greedy(1.0)


def _finish(trial, psnr, minutes=1.0):
    trial.folder.mkdir(parents=True, exist_ok=True)
    rows = [{"iteration": 9, "time": 6.0 * minutes}, {"iteration": 9, "some_val/val_psnr_scan": psnr}]
    (trial.folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_search_takes_the_best_shape_then_its_best_rate(example, tmp_path, monkeypatch):
    reference = plan_step(load_config(str(SMALL.backprop)), example)
    narrow, wide = (Candidate(SMALL.backprop, 3, features, 1, reference) for features in (8, 16))
    psnr = {("8", "4e-3"): 30.0, ("16", "4e-3"): 31.0, ("16", "8e-3"): 32.0, ("16", "2e-3"): 29.0}

    def train(trials, jobs, description):
        for trial in trials:
            assert not trial.evaluates and trial.opts[trial.opts.index("SOLVER.MAX_ITER") + 1] == "100"
            values = dict(zip(trial.opts[::2], trial.opts[1::2]))
            _finish(trial, psnr[values[FEATURES], values["SOLVER.BASE_LR"]])

    monkeypatch.setattr(equal_memory, "run_trials", train)
    study = Study(tmp_path, 2, 400, SMALL.learning_rates)
    best, rate, tried = study.search(tmp_path, "test", [narrow, wide])
    assert (best, rate) == (wide, "8e-3")
    assert len(tried) == 4
    final = study.final(tmp_path, best, rate)
    assert len({trial.folder for trial in final}) == 3 and all(trial.evaluates for trial in final)


def _budget(greedy, backprop):
    side = {"steps": 3, "features": 8, "modules": 1, "planned": 99, "measured": 98, "learning_rate": "1e-3"}
    sides = {}
    for label, psnr in ((OWN, backprop), (BEST, backprop), (GREEDY, greedy)):
        ssim = [value / 100 for value in psnr]
        sides[label] = {**side, "parameters": 10, "psnr": psnr, "ssim": ssim, "step_s": [1.0, 2.0, 3.0]}
    return {"bytes": 100, "sides": sides}


def test_table_has_spread_and_gain():
    lines = equal_memory.table([_budget([33.0, 34.0, 35.0], [30.0, 30.0, 33.0])]).splitlines()
    assert "34.00 ± 1.00" in lines[4] and "99.0%" in lines[4] and "31.00 ± 1.73" in lines[2]
    assert "+3.00 dB PSNR and +0.0300 SSIM" in lines[-1]


def test_figure(tmp_path):
    equal_memory.draw([_budget([33.0, 34.0, 35.0], [30.0, 30.0, 33.0])], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_real_trials(write_config, tmp_path):
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
