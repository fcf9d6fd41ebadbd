"""Training without targets: the lines held out, their loss, greedy training with it, and what is refused."""

import itertools
import json

import h5py
import numpy as np
import pytest
import torch
from meddlr.forward import SenseModel
from meddlr.modeling import build_loss_computer, build_model

from meddlr_greedy import eval_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.data.catalog import has_targets, register_datasets
from meddlr_greedy.data.kt_mask import central_lines
from meddlr_greedy.data.loss_lines import draw_loss_lines
from meddlr_greedy.data.masks import VariableDensityKtMaskFunc
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.modeling.problem import MeasuredLines
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.train_net import main as train_main
from tests.helpers.errors import expect_error
from tests.helpers.jobs import ended_well, start, start_job  # noqa: F401 (fixtures)
from tests.helpers.masks import sampled_by
from tests.helpers.runs import (
    assert_same_training,  # noqa: F401 (a fixture)
    load,
    metrics,
)
from tests.helpers.scans import write_dataset

LOSS = "k_l1_l2_sum_normalized"
OPTS = ["MISC.GREEDY.CINE.LOSS_LINES", "0.4", "MODEL.RECON_LOSS.NAME", LOSS]
CG = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)", "MODEL.UNROLLED.DC.MAX_ITER", "3"]


# ---- batches


@pytest.fixture(scope="module")
def scanned(datasets):
    """The data set ``scanned``: cine as a scanner gives it, undersampled and without targets, but for its test set."""
    write_dataset(
        datasets,
        "scanned",
        {"train": 2, "val": 1, "test": 1},
        **{"num_slices": 2, "height": 16, "width": 12, "num_coils": 3, "num_frames": 4},
    )
    mask_func = VariableDensityKtMaskFunc(2, 2)
    for seed, path in enumerate(sorted(datasets.glob("scanned/*/*.h5"))):
        if path.parent.name == "test":
            continue
        with h5py.File(path, "a") as file:
            masks = [mask_func((1, 1, 12, 4, 1), seed=10 * seed + i)[0] for i in range(2)]
            file["mask"] = torch.stack(masks).numpy().astype(np.uint8)
            file["kspace"][...] *= file["mask"][...]
            del file["target"]
    register_datasets(datasets)
    return datasets


@pytest.fixture
def load_cfg(write_config):
    """load_cfg(*opts, **kwargs of write_config): a config as the entry points read it."""

    def load_cfg(*opts, **kwargs):
        return load_config(str(write_config(**{"data": "beat", "arch": "CineUnrolledCNN", **kwargs})), list(opts))

    return load_cfg


AUGMENTED = [
    "MISC.GREEDY.CINE.READOUT_CROP",
    "8",
    "MISC.GREEDY.CINE.FLIP_PROBABILITY",
    "0.5",
    "MISC.GREEDY.CINE.PARTIAL_ECHO",
    "0.25",
]
VARIABLE = ["AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc", "AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE", "2"]
FIXED = [*VARIABLE, "DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", "-1"]


@pytest.mark.parametrize(
    ("data", "opts"),
    [
        ("beat", VARIABLE),
        ("beat", [*VARIABLE, *AUGMENTED]),
        ("scanned", []),
        ("scanned", ["DATALOADER.NUM_WORKERS", "1", *AUGMENTED]),
    ],
)
def test_lines_held_out_and_the_others_are_those_acquired(load_cfg, scanned, data, opts):
    plain, held_out = (
        list(itertools.islice(build_train_loader(load_cfg(*opts, *more, data=data), seed=3), 4)) for more in ([], OPTS)
    )
    assert any(not torch.equal(a["loss_mask"], b["loss_mask"]) for a, b in itertools.combinations(held_out, 2))
    for batch, whole in zip(held_out, plain):
        assert "target" not in batch
        assert torch.equal(batch["mask"] + batch["loss_mask"], whole["mask"])
        assert torch.equal(batch["kspace"] + batch["loss_kspace"], whole["kspace"])
        assert not (batch["kspace"] * batch["loss_mask"]).any() and not (batch["loss_kspace"] * batch["mask"]).any()
        assert batch["loss_mask"].any() and batch["mask"].any()
        for key in ("maps", "std", "edge_mask"):
            assert torch.equal(batch[key], whole[key]), key


