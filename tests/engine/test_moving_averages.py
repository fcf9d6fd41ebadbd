"""Moving averages of the weights: against an explicit loop, in checkpoints, validated, and used as weights."""

import json

import pytest
import torch
from meddlr.checkpoint import Checkpointer
from meddlr.modeling import build_model

from meddlr_greedy import eval_net, reconstruct
from meddlr_greedy.engine.moving_averages import MovingAverages, average_weights, with_those_of_averages
from meddlr_greedy.train_net import main as train_main
from tests.helpers.errors import without_progress
from tests.helpers.runs import assert_equal, assert_same_run, load, metrics, train
from tests.helpers.wrappers import with_masker, wrapped_opts

EMA = ["MISC.GREEDY.EMA", "0.4"]  # beyond the first updates, where the decay is lower, within a run of five
EVERY = ["SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "1", "MISC.GREEDY.RUN.KEEP_CHECKPOINTS", "0"]
ALONE = ["model_best_ema.pth", "model_final_ema.pth"]


def averaged(weights, window, decay=0.4):
    """The averages after each iteration, of the weights before the first and after each; by definition, in float64."""
    averages, n, after = {name: value.double() for name, value in weights[0].items()}, 0, []
    for iteration, of_iteration in enumerate(weights[1:]):
        if (iteration + 1) % window == 0 or iteration + 2 == len(weights):  # an update; the last window is cut short
            d = min(decay, (1 + n) / (10 + n))
            averages = {name: d * value + (1 - d) * of_iteration[name].double() for name, value in averages.items()}
            n += 1
        after.append((averages, n))
    return after


@pytest.mark.parametrize(
    ("modules", "opts", "window"),
    [
        (None, ["MISC.GREEDY.RUN.BEST_METRIC", "val_psnr"], 1),
        (4, ["MISC.GREEDY.OVERLAP", "1", "SOLVER.MAX_ITER", "14"], 1),
        (2, ["SOLVER.GRAD_ACCUM_ITERS", "2", "SOLVER.OPTIMIZER", "SGD"], 2),
        (1, ["MODEL.UNROLLED.SHARE_WEIGHTS", "True"], 1),
        (2, wrapped_opts("N2R around SSDU"), 1),
    ],
)
def test_averages_by_definition(write_config, tmp_path, modules, opts, window):
    config = with_masker(write_config(modules=modules))
    train(config, *EMA, *EVERY, *opts, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "before"))
    start = tmp_path / "before" / "model_final.pth"
    train(config, *EMA, *EVERY, "SOLVER.BASE_LR", "0.1", *opts, "MODEL.WEIGHTS", str(start))
    run = tmp_path / "run"
    found = [load(path) for path in sorted(run.glob("model_0*.pth"))]
    expected = averaged([load(start)["model"], *(checkpoint["model"] for checkpoint in found)], window)
    for checkpoint, (averages, updates) in zip(found, expected, strict=True):
        assert checkpoint["ema"]["updates"] == updates and list(checkpoint["ema"]["model"]) == list(averages)
        for name, value in averages.items():
            torch.testing.assert_close(checkpoint["ema"]["model"][name], value.float(), rtol=1e-5, atol=1e-7)
    last = found[-1]
    assert not all(torch.equal(last["model"][name], value) for name, value in last["ema"]["model"].items())
    # As weights of their own: of the last iteration, and of that with the best metric of theirs.
    assert_equal(load(run / "model_final_ema.pth"), {"model": last["ema"]["model"], "iteration": len(found) - 1})
    values = [line["flat_val/val_psnr_ema"] for line in metrics(run)]
    best = load(run / "model_best_ema.pth")
    assert best["value"] == max(values) and best["metric"] == "val_psnr"
    assert best["iteration"] == values.index(max(values))
    assert_equal(best["model"], found[best["iteration"]]["ema"]["model"])


def test_nothing_else_depends_on_them(write_config, tmp_path):
    for name, opts in (("without", []), ("with", EMA)):
        train(write_config(out=tmp_path / name), *opts, "TEST.EVAL_PERIOD", "2", "MODEL.UNROLLED.DROPOUT", "0.2")
    for file in ("model_final.pth", "model_best.pth"):
        without, with_ = load(tmp_path / "without" / file), load(tmp_path / "with" / file)
        assert "ema" not in without and with_.pop("ema")["updates"] == with_["iteration"] + 1
        assert without["run"].pop("ema") == 0.0
        assert with_["run"].pop("ema") == 0.4
        assert_equal(without, with_)
    assert {p.name for p in (tmp_path / "with").glob("*.pth")} == {
        *(p.name for p in (tmp_path / "without").glob("*.pth")),
        *ALONE,
    }
    for line, other in zip(metrics(tmp_path / "without"), metrics(tmp_path / "with"), strict=True):
        assert line.keys() == {name for name in other if "_ema" not in name}


