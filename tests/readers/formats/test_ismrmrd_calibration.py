"""Lines for calibration give the maps that the full center of k-space gives."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ismrmrd import constants

from meddlr_greedy import prepare
from meddlr_greedy.ops.coils import compress_coils, geometric_compression
from meddlr_greedy.preparation.coil_maps import estimated_maps
from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.preparation.slice import slice_arrays
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from tests.helpers.heart import COILS, HEIGHT, PHASES, WIDTH, prepared, read
from tests.helpers.mrd_lines import ALONE, EMBEDDED, MM, Line, header, oversampled, space, write_lines

CALIB = 20
PREPARATION = {maps: Preparation(CoilMaps(maps, CALIB, crop=0.7), coils=None, compression="none") for maps in (1, 2)}


def folded(images):
    """As if the field of view along W were half as wide, which takes two sets of maps."""
    quarter = WIDTH // 4
    inside = images[..., quarter:-quarter].copy()
    inside[..., -quarter:] += images[..., :quarter]
    inside[..., :quarter] += images[..., -quarter:]
    return inside


def imaged(kspace, step, flags=lambda line: ()):
    """Lines of k-space (S, T, C, 2H, W), every one of ``step``."""
    slices, phases, _, _, width = kspace.shape
    return [
        Line(kspace[s, t, :, :, line], line, slice=s, phase=t, flags=flags(line))
        for s in range(slices)
        for t in range(phases)
        for line in range(0, width, step)
    ]


def calibrated(kspace, kind):
    """Lines of an image undersampled by 3, lines for calibration of a kind, and the spaces of both."""
    width = kspace.shape[-1]
    middle = range(width // 2 - CALIB // 2 - 1, width // 2 + CALIB // 2 + 1)
    mean = kspace.mean(axis=1)  # (S, C, 2H, W)
    spaces = [space(HEIGHT, width, phases=PHASES)]
    if kind == "embedded":
        lines = imaged(kspace, 3, lambda line: EMBEDDED if line in middle else ())
        lines += [
            line if line.number % 3 else replace(line, flags=EMBEDDED)
            for line in imaged(kspace, 1, lambda _: ALONE)
            if line.number in middle and line.number % 3
        ]
        return lines, spaces
    short = slice(HEIGHT // 2, -HEIGHT // 2) if kind in ("lower resolution", "own space") else slice(None)
    first = middle[0] if kind in ("own space", "own space, not oversampled") else 0
    number = 1 if first else 0
    if kind == "own space":
        spaces.append(space(HEIGHT // 2, len(middle), fov=(MM * HEIGHT, MM * width)))
    if kind == "own space, not oversampled":  # every other point of the oversampled readout, of an object within H
        spaces.append(space(HEIGHT, len(middle), factor=1, fov=(MM * HEIGHT, MM * width)))
        mean = np.sqrt(2) * mean[:, :, ::2]
    lines = imaged(kspace, 3)
    lines += [
        Line(mean[s, :, short, line], line - first, slice=s, flags=ALONE, space=number)
        for s in range(len(mean))
        for line in middle
    ]
    return lines, spaces


def angles(found, expected):
    """The largest principal angle between the maps (N, C, M) of pixels."""
    overlap = np.linalg.svd(found.conj().transpose(0, 2, 1) @ expected, compute_uv=False)
    return np.arccos(np.clip(overlap.min(axis=-1), 0, 1))


@pytest.fixture(scope="module")
def fully_sampled(heart, tmp_path_factory):
    """fully_sampled(maps): k-space of images that take as many sets of maps, and the scan file made of all of it."""

    @functools.cache
    def make(maps):
        images = heart.coil_images if maps == 1 else folded(heart.coil_images)
        kspace, folder = oversampled(images), tmp_path_factory.mktemp("full")
        space_of_image = space(HEIGHT, images.shape[-1], phases=PHASES)
        source = write_lines(folder / "full.h5", header(space_of_image), imaged(kspace, 1))
        (full,) = prepared(folder / "out", IsmrmrdReader(), source, preparation=PREPARATION[maps])
        return kspace, full

    return make


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize(
    "kind", ["separate", "embedded", "lower resolution", "own space", "own space, not oversampled"]
)
def test_maps_are_those_of_the_full_center(fully_sampled, tmp_path, kind, maps, capsys):
    kspace, full = fully_sampled(maps)
    lines, spaces = calibrated(kspace, kind)
    source = write_lines(tmp_path / "us_0.h5", header(*spaces), lines)
    capsys.readouterr()
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source, preparation=PREPARATION[maps], progress=True)
    said = capsys.readouterr().out
    assert f"{source}: slice 0: coil maps come from the lines for calibration alone (and of slice 1)" in said
    assert "calibration alone cannot be used" not in said and "left out" not in said

    arrays, expected = read(path)[0], read(full)[0]["maps"][:, :, :, 0]
    support = (np.abs(expected).sum(axis=-2) > 0).all(axis=-1)
    assert support.sum(axis=(1, 2)).min() > 0.2 * support[0].size
    assert np.percentile(angles(arrays["maps"][:, :, :, 0][support], expected[support]), 95) < 1e-2
    # Nothing of the calibration is in the image.
    lines = arrays["mask"][0, 0, :, :, 0]
    assert (lines == (np.arange(len(lines)) % 3 == 0)[:, None]).all() and "target" not in arrays


def test_maps_of_virtual_coils(heart, tmp_path):
    """Lines for calibration get the virtual coils of the image."""
    kspace = oversampled(heart.coil_images[:1])
    lines, spaces = calibrated(kspace, "separate")
    scan = IsmrmrdReader().open_scan(write_lines(tmp_path / "us_0.h5", header(*spaces), lines))
    raw = scan.load_slice(0)
    maps = CoilMaps(calib_width=CALIB)
    arrays, _ = slice_arrays(scan, 0, Preparation(maps, coils=4))
    matrix = geometric_compression(torch.from_numpy(raw.kspace), 4)
    full = oversampled(heart.coil_images[0], 1).mean(axis=0).transpose(1, 2, 0)
    expected = estimated_maps(compress_coils(torch.from_numpy(full), matrix).numpy(), maps)
    support = np.abs(expected).sum(axis=(2, 3, 4)) > 0
    found = arrays["maps"][support][:, 0], expected[support][:, 0]
    assert support.mean() > 0.5 and np.percentile(angles(*found), 95) < 1e-2
    np.testing.assert_allclose(
        arrays["kspace"], compress_coils(torch.from_numpy(raw.kspace), matrix).numpy() * raw.sampled[..., None]
    )


def test_calibration_is_whitened_as_the_image_is(heart, tmp_path):
    kspace = oversampled(heart.coil_images[:1])
    lines, spaces = calibrated(kspace, "separate")
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((COILS, COILS)) @ (rng.standard_normal((COILS, 512)) * (1 + 1j))
    lines.insert(0, Line(noise, 0, flags=(constants.ACQ_IS_NOISE_MEASUREMENT,)))
    raw = IsmrmrdReader().open_scan(write_lines(tmp_path / "us_0.h5", header(*spaces), lines)).load_slice(0)
    whitening = np.linalg.inv(np.linalg.cholesky(noise @ noise.conj().T / 512))
    full = oversampled(heart.coil_images[0], 1).mean(axis=0).transpose(1, 2, 0) @ whitening.T
    sampled = raw.calibration.sampled
    assert sampled.sum() == HEIGHT * (CALIB + 2)
    np.testing.assert_allclose(raw.calibration.kspace[sampled], full[sampled], atol=2e-4 * np.abs(full).max())
    assert not raw.calibration.kspace[~sampled].any()


def test_where_the_image_covers_the_center_nothing_changes(heart, tmp_path, capsys):
    """Lines for calibration, here of another contrast, are then not looked at."""
    kspace = oversampled(heart.coil_images)
    image = imaged(kspace, 1)
    alone = [
        Line(np.full((COILS, 2 * HEIGHT), 1e3), line, slice=s, flags=ALONE) for line in range(20, 28) for s in (0, 1)
    ]
    xml = header(space(HEIGHT, WIDTH, phases=PHASES))
    files = {}
    for name, lines in (("with", alone + image), ("without", image)):
        source = write_lines(tmp_path / f"{name}.h5", xml, lines)
        (path,) = prepared(tmp_path / name, IsmrmrdReader(), source, preparation=PREPARATION[1], progress=True)
        files[name], _ = read(path)
    for name, array in files["without"].items():
        np.testing.assert_array_equal(files["with"][name], array)
    assert "slice 0: coil maps do not need the lines for calibration alone (and of slice 1)" in capsys.readouterr().out


def shifted_fov(lines, spaces):
    for line, other in zip(lines, lines[1:]):
        assert line.flags == other.flags or other.flags == ALONE
    lines = [replace(line, space=1) if line.flags == ALONE else line for line in lines]
    return lines, [*spaces, space(HEIGHT, WIDTH, fov=(MM * HEIGHT, 1.1 * MM * WIDTH))]


USELESS = {
    "another field of view": (shifted_fov, "field of view along y: found 264 mm, allowed 240 of the image"),
    "no such space": (
        lambda lines, spaces: ([replace(line, space=5) if line.flags else line for line in lines], spaces),
        "found encoding spaces 5, allowed one, described in the header",
    ),
    "other coils": (
        lambda lines, spaces: ([replace(line, data=line.data[:-1]) if line.flags else line for line in lines], spaces),
        "active_channels: found other coils than those of the image",
    ),
    "reversed": (
        lambda lines, spaces: (
            [replace(line, flags=(*ALONE, constants.ACQ_IS_REVERSE)) if line.flags else line for line in lines],
            spaces,
        ),
        "found reversed readouts (EPI)",
    ),
}


@pytest.mark.parametrize("case", USELESS)
def test_calibration_that_does_not_fit_is_told_of(heart, tmp_path, case):
    change, message = USELESS[case]
    lines, spaces = change(*calibrated(oversampled(heart.coil_images[:1]), "separate"))
    scan = IsmrmrdReader().open_scan(write_lines(tmp_path / "us_0.h5", header(*spaces), lines))
    (note,) = [note for note in scan.notes if "calibration alone cannot" in note]
    assert note.startswith(f"{scan.path}: {CALIB + 2} acquisitions of calibration alone cannot be used: {message}")
    assert scan.load_slice(0).calibration is None


def test_calibration_that_is_too_small_is_refused(heart, tmp_path, capsys):
    lines, spaces = calibrated(oversampled(heart.coil_images), "separate")
    lines = [line for line in lines if line.flags != ALONE or abs(line.number - WIDTH // 2) < 8]
    source = write_lines(tmp_path / "us_0.h5", header(*spaces), lines)
    command = f"ismrmrd {source} --coils 4 --split 1 1 0 --output {tmp_path}/out".split()
    with pytest.raises(SystemExit):
        prepare.main(command)
    message = "calibration region of 20 x 20: only the central 15 x 15 of 64 x 48 was sampled, allowed --calib 6 to 15"
    assert message in capsys.readouterr().err
    prepare.main([*command, "--calib", "15"])
