"""Files of fastMRI come back as the images that went in, as a data set of 2D images."""

import json
import re

import numpy as np
import pytest
from sigpy.mri.app import EspiritCalib

from meddlr_greedy import prepare
from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.readers.fastmri import FastmriReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.fastmri import PADDING, fastmri_kspace, write_fastmri
from tests.helpers.heart import COILS, EXACT, HEIGHT, SLICES, WIDTH, fft, ifft, prepared, psnr, read
from tests.helpers.mrd_lines import MM, header, space


def padded(heart):
    """Images (S, H, W) of the first phase, without the lines of padding."""
    kspace = heart.kspace[:, 0]
    kspace[..., : PADDING[0]] = 0
    kspace[..., WIDTH - PADDING[1] :] = 0
    return (heart.maps.conj() * ifft(kspace, (-2, -1))).sum(axis=1)


def test_fastmri_comes_back(heart, tmp_path, capsys):
    source = write_fastmri(tmp_path / "file1000001.h5", fastmri_kspace(heart.coil_images[:, 0]))
    (path,) = prepared(tmp_path / "out", FastmriReader(), tmp_path, preparation=EXACT, progress=True)
    arrays, attributes = read(path)
    assert {name: array.shape for name, array in arrays.items()} == {
        "kspace": (SLICES, HEIGHT, WIDTH, COILS),
        "maps": (SLICES, HEIGHT, WIDTH, COILS, 1),
        "target": (SLICES, HEIGHT, WIDTH, 1),
    }
    support = np.abs(arrays["maps"]).sum(axis=(-2, -1)) > 0
    assert psnr(arrays["target"][..., 0], padded(heart), support) > 50 and support.mean() > 0.9
    assert not read_header(str(path)).is_cine
    assert attributes["subject_id"] == "0a1b" and attributes["pixel_spacing_mm"].tolist() == [MM, MM]
    assert not {"position_mm", "slice_spacing_mm", "frame_time_ms"} & {*attributes}
    (note,) = re.findall(r"note: (.*)", capsys.readouterr().out)
    assert note == f"{source}: slice 0: lines 3-45 of 48 sampled (and of slice 1)"