@pytest.mark.parametrize("window", [1, 3])
def test_resumed_equals_uninterrupted(write_config, tmp_path, window):
    opts = [*EMA, "SOLVER.GRAD_ACCUM_ITERS", str(window), "SOLVER.MAX_ITER", "10", "TEST.EVAL_PERIOD", "3"]
    opts += ["SOLVER.CHECKPOINT_PERIOD", "5", "MODEL.UNROLLED.DROPOUT", "0.2"]  # 5: inside of a window of 3
    for name in ("whole", "parts"):
        train(write_config(out=tmp_path / name), *opts)
    run = tmp_path / "parts"
    for name in ("model_final.pth", "model_0000009.pth", "model_final_ema.pth"):
        (run / name).unlink()
    (run / "last_checkpoint").write_text("model_0000004.pth")
    train_main(["--config-file", str(write_config(out=run)), "--resume", *opts])
    for name in ("model_final.pth", "model_best.pth", *ALONE):
        assert_same_run(tmp_path / "whole" / name, run / name)
    for line, other in zip(metrics(tmp_path / "whole"), metrics(run), strict=True):
        assert {k: v for k, v in line.items() if "_ema" in k} == {k: v for k, v in other.items() if "_ema" in k}


def test_resumed_with_another_decay(write_config, tmp_path, capsys):
    config, run = write_config(), tmp_path / "run"

    def resumed(decay, end):
        train_main(["--config-file", str(config), "--resume", "MISC.GREEDY.EMA", str(decay), "SOLVER.MAX_ITER", end])
        return capsys.readouterr().out

    train(config)
    # Begun late, they begin with the weights of the checkpoint: 9/10 of the new ones after the first update.
    before = load(run / "model_final.pth")["model"]
    printed = resumed(0.4, "6")
    assert "MISC.GREEDY.EMA: found 0.4, but the checkpoint's run has 0.0: the averages follow" in printed
    assert "another run" not in printed
    assert "Moving averages (MISC.GREEDY.EMA) begin with the weights that were loaded" in printed
    after = load(run / "model_final.pth")
    assert after["ema"]["updates"] == 1
    for name, value in after["ema"]["model"].items():
        torch.testing.assert_close(value, 0.1 * before[name] + 0.9 * after["model"][name])
    assert "MISC.GREEDY.EMA: found 0.9, but the checkpoint's run has 0.4" in resumed(0.9, "7")
    assert load(run / "model_final.pth")["ema"]["updates"] == 2
    assert "MISC.GREEDY.EMA: found 0.0, but the checkpoint's run has 0.9" in resumed(0.0, "8")
    assert "ema" not in load(run / "model_final.pth")


def test_the_best_of_an_earlier_part_of_the_run_stays(write_config, tmp_path):
    config, best = write_config(), tmp_path / "run" / "model_best_ema.pth"
    train(config, *EMA)
    content = load(best)
    torch.save({**content, "value": 1e9}, best)
    train_main(["--config-file", str(config), "--resume", *EMA, "SOLVER.MAX_ITER", "7"])
    assert load(best)["value"] == 1e9
    torch.save({**content, "value": 0.0}, best)
    train_main(["--config-file", str(config), "--resume", *EMA, "SOLVER.MAX_ITER", "9"])
    assert load(best)["value"] == metrics(tmp_path / "run")[-1]["flat_val/val_psnr_ema"]


