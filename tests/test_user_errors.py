"""What a user can get wrong: one clear line, exit status 2, nothing half-written."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.errors import UserError
from meddlr_greedy.train_net import main
from tests.helpers.errors import expect_error


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.UNROLED", "1"], ["MODEL.UNROLED", "unknown key"]),
        (["MISC.GREEDY.NUM_MODULE", "2"], ["MISC.GREEDY.NUM_MODULE", "did you mean 'MISC.GREEDY.NUM_MODULES'"]),
        (["MISC.GREEDY.NUM_MODULES", "two"], ["MISC.GREEDY.NUM_MODULES", "'two'", "positive integer"]),
        (["MISC.GREEDY.NUM_MODULES", "9"], ["MISC.GREEDY.NUM_MODULES", "found 9", "1 to 4"]),
        (["MISC.GREEDY.NUM_MODULES", "[3, 2]"], ["MISC.GREEDY.NUM_MODULES", "add up to 4"]),
        (["MISC.GREEDY.NUM_INFERENCE_MODULES", "3"], ["NUM_INFERENCE_MODULES", "found 3"]),
        (["MISC.GREEDY.RUN.THREADS", "True"], ["MISC.GREEDY.RUN.THREADS", "non-negative integer"]),
        (["MISC.GREEDY.CINE.PARTIAL_ECHO", "0.5"], ["MISC.GREEDY.CINE.PARTIAL_ECHO", "found 0.5", "below 0.5"]),
        (["MISC.GREEDY.CINE.FLIP_PROBABILITY", "2"], ["MISC.GREEDY.CINE.FLIP_PROBABILITY", "0 to 1"]),
        (["MISC.GREEDY.CINE.READOUT_CROP", "-1"], ["MISC.GREEDY.CINE.READOUT_CROP", "non-negative"]),
        (["MISC.GREEDY.CINE.READOUT_CROP_JITTER", "wide"], ["MISC.GREEDY.CINE.READOUT_CROP_JITTER", "'wide'"]),
        (["MISC.GREEDY.CINE.READOUT_CROP", "8"], ["MISC.GREEDY.CINE.READOUT_CROP", "2D, not cine"]),
        (["MISC.GREEDY.RUN.TRAINER", "GreedyTraner"], ["MISC.GREEDY.RUN.TRAINER", "did you mean 'GreedyTrainer'"]),
        (["MISC.GREEDY.RUN.CUDA_GRAPHS", "True"], ["MISC.GREEDY.RUN.CUDA_GRAPHS", "MODEL.DEVICE is 'cpu'"]),
        (["MISC.GREEDY.RUN.HOOKS", "['Nothing']"], ["MISC.GREEDY.RUN.HOOKS", "ModuleMonitor"]),
        (["MISC.GREEDY.RUN.BEST_METRIC", "val_pnsr"], ["MISC.GREEDY.RUN.BEST_METRIC", "did you mean 'val_psnr'"]),
        (["MISC.GREEDY.RUN.BEST_METRIC", "val_nrmse"], ["MISC.GREEDY.RUN.BEST_METRIC", "TEST.VAL_METRICS.RECON"]),
        (["TEST.VAL_METRICS.RECON", "('psnrr',)"], ["TEST.VAL_METRICS.RECON", "psnrr"]),
        (["MODEL.META_ARCHITECTURE", "GreedyUnroled"], ["MODEL.META_ARCHITECTURE", "did you mean 'GreedyUnrolled'"]),
        (["MISC.GREEDY.META_ARCHITECTURE", "Nothing"], ["MISC.GREEDY.META_ARCHITECTURE", "CineUnrolledCNN"]),
        (["MODEL.DEVICE", "cuda:7"], ["MODEL.DEVICE", "set MODEL.DEVICE cpu"]),
        (["MODEL.DEVICE", "gpu"], ["MODEL.DEVICE", "'gpu'"]),
        (["MODEL.WEIGHTS", "nowhere.pth"], ["nowhere.pth", "no such file"]),
        (["OUTPUT_DIR", ""], ["OUTPUT_DIR"]),
        (["MODEL", "3"], ["MODEL: a section", "MODEL.DEVICE"]),
        (["TIME_SCALE", "iters"], ["TIME_SCALE", "'iters'"]),
        (["SEED", "99999999999"], ["SEED", "2**32"]),
        (["MODEL.NORMALIZER.NAME", "TopMagnitude"], ["MODEL.NORMALIZER.NAME", "did you mean"]),
        (["MODEL.UNROLLED.NUM_EMAPS", "2"], ["MODEL.UNROLLED.NUM_EMAPS", "1 map sets"]),
        (["MODEL.RECON_LOSS.NAME", "L1"], ["MODEL.RECON_LOSS.NAME", "did you mean 'l1'"]),
        (
            ["MISC.GREEDY.META_ARCHITECTURE", "CineUnrolledCNN"],
            ["DATASETS.TRAIN: 'flat_train' is 2D", "CineUnrolledCNN takes cine"],
        ),
        (["DATASETS.VAL", "('beat_val',)"], ["DATASETS.VAL: 'beat_val' is cine", "takes 2D"]),
        (["DATASETS.VAL", "()", "DATASETS.TEST", "('beat_test',)"], ["DATASETS.TEST: 'beat_test' is cine"]),
        (["DATASETS.TRAIN", "('flat_trian',)"], ["flat_trian", "did you mean 'flat_train'"]),
        (["SOLVER.MAX_ITER"], ["KEY VALUE"]),
        (["SOLVER.MAX_ITER", "many"], ["many"]),
        (["SOLVER.OPTIMIZER", "Adamm"], ["SOLVER.OPTIMIZER", "Adamm"]),
        (["SOLVER.LR_SCHEDULER_NAME", "Cosine"], ["SOLVER.LR_SCHEDULER_NAME", "Cosine"]),
        (["MODEL.UNROLLED.STEP_SIZES", "(1., 2.)"], ["MODEL", "step_sizes"]),
    ],
)
def test_config_mistakes(write_config, capsys, tmp_path, opts, words):
    expect_error(capsys, write_config(), *opts, words=words, out=tmp_path / "run")


def test_config_file_mistakes(capsys, tmp_path):
    expect_error(capsys, tmp_path / "missing.yaml", words=["missing.yaml", "No such file"])
    bad = tmp_path / "bad.yaml"
    for text, words in [
        ("MODEL: [", ["bad.yaml", "no valid YAML"]),
        ("- 1", ["bad.yaml", "allowed is a mapping"]),
        ("MODEL: !!python/object/apply:os.system ['true']", ["bad.yaml", "line 1", "!!python/object/apply:os.system"]),
        ("MODEL: !!python/name:os.system ''", ["!!python/name:os.system"]),
        ("MISC: {GREEDY: 4}", ["MISC.GREEDY", "mapping"]),
        ("_BASE_: nowhere.yaml", ["nowhere.yaml", "No such file"]),
        ("_BASE_: bad.yaml", ["bad.yaml", "leads back"]),
        ("_BASE_: 3", ["bad.yaml", "_BASE_"]),
        ("SEED: 1\nSEED: 2", ["bad.yaml", "line 1", "'SEED' stands twice"]),
        ("MISC: 3", ["MISC: found 3", "section"]),
        ("SOLVER:", ["SOLVER: found None", "section"]),
        ("MISC: {GREDY: {NUM_MODULES: 2}}", ["MISC.GREDY", "did you mean 'GREEDY'"]),
        ("MODEL: {UNROLED: {}}", ["MODEL.UNROLED", "unknown key"]),
        ("SOLVER: {MAX_ITER: ten}", ["bad.yaml", "SOLVER.MAX_ITER"]),
    ]:
        bad.write_text(text)
        expect_error(capsys, bad, words=words)


def test_unknown_keys_are_found_below_misc_only_where_typed():
    with pytest.raises(UserError, match="NUM_MODULE"):
        GreedyConfig.from_mapping({"NUM_MODULE": 2})
    for sizes in ([2, 3], "(2, 3)", "[2, 3]"):
        assert GreedyConfig.from_mapping({"NUM_MODULES": sizes}).NUM_MODULES == (2, 3)


def test_every_config_loads_and_pairs_differ_in_the_greedy_lines_alone():
    configs = Path(__file__).resolve().parents[1] / "configs"
    paths = sorted(configs.glob("*/*.yaml"))
    assert len(paths) > 20 and {path.parent.name for path in paths} == {"cine", "knee", "zoo"}
    for path in paths:
        load_config(str(path))
    pairs = [(pair.format("backprop"), pair.format("greedy")) for pair in ("cine/{}", "cine/cg_{}", "knee/{}")]
    pairs += [(f"cine/{name}", f"cine/{name}_greedy") for name in ("dl_espirit", "modl")]
    for pair in pairs:
        plain, greedy = (load_config(str(configs / f"{name}.yaml")) for name in pair)
        for key, value in plain.MISC.GREEDY.items():
            assert key in ("META_ARCHITECTURE", "NUM_MODULES") or greedy.MISC.GREEDY[key] == value, (pair, key)
        assert greedy.MISC.GREEDY.META_ARCHITECTURE == plain.MODEL.META_ARCHITECTURE
        greedy.defrost().MODEL.META_ARCHITECTURE = plain.MODEL.META_ARCHITECTURE
        for key in plain:
            if key not in ("MISC", "OUTPUT_DIR"):
                assert plain[key] == greedy[key], (pair, key)


def test_the_large_greedy_network_has_three_times_the_parameters():
    configs = Path(__file__).resolve().parents[1] / "configs" / "cine"
    counts = {}
    for name in ("dl_espirit", "dl_espirit_greedy", "dl_espirit_greedy_large"):
        cfg = load_config(str(configs / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"])
        counts[name] = sum(p.numel() for p in build_model(cfg).parameters())
    assert counts["dl_espirit_greedy"] == counts["dl_espirit"]
    assert counts["dl_espirit_greedy_large"] == 3 * counts["dl_espirit"]


@pytest.fixture
def broken_scan(datasets):
    """Changes the first training scan of ``beat`` and puts it back."""
    path = datasets / "beat" / "train" / "beat_train_0.h5"
    original = path.read_bytes()
    yield path
    path.write_bytes(original)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_maps(path):
    with h5py.File(path, "a") as file:
        del file["maps"]


def other_coils(path):
    with h5py.File(path, "a") as file:
        maps = file["maps"][..., :2, :]
        del file["maps"]
        file["maps"] = maps


def with_nan(path):
    with h5py.File(path, "a") as file:
        file["kspace"][:, 0, 0, 0, 0] = np.nan


def non_cartesian(path):
    with h5py.File(path, "a") as file:
        file["trajectory"] = np.zeros((10, 2), np.float32)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "damage, word",
    [
        (truncate, "truncated"),
        (without_maps, "maps"),
        (other_coils, "agree with kspace"),
        (with_nan, "NaN"),
        (non_cartesian, "trajectory"),
    ],
)
def test_data_mistakes(write_config, capsys, tmp_path, broken_scan, damage, word, workers):
    damage(broken_scan)
    config = write_config(data="beat", arch="CineUnrolledCNN")
    words = [broken_scan.name, word]
    expect_error(capsys, config, "DATALOADER.NUM_WORKERS", workers, words=words, out=tmp_path / "run")


@pytest.mark.parametrize("modules", [2, None])
def test_training_with_targets_on_a_scan_without(write_config, capsys, tmp_path, broken_scan, modules):
    with h5py.File(broken_scan, "a") as file:
        del file["target"]
        file["mask"] = np.ones((2, 1, 12, 4, 1), np.uint8)
    config = write_config(data="beat", arch="CineUnrolledCNN", modules=modules)
    opts = ["SOLVER.TRAIN_BATCH_SIZE", 1, "SOLVER.MAX_ITER", 8]
    expect_error(capsys, config, *opts, words=["'target'"], out=tmp_path / "run")


def test_missing_scan(write_config, capsys, tmp_path, broken_scan):
    content = broken_scan.read_bytes()
    broken_scan.unlink()
    try:
        expect_error(capsys, write_config(data="beat", arch="CineUnrolledCNN"), words=[broken_scan.name])
    finally:
        broken_scan.write_bytes(content)


@pytest.mark.parametrize(("before", "after"), [("1", "3"), ("3", "1"), ("3", "2")])
def test_resuming_with_another_window(write_config, capsys, before, after):
    main(["--config-file", str(write_config()), "SOLVER.GRAD_ACCUM_ITERS", before])
    capsys.readouterr()
    opts = ["SOLVER.GRAD_ACCUM_ITERS", after]
    with pytest.raises(SystemExit) as end:
        main(["--config-file", str(write_config()), "--resume", *opts])
    assert end.value.code == 2
    assert f"SOLVER.GRAD_ACCUM_ITERS: found {after}" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["GeneralizedUnrolledCNN", "UnetModel"])
def test_2d_network_on_cine_data(write_config, capsys, arch):
    opts = ["AUG_TRAIN.UNDERSAMPLE.NAME", "RandomMaskFunc1D"]
    expect_error(capsys, write_config(data="beat", arch=arch, modules=None), *opts, words=[arch, "2D", "cine"])


def test_output_dir_is_a_file(write_config, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    expect_error(capsys, write_config(), "OUTPUT_DIR", tmp_path / "file", words=["OUTPUT_DIR", "cannot be written"])


@pytest.mark.parametrize("content", [[1], {"model": 3}, {"a": 3}])
def test_checkpoint_without_weights(write_config, capsys, tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    expect_error(capsys, write_config(), "MODEL.WEIGHTS", tmp_path / "odd.pth", words=["odd.pth", "no weights"])


def test_checkpoint_of_another_network(write_config, capsys, tmp_path):
    main(["--config-file", str(write_config(out=tmp_path / "first"))])
    weights = tmp_path / "first" / "model_final.pth"
    capsys.readouterr()
    opts = ["MODEL.WEIGHTS", weights, "MODEL.UNROLLED.NUM_FEATURES", 5]
    expect_error(capsys, write_config(out=tmp_path / "second"), *opts, words=["resnets.0", "shape"])
    weights.write_bytes(weights.read_bytes()[:1000])
    expect_error(capsys, write_config(out=tmp_path / "second"), *opts[:2], words=["model_final.pth", "damaged"])
