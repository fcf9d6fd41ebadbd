"""Static scans become 2D images, on which meddlr's 2D networks train."""

import json
import shlex

import numpy as np
import pytest
import torch
from sigpy.mri.app import EspiritCalib

from meddlr_greedy import prepare
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.checks import check_slice
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from meddlr_greedy.readers.raw_scan import RawSlice
from meddlr_greedy.train_net import main as train
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import COILS, HEIGHT, SLICES, WIDTH, fft, ifft, prepared, psnr, read
from tests.helpers.mrd_lines import ALONE, MM, Line, header, oversampled, space, write_lines
from tests.helpers.scanners import Mrd, write_mrd


@pytest.mark.parametrize("averages", [1, 2])
def test_static_ismrmrd_comes_back(heart, tmp_path, averages):
    write_mrd(tmp_path / "knee.h5", heart.coil_images[:, :1], Mrd(averages=averages, lines=range(6, WIDTH)))
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), tmp_path / "knee.h5")
    arrays, attributes = read(path)
    assert {name: array.shape for name, array in arrays.items()} == {
        "kspace": (SLICES, HEIGHT, WIDTH, COILS),
        "maps": (SLICES, HEIGHT, WIDTH, COILS, 1),
        "target": (SLICES, HEIGHT, WIDTH, 1),
    }
    lines = heart.kspace[:, 0] * (np.arange(WIDTH) >= 6)
    expected = (heart.maps.conj() * ifft(lines, (-2, -1))).sum(axis=1)
    support = np.abs(arrays["maps"]).sum(axis=(-2, -1)) > 0
    assert psnr(arrays["target"][..., 0], expected, support) > 50
    assert not read_header(str(path)).is_cine and "frame_time_ms" not in attributes
    assert attributes["slice_spacing_mm"] == pytest.approx(8)


def test_averages_are_averaged(heart, tmp_path):
    kspace = oversampled(heart.coil_images[:, 0])
    lines = [
        Line(kspace[s, :, :, line] * (1 + sign), line, slice=s, average=average)
        for s in range(SLICES)
        for average, sign in enumerate((-0.5, 0.5))
        for line in range(WIDTH)
    ]
    source = write_lines(tmp_path / "a.h5", header(space(HEIGHT, WIDTH)), lines)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source)
    arrays, attributes = read(path)
    support = np.abs(arrays["maps"]).sum(axis=(-2, -1)) > 0
    assert psnr(arrays["target"][..., 0], heart.image[:, 0], support) > 50
    assert attributes["position_mm"].tolist() == [[1, 2, 0], [1, 2, 8]]
    assert attributes["readout_direction"].tolist() == [1, 0, 0] and attributes["pixel_spacing_mm"].tolist() == [MM, MM]


def test_an_undersampled_scan_is_as_good_as_with_other_maps(heart, tmp_path):
    """The zero-filled combination by sigpy's maps of the same calibration lines is as near to the image as ours."""
    kspace, middle = oversampled(heart.coil_images[:, 0]), range(WIDTH // 2 - 10, WIDTH // 2 + 10)
    lines = [Line(kspace[s, :, :, line], line, slice=s) for s in range(SLICES) for line in range(0, WIDTH, 2)]
    lines += [Line(kspace[s, :, :, line], line, slice=s, flags=ALONE) for s in range(SLICES) for line in middle]
    source = write_lines(tmp_path / "us_a.h5", header(space(HEIGHT, WIDTH)), lines)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source)
    arrays, _ = read(path)
    assert arrays["mask"].shape == (SLICES, 1, WIDTH, 1) and "target" not in arrays
    for i in range(SLICES):
        full = fft(heart.coil_images[i, 0], (-2, -1))
        theirs = EspiritCalib(full.astype(np.complex64), calib_width=20, crop=0, show_pbar=False).run()
        ours = arrays["maps"][i, ..., 0].transpose(2, 0, 1)
        support = np.abs(ours).sum(axis=0) > 0
        images = ifft(full * (np.arange(WIDTH) % 2 == 0), (-2, -1))
        scores = [psnr((maps.conj() * images).sum(axis=0), heart.image[i, 0], support) for maps in (ours, theirs)]
        assert scores[0] > scores[1] - 0.5, scores


def test_cine_and_static_scans_are_not_mixed(heart, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_mrd(tmp_path / "in" / "heart.h5", heart.coil_images[:1])
    write_mrd(tmp_path / "in" / "knee.h5", heart.coil_images[:1, :1])
    message = f"found 1 cine and 1 static files ({tmp_path}/in/knee.h5), allowed one kind in a data set"
    expect_prepare_error("ismrmrd {dir} --coils 4 --split 2 0 0", message, tmp_path / "in", tmp_path, capsys)


def test_missing_lines_of_a_static_scan_are_told(heart, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_mrd(tmp_path / "in" / "a.h5", heart.coil_images[:1, :1], Mrd(skipped=((0, 7), (0, 9))))
    message = "a.h5: slice 0: lines 7, 9 are missing, allowed every line of every phase"
    expect_prepare_error("ismrmrd {dir} --coils 4 --split 1 0 0", message, tmp_path / "in", tmp_path, capsys)


def test_a_static_slice_has_one_phase():
    raw = RawSlice(np.ones((8, 8, 2, 1), np.complex64), np.ones((1, 8, 2), bool))
    check_slice("a", raw)
    with pytest.raises(UserError, match="a: k-space: found 2 cardiac phases, allowed 1 in a static scan"):
        check_slice("a", raw, is_cine=False)


@pytest.fixture
def registry(monkeypatch):
    """Leaves the catalog, which is global, as it was."""
    yield
    monkeypatch.undo()
    register_datasets()


def test_the_knee_configs_train_on_it(registry, heart, tmp_path, monkeypatch, capsys):
    """The data set needs no key but DATASETS; the others here make a small and short run of it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the command is for the machine
    (tmp_path / "in").mkdir()
    for phase, name in enumerate("ab"):
        write_mrd(tmp_path / "in" / f"{name}.h5", heart.coil_images[:, phase : phase + 1])
    capsys.readouterr()
    prepare.main(f"ismrmrd {tmp_path}/in --coils 4 --split 1 1 0 --output {tmp_path}/data/knee".split())
    said = capsys.readouterr().out
    assert "2 train, 2 val, 0 test slices of (H, W, C) = (64, 48, 4)" in said
    words = shlex.split(said.splitlines()[-1])
    monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words[:4] == ["meddlr-greedy", "train", "--config-file", "knee/demo.yaml"]
    keys = {"DATASETS.TRAIN", "DATASETS.VAL", "DATASETS.TEST", "OUTPUT_DIR"}
    assert {*words[4::2]} <= keys
    small = """
        MODEL.UNROLLED.NUM_FEATURES 4 MODEL.UNROLLED.NUM_RESBLOCKS 1 SOLVER.MAX_ITER 3 TIME_SCALE iter
        SOLVER.TRAIN_BATCH_SIZE 2 SOLVER.CHECKPOINT_PERIOD 3 TEST.EVAL_PERIOD 3 DATALOADER.NUM_WORKERS 0
        AUG_TRAIN.UNDERSAMPLE.NAME RandomMaskFunc1D AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS (3,)
        AUG_TEST.UNDERSAMPLE.ACCELERATIONS (3,) MODEL.DEVICE cpu"""
    register_datasets()
    train([*words[2:], *small.split(), "OUTPUT_DIR", str(tmp_path / "run")])
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    losses = [entry["total_loss"] for entry in logged if "total_loss" in entry]
    assert losses and np.isfinite(losses).all()
    assert (tmp_path / "run" / "model_final.pth").exists()