def test_all_who_use_weights_take_them(write_config, make_cfg, datasets, tmp_path, capsys):
    config, run = write_config(data="beat", arch="CineUnrolledCNN"), tmp_path / "run"
    train(config, *EMA, "SOLVER.BASE_LR", "0.1", "DATASETS.TEST", "('beat_val',)")
    printed = capsys.readouterr().out
    told = f"the same with --weights {run}/model_best_ema.pth, and (eval) OUTPUT_DIR {run}_ema"
    assert f"The moving averages of the weights: {told}" in printed
    validated = metrics(run)[-1]
    scores = {}
    for name in ("model_final.pth", "model_final_ema.pth"):
        out = tmp_path / f"evaluated-{name}"
        eval_net.main(["--weights", str(run / name), "--num-figures", "0", "OUTPUT_DIR", str(out)])
        results = json.loads((out / "test_results" / "results.json").read_text())
        assert results["iteration"] == 4 and results["weights"].endswith(name)
        scores[name] = results["datasets"]["beat_val"]["reconstruction"]["psnr"]["mean"]
    assert scores["model_final.pth"] == pytest.approx(validated["beat_val/val_psnr"], abs=1e-4)
    assert scores["model_final_ema.pth"] == pytest.approx(validated["beat_val/val_psnr_ema"], abs=1e-4)
    assert abs(scores["model_final.pth"] - scores["model_final_ema.pth"]) > 1e-2
    scan = datasets / "beat" / "val" / "beat_val_0.h5"
    reconstruct.main(["--weights", str(run / "model_best_ema.pth"), str(scan), "--output", str(tmp_path / "recon")])
    # Trained on, with a learning rate of 0: these are the weights.
    warm = ["MODEL.WEIGHTS", str(run / "model_final_ema.pth"), "SOLVER.BASE_LR", "0.0", "OUTPUT_DIR"]
    train(config, *warm, str(tmp_path / "warm"))
    averages = load(run / "model_final.pth")["ema"]["model"]
    assert_equal(load(tmp_path / "warm" / "model_final.pth")["model"], averages)
    assert metrics(tmp_path / "warm")[-1]["beat_val/val_psnr"] == validated["beat_val/val_psnr_ema"]
    # meddlr's own checkpointer, into the plain network.
    for name, key in (("model_final.pth", "model"), ("model_final_ema.pth", "ema")):
        network = build_model(make_cfg(data="beat", arch="CineUnrolledCNN", modules=None))
        Checkpointer(network).load(str(run / name), checkpointables=[])
        expected = averages if key == "ema" else load(run / name)["model"]
        assert_equal({f"model.{name}": value for name, value in network.state_dict().items()}, expected)


def test_without_validation_data_the_last_are_named(write_config, tmp_path, capsys):
    results = train(write_config(), *EMA, "DATASETS.VAL", "()")
    assert results["flat_test"]["val_psnr_ema"] > 0
    names = {path.name for path in (tmp_path / "run").glob("*_ema.pth")}
    assert names == {"model_final_ema.pth"}
    assert f"--weights {tmp_path}/run/model_final_ema.pth" in capsys.readouterr().out


def test_only_what_is_trained_is_averaged_and_it_comes_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    model[2].weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    model[1].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averages = average_weights(model, optimizer, 0.4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(10)
    averages.update()
    after = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), averages.in_place():
        found = {name: value.clone() for name, value in model.state_dict().items()}
        raise ZeroDivisionError
    assert_equal(dict(model.state_dict()), after)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 5
    for name, value in found.items():
        expected = 0.1 * before[name] + 0.9 * after[name] if name in trained else after[name]
        torch.testing.assert_close(value, expected)
    averages.begin()
    with averages.in_place():
        assert_equal(dict(model.state_dict()), after)
    assert averages.updates == 0


def test_the_largest_decay_is_reached():
    model = torch.nn.Linear(1, 1)
    averages = MovingAverages(model, 0.999)
    decays = []
    for _ in range(3):
        with torch.no_grad():
            model.weight.zero_()
        with averages.in_place(), torch.no_grad():
            model.weight.fill_(1)
        averages.update()
        with averages.in_place():
            decays.append(model.weight.item())
    assert decays == pytest.approx([1 / 10, 2 / 11, 3 / 12])
    averages.updates = 10**6
    with averages.in_place(), torch.no_grad():
        model.weight.fill_(1)
    averages.update()
    with averages.in_place():
        assert model.weight.item() == pytest.approx(0.999)


def test_names_of_their_metrics():
    results, of_averages = ({"a": {"val_psnr": x, "val_nrmse": {"channel_0": x}}, "b": {"loss": x}} for x in (1, 2))
    assert with_those_of_averages(results, of_averages) == {
        "a": {"val_psnr": 1, "val_nrmse": {"channel_0": 1}, "val_psnr_ema": 2, "val_nrmse_ema/channel_0": 2},
        "b": {"loss": 1, "loss_ema": 2},
    }


@pytest.mark.parametrize("decay", ["1", "1.0", "-0.1", "1.5", "True", "nan", "x", "[0.9]"])
def test_decays_that_are_none(write_config, tmp_path, capsys, decay):
    with pytest.raises(SystemExit) as end:
        train(write_config(), "MISC.GREEDY.EMA", decay)
    error = without_progress(capsys.readouterr().err)
    assert end.value.code == 2 and "\n" not in error
    assert error.startswith("error: MISC.GREEDY.EMA: found ") and "allowed is a number from 0 (off) to below 1" in error
    assert not (tmp_path / "run").exists()
