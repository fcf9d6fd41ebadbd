"""Parallel greedy learning in real processes, against one process."""

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.train_net import main as train_main
from tests.helpers import jobs
from tests.helpers.jobs import CINE, OPTS, assert_one_line, ended_well, endless
from tests.helpers.runs import assert_same_training, load, metrics

CG = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)", "MODEL.UNROLLED.DC.MAX_ITER", "3"]
KNOBS = [
    *("MISC.GREEDY.CHECKPOINT", "True", "MISC.GREEDY.AMP", "bf16", "MISC.GREEDY.CLIP_NORM", "0.01"),
    *("MISC.GREEDY.LR_FACTORS", "[0.5, 1, 2, 3]", "MISC.GREEDY.LOSS_WEIGHTS", "[0.1, 0.3, 0.7, 1.1]"),
    *("SOLVER.GRAD_ACCUM_ITERS", "3", "MODEL.UNROLLED.DROPOUT", "0.2", "MISC.GREEDY.PADDING", "circular"),
    *("MISC.GREEDY.EMA", "0.5"),
]
INVERTING = [
    *(
        "MISC.GREEDY.TRAINING",
        "invertible",
        "MISC.GREEDY.NUM_MODULES",
        "[2, 2]",
        "MODEL.UNROLLED.STEP_SIZES",
        "(-0.4,)",
    ),
    *("MISC.GREEDY.SAVED", "int8"),
]
# What needs the whole network in each process.
REACH = ["MISC.GREEDY.OVERLAP", "1"]


# ---- the same bits as one process


def test_scans_of_several_shapes_over_chains_and_replicas(write_config, tmp_path, start, several_shapes):
    opts = [*OPTS, *several_shapes]

    def config(name):
        return write_config(data="beat", arch="CineUnrolledCNN", modules=4, out=tmp_path / name)

    train_main(["--config-file", str(config("one")), *opts])
    ended_well(start(2, config("chain"), *opts))
    assert_same_training(tmp_path / "one" / "model_final.pth", tmp_path / "chain" / "model_final.pth")
    replicas = ["SOLVER.TRAIN_BATCH_SIZE", "2", "MISC.GREEDY.PARALLEL.REPLICAS", "2"]
    refused = start(2, config("refused"), *opts, *replicas)
    refused.wait()
    assert_one_line(
        refused.text(), "DATALOADER.DROP_LAST: found False, but a last batch of an epoch has 1 of 8 examples"
    )
    # With the validation set there are 4, 4 and 2 of a kind.
    opts += ["DATASETS.TRAIN", "('shapes_train', 'shapes_val')"]
    train_main(["--config-file", str(config("even")), *opts])
    ended_well(start(2, config("replicas"), *opts, *replicas))
    a, b = (load(tmp_path / run / "model_final.pth")["model"] for run in ("even", "replicas"))
    # Gradients are summed in another order: 1.4e-6 after 7 updates with torch 2.15.
    assert max((a[name] - b[name]).norm() / a[name].norm() for name in a) <= 1e-5


@pytest.mark.parametrize(
    ("data", "arch", "opts", "runs"),
    [
        ("beat", "CineUnrolledCNN", ["MODEL.UNROLLED.DROPOUT", "0.2"], {3: [], 4: []}),
        (
            "flat",
            "GeneralizedUnrolledCNN",
            ["SOLVER.GRAD_ACCUM_ITERS", "3", "MODEL.UNROLLED.DROPOUT", "0.2", "VIS_PERIOD", "2"],
            {2: ["MISC.GREEDY.PARALLEL.PARTITION", "[1, 3]"], 4: ["MISC.GREEDY.PARALLEL.BATCHES_IN_FLIGHT", "1"]},
        ),
        ("flat", "CGUnrolledCNN", CG, {3: ["MISC.GREEDY.PARALLEL.PARTITION", "[2, 1, 1]"]}),
        ("beat", "CGCineUnrolledCNN", [*CG, "DATALOADER.NUM_WORKERS", "1"], {2: []}),
        ("beat", "CineUnrolledCNN", KNOBS, {2: []}),
        ("beat", "CineUnrolledCNN", ["MISC.GREEDY.TILE", "[7, 5]", "MISC.GREEDY.CHECKPOINT", "block"], {2: []}),
        ("beat", "InvertibleCineUnrolledCNN", INVERTING, {2: []}),
    ],
)
def test_same_bits_as_one_process(write_config, tmp_path, start, data, arch, opts, runs):
    def config(name):
        return write_config(data=data, arch=arch, modules=4, out=tmp_path / name)

    train_main(["--config-file", str(config("one")), *OPTS, *opts])
    for num, extra in runs.items():
        ended_well(start(num, config(f"{num}"), *OPTS, *opts, *extra))
        averages = ["model_final_ema.pth", "model_best_ema.pth"] if "MISC.GREEDY.EMA" in opts else []
        for name in ("model_final.pth", "model_best.pth", "model_0000002.pth", *averages):
            assert_same_training(tmp_path / "one" / name, tmp_path / f"{num}" / name)
        one, many = metrics(tmp_path / "one"), metrics(tmp_path / f"{num}")
        assert [line["iteration"] for line in one] == [line["iteration"] for line in many]
        for line, other in zip(one, many):
            measured = {key: value for key, value in line.items() if "time" not in key and "seconds" not in key}
            same = {key: other.get(key) for key in measured}
            # Of memory, a process sees its own batch too.
            without = [key for key in measured if key.endswith("memory_mb")]
            assert {**same, **dict.fromkeys(without)} == {**measured, **dict.fromkeys(without)}
            for rank in range(num):
                assert 0 <= other[f"rank_{rank}/idle_share"] <= 1 and other[f"rank_{rank}/batches_per_s"] > 0