def test_two_sets_of_maps_and_virtual_coils(heart, tmp_path):
    write_fastmri(tmp_path / "file1000001.h5", fastmri_kspace(heart.coil_images[:, 0]))
    (path,) = prepared(
        tmp_path / "out", FastmriReader(), tmp_path, preparation=Preparation(CoilMaps(2, crop=0), coils=4)
    )
    arrays, _ = read(path)
    assert arrays["maps"].shape == (SLICES, HEIGHT, WIDTH, 4, 2) and arrays["target"].shape[-1] == 2


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_file_with_a_mask_keeps_it_and_is_as_good_as_with_other_maps(heart, tmp_path, dtype):
    """The zero-filled combination by sigpy's maps is as near to the image as that by ours."""
    mask = np.arange(WIDTH) % 3 == 0
    mask[WIDTH // 2 - 10 : WIDTH // 2 + 10] = True
    kspace = fastmri_kspace(heart.coil_images[:, 0])
    source = write_fastmri(tmp_path / "file1.h5", kspace * mask, mask.astype(dtype))
    (path,) = prepared(tmp_path / "out", FastmriReader(), source)
    arrays, _ = read(path)
    assert "target" not in arrays and arrays["mask"].shape == (SLICES, 1, WIDTH, 1)
    sampled = mask.copy()
    sampled[: PADDING[0]] = sampled[WIDTH - PADDING[1] :] = False  # the mask is drawn over padding, too
    np.testing.assert_array_equal(arrays["mask"][0, 0, :, 0], sampled)
    for i in range(SLICES):
        lines = fft(heart.coil_images[i, 0], (-2, -1)) * sampled
        theirs = EspiritCalib(lines.astype(np.complex64), calib_width=20, crop=0, show_pbar=False).run()
        ours = arrays["maps"][i, ..., 0].transpose(2, 0, 1)
        support = np.abs(ours).sum(axis=0) > 0
        scores = [
            psnr((m.conj() * ifft(lines, (-2, -1))).sum(axis=0), padded(heart)[i], support) for m in (ours, theirs)
        ]
        assert scores[0] > scores[1] - 0.5, scores


def test_a_single_coil(heart, tmp_path):
    image = np.abs(heart.image[:, 0]) + 0j
    write_fastmri(tmp_path / "file1.h5", fastmri_kspace(image[:, None])[:, 0])
    (path,) = prepared(tmp_path / "out", FastmriReader(), tmp_path)
    arrays, _ = read(path)
    kspace = fft(image, (-2, -1))
    kspace[..., : PADDING[0]] = kspace[..., WIDTH - PADDING[1] :] = 0
    assert arrays["kspace"].shape == (SLICES, HEIGHT, WIDTH, 1)
    assert psnr(arrays["target"][..., 0], ifft(kspace, (-2, -1)), np.ones((1, 1, 1), bool)) > 50


def test_subjects_are_patients_and_else_files(heart, tmp_path, capsys):
    kspace = fastmri_kspace(heart.coil_images[:1, 0])
    for name, subject in (("a", "P1"), ("b", b"P2"), ("c", "P1"), ("d", None)):
        write_fastmri(tmp_path / f"{name}.h5", kspace, subject=subject)
    prepare.main(f"fastmri {tmp_path} --coils 4 --split 1 1 1 --output {tmp_path}/out".split())
    said = capsys.readouterr().out
    assert said.count("no patient ID in it") == 1 and "d.h5: no patient ID in it; taken for a subject, 'd'" in said
    assert "2 train, 1 val, 1 test slices of (H, W, C) = (64, 48, 4)" in said
    listed = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert [image["subject_id"] for image in listed["images"]] == ["P1", "P1"]
    assert [image["kspace_size"] for image in listed["images"]] == [[1, HEIGHT, WIDTH, 4]] * 2


def test_where_the_header_disagrees_k_space_counts(heart, tmp_path):
    xml = header(space(HEIGHT, WIDTH + 4, fov=(MM * HEIGHT, MM * WIDTH))).encode()
    source = write_fastmri(tmp_path / "a.h5", fastmri_kspace(heart.coil_images[:, 0]), ismrmrd_header=xml)
    scan = FastmriReader().open_scan(source)
    assert scan.load_slice(0).kspace.shape == (HEIGHT, WIDTH, 1, COILS)
    assert scan.notes == (f"{source}: the header tells of (128, 52) points, kspace holds (128, 48); the latter count",)


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory, heart):
    folder = tmp_path_factory.mktemp("bad")
    kspace = fastmri_kspace(heart.coil_images[:, 0])
    xml = header(space(HEIGHT, WIDTH))
    write_fastmri(folder / "no_header.h5", kspace, ismrmrd_header=None)
    write_fastmri(folder / "number.h5", kspace, ismrmrd_header=np.zeros(3))
    write_fastmri(folder / "no_xml.h5", kspace, ismrmrd_header=b"hello")
    write_fastmri(folder / "real.h5", np.abs(kspace))
    write_fastmri(folder / "five.h5", kspace[None])
    write_fastmri(folder / "spaces.h5", kspace, ismrmrd_header=header(space(8, 8), space(8, 8)).encode())
    write_fastmri(folder / "radial.h5", kspace, ismrmrd_header=xml.replace("cartesian", "radial").encode())
    write_fastmri(folder / "holes.h5", kspace * (np.arange(WIDTH) % 2 == 0))
    for name, mask in (("short", np.ones(WIDTH - 1)), ("half", np.full(WIDTH, 0.5)), ("beside", np.arange(WIDTH) < 20)):
        write_fastmri(folder / f"{name}.h5", kspace, mask)
    return folder


WRONG = [
    ("no_header.h5", "found kspace, reconstruction_rss, allowed kspace and ismrmrd_header, as of fastMRI"),
    ("number.h5", "ismrmrd_header: found float64 of shape (3,), allowed a text"),
    ("no_xml.h5", "the XML header cannot be read"),
    ("real.h5", "kspace: found float32 of shape (2, 6, 128, 48), allowed complex (S, C, H, W)"),
    ("five.h5", "kspace: found complex64 of shape (1, 2, 6, 128, 48), allowed complex (S, C, H, W)"),
    ("spaces.h5", "header: found 2 encoding spaces, allowed one"),
    ("radial.h5", "found a radial trajectory, allowed cartesian"),
    ("holes.h5", "slice 0: lines 5, 7, 9"),
    ("short.h5", "allowed zeros and ones of shape (48,)"),
    ("half.h5", "allowed zeros and ones of shape (48,)"),
    ("beside.h5", "slice 0: k-space is not zero where its mask is"),
]


@pytest.mark.parametrize("name,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(name, message, bad_files, tmp_path, capsys):
    expect_prepare_error(f"fastmri {{dir}}/{name} --coils 4 --split 1 0 0", message, bad_files, tmp_path, capsys)