@pytest.mark.parametrize(("data", "opts"), [("beat", FIXED), ("scanned", [])])
def test_one_mask_for_ever_and_other_lines_in_every_epoch(load_cfg, scanned, data, opts):
    """4 examples, 2 epochs; each example is known by its maps."""
    batches = itertools.islice(build_train_loader(load_cfg(*opts, *OPTS, data=data), seed=3), 4)
    seen = {}
    for batch in batches:
        for maps, mask, loss_mask in zip(batch["maps"], batch["mask"], batch["loss_mask"]):
            seen.setdefault(maps.numpy().tobytes(), []).append((mask, loss_mask))
    assert len(seen) == 4
    for (mask, loss_mask), (later_mask, later_loss_mask) in seen.values():
        assert torch.equal(mask + loss_mask, later_mask + later_loss_mask)
        assert not torch.equal(loss_mask, later_loss_mask)


def test_noise_is_added_to_the_lines_of_the_network_alone(load_cfg, datasets):
    noise = [
        "AUG_TRAIN.USE_NOISE",
        "True",
        "AUG_TRAIN.NOISE_P",
        "1.0",
        "MODEL.CONSISTENCY.AUG.NOISE.STD_DEV",
        "(5., 5.)",
    ]
    clean, noisy = (next(iter(build_train_loader(load_cfg(*VARIABLE, *OPTS, *more), seed=3))) for more in ([], noise))
    assert torch.equal(clean["loss_kspace"], noisy["loss_kspace"])
    assert not torch.equal(clean["kspace"], noisy["kspace"])


def test_scans_with_and_without_targets_in_one_batch(load_cfg, scanned):
    cfg = load_cfg(*OPTS, "DATASETS.TRAIN", "('beat_train', 'scanned_train')", "SOLVER.TRAIN_BATCH_SIZE", "8")
    assert next(iter(build_train_loader(cfg, seed=0)))["loss_kspace"].shape == (8, 16, 12, 4, 3)


def test_evaluation_uses_all_acquired_lines(load_cfg, scanned):
    for data, split in (("beat", "test"), ("scanned", "val")):
        batches = [next(iter(build_val_loader(load_cfg(*opts, data=data), f"{data}_{split}"))) for opts in ([], OPTS)]
        assert "loss_mask" not in batches[1] and torch.equal(batches[0]["mask"], batches[1]["mask"])
    assert has_targets("scanned_test") and not has_targets("scanned_val")


# ---- loss


@pytest.fixture
def measured():
    """Maps with a corner that no coil sees, acquired and held out lines, in double precision."""
    torch.manual_seed(0)
    maps = torch.randn(2, 6, 7, 1, 3, 2, dtype=torch.complex128)
    maps[:, :3, :2, ..., 0] = 0
    acquired = (torch.rand(2, 1, 7, 4, 1) < 0.6).double().expand(2, 6, 7, 4, 1)
    mask = acquired * (torch.rand(2, 1, 7, 4, 1) < 0.4)
    kspace = mask * torch.randn(2, 6, 7, 4, 3, dtype=torch.complex128)
    lines = MeasuredLines.of(kspace, mask, acquired - mask, maps, CineSenseModel(maps, mask))
    return maps, acquired, mask, lines


def random_image():
    return torch.randn(2, 6, 7, 4, 2, dtype=torch.complex128, requires_grad=True)


