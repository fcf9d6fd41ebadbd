"""Files of the CMRxRecon challenges come back as the image that went in."""

import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.cmrxrecon import CmrxreconReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import (
    HEIGHT,
    PHASES,
    SLICES,
    WIDTH,
    fft,
    kt_mask,
    prepared,
    psnr,
    read,
    target_and_support,
)
from tests.helpers.scanners import matlab_axes, write_mat, write_mat5

WRITERS = {"version 7.3": write_mat, "version 5": write_mat5}


@pytest.mark.parametrize("name", ["kspace_full", "kspace"])
@pytest.mark.parametrize("frames", [PHASES, 3])
@pytest.mark.parametrize("version", WRITERS)
def test_cmrxrecon_comes_back(heart, tmp_path, name, frames, version):
    kspace = heart.kspace[:, :frames]
    source = WRITERS[version](tmp_path / "P007" / "cine_sax.mat", matlab_axes(kspace), name)
    (path,) = prepared(tmp_path / "out", CmrxreconReader(), tmp_path, split=("P007", "none", "none"))
    assert source.stem == path.stem
    target, support = target_and_support(path)
    assert target.shape == (SLICES, frames, HEIGHT, WIDTH)
    assert psnr(target, heart.image[:, :frames], support) > 50
    assert read(path)[1]["subject_id"] == "P007"


