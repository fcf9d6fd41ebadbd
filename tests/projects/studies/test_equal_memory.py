"""The study at equal memory: its search, its table."""

import json

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.planning.search import FEATURES
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.studies import equal_memory
from projects.cine.studies.budget import SMALL, Candidate
from projects.cine.studies.equal_memory import BEST, GREEDY, OWN, Study


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