def test_loss_is_that_of_ssdu_and_its_gradient_is_right(load_cfg, measured):
    """Line by line: of each line held out as much as one of the frames that have acquired it."""
    maps, acquired, mask, lines = measured
    loss = build_loss_computer(load_cfg(*OPTS), "LeanLossComputer")
    image = random_image()
    error = SenseModel(maps, weights=mask)(image) - lines.kspace
    expected = 0.0
    for b in range(2):
        l1 = l2 = scale1 = scale2 = weight = 0.0
        for w, t in np.argwhere(mask[b, 0, ..., 0].numpy() > 0):
            part = 1 / acquired[b, 0, w, :, 0].sum()
            weight = weight + part / (7 * 4)
            l1 = l1 + part * error[b, :, w, t].abs().sum()
            l2 = l2 + part * error[b, :, w, t].abs().square().sum()
            scale1 = scale1 + part * lines.kspace[b, :, w, t].abs().sum()
            scale2 = scale2 + part * lines.kspace[b, :, w, t].abs().square().sum()
        unseen = image[b, :3, :2, :, 0].abs()
        l1, l2 = l1 + weight * unseen.sum(), l2 + weight * unseen.square().sum()
        expected = expected + (l1 / scale1 + (l2 / scale2).sqrt()) / 4
    values = loss({}, {"pred": image, "measured": lines})
    assert set(values) == {"loss"}
    torch.testing.assert_close(values["loss"], expected)
    assert torch.autograd.gradcheck(lambda x: loss.local_loss({}, {"pred": x, "measured": lines}), image)


def test_lines_weigh_as_if_every_line_of_kspace_was_acquired_as_often(measured):
    """Over many draws of the lines held out, every acquired line has the same weight, a part of the frames' number."""
    maps, _, _, lines = measured
    sampled = sampled_by(VariableDensityKtMaskFunc(2, 2), 7, 4)
    total = torch.zeros(7)
    for seed in range(400):
        drawn = draw_loss_lines(sampled, 0.4, np.random.RandomState(seed), "a scan")
        loss_mask, mask = (torch.from_numpy(m).double()[None, None, ..., None] for m in (drawn, sampled & ~drawn))
        weights = MeasuredLines.of(lines.kspace, loss_mask, mask, maps, lines.A).weights
        total += weights.sum(dim=(0, 1, 3, 4)).float() / 400
    outer = np.setdiff1d(np.flatnonzero(sampled.any(axis=1)), central_lines(7, 2))
    assert np.ptp(sampled[outer].sum(axis=1)) > 0, "the test shows nothing"
    assert (total[outer] - total[outer].mean()).abs().max() < 0.1


@pytest.mark.parametrize("name", ["k_l1_sum_normalized", LOSS])
def test_loss_sees_nothing_but_the_lines_held_out(load_cfg, measured, name):
    """With one coil that sees everything, the gradient is the adjoint of something on these lines."""
    _, acquired, mask, lines = measured
    loss = build_loss_computer(load_cfg(*OPTS[:3], name), "LeanLossComputer").local_loss
    one_coil = torch.ones(2, 6, 7, 1, 1, 1, dtype=torch.complex128)
    signal_model = CineSenseModel(one_coil, mask)
    lines = MeasuredLines.of(lines.kspace[..., :1], mask, acquired - mask, one_coil, signal_model)
    image = random_image()[..., :1].detach().requires_grad_()
    loss({}, {"pred": image, "measured": lines}).backward()
    spectrum = CineSenseModel(one_coil)(image.grad)
    assert (spectrum * (1 - mask)).abs().max() < 1e-12 < 1e-4 < (spectrum * mask).abs().max()


# ---- training


