"""ISMRMRD files, written with the format's own library, come back as the image that went in."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from ismrmrd.hdf5 import acquisition_header_dtype

from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.placement import slice_spacing
from meddlr_greedy.readers.formats.ismrmrd_layout import ordered_slices
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import (
    COILS,
    EXACT,
    HEIGHT,
    PHASES,
    SLICES,
    WIDTH,
    fft,
    ifft,
    kt_mask,
    prepared,
    psnr,
    read,
    target_and_support,
)
from tests.helpers.scanners import Mrd, mrd_header, write_mrd


@pytest.mark.parametrize(
    "scan",
    [
        Mrd(),
        Mrd(averages=2, segments=3),
        Mrd(oversampling=1, matrix=(HEIGHT, WIDTH)),
        Mrd(time="repetition", discard=4, asymmetry=4, discard_post=3),
        Mrd(calibration=range(WIDTH // 2 - 3, WIDTH // 2 + 3)),
    ],
    ids=["oversampled", "averages", "plain", "repetitions", "calibration lines"],
)
def test_ismrmrd_comes_back(heart, tmp_path, scan):
    expected = heart.image
    if scan.asymmetry:  # four of 128 samples are lost to the receiver
        expected = lowpassed(heart, scan.asymmetry)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), write_mrd(tmp_path / "a.h5", heart.coil_images, scan))
    target, support = target_and_support(path)
    assert target.shape == (SLICES, PHASES, HEIGHT, WIDTH)
    assert psnr(target, expected, support) > 50
    assert support.mean() > 0.9
    arrays, attributes = read(path)
    assert arrays["kspace"].shape == (SLICES, HEIGHT, WIDTH, PHASES, COILS)
    np.testing.assert_allclose(attributes["pixel_spacing_mm"], [320 / HEIGHT, 240 / WIDTH])
    assert attributes["slice_spacing_mm"] == pytest.approx(8)
    assert attributes["subject_id"] == "a" and list(attributes["slices"]) == [0, 1]


def lowpassed(heart, asymmetry, lines=range(WIDTH)):
    """Images (S, T, H, W) of which the first samples of the oversampled readout, and some lines, are zero."""
    kspace = fft(np.pad(heart.coil_images, [(0, 0)] * 3 + [(HEIGHT // 2, HEIGHT // 2), (0, 0)]), (-2, -1))
    kspace[..., :asymmetry, :] = 0
    kspace[..., [line for line in range(WIDTH) if line not in lines]] = 0
    coil_images = ifft(kspace, (-2, -1))[..., HEIGHT // 2 : -HEIGHT // 2, :]
    return (heart.maps.conj() * coil_images).sum(axis=2)


@pytest.mark.parametrize("lines", [range(WIDTH), range(10, WIDTH)], ids=["echo", "echo and lines"])
def test_asymmetric_echo_and_partial_fourier_come_back_low_passed(heart, tmp_path, lines):
    scan = Mrd(asymmetry=HEIGHT // 2, lines=lines)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), write_mrd(tmp_path / "a.h5", heart.coil_images, scan))
    target, support = target_and_support(path)
    assert psnr(target, lowpassed(heart, scan.asymmetry, lines), support) > 50
    assert psnr(target, heart.image, support) < 40


def test_prewhitening_gives_unit_covariance(heart, tmp_path):
    rng = np.random.default_rng(0)

    def noise(*shape):
        white = rng.standard_normal((*shape, COILS)) + 1j * rng.standard_normal((*shape, COILS))
        return white @ mixing

    mixing = np.eye(COILS) + 0.4 * rng.standard_normal((COILS, COILS))
    # The image has half the dwell time, twice the bandwidth, and the noise scan 0.8 of the nominal one.
    scan = Mrd(
        noise=noise(64, 2048).transpose(0, 2, 1), noise_dwell=5.0, noise_bandwidth=0.8, oversampling=1, averages=1
    )
    image_noise = np.sqrt(2 / 0.8) * noise(3, 8, HEIGHT, WIDTH).transpose(0, 1, 4, 2, 3)
    raw = IsmrmrdReader().open_scan(write_mrd(tmp_path / "a.h5", image_noise, scan))
    samples = np.concatenate([raw.load_slice(i).kspace.reshape(-1, COILS) for i in range(3)])
    covariance = samples.T @ samples.conj() / len(samples)
    assert np.abs(covariance - np.eye(COILS)).max() < 0.02


def test_noise_scans_may_be_of_several_lengths(heart, tmp_path):
    rng = np.random.default_rng(0)
    noise = [
        rng.standard_normal((COILS, length)) + 1j * rng.standard_normal((COILS, length)) for length in (64, 64, 96)
    ]
    scans = [
        IsmrmrdReader().open_scan(write_mrd(tmp_path / f"{i}.h5", heart.coil_images[:1, :2], Mrd(noise=part)))
        for i, part in enumerate((noise, [np.concatenate(noise, axis=1)]))
    ]
    different, one = (scan.load_slice(0).kspace for scan in scans)
    np.testing.assert_allclose(different, one, rtol=1e-4, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize(
    "places,expected,spacing",
    [
        ((0, 16, 8, 24), [0, 2, 1, 3], 8),
        ((30, 20, 10, 0), [0, 1, 2, 3], 10),
        ((0, 0, 0, 0), [0, 1, 2, 3], None),
        ((9, 0, 3, 30), [1, 2, 0, 3], None),
    ],
)
def test_slices_are_in_order_of_their_positions(places, expected, spacing):
    heads = np.zeros(8, acquisition_header_dtype)
    heads["idx"]["slice"], heads["position"][:, 2], heads["slice_dir"][:, 2] = (
        np.tile(range(4), 2),
        np.tile(places, 2),
        2,
    )
    slices, found = ordered_slices(Path("a.h5"), heads)
    assert slices.tolist() == expected and slice_spacing(found) == spacing
    heads["slice_dir"] = 0
    slices, found = ordered_slices(Path("a.h5"), heads)
    assert slices.tolist() == [0, 1, 2, 3] and slice_spacing(found) is None


def test_slices_acquired_interleaved_come_back_in_order(tmp_path):
    images = np.arange(1, 4)[:, None, None, None, None] * np.ones((1, 2, 1, HEIGHT, WIDTH), complex)
    scan = Mrd(places=(0, 16, 8), lines=range(WIDTH // 2 - 4, WIDTH // 2 + 4))
    scan = IsmrmrdReader().open_scan(write_mrd(tmp_path / "a.h5", images, scan))
    peaks = [np.abs(scan.load_slice(i).kspace).max() for i in range(3)]
    np.testing.assert_allclose(np.array(peaks) / peaks[0], [1, 3, 2], rtol=1e-3)
    assert scan.slice_spacing_mm == pytest.approx(8)
    assert any("slices are not numbered by position; put into the order 0, 2, 1" in note for note in scan.notes)


def test_what_is_left_out_is_told(heart, tmp_path):
    source = write_mrd(tmp_path / "a.h5", heart.coil_images[:1, :2], Mrd(calibration=range(20, 22)))
    with h5py.File(source, "a") as file:
        file.copy("dataset", "second")
    notes = IsmrmrdReader().open_scan(source).notes
    assert f"{source}: acquisitions left out: 1 of phase correction" in notes
    assert f"{source}: groups left out: second" in notes


@pytest.mark.parametrize(
    "flag",
    [
        ismrmrd.ACQ_IS_NAVIGATION_DATA,
        ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
        ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
        ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
        ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION,
    ],
)
def test_no_line_of_another_purpose_is_in_the_image(heart, tmp_path, flag):
    source = write_mrd(tmp_path / "a.h5", heart.coil_images[:1, :2])
    expected = IsmrmrdReader().open_scan(source).load_slice(0).kspace
    with h5py.File(source, "a") as file:
        lines = file["dataset/data"][()]
        is_other = lines["head"]["flags"] == 1 << (ismrmrd.ACQ_IS_PHASECORR_DATA - 1)
        lines["head"]["flags"][is_other] = 1 << (flag - 1)
        file["dataset/data"][:] = lines
    assert is_other.sum() == 1
    scan = IsmrmrdReader().open_scan(source)
    np.testing.assert_array_equal(scan.load_slice(0).kspace, expected)
    assert any("acquisitions left out: 1 of " in note for note in scan.notes)


def test_a_dwell_time_may_differ_by_rounding(heart, tmp_path):
    source = write_mrd(tmp_path / "a.h5", heart.coil_images[:1, :2])
    change_heads(source, "sample_time_us", 3, 2.5000002)
    assert IsmrmrdReader().open_scan(source).num_slices == 1


def change_heads(path, field, index, value):
    with h5py.File(path, "a") as file:
        records = file["dataset/data"][()]
        records["head"][field][index] = value
        file["dataset/data"][...] = records


def test_prewhitened_image_comes_back(heart, tmp_path):
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((COILS, COILS)) @ rng.standard_normal((8, COILS, 512))
    scan = Mrd(noise=noise, noise_dwell=2.5)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), write_mrd(tmp_path / "a.h5", heart.coil_images, scan))
    target, support = target_and_support(path)
    samples = noise.transpose(1, 0, 2).reshape(COILS, -1)
    whitening = np.linalg.inv(np.linalg.cholesky(samples @ samples.conj().T / samples.shape[1]))
    gain = np.linalg.norm(np.einsum("ij,jhw->ihw", whitening, heart.maps), axis=0)
    assert psnr(target, gain * heart.image, support) > 50


MISSING = {
    "a line": (((1, 7),), "slice 0: phase 1 lacks lines 7"),
    "a phase": (tuple((3, line) for line in range(WIDTH)), "slice 0: phase 3 is missing"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_refused_or_filled(heart, tmp_path, case, capsys):
    skipped, message = MISSING[case]
    source = write_mrd(tmp_path / "a.h5", heart.coil_images, Mrd(skipped=skipped))
    with pytest.raises(UserError, match=f"{message}; allowed .* or --missing fill"):
        prepared(tmp_path / "out", IsmrmrdReader(), source)
    assert not (tmp_path / "out").exists()
    (path,) = prepared(
        tmp_path / "out", IsmrmrdReader(), source, preparation=replace(EXACT, missing="fill"), progress=True
    )
    assert f"{message}; filled from the nearest phase" in capsys.readouterr().out
    kspace = read(path)[0]["kspace"]
    for phase, line in skipped:
        np.testing.assert_array_equal(kspace[:, :, line, phase], kspace[:, :, line, phase - 1])


@pytest.mark.parametrize("asymmetry", [0, 32])
def test_undersampled_ismrmrd_keeps_its_mask_and_has_no_target(heart, tmp_path, asymmetry):
    mask = kt_mask()
    source = write_mrd(tmp_path / "us_0001.h5", heart.coil_images, Mrd(sampled=mask, asymmetry=asymmetry))
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source)
    arrays, _ = read(path)
    assert set(arrays) == {"kspace", "maps", "mask"} and arrays["mask"].dtype == np.uint8
    if asymmetry:
        assert arrays["mask"].shape == (SLICES, HEIGHT, WIDTH, PHASES, 1)
        along = arrays["mask"][0, :, WIDTH // 2, 0, 0]
        assert along.tolist() == [0] * (asymmetry // 2) + [1] * (HEIGHT - asymmetry // 2)
    else:
        assert arrays["mask"].shape == (SLICES, 1, WIDTH, PHASES, 1)
        full = heart.kspace.transpose(0, 3, 4, 1, 2)
        np.testing.assert_allclose(arrays["kspace"], full * mask[:, :, None], atol=1e-4 * np.abs(full).max())
    np.testing.assert_array_equal(arrays["mask"][:, -1, ..., 0] != 0, np.broadcast_to(mask, (SLICES, *mask.shape)))
    assert not arrays["kspace"][np.broadcast_to(arrays["mask"] == 0, arrays["kspace"].shape)].any()
    # Maps from the time average see the whole of k-space: they are those of the fully sampled scan, but for motion.
    agreement = np.abs((arrays["maps"][0, :, :, 0, :, 0] * heart.maps.conj().transpose(1, 2, 0)).sum(-1))
    assert np.median(agreement[np.abs(heart.image[0, 0]) > 0.1]) > 0.99


# Numbers of the XML header that make no sense, and what is said of them.
CHANGED = {
    "text": ("<x>128</x>", "<x>abc</x>"),
    "comma": ("<y>48</y>", "<y>48,5</y>"),
    "absurd": ("<x>128</x>", "<x>2000000000</x>"),
    "large": ("<y>48</y>", "<y>65000</y>"),
    "negative": ("<x>640.0</x>", "<x>-640.0</x>"),
    "not_finite": ("<y>240</y>", "<y>NaN</y>"),
    "phases": ("<maximum>1</maximum>", "<maximum>1.5</maximum>"),
    "center": ("<center>24</center>", "<center>1000000000000</center>"),
}


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory, heart):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    one = heart.coil_images[:1]

    def mrd(name, coil_images=one, **settings):
        return write_mrd(folder / name, coil_images, Mrd(**settings))

    mrd("good.h5")
    content = (folder / "good.h5").read_bytes()
    (folder / "truncated.h5").write_bytes(content[: len(content) // 2])
    (folder / "hello.h5").write_text("hello")
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["kspace"] = np.zeros(3)
    with h5py.File(folder / "no_acquisitions.h5", "w") as file:
        file["dataset/xml"], file["dataset/data"] = [mrd_header(Mrd(), PHASES, 1).encode()], np.zeros(3)
    with h5py.File(folder / "no_header.h5", "w") as file:
        file["dataset/xml"], file["dataset/data"] = [b"<hello/>"], np.zeros(3)
    mrd("spiral.h5", trajectory="spiral")
    mrd("radial.h5", trajectory="radial")
    mrd("nan.h5", broken="nan")
    mrd("coils.h5", broken="coils")
    mrd("zeros.h5", 0 * one)
    mrd("flow.h5", sets=2)
    mrd("undersampled.h5", sampled=kt_mask())
    mrd("us_narrow.h5", sampled=kt_mask() & (np.abs(np.arange(WIDTH) - WIDTH // 2) < 8)[:, None])
    mrd("dead_coil.h5", noise=np.ones((1, COILS, 64)) * np.random.default_rng(0).standard_normal((1, 1, 64)))
    mrd("quiet_noise.h5", noise=np.zeros((1, COILS, 64)))
    two_phases = mrd("two_phases.h5", one[:, :2])
    change_heads(shutil.copy(two_phases, folder / "tilted.h5"), "slice_dir", 6, (0, 0.6, 0.8))
    change_heads(shutil.copy(two_phases, folder / "lost.h5"), "position", 6, (0, 0, np.nan))
    for name, (found, other) in CHANGED.items():
        with h5py.File(shutil.copy(two_phases, folder / f"{name}.h5"), "a") as file:
            header = file["dataset/xml"][0].decode()
            assert found in header
            file["dataset/xml"][0] = header.replace(found, other)
    for field, value in (("sample_time_us", np.nan), ("sample_time_us", 2.6), ("number_of_samples", 127)):
        change_heads(shutil.copy(two_phases, folder / f"{field}_{value}.h5"), field, 6, value)
    with h5py.File(shutil.copy(two_phases, folder / "short.h5"), "a") as file:
        records = file["dataset/data"][()]
        records["data"][5] = records["data"][5][:-4]
        file["dataset/data"][...] = records
    small_echo = Mrd(asymmetry=HEIGHT)
    write_mrd(folder / "half_echo.h5", one, small_echo)
    return folder


WRONG = [
    ("ismrmrd {dir}/text.h5", "text.h5: header: encodedSpace.matrixSize.x: found 'abc', allowed a whole number, 1 to"),
    ("ismrmrd {dir}/comma.h5", "comma.h5: header: encodedSpace.matrixSize.y: found '48,5', allowed a whole number"),
    ("ismrmrd {dir}/absurd.h5", "encodedSpace.matrixSize.x: found 2000000000, allowed a whole number, 1 to 65535"),
    ("ismrmrd {dir}/large.h5", "large.h5: k-space of a slice: found 762 MiB declared where"),
    ("ismrmrd {dir}/negative.h5", "encodedSpace.fieldOfView_mm.x: found -640.0, allowed a number above 0"),
    ("ismrmrd {dir}/not_finite.h5", "fieldOfView_mm.y: found nan, allowed a number above 0"),
    ("ismrmrd {dir}/phases.h5", "encodingLimits.phase.maximum: found '1.5', allowed a whole number"),
    ("ismrmrd {dir}/center.h5", "kspace_encoding_step_1.center: found 1000000000000, allowed a whole number"),
    ("ismrmrd {dir}/tilted.h5", "tilted.h5: found slices of several orientations (slice_dir differs), allowed one"),
    ("ismrmrd {dir}/lost.h5", "lost.h5: position: found NaN or infinite numbers, allowed finite ones"),
    ("ismrmrd {dir}/sample_time_us_nan.h5", "readouts differ: sample_time_us: found 2.5, nan, allowed one value"),
    ("ismrmrd {dir}/sample_time_us_2.6.h5", "readouts differ: sample_time_us: found 2.5, 2.5"),
    ("ismrmrd {dir}/number_of_samples_127.h5", "readouts differ: number_of_samples: found 127, 128"),
    ("ismrmrd {dir}/short.h5 --coils 4", "short.h5: acquisition 5: found data that do not agree with the 128 samples"),
    ("ismrmrd {dir}/absent.h5", "absent.h5: no such file or folder"),
    ("ismrmrd {dir}/empty", "empty: found no .h5, .mrd file"),
    ("ismrmrd {dir}/truncated.h5", "truncated.h5: truncated, damaged or not an HDF5 file"),
    ("ismrmrd {dir}/hello.h5", "hello.h5: truncated, damaged or not an HDF5 file"),
    ("ismrmrd {dir}/foreign.h5", "foreign.h5: found kspace in it, allowed an ISMRMRD group"),
    ("ismrmrd {dir}/no_acquisitions.h5", "no_acquisitions.h5: found no acquisitions in '/dataset/data'"),
    ("ismrmrd {dir}/no_header.h5", "no_header.h5: the XML header cannot be read"),
    ("ismrmrd {dir}/spiral.h5", "spiral.h5: found a spiral trajectory, allowed cartesian"),
    ("ismrmrd {dir}/radial.h5", "radial.h5: found a radial trajectory, allowed cartesian"),
    ("ismrmrd {dir}/nan.h5 --coils 4", "nan.h5: slice 0: found NaN or infinite values in k-space"),
    ("ismrmrd {dir}/coils.h5", "coils.h5: coils differ between acquisitions: active_channels: found 5, 6"),
    ("ismrmrd {dir}/zeros.h5 --coils 4", "zeros.h5: slice 0: found nothing but zeros in k-space"),
    ("ismrmrd {dir}/flow.h5", "flow.h5: found 2 values of idx.set (flow encodings), allowed one"),
    ("ismrmrd {dir}/undersampled.h5", "of the lines are missing, allowed every line of every phase; for data under"),
    ("ismrmrd {dir}/us_narrow.h5 --coils 4", "calibration region of 20 x 20: only the central 15 x 15 of 64 x 48 was"),
    (
        "ismrmrd {dir}/half_echo.h5 --coils 4",
        "only the central 1 x 1 of 64 x 48 was sampled, and coil maps need 6 x 6 or more: no --calib will do",
    ),
    ("ismrmrd {dir}/good.h5 --coils 4 --calib 49", "calibration region of 49 x 49: only the central 48 x 48"),
    ("ismrmrd {dir}/dead_coil.h5", "dead_coil.h5: noise: found linearly dependent coils"),
    ("ismrmrd {dir}/quiet_noise.h5", "quiet_noise.h5: noise: found no noise in coil 0"),
]


@pytest.mark.parametrize("arguments,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, bad_files, tmp_path, capsys):
    expect_prepare_error(f"{arguments} --split 1 0 0", message, bad_files, tmp_path, capsys)