@pytest.mark.parametrize(
    ("num", "replicas", "extra"), [(4, 2, []), (2, 2, []), (2, 2, [*REACH, "MISC.GREEDY.CLIP_NORM", "0.01"])]
)
def test_replicas_average_to_one_process(write_config, make_cfg, tmp_path, start, num, replicas, extra):
    # Not from zero biases: a difference in the last bits is no small part of what they become in a few steps of Adam.
    torch.manual_seed(0)
    weights = {
        key: value + 0.1 * torch.randn_like(value) for key, value in build_model(make_cfg(**CINE)).state_dict().items()
    }
    torch.save({"model": weights}, tmp_path / "start.pth")
    opts = [*OPTS, *extra, "SOLVER.TRAIN_BATCH_SIZE", "4", "SOLVER.GRAD_ACCUM_ITERS", "2"]
    opts += ["MODEL.WEIGHTS", str(tmp_path / "start.pth"), "MISC.GREEDY.EMA", "0.5"]
    train_main(["--config-file", str(write_config(**CINE, out=tmp_path / "one")), *opts])
    config = write_config(**CINE, out=tmp_path / "many")
    ended_well(start(num, config, *opts, "MISC.GREEDY.PARALLEL.REPLICAS", str(replicas)))
    a, b = (load(tmp_path / run / "model_final.pth")["model"] for run in ("one", "many"))
    for name in a:
        assert not torch.equal(a[name], weights[name]), "trained nothing"
        assert (a[name] - b[name]).norm() <= 1e-6 * a[name].norm(), name
    a, b = (load(tmp_path / run / "model_final_ema.pth")["model"] for run in ("one", "many"))
    assert all((a[name] - b[name]).norm() <= 1e-6 * a[name].norm() for name in a)
    for line, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "many")):
        assert other["loss_module_1"] == pytest.approx(line["loss_module_1"], rel=1e-5)
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert all(f"rank_{rank}/wait_s" in other for rank in range(num))


# ---- what lives in a process


@pytest.mark.parametrize("num", [2, 4])
def test_a_process_holds_its_share(make_cfg, batch_of, num):
    cfg = make_cfg(["MODEL.UNROLLED.NUM_UNROLLED_STEPS", 8, "MODEL.UNROLLED.NUM_FEATURES", 16], modules=8)
    whole = build_model(cfg).train()
    batch = batch_of(cfg)

    def sizes(model, batch):
        optimizer = torch.optim.Adam(model.parameters())
        with HeldForBackward(exclude=[*model.parameters(), *batch.values()]) as held:
            outputs = model(batch)
            loss = complex_l1(outputs["pred"], outputs["target"])
        loss.backward()
        optimizer.step()
        values = [*model.parameters(), *(v for state in optimizer.state.values() for v in state.values())]
        return sum(v.nbytes for v in values), held.peak_bytes, outputs

    share, held, _ = sizes(whole, batch)
    for rank in range(num):
        model = build_model(cfg).train()
        model.keep_modules(range(rank * 8 // num, (rank + 1) * 8 // num))
        own_share, own_held, outputs = sizes(model, {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)})
        assert own_share <= 1.1 * share / num
        assert own_held <= 1.1 * held
        if not model.unrolled.holds_last:
            batch = outputs["problem"].handed_on(outputs["pred"])
            batch = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor) or k == "dims"}
            batch["dims"] = torch.tensor(batch["dims"])
            assert "kspace" not in batch


def test_parameters_of_no_step_in_particular_cannot_be_split(make_cfg):
    model = build_model(make_cfg(modules=4))
    model.model.scale = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="MISC.GREEDY.PARALLEL.PARTITION.*scale"):
        model.keep_modules(range(2))


# ---- mistakes


def test_non_finite_loss_names_rank_and_module(write_config, tmp_path, start):
    config, opts = endless(write_config, tmp_path)
    job = start(3, config, *opts, "SOLVER.BASE_LR", "1e18", "MISC.GREEDY.PARALLEL.PARTITION", "[1, 2, 1]")
    assert job.wait() == [3, 3, 3]
    assert_one_line(
        job.text(),
        r"rank (0 \(module 1\).*loss of module 1|1 \(modules 2 to 3\).*loss of module [23]"
        r"|2 \(module 4\).*loss of module 4) is (nan|inf)",
    )


def test_processes_must_see_one_folder(write_config, tmp_path, start, start_job):
    config = write_config(modules=4)
    ended_well(start(2, config))
    job = start_job(2, jobs.train_in_folder_of_rank, str(config), str(tmp_path / "run"))
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "OUTPUT_DIR.*all processes must see the same folder")


def test_one_process_has_no_parallel_trainer(write_config, capsys):
    with pytest.raises(SystemExit) as end:
        train_main(["--config-file", str(write_config()), "MISC.GREEDY.RUN.TRAINER", "ParallelGreedyTrainer"])
    assert end.value.code == 2 and "MISC.GREEDY.RUN.TRAINER" in capsys.readouterr().err


def test_a_trainer_of_one_process_is_refused(write_config, start):
    job = start(2, write_config(modules=4), "MISC.GREEDY.RUN.TRAINER", "GreedyTrainer")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "MISC.GREEDY.RUN.TRAINER: found 'GreedyTrainer'")


def test_mistakes_of_a_job_are_told_once(write_config, start):
    job = start(2, write_config(modules=4), "MISC.GREEDY.PARALLEL.PARTITION", "[3, 2]")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "MISC.GREEDY.PARALLEL.PARTITION")
