"""The study at equal architecture: what its trainings are, its table."""

import math

import pytest
import torch
import yaml
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.planning.example import Example
from projects.cine.studies import equal_architecture
from projects.cine.studies.equal_architecture import (
    AGAIN,
    BACKPROP,
    CONFIG,
    PLAIN,
    all_variants,
    best_rate,
    changes,
    check_suits,
    search_rates,
)
from projects.cine.support.trials import Trial

CONFIGS = (CONFIG, CONFIG.with_name("equal_architecture_deeper.yaml"))


@pytest.mark.parametrize("config", CONFIGS)
def test_variants_are_one_network_trained_in_other_ways(config, tmp_path):
    cfgs = {variant.label: variant.cfg for variant in all_variants(config, tmp_path)}
    assert [build_model(cfg).num_modules for cfg in cfgs.values()] == [1, 1, 3, 3, 3, 3, 2]  # none is refused
    for cfg in cfgs.values():
        for section in ("MODEL", "SOLVER", "DATASETS", "AUG_TRAIN", "DATALOADER"):
            assert cfg[section] == cfgs[PLAIN][section]
    trials = [v.trial(rate, seed) for v in all_variants(config, tmp_path) for rate in v.search() for seed in (1, 2, 3)]
    assert len({trial.folder for trial in trials}) == len(trials) == 3 * 3 * len(cfgs)


def test_it_is_the_network_of_the_largest_memory_budget():
    cfg, budget = load_config(str(CONFIG)), load_config(str(CONFIG.with_name("equal_memory.yaml")))
    assert cfg.MISC.GREEDY.META_ARCHITECTURE == budget.MODEL.META_ARCHITECTURE
    for key in (
        "MODEL.UNROLLED",
        "MODEL.NORMALIZER",
        "SOLVER",
        "DATASETS",
        "AUG_TRAIN",
        "MISC.GREEDY.CINE.READOUT_CROP",
    ):
        assert cfg.get_recursive(key) == budget.get_recursive(key)


@pytest.mark.parametrize(
    "best, trained",
    [
        ("4e-3", ["2e-3", "4e-3", "8e-3"]),
        ("8e-3", ["2e-3", "4e-3", "8e-3", "16e-3"]),
        ("1e-3", ["0.5e-3", "1e-3", "2e-3", "4e-3", "8e-3"]),
    ],
)
def test_search_goes_on_until_the_best_rate_has_neighbors(tmp_path, monkeypatch, best, trained):
    done = set()
    variant = all_variants(CONFIG, tmp_path)[0]

    def distance(trial):
        return abs(math.log2(float(trial.opts[trial.opts.index("SOLVER.BASE_LR") + 1]) / float(best)))

    monkeypatch.setattr(Trial, "is_done", property(lambda trial: trial.folder in done))
    monkeypatch.setattr(Trial, "validation", lambda trial: 30.0 - distance(trial))
    monkeypatch.setattr(equal_architecture, "run_trials", lambda trials, *_: done.update(t.folder for t in trials))
    rate = best_rate(search_rates([variant], jobs=1)[BACKPROP])
    assert sorted(variant.search(), key=float) == trained and len(done) == len(trained)
    first, *others = variant.final(rate, 3)
    assert (first.folder, first.opts) == (variant.search()[best].folder, variant.search()[best].opts)
    assert first.evaluates and not any(trial.evaluates for trial in variant.search().values())
    assert all(best in trial.opts for trial in others) and len(others) == 2


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"DATASETS": {"VAL": []}}, "DATASETS.VAL: found none"),
        ({"TEST": {"VAL_METRICS": {"RECON": ["nrmse"]}}}, "TEST.VAL_METRICS.RECON: .*'psnr_scan' is needed"),
        ({"MISC": {"GREEDY": {"NUM_MODULES": 1}}}, "plain greedy training is needed"),
        ({"MISC": {"GREEDY": {"NUM_MODULES": [5]}}}, "plain greedy training is needed"),
        ({"MISC": {"GREEDY": {"NUM_MODULES": 2}}}, "weights 0.01 0.1 1': MISC.GREEDY.LOSS_WEIGHTS: found 3"),
        ({"MISC": {"GREEDY": {"NUM_MODULES": 5}}}, "OVERLAP 2': MISC.GREEDY.OVERLAP: found 2"),
        ({"MISC": {"GREEDY": {"CLIP_NORM": 1.0}}}, "under Adam alone"),
        ({"SOLVER": {"OPTIMIZER": "SGD"}}, "under Adam alone"),
    ],
)
def test_what_does_not_suit_is_refused_before_training(tmp_path, monkeypatch, changed, message):
    monkeypatch.setattr(equal_architecture, "check_dataset_names", lambda names: None)
    config = tmp_path / "other.yaml"
    config.write_text(yaml.safe_dump({"_BASE_": str(CONFIG), **changed}))
    with pytest.raises(UserError, match=f"other.yaml.*{message}"):
        check_suits(all_variants(config, tmp_path))


def test_backprop_again_has_three_times_the_gradient_but_for_rounding():
    gradients = []
    for label in (BACKPROP, AGAIN):
        torch.manual_seed(0)
        cfg = load_config(str(CONFIG), (*changes(5)[label], "MODEL.UNROLLED.NUM_FEATURES", "4"))
        model = build_model(cfg).train()
        example = Example.from_shape(cfg, (16, 24, 4, 2))
        batch = example.batch(1, make=lambda shape, dtype: 0.3 * torch.randn(shape, dtype=dtype))
        model(batch)["pred"].abs().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    expected, found = 3 * gradients[0], gradients[1]
    assert 0 < (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    "arguments, message",
    [(["--seeds", "1"], "--seeds: found 1"), (["--config-file", "PATH/unmarked.yaml"], "<!-- unmarked -->")],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    (tmp_path / "unmarked.yaml").write_text(yaml.safe_dump({"_BASE_": str(CONFIG)}))
    with pytest.raises(SystemExit) as ended:
        equal_architecture.main([argument.replace("PATH", str(tmp_path)) for argument in arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


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
    assert "better, -0.03 ± 0.06 dB to backprop" in lines[-1]
