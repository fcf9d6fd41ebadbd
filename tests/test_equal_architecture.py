"""The study at equal architecture: what its trainings are, its table."""

import pytest
from meddlr.modeling import build_model

from meddlr_greedy.config import load_config
from projects.cine import equal_architecture
from projects.cine.equal_architecture import AGAIN, BACKPROP, CONFIG, PLAIN, VARIANTS, Variant
from projects.cine.tables import publish_result
from projects.cine.trials import Trial

CONFIGS = (CONFIG, CONFIG.with_name("equal_architecture_deeper.yaml"))


@pytest.mark.parametrize("config", CONFIGS)
def test_variants_are_one_network_trained_in_other_ways(config, tmp_path):
    cfgs = {variant.label: variant.cfg for variant in all_variants(tmp_path, config)}
    assert [build_model(cfg).num_modules for cfg in cfgs.values()] == [1, 1, 3, 3, 3, 3]  # none is refused
    for cfg in cfgs.values():
        for section in ("MODEL", "SOLVER", "DATASETS", "AUG_TRAIN", "DATALOADER"):
            assert cfg[section] == cfgs[PLAIN][section]
    trials = [v.trial(rate, seed) for v in all_variants(tmp_path, config) for rate in v.search() for seed in (1, 2, 3)]
    assert len({trial.folder for trial in trials}) == len(trials) == 3 * 3 * len(VARIANTS)


def test_it_is_the_network_of_the_largest_memory_budget():
    cfg, budget = load_config(str(CONFIG)), load_config(str(CONFIG.with_name("equal_memory.yaml")))
    assert cfg.MODEL.UNROLLED == budget.MODEL.UNROLLED and cfg.SOLVER == budget.SOLVER


def test_the_rate_that_validates_best_is_trained_on_with_all_seeds(tmp_path, monkeypatch):
    variant = all_variants(tmp_path, CONFIG)[0]
    assert sorted(variant.search()) == ["2e-3", "4e-3", "8e-3"]
    best = variant.search()["2e-3"].folder
    monkeypatch.setattr(Trial, "validation", lambda trial: 30.0 + (trial.folder == best))
    first, *others = variant.final(3)
    assert (first.folder, first.opts) == (best, variant.search()["2e-3"].opts)
    assert first.evaluates and not any(trial.evaluates for trial in variant.search().values())
    assert all("2e-3" in trial.opts for trial in others) and len(others) == 2


def all_variants(output, config):
    return [Variant(config, output, label) for label in VARIANTS]


def _variant(psnr, megabytes, seconds=1.0):
    ssim = [value / 100 for value in psnr]
    measured = {"step_s": [seconds] * 3, "bytes": megabytes * 1e6}
    return {"psnr": psnr, "ssim": ssim, "val_psnr": psnr, "learning_rate": "4e-3", **measured}


@pytest.fixture
def variants():
    return {
        BACKPROP: _variant([30.0, 31.0, 32.0], 50),
        AGAIN: _variant([30.5, 31.0, 32.0], 20),
        PLAIN: _variant([29.0, 30.5, 31.5], 10),
        "better": _variant([29.9, 31.0, 32.0], 20, seconds=1.5),
        "best, but large": _variant([33.0, 33.0, 33.0], 21),
    }


def test_table_compares_seed_by_seed_within_twice_the_memory(variants):
    lines = equal_architecture.table(variants).splitlines()
    assert "-0.67 ± 0.29" in lines[4] and "1.00 (1.00 to 1.00)" in lines[4]
    assert "2.00" in lines[5] and "1.50 (1.50 to 1.50)" in lines[5]
    assert "better, -0.03 dB to backprop" in lines[-1]


def test_result_beside_the_page(variants, tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text("Before.\n<!-- a-study -->\nold\n<!-- /a-study -->\nAfter.\n")
    (tmp_path / "results").mkdir()
    publish_result(page, "a_study", {"variants": variants, "versions": {"torch": "2"}}, "| new |")
    text = page.read_text()
    assert "| new |" in text and "torch" in text and "old" not in text and text.endswith("After.\n")
    assert '"bytes"' in (tmp_path / "results" / "a_study.json").read_text()