@pytest.mark.parametrize("version", WRITERS)
def test_cmrxrecon_of_one_coil_and_oversampled(heart, tmp_path, version):
    image = np.pad(np.abs(heart.image) + 0j, [(0, 0), (0, 0), (HEIGHT // 2, HEIGHT // 2), (0, 0)])
    source = WRITERS[version](
        tmp_path / "P1" / "cine_lax.mat", fft(image, (-2, -1)).transpose(2, 3, 0, 1), "kspace_single_full", np.float64
    )
    (path,) = prepared(tmp_path / "out", CmrxreconReader(), source, options={"readout_oversampling": 2})
    target, support = target_and_support(path)
    assert psnr(target, heart.image, support) > 50


RADIAL = np.random.default_rng(3).random((HEIGHT, WIDTH, PHASES)) < 0.5


@pytest.mark.parametrize("kind", ["lines", "kt lines", "kt radial", "no mask"])
@pytest.mark.parametrize("version", WRITERS)
def test_cmrxrecon_masks(heart, tmp_path, kind, version, capsys):
    write = WRITERS[version]
    mask = {
        "lines": np.broadcast_to((np.arange(WIDTH) % 2 == 0)[None, :, None], (HEIGHT, WIDTH, PHASES)).copy(),
        "kt lines": np.broadcast_to(kt_mask(), (HEIGHT, WIDTH, PHASES)),
        "kt radial": RADIAL,
        "no mask": np.broadcast_to(kt_mask(), (HEIGHT, WIDTH, PHASES)),
    }[kind].copy()
    mask[:, WIDTH // 2 - 10 : WIDTH // 2 + 10] = True
    kspace = heart.kspace.transpose(3, 4, 2, 0, 1) * mask[:, :, None, None]
    source = write(tmp_path / "P1" / "cine_sax_kus_kt8.mat", kspace, "kus")
    if kind != "no mask":
        written = mask[:, :, 0] if kind == "lines" else mask
        written = written.astype(bool if version == "version 5" else np.uint8)
        write(tmp_path / "P1" / "cine_sax_mask_kt8.mat", written, "mask")
    (path,) = prepared(tmp_path / "out", CmrxreconReader(), tmp_path / "P1", progress=True)
    assert path.stem == source.stem
    arrays, _ = read(path)
    assert "target" not in arrays
    stored = np.broadcast_to(arrays["mask"][..., 0] != 0, (SLICES, HEIGHT, WIDTH, PHASES))
    np.testing.assert_array_equal(stored, np.broadcast_to(mask, stored.shape))
    assert arrays["mask"].shape[1] == (HEIGHT if kind == "kt radial" else 1)
    output = capsys.readouterr().out
    assert ("varies along the readout" in output) == (kind == "kt radial")
    assert ("no mask beside it" in output) == (kind == "no mask")


CENTERS = ("Center001/UIH_30T_umr780/P001", "Center002/Siemens_30T_Vida/P001", "Center002/Siemens_15T_Avanto/P001")


@pytest.mark.parametrize("masks", [None, "Masks of mine"])
def test_masks_and_subjects_of_several_centers(heart, tmp_path, masks):
    small = matlab_axes(heart.kspace[:1, :2, :2, 20:44, 14:34])
    tree = tmp_path / (masks or "Mask_TaskAll")
    for i, place in enumerate(CENTERS):
        mask = np.ones(small.shape[:2], np.uint8)
        mask[:, i] = 0
        write_mat(
            tmp_path / "UnderSample_TaskAll" / place / "cine_sax_kus_Uniform8.mat", small * mask[..., None, None, None]
        )
        write_mat(tree / place / "cine_sax_mask_Uniform8.MAT", mask, "mask")
    options = {"masks": None if masks is None else str(tree), "undersampled": True}
    files = CmrxreconReader().find([str(tmp_path / "UnderSample_TaskAll")])
    assert len(files) == 3
    for path in files:
        scan = CmrxreconReader().open_scan(path, **options)
        place = path.parent.relative_to(tmp_path / "UnderSample_TaskAll").as_posix()
        assert scan.subject_id == place.replace("/", "_") == CmrxreconReader().subject_by_path(path)
        sampled = scan.load_slice(0).sampled
        assert np.flatnonzero(~sampled[0, :, 0]).tolist() == [CENTERS.index(place)]


@pytest.mark.parametrize("before", ["a mask", "no mask"])
def test_data_of_another_mask_are_not_taken_for_done(heart, tmp_path, before):
    """A file of the same name and size: of masks, these say nothing."""
    masks = [np.broadcast_to(kt_mask(), (HEIGHT, WIDTH, PHASES)).copy() for _ in range(2)]
    masks[1][:, 0] = True  # not sampled, as it happens
    kspace = heart.kspace.transpose(3, 4, 2, 0, 1) * masks[0][:, :, None, None]
    source = write_mat(tmp_path / "P1" / "cine_kus.mat", kspace, "kus")
    if before == "a mask":
        write_mat(tmp_path / "P1" / "cine_mask.mat", masks[0].astype(np.uint8), "mask")
    (path,) = prepared(tmp_path / "out", CmrxreconReader(), source)
    written = path.stat().st_mtime_ns
    prepared(tmp_path / "out", CmrxreconReader(), source)
    assert path.stat().st_mtime_ns == written
    write_mat(tmp_path / "P1" / "cine_mask.mat", masks[1].astype(np.uint8), "mask")
    with pytest.raises(UserError, match="made of another file or with other options"):
        prepared(tmp_path / "out", CmrxreconReader(), source)
    prepared(tmp_path / "out", CmrxreconReader(), source, overwrite=True)
    np.testing.assert_array_equal(read(path)[0]["mask"][0, ..., 0] != 0, masks[1][:1])


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory, heart):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.h5").write_text("hello")
    (folder / "empty").mkdir()
    kspace = matlab_axes(heart.kspace)[:, :, :, :1]
    (folder / "T1map.mat").write_bytes(write_mat5(folder / "v5.mat", kspace, "kspace").read_bytes())
    write_mat5(folder / "real5.mat", kspace.real, "kspace_full")
    write_mat5(folder / "struct5.mat", {"a": 1}, "kspace_full")
    content = write_mat5(folder / "cut5.mat", kspace).read_bytes()
    (folder / "cut5.mat").write_bytes(content[: len(content) // 2])
    (folder / "Mapping").mkdir()
    write_mat(folder / "Mapping" / "P001" / "T2map.mat", kspace)
    write_mat(folder / "real.mat", kspace.real, "kspace_full")
    write_mat(folder / "frame.mat", kspace[..., 0])
    write_mat(folder / "name.mat", kspace, "img")
    write_mat(folder / "nan.mat", kspace * np.nan)
    write_mat(folder / "zeros.mat", kspace * 0)
    write_mat(folder / "kus.mat", kspace, "kus")
    write_mat(folder / "mask.mat", np.zeros((HEIGHT, WIDTH), np.uint8), "mask")

    return folder


WRONG = [
    ("cmrxrecon {dir}/real5.mat", "real5.mat: kspace_full: found float64 of shape (4, 1, 6, 48, 64), allowed complex"),
    ("cmrxrecon {dir}/struct5.mat", "struct5.mat: found kspace_full, allowed one variable kspace_full"),
    ("cmrxrecon {dir}/cut5.mat", "cut5.mat: found no variable at byte 128, truncated or damaged"),
    ("cmrxrecon {dir}/T1map.mat", "T1map.mat: found t1map, weightings in place of cardiac phases; allowed cine"),
    ("cmrxrecon {dir}/Mapping", "Mapping: found no cine, but 1 of t2map, weightings in place of cardiac phases"),
    ("cmrxrecon {dir}/text.h5", "text.h5: truncated, damaged or not a MAT file of version 5 to 7.3"),
    ("cmrxrecon {dir}/real.mat", "real.mat: kspace_full: found float64 of shape (4, 1, 6, 48, 64), allowed complex"),
    ("cmrxrecon {dir}/frame.mat", "frame.mat: no cardiac phases: kspace_full has 1 frame"),
    ("cmrxrecon {dir}/name.mat", "name.mat: found img, allowed one variable kspace_full"),
    ("cmrxrecon {dir}/nan.mat", "nan.mat: slice 0: found NaN"),
    ("cmrxrecon {dir}/zeros.mat", "zeros.mat: slice 0: found nothing but zeros"),
    ("cmrxrecon {dir}/kus.mat", "kus.mat: slice 0: k-space is not zero where its mask is"),
    ("cmrxrecon {dir}/kus.mat --masks {dir}/empty", "--masks: found no kus_mask.mat or mask.mat for"),
    ("cmrxrecon {dir}/zeros.mat --readout-oversampling 3", "--readout-oversampling: found 3, allowed divisors of 64"),
]


@pytest.mark.parametrize("arguments,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, bad_files, tmp_path, capsys):
    expect_prepare_error(f"{arguments} --split 1 0 0", message, bad_files, tmp_path, capsys)