def explicit_loop(cfg, network, modules):
    """The definition, written out: one Adam for each module, its loss on the lines held out."""
    ranges = partition_steps(len(network.step_sizes), modules)
    optimizers = [
        torch.optim.Adam(
            [
                {"params": [p], "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
                for i in steps
                for p in (*network.resnets[i].parameters(), network.step_sizes[i])
            ],
            cfg.SOLVER.BASE_LR,
        )
        for steps in ranges
    ]
    for batch in itertools.islice(build_train_loader(cfg, cfg.SEED), cfg.SOLVER.MAX_ITER):
        A = CineSenseModel(batch["maps"], batch["mask"])
        loss_model, y = CineSenseModel(batch["maps"], batch["loss_mask"]), batch["loss_kspace"]
        zf_image = A(batch["kspace"], adjoint=True)
        x = zf_image
        for steps, optimizer in zip(ranges, optimizers):
            x = x.detach()
            for i in steps:
                step = {"model": network.resnets[i], "step_size": network.step_sizes[i], "dims": batch["kspace"].shape}
                x = network.step(image=x, A=A, zf_image=zf_image, **step)
            weights = batch["loss_mask"] / (batch["mask"] + batch["loss_mask"]).sum(3, keepdim=True).clamp(min=1)
            unseen = (batch["maps"] == 0).all(4) * weights.mean((1, 2, 3, 4), keepdim=True)
            error, size = (y - loss_model(x)).abs(), y.abs()
            l1 = (weights * error).flatten(1).sum(1) + (unseen * x.abs()).flatten(1).sum(1)
            l2 = (weights * error**2).flatten(1).sum(1) + (unseen * x.abs() ** 2).flatten(1).sum(1)
            l1 = l1 / (weights * size).flatten(1).sum(1)
            l2 = (l2 / (weights * size**2).flatten(1).sum(1)).sqrt()
            optimizer.zero_grad()
            (0.5 * l1 + 0.5 * l2).mean().backward()
            optimizer.step()
    return network.state_dict()


def weights_of(run):
    return {key.replace("model.", "", 1): value for key, value in load(run / "model_final.pth")["model"].items()}


@pytest.fixture
def same_start(load_cfg, tmp_path):
    """Overrides that give all runs of an architecture the same weights to start from, and these weights."""

    def same_start(arch, *opts):
        torch.manual_seed(0)
        network = build_model(load_cfg(*opts, arch=arch, modules=None))
        torch.save({"model": network.state_dict()}, tmp_path / "start.pth")
        return network, ["MODEL.WEIGHTS", str(tmp_path / "start.pth")]

    return same_start


@pytest.mark.parametrize("modules", [1, 2, [1, 3]])
@pytest.mark.parametrize(("arch", "opts"), [("CineUnrolledCNN", []), ("CGCineUnrolledCNN", CG)])
def test_greedy_training_equals_the_explicit_loop(write_config, load_cfg, same_start, tmp_path, arch, opts, modules):
    opts = [*OPTS, *opts]
    network, start_weights = same_start(arch, *opts)
    config = write_config(data="beat", arch=arch, modules=modules)
    train_main(["--config-file", str(config), *opts, *start_weights])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = explicit_loop(load_cfg(*opts, arch=arch, modules=modules), network, modules)
    trained = weights_of(tmp_path / "run")
    assert trained.keys() == expected.keys()
    assert any(not torch.equal(before[key], trained[key]) for key in trained)
    for key, value in expected.items():
        assert torch.equal(trained[key], value), key


def test_one_module_is_backpropagation(write_config, same_start, tmp_path):
    _, start_weights = same_start("CineUnrolledCNN", *OPTS)
    for modules in (1, None):
        config = write_config(data="beat", arch="CineUnrolledCNN", modules=modules, out=tmp_path / str(modules))
        best = ["MISC.GREEDY.RUN.BEST_METRIC", "val_psnr"]
        train_main(["--config-file", str(config), *OPTS, *start_weights, *best, "VIS_PERIOD", "2"])
    greedy, plain = weights_of(tmp_path / "1"), weights_of(tmp_path / "None")
    assert all(torch.equal(greedy[key], value) for key, value in plain.items())


# A validation set without targets, whose best checkpoint is that of the lowest loss.
WITHOUT_TARGETS = [*OPTS, "MISC.GREEDY.RUN.BEST_METRIC", "val_held_out_loss", "TEST.EVAL_PERIOD", "2"]


def test_scans_without_targets_from_training_to_evaluation(write_config, scanned, tmp_path):
    config = ["--config-file", str(write_config(data="scanned", arch="CineUnrolledCNN"))]
    train_main([*config, *WITHOUT_TARGETS])
    lines = metrics(tmp_path / "run")
    assert {"loss", "loss_module_1", "loss_module_2"} <= set(lines[0]) and "psnr" not in lines[0]
    values = [line["scanned_val/val_held_out_loss"] for line in lines if "scanned_val/val_held_out_loss" in line]
    assert len(values) >= 3 and all(0 < value < 2 for value in values)
    best = load(tmp_path / "run" / "model_best.pth")
    assert best["metric"] == "val_held_out_loss" and best["value"] == pytest.approx(min(values))
    eval_net.main([*config, *OPTS])
    results = json.loads((tmp_path / "run" / "test_results" / "results.json").read_text())
    assert "psnr" in results["datasets"]["scanned_test"]["reconstruction"]


def test_two_processes_give_the_same_bits(write_config, scanned, tmp_path, start):  # noqa: F811
    kind = {"data": "scanned", "arch": "CineUnrolledCNN", "modules": 4}
    opts = [*WITHOUT_TARGETS, "MODEL.UNROLLED.DROPOUT", "0.2", "SOLVER.MAX_ITER", "6"]
    train_main(["--config-file", str(write_config(**kind, out=tmp_path / "one")), *opts])
    ended_well(start(2, write_config(**kind, out=tmp_path / "two"), *opts))
    for name in ("model_final.pth", "model_best.pth"):
        assert_same_training(tmp_path / "one" / name, tmp_path / "two" / name)
    keys = ["scanned_val/val_held_out_loss", *(f"loss_module_{k}" for k in range(1, 5))]
    logged = [[[line.get(key) for key in keys] for line in metrics(tmp_path / run)] for run in ("one", "two")]
    assert logged[0] == logged[1] and all(value is not None for value in logged[0][-1])


# ---- what is refused

# Of 12 lines the central 4, in each of 4 frames.
CENTER_ALONE = [*VARIABLE[:3], "4", "AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS", "(3,)"]


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MISC.GREEDY.CINE.LOSS_LINES", "1"], ["MISC.GREEDY.CINE.LOSS_LINES", "found 1", "0 to below 1"]),
        (["MISC.GREEDY.CINE.LOSS_LINES", "-0.1"], ["MISC.GREEDY.CINE.LOSS_LINES", "found -0.1"]),
        (["MISC.GREEDY.CINE.LOSS_LINES", "half"], ["MISC.GREEDY.CINE.LOSS_LINES", "'half'"]),
        (["MISC.GREEDY.CINE.LOSS_LINES", "0.4"], ["MODEL.RECON_LOSS.NAME: found 'l1'", "LOSS_LINES 0.4", LOSS]),
        ([*OPTS[:3], "k_l1_normalized"], ["MODEL.RECON_LOSS.NAME: found 'k_l1_normalized'", LOSS]),
        ([*OPTS, *CENTER_ALONE], ["MISC.GREEDY.CINE.LOSS_LINES", "16 acquired lines of beat_train_", "for the loss"]),
        ([*OPTS, "MISC.GREEDY.RUN.BEST_METRIC", "val_held_out_loss"], ["MISC.GREEDY.RUN.BEST_METRIC", "val_psnr"]),
    ],
)
def test_config_mistakes(write_config, capsys, tmp_path, opts, words):
    config = write_config(data="beat", arch="CineUnrolledCNN")
    expect_error(capsys, config, *opts, words=words, out=tmp_path / "run")


def test_2d_is_refused(write_config, capsys, tmp_path):
    expect_error(
        capsys, write_config(), *OPTS, words=["MISC.GREEDY.CINE.LOSS_LINES", "2D, not cine"], out=tmp_path / "run"
    )


def test_models_with_losses_of_their_own_are_refused(write_config, capsys):
    config = write_config(data="beat", modules=None, arch="N2RModel")
    opts = [*OPTS, "MODEL.N2R.META_ARCHITECTURE", "CineUnrolledCNN", "MISC.GREEDY.RUN.BEST_METRIC", "val_psnr"]
    expect_error(capsys, config, *opts, words=["MISC.GREEDY.CINE.LOSS_LINES", "N2RModel"])


def test_batches_that_do_not_fit_the_loss(load_cfg, scanned):
    without = next(iter(build_train_loader(load_cfg(*OPTS, data="scanned"), seed=0)))
    with pytest.raises(UserError, match="no 'target'"):
        build_model(load_cfg(data="scanned")).train()(without)
    with_target = next(iter(build_train_loader(load_cfg(), seed=0)))
    with pytest.raises(UserError, match="MISC.GREEDY.CINE.LOSS_LINES: found 0.4"):
        build_model(load_cfg(*OPTS)).train()(with_target)
