"""Files of scanners and of images, written with the formats' own libraries, come back as the image that went in."""

import json
import shlex
from dataclasses import dataclass, replace
from typing import Optional, Tuple

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from ismrmrd import constants
from pydicom.dataset import FileDataset, FileMetaDataset

from meddlr_greedy import prepare
from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.acquisition import coil_sensitivities, random_smooth_phase, seeded_generator
from meddlr_greedy.preparation import coil_maps as dataset
from meddlr_greedy.preparation import dataset as preparation
from meddlr_greedy.preparation import simulate
from meddlr_greedy.preparation.coil_maps import CoilMaps
from meddlr_greedy.preparation.dataset import prepare_dataset
from meddlr_greedy.preparation.phantom import beating_heart
from meddlr_greedy.preparation.readers import images
from meddlr_greedy.preparation.readers import ismrmrd as ismrmrd_reader
from meddlr_greedy.preparation.readers.scan import RawSlice, complete, slice_spacing
from meddlr_greedy.preparation.slice import Preparation
from meddlr_greedy.preparation.splits import ScanInfo, split_scans

SLICES, PHASES, HEIGHT, WIDTH, COILS = 2, 4, 64, 48, 6

# Maps everywhere and no compression: what goes in should come out.
EXACT = Preparation(CoilMaps(crop=0), coils=None, compression="none")
ALL_TRAIN = ("1", "0", "0")


def fft(image, axes):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes, norm="ortho"), axes)


def ifft(kspace, axes):
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)


@dataclass(frozen=True)
class Heart:
    """Images (S, T, H, W) and coil images (S, T, C, H, W) whose root sum of squares over coils is the magnitude."""

    image: np.ndarray
    maps: np.ndarray

    @property
    def coil_images(self):
        return self.image[:, :, None] * self.maps

    @property
    def kspace(self):
        return fft(self.coil_images, (-2, -1))


def make_heart(seed):
    rng = np.random.default_rng(seed)
    magnitude = [
        beating_heart((HEIGHT, WIDTH), PHASES, position, np.random.default_rng(seed)) for position in (0.3, 0.6)
    ]
    image = [m * np.exp(1j * random_smooth_phase((HEIGHT, WIDTH), PHASES, rng)) for m in magnitude]
    maps = coil_sensitivities((HEIGHT, WIDTH), COILS, rng)
    return Heart(np.stack(image), maps / np.linalg.norm(maps, axis=0))


@pytest.fixture(scope="session")
def heart():
    return make_heart(0)


def psnr(found, expected, support):
    """Of magnitudes (..., H, W), where the maps are not zero."""
    support = np.broadcast_to(support, expected.shape)
    error = np.sqrt(np.mean((np.abs(found) - np.abs(expected))[support] ** 2))
    return 20 * np.log10(np.abs(expected).max() / error)


def read(path):
    with h5py.File(path, "r") as file:
        return {key: file[key][()] for key in file}, dict(file.attrs)


def target_and_support(path):
    """Target (S, T, H, W), and where there are maps (S, 1, H, W)."""
    arrays, _ = read(path)
    target = arrays["target"][..., 0].transpose(0, 3, 1, 2)
    return target, (np.abs(arrays["maps"]).sum(axis=(-2, -1)) > 0).transpose(0, 3, 1, 2)


def prepared(output, source, *inputs, preparation=EXACT, split=ALL_TRAIN, **arguments):
    """The files written, in order of their names."""
    folder = prepare_dataset(output, source, inputs, preparation, split=split, **arguments)
    paths = sorted((folder / "scans").glob("*.h5"))
    for path in paths:
        if "target" in read(path)[0]:
            read_header(str(path))
    return paths


# --- ISMRMRD ---


@dataclass(frozen=True)
class Mrd:
    """How the test's scanner acquires and writes."""

    averages: int = 1
    segments: int = 1
    oversampling: int = 2
    asymmetry: int = 0  # oversampled samples that the echo leaves out at the beginning
    lines: range = range(WIDTH)
    skipped: Tuple[Tuple[int, int], ...] = ()  # (phase, line)
    sampled: Optional[np.ndarray] = None  # (W, T)
    trajectory: str = "cartesian"
    subject: str = ""
    noise: Optional[np.ndarray] = None  # (acquisition, coil, sample)
    noise_dwell: float = 5.0
    noise_bandwidth: Optional[float] = None
    time: str = "phase"
    discard: int = 0
    sets: int = 1
    matrix: Optional[Tuple[int, int]] = None
    broken: str = ""


def mrd_header(scan, num_phases, num_slices):
    x = ismrmrd.xsd
    limit = x.limitType
    width = scan.oversampling * HEIGHT
    encoded = x.encodingSpaceType(
        matrixSize=x.matrixSizeType(x=width, y=WIDTH, z=1),
        fieldOfView_mm=x.fieldOfViewMm(x=320.0 * scan.oversampling, y=240, z=8),
    )
    # The scanner interpolates its images to another matrix than the one it acquires.
    matrix = scan.matrix or (2 * HEIGHT, 2 * WIDTH)
    recon = x.encodingSpaceType(
        matrixSize=x.matrixSizeType(x=matrix[0], y=matrix[1], z=1), fieldOfView_mm=x.fieldOfViewMm(x=320, y=240, z=8)
    )
    lines = scan.lines
    encoding = x.encodingType(
        encodedSpace=encoded,
        reconSpace=recon,
        trajectory=x.trajectoryType(scan.trajectory),
        encodingLimits=x.encodingLimitsType(
            kspace_encoding_step_1=limit(minimum=0, maximum=lines[-1] - lines[0], center=WIDTH // 2 - lines[0]),
            slice=limit(minimum=0, maximum=num_slices - 1, center=0),
            phase=limit(minimum=0, maximum=num_phases - 1, center=0) if scan.time == "phase" else None,
        ),
    )
    header = x.ismrmrdHeader(
        experimentalConditions=x.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        acquisitionSystemInformation=x.acquisitionSystemInformationType(
            receiverChannels=COILS, relativeReceiverNoiseBandwidth=scan.noise_bandwidth
        ),
        encoding=[encoding],
    )
    if scan.subject:
        header.subjectInformation = x.subjectInformationType(patientID=scan.subject)
    return x.ToXML(header)


def write_mrd(path, coil_images, scan=None, seed=0):
    """Writes coil images (S, T, C, H, W) as a scanner would acquire them."""
    scan = scan or Mrd()
    rng = np.random.default_rng(seed)
    num_slices, num_phases, num_coils = coil_images.shape[:3]
    pad = (scan.oversampling - 1) * HEIGHT // 2
    kspace = fft(np.pad(coil_images, [(0, 0)] * 3 + [(pad, pad), (0, 0)]), (-2, -1)).astype(np.complex64)
    first = scan.asymmetry - scan.discard
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header(mrd_header(scan, num_phases, num_slices))

        def append(data, center, dwell, flags=(), **counters):
            acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, dtype=np.complex64))
            acquisition.center_sample, acquisition.sample_time_us = center, dwell
            for flag in flags:
                acquisition.setFlag(flag)
            acquisition.slice_dir[2], acquisition.position[2] = 1, 8 * counters.get("slice", 0)
            for name, value in counters.items():
                setattr(acquisition.idx, name, int(value))
            if scan.discard and not flags:
                acquisition.discard_pre = scan.discard
            file.append_acquisition(acquisition)

        for noise in scan.noise if scan.noise is not None else ():
            append(noise, 0, scan.noise_dwell, [constants.ACQ_IS_NOISE_MEASUREMENT])
        # Something that is no image, in the way.
        append(1e3 + np.ones((num_coils, 8)), 4, 2.5, [constants.ACQ_IS_PHASECORR_DATA])
        for s in range(num_slices):
            for average in range(scan.averages):
                for t in range(num_phases):
                    for line in scan.lines:
                        if (t, line) in scan.skipped or (scan.sampled is not None and not scan.sampled[line, t]):
                            continue
                        data = kspace[s, t, :, max(first, 0) :, line]
                        if scan.averages > 1:  # whose mean is the data
                            sign = 1 if average % 2 else -1
                            data = data + sign * 0.1 * np.exp(1j * np.arange(data.size).reshape(data.shape))
                        if scan.discard:
                            data = data + 0
                            data[:, : scan.discard] = 1e3 * rng.standard_normal((num_coils, scan.discard))
                        if scan.broken == "nan" and (s, t, line) == (0, 1, 5):
                            data = data * np.nan
                        if scan.broken == "coils" and (s, t, line) == (0, 1, 5):
                            data = data[:-1]
                        counters = {
                            "kspace_encode_step_1": line - scan.lines[0],
                            "slice": s,
                            scan.time: t,
                            "average": average,
                            "segment": line % scan.segments,
                            "set": t % scan.sets,
                        }
                        center = scan.oversampling * HEIGHT // 2 - max(first, 0)
                        append(data, center, 2.5, **counters)
    return path


@pytest.mark.parametrize(
    "scan",
    [
        Mrd(),
        Mrd(averages=2, segments=3),
        Mrd(oversampling=1, matrix=(HEIGHT, WIDTH)),
        Mrd(time="repetition", discard=4, asymmetry=4),
    ],
    ids=["oversampled", "averages", "plain", "repetitions"],
)
def test_ismrmrd_comes_back(heart, tmp_path, scan):
    expected = heart.image
    if scan.asymmetry:  # four of 128 samples are lost to the receiver
        expected = lowpassed(heart, scan.asymmetry)
    (path,) = prepared(tmp_path / "out", "ismrmrd", write_mrd(tmp_path / "a.h5", heart.coil_images, scan))
    target, support = target_and_support(path)
    assert target.shape == (SLICES, PHASES, HEIGHT, WIDTH)
    assert psnr(target, expected, support) > 50
    assert support.mean() > 0.9
    arrays, attributes = read(path)
    assert arrays["kspace"].shape == (SLICES, HEIGHT, WIDTH, PHASES, COILS)
    np.testing.assert_allclose(attributes["pixel_spacing_mm"], [320 / HEIGHT, 240 / WIDTH])
    assert attributes["slice_spacing_mm"] == pytest.approx(8)
    assert attributes["subject_id"] == "a" and list(attributes["slices"]) == [0, 1]


@pytest.mark.parametrize(
    "places,expected",
    [([0, -8, -16.04], 8.02), ([3.0], None), ([0, 8, 24], None), ([0, 0], None), ([5, 13], 8)],
)
def test_slices_have_a_spacing_where_it_is_one(places, expected):
    assert slice_spacing(np.array(places, float)) == (expected and pytest.approx(expected))


@pytest.mark.parametrize("split,expected", [("0-1 2-2 none", 8), ("0-0,2-2 1-1 none", None)])
def test_slices_apart_have_no_spacing(magnitude, tmp_path, split, expected):
    source = write_nifti(tmp_path / "a.nii", np.concatenate([magnitude, magnitude])[:3])
    options = {"acquisition": {}, "acquired_matrix": None}
    paths = prepared(tmp_path / "out", "images", source, split=split.split(), options=options)
    train = read(next(path for path in paths if path.stem.endswith("train")))[1]
    assert train.get("slice_spacing_mm") == (expected and pytest.approx(expected))


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
    (path,) = prepared(tmp_path / "out", "ismrmrd", write_mrd(tmp_path / "a.h5", heart.coil_images, scan))
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
    raw = ismrmrd_reader.open_scan(write_mrd(tmp_path / "a.h5", image_noise, scan))
    samples = np.concatenate([raw.load_slice(i).kspace.reshape(-1, COILS) for i in range(3)])
    covariance = samples.T @ samples.conj() / len(samples)
    assert np.abs(covariance - np.eye(COILS)).max() < 0.02


def test_prewhitened_image_comes_back(heart, tmp_path):
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((COILS, COILS)) @ rng.standard_normal((8, COILS, 512))
    scan = Mrd(noise=noise, noise_dwell=2.5)
    (path,) = prepared(tmp_path / "out", "ismrmrd", write_mrd(tmp_path / "a.h5", heart.coil_images, scan))
    target, support = target_and_support(path)
    samples = noise.transpose(1, 0, 2).reshape(COILS, -1)
    whitening = np.linalg.inv(np.linalg.cholesky(samples @ samples.conj().T / samples.shape[1]))
    gain = np.linalg.norm(np.einsum("ij,jhw->ihw", whitening, heart.maps), axis=0)
    assert psnr(target, gain * heart.image, support) > 50


@pytest.mark.parametrize("compression,coils", [("geometric", COILS), ("svd", COILS), ("geometric", 4), ("svd", 5)])
def test_virtual_coils(heart, tmp_path, compression, coils):
    preparation = Preparation(CoilMaps(crop=0), coils, compression)
    source = write_mrd(tmp_path / "a.h5", heart.coil_images)
    (path,) = prepared(tmp_path / "out", "ismrmrd", source, preparation=preparation)
    target, support = target_and_support(path)
    assert read(path)[0]["kspace"].shape[-1] == coils
    assert psnr(target, heart.image, support) > (50 if coils == COILS else 35)


MISSING = {
    "a line": (((1, 7),), "slice 0: phase 1 lacks lines 7"),
    "a phase": (tuple((3, line) for line in range(WIDTH)), "slice 0: phase 3 is missing"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_refused_or_filled(heart, tmp_path, case, capsys):
    skipped, message = MISSING[case]
    source = write_mrd(tmp_path / "a.h5", heart.coil_images, Mrd(skipped=skipped))
    with pytest.raises(UserError, match=f"{message}; allowed .* or --missing fill"):
        prepared(tmp_path / "out", "ismrmrd", source)
    assert not (tmp_path / "out").exists()
    (path,) = prepared(tmp_path / "out", "ismrmrd", source, preparation=replace(EXACT, missing="fill"), progress=True)
    assert f"{message}; filled from the nearest phase" in capsys.readouterr().out
    kspace = read(path)[0]["kspace"]
    for phase, line in skipped:
        np.testing.assert_array_equal(kspace[:, :, line, phase], kspace[:, :, line, phase - 1])


def test_filled_from_the_nearest_phase_around_the_cycle():
    kspace = np.arange(1, 7, dtype=np.complex64) * np.ones((1, 3, 1, 1), np.complex64)
    raw = RawSlice(kspace.transpose(0, 1, 3, 2)[..., 0][..., None], np.ones((1, 3, 6), bool))
    raw.sampled[0, 1, 0] = raw.sampled[0, 2, [2, 3]] = False
    filled, _ = complete(raw, "fill", "a")
    assert filled.kspace[0, 0, :, 0].real.tolist() == [1, 2, 3, 4, 5, 6]
    assert filled.kspace[0, 1, :, 0].real.tolist() == [6, 2, 3, 4, 5, 6]
    assert filled.kspace[0, 2, :, 0].real.tolist() == [1, 2, 2, 5, 5, 6]
    assert filled.sampled.all()


def kt_mask():
    """(W, T): every third line, shifted from phase to phase, and the center."""
    mask = (np.arange(WIDTH)[:, None] + np.arange(PHASES)) % 3 == 0
    mask[WIDTH // 2 - 2 : WIDTH // 2 + 2] = True
    return mask


@pytest.mark.parametrize("asymmetry", [0, 32])
def test_undersampled_ismrmrd_keeps_its_mask_and_has_no_target(heart, tmp_path, asymmetry):
    mask = kt_mask()
    source = write_mrd(tmp_path / "us_0001.h5", heart.coil_images, Mrd(sampled=mask, asymmetry=asymmetry))
    (path,) = prepared(tmp_path / "out", "ismrmrd", source)
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


# --- CMRxRecon ---


def write_mat(path, array, name="kspace_full", dtype=np.float32):
    """Writes as MATLAB does: axes reversed, complex numbers as a compound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        if np.iscomplexobj(array):
            stored = np.empty(array.T.shape, [("real", dtype), ("imag", dtype)])
            stored["real"], stored["imag"] = array.T.real, array.T.imag
        else:
            stored = array.T
        file.create_dataset(name, data=stored)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    return path


def matlab_axes(kspace):
    """(S, T, C, H, W) to (nx, ny, coil, slice, frame)."""
    return kspace.transpose(3, 4, 2, 0, 1)


@pytest.mark.parametrize("name", ["kspace_full", "kspace"])
@pytest.mark.parametrize("frames", [PHASES, 3])
def test_cmrxrecon_comes_back(heart, tmp_path, name, frames):
    kspace = heart.kspace[:, :frames]
    source = write_mat(tmp_path / "P007" / "cine_sax.mat", matlab_axes(kspace), name)
    (path,) = prepared(tmp_path / "out", "cmrxrecon", tmp_path, split=("P007", "none", "none"))
    assert source.stem == path.stem
    target, support = target_and_support(path)
    assert target.shape == (SLICES, frames, HEIGHT, WIDTH)
    assert psnr(target, heart.image[:, :frames], support) > 50
    assert read(path)[1]["subject_id"] == "P007"


def test_cmrxrecon_of_one_coil_and_oversampled(heart, tmp_path):
    image = np.pad(np.abs(heart.image) + 0j, [(0, 0), (0, 0), (HEIGHT // 2, HEIGHT // 2), (0, 0)])
    source = write_mat(
        tmp_path / "P1" / "cine_lax.mat", fft(image, (-2, -1)).transpose(2, 3, 0, 1), "kspace_single_full", np.float64
    )
    (path,) = prepared(tmp_path / "out", "cmrxrecon", source, options={"readout_oversampling": 2})
    target, support = target_and_support(path)
    assert psnr(target, heart.image, support) > 50


RADIAL = np.random.default_rng(3).random((HEIGHT, WIDTH, PHASES)) < 0.5


@pytest.mark.parametrize("kind", ["lines", "kt lines", "kt radial", "no mask"])
def test_cmrxrecon_masks(heart, tmp_path, kind, capsys):
    mask = {
        "lines": np.broadcast_to((np.arange(WIDTH) % 2 == 0)[None, :, None], (HEIGHT, WIDTH, PHASES)).copy(),
        "kt lines": np.broadcast_to(kt_mask(), (HEIGHT, WIDTH, PHASES)),
        "kt radial": RADIAL,
        "no mask": np.broadcast_to(kt_mask(), (HEIGHT, WIDTH, PHASES)),
    }[kind].copy()
    mask[:, WIDTH // 2 - 10 : WIDTH // 2 + 10] = True
    kspace = heart.kspace.transpose(3, 4, 2, 0, 1) * mask[:, :, None, None]
    source = write_mat(tmp_path / "P1" / "cine_sax_kus_kt8.mat", kspace, "kus")
    if kind != "no mask":
        written = mask[:, :, 0] if kind == "lines" else mask
        write_mat(tmp_path / "P1" / "cine_sax_mask_kt8.mat", written.astype(np.uint8), "mask")
    (path,) = prepared(tmp_path / "out", "cmrxrecon", tmp_path / "P1", progress=True)
    assert path.stem == source.stem
    arrays, _ = read(path)
    assert "target" not in arrays
    stored = np.broadcast_to(arrays["mask"][..., 0] != 0, (SLICES, HEIGHT, WIDTH, PHASES))
    np.testing.assert_array_equal(stored, np.broadcast_to(mask, stored.shape))
    assert arrays["mask"].shape[1] == (HEIGHT if kind == "kt radial" else 1)
    output = capsys.readouterr().out
    assert ("varies along the readout" in output) == (kind == "kt radial")
    assert ("no mask beside it" in output) == (kind == "no mask")


@pytest.mark.parametrize("before", ["a mask", "no mask"])
def test_data_of_another_mask_are_not_taken_for_done(heart, tmp_path, before):
    """A file of the same name and size: of masks, these say nothing."""
    masks = [np.broadcast_to(kt_mask(), (HEIGHT, WIDTH, PHASES)).copy() for _ in range(2)]
    masks[1][:, 0] = True  # not sampled, as it happens
    kspace = heart.kspace.transpose(3, 4, 2, 0, 1) * masks[0][:, :, None, None]
    source = write_mat(tmp_path / "P1" / "cine_kus.mat", kspace, "kus")
    if before == "a mask":
        write_mat(tmp_path / "P1" / "cine_mask.mat", masks[0].astype(np.uint8), "mask")
    (path,) = prepared(tmp_path / "out", "cmrxrecon", source)
    written = path.stat().st_mtime_ns
    prepared(tmp_path / "out", "cmrxrecon", source)
    assert path.stat().st_mtime_ns == written
    write_mat(tmp_path / "P1" / "cine_mask.mat", masks[1].astype(np.uint8), "mask")
    with pytest.raises(UserError, match="made of another file or with other options"):
        prepared(tmp_path / "out", "cmrxrecon", source)
    prepared(tmp_path / "out", "cmrxrecon", source, overwrite=True)
    np.testing.assert_array_equal(read(path)[0]["mask"][0, ..., 0] != 0, masks[1][:1])


# --- Images ---


def expected_magnitude(magnitude, subject):
    """The root sum of squares of the simulated coils is part of what is acquired."""
    maps = coil_sensitivities(magnitude.shape[-2:], 8, seeded_generator(0, subject, "coils"))
    return magnitude * np.linalg.norm(maps, axis=0)


@pytest.fixture(scope="session")
def magnitude(heart):
    return np.round(1000 * np.abs(heart.image)).astype(np.uint16)


def write_dicom(folder, magnitude, subject, phase_encoding="ROW", **changes):
    """One file for each slice and phase, as a scanner exports them: in no order."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(0).permutation(magnitude.shape[0] * magnitude.shape[1])
    for number, i in enumerate(order):
        s, t = divmod(int(i), magnitude.shape[1])
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image = FileDataset(str(folder / "x"), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.PatientID, image.InstanceNumber, image.Modality = subject, number + 1, "MR"
        image.ImageOrientationPatient = [0.6, 0.8, 0, 0, 0, -1]
        normal = np.cross([0.6, 0.8, 0], [0, 0, -1])
        image.ImagePositionPatient = [float(x) for x in 8.0 * s * normal + [10, 20, 30]]
        image.PixelSpacing, image.TriggerTime = [1.5, 1.25], 40.0 * t
        image.InPlanePhaseEncodingDirection = phase_encoding
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        pixels = magnitude[s, t].T if phase_encoding == "COL" else magnitude[s, t]
        image.Rows, image.Columns = pixels.shape
        image.RescaleSlope, image.RescaleIntercept = 2, 6
        image.PixelData = np.ascontiguousarray(pixels // 2).tobytes()
        for name, change in changes.items():
            setattr(image, name, change(s, t))
        image.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def write_nifti(path, magnitude, dim_info=None):
    image = nibabel.Nifti1Image(np.ascontiguousarray(magnitude.transpose(2, 3, 0, 1)), np.diag([1.5, 1.25, 8, 1]))
    image.header.set_zooms((1.5, 1.25, 8, 0.04))
    image.header.set_xyzt_units("mm", "sec")
    if dim_info:
        image.header.set_dim_info(*dim_info)
    nibabel.save(image, path)
    return path


def written_images(kind, tmp_path, magnitude):
    if kind == "dicom":
        return write_dicom(tmp_path / "S1", magnitude, "S1"), 2 * (magnitude // 2) + 6.0
    if kind == "dicom, phase encoding along columns":
        return write_dicom(tmp_path / "S1", magnitude, "S1", "COL"), 2 * (magnitude // 2) + 6.0
    if kind == "nifti":
        return write_nifti(tmp_path / "S1.nii.gz", magnitude), magnitude
    if kind == "nifti, second axis the readout":
        return write_nifti(tmp_path / "S1.nii", magnitude.swapaxes(2, 3), (1, 0, 2)), magnitude
    np.savez(
        tmp_path / "S1.npz",
        magnitude=magnitude,
        pixel_spacing_mm=np.array([1.5, 1.25]),
        trigger_time_ms=np.arange(PHASES) * 40.0,
    )
    return tmp_path / "S1.npz", magnitude


@pytest.mark.parametrize(
    "kind", ["dicom", "dicom, phase encoding along columns", "nifti", "nifti, second axis the readout", "npz"]
)
def test_images_come_back(magnitude, tmp_path, kind):
    source, expected = written_images(kind, tmp_path, magnitude)
    series = images.load_images(source)
    np.testing.assert_array_equal(series.magnitude, expected)
    swapped = kind in ("dicom, phase encoding along columns", "nifti, second axis the readout")
    spacing = [1.25, 1.5] if swapped else [1.5, 1.25]
    np.testing.assert_allclose(series.pixel_spacing_mm, spacing)
    between_slices = None if kind == "npz" else pytest.approx(8)
    assert series.slice_spacing_mm == between_slices
    assert series.frame_time_ms == pytest.approx(40) and series.subject_id == "S1"

    options = {"acquisition": {"noise": 0}, "acquired_matrix": None}
    (path,) = prepared(tmp_path / "out", "images", source, options=options)
    target, support = target_and_support(path)
    assert psnr(target, expected_magnitude(expected, "S1"), support) > 50
    np.testing.assert_allclose(read(path)[1]["pixel_spacing_mm"], spacing)
    assert read(path)[1]["frame_time_ms"] == pytest.approx(40)
    assert read(path)[1].get("slice_spacing_mm") == between_slices


def test_images_give_what_simulate_gives(magnitude, tmp_path):
    source, _ = written_images("npz", tmp_path, magnitude)
    shared = f"--output {tmp_path}/%s --split 0-0 none 1-1"
    simulate.main(shlex.split(shared % "a" + f" --images {source} --matrix 48 40"))
    prepare.main(shlex.split(f"images {source} --matrix 48 40 " + shared % "b"))
    for split in ("train", "test"):
        one, _ = read(tmp_path / "a" / split / f"S1_{split}.h5")
        other, _ = read(tmp_path / "b" / "scans" / f"S1_{split}.h5")
        assert all(np.array_equal(one[key], other[key]) for key in ("kspace", "maps", "target"))
    info = json.loads((tmp_path / "b" / "annotations" / "test.json").read_text())["info"]
    assert info["split_by"] == "slice blocks of one subject"


@pytest.mark.parametrize("command", ["simulate", "prepare", "prepare --soft-maps"])
def test_map_sets_and_their_options_are_passed_on(magnitude, tmp_path, monkeypatch, command):
    calls = []

    def two_maps(kspace_calib, calib_width, **arguments):
        calls.append({"calib_width": calib_width, **arguments})
        maps = np.zeros((*kspace_calib.shape[1:], len(kspace_calib), 2), np.complex64)
        maps[..., 0, 0] = maps[..., 1, 1] = 1
        return maps

    monkeypatch.setattr(dataset, "espirit_maps", two_maps)
    source, _ = written_images("npz", tmp_path, magnitude)
    if command == "simulate":
        simulate.main(shlex.split(f"--images {source} --output {tmp_path}/out --split 1 1 0 --maps 2"))
        path, expected = tmp_path / "out" / "train" / "S1_train.h5", {"calib_width": 20, "crop": 0.8, "soft": False}
    else:
        soft = command.removeprefix("prepare")
        options = f"--split 1 1 0 --maps 2 --crop 0.1 --calib 24 {soft}"
        prepare.main(shlex.split(f"images {source} --output {tmp_path}/out {options}"))
        path, expected = (
            tmp_path / "out" / "scans" / "S1_train.h5",
            {"calib_width": 24, "crop": 0.1, "soft": bool(soft)},
        )
    assert calls == [{**expected, "num_maps": 2}] * 2
    arrays, _ = read(path)
    assert arrays["maps"].shape[-2:] == (8, 2) and arrays["target"].shape[-1] == 2
    coil_images = ifft(arrays["kspace"], (1, 2))
    np.testing.assert_allclose(arrays["target"], coil_images[..., :2], atol=1e-4 * np.abs(coil_images).max())


# --- Splits ---


@pytest.fixture(scope="session")
def subjects(tmp_path_factory):
    """Five small subjects as NIfTI files."""
    folder = tmp_path_factory.mktemp("subjects")
    for i in range(5):
        data = [beating_heart((24, 20), 2, 0.5, np.random.default_rng(i)) for _ in range(i % 2 + 1)]
        write_nifti(folder / f"S{i}.nii", np.stack(data))
    return folder


def test_several_subjects(subjects, tmp_path, capsys):
    output = tmp_path / "out"
    command = f"images {subjects} --output {output} --split 0.6 0.2 0.2 --calib 12 --jobs 2"
    prepare.main(shlex.split(command))
    assert "4 train, 2 val, 1 test slices of (H, W, T, C) = (24, 20, 2, 8)" in capsys.readouterr().out
    found = {}
    for split in ("train", "val", "test"):
        annotation = json.loads((output / "annotations" / f"{split}.json").read_text())
        assert annotation["info"]["split_by"] == "subjects"
        for image in annotation["images"]:
            assert image["kspace_size"] == list(read_header(str(output / image["file_name"])).shape)
            found.setdefault(split, []).append(image["subject_id"])
    assert found == {"train": ["S0", "S1", "S2"], "val": ["S3"], "test": ["S4"]}
    assert sorted(path.name for path in output.iterdir()) == ["annotations", "scans"]

    # Run again it keeps what is there; one file less is made again; other options are refused.
    (output / "scans" / "S2.h5").unlink()
    before = {path: path.stat().st_mtime_ns for path in (output / "scans").iterdir()}
    prepare.main(shlex.split(command))
    assert "4 of 5 files were there; kept" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before and (output / "scans" / "S2.h5").exists()
    for other in ("--maps 1 --crop 0.5", "--soft-maps"):
        with pytest.raises(SystemExit):
            prepare.main(shlex.split(f"{command} {other}"))
        assert "S0.h5: found, made of another file or with other options" in capsys.readouterr().err
    parameters = json.loads(read(output / "scans" / "S0.h5")[1]["parameters"])
    assert parameters["coil_maps"] == {"num_maps": 1, "calib_width": 12, "crop": 0.8}
    prepare.main(shlex.split(command + " --crop 0.5 --overwrite"))
    assert '"crop": 0.5' in read(output / "scans" / "S0.h5")[1]["parameters"]


@pytest.mark.parametrize(
    "kind,subject,options,told",
    [
        ("dicom", "", "", True),
        ("dicom", "P7", "", False),
        ("dicom", "", "--subject-pattern (scan)", False),
        ("nifti", "", "", True),
        ("ismrmrd", "", "--coils 4", True),
        ("ismrmrd", "P7", "--coils 4", False),
    ],
)
def test_a_file_that_names_no_subject_is_told_of_once(heart, magnitude, tmp_path, capsys, kind, subject, options, told):
    source = tmp_path / {"dicom": "scan", "nifti": "scan.nii", "ismrmrd": "scan.h5"}[kind]
    if kind == "dicom":
        write_dicom(source, magnitude, subject)
    elif kind == "nifti":
        write_nifti(source, magnitude)
    else:
        write_mrd(source, heart.coil_images, Mrd(subject=subject))
    command = "ismrmrd" if kind == "ismrmrd" else "images"
    prepare.main(shlex.split(f"{command} {source} --output {tmp_path}/out --split 1 1 0 {options}"))
    assert capsys.readouterr().out.count(f"{source}: no patient ID in it; taken for a subject, 'scan'") == told


SCANS = {
    "a1": ScanInfo("A", 2),
    "a2": ScanInfo("A", 1),
    "b": ScanInfo("B", 3),
    "c": ScanInfo("C", 1),
    "d": ScanInfo("D", 1),
}


@pytest.mark.parametrize(
    "split,expected",
    [
        (None, "AAB|C|D"),
        (("2", "1", "1"), "AAB|C|D"),
        (("0.5", "0.25", "0.25"), "AAB|C|D"),
        (("0.5", "0.5", "0"), "AAB|CD|"),
        (("1-1", "none", "0-0"), "B||AA"),
        (("D,a2", "none", "B"), "AAD||B"),
    ],
)
def test_splits_by_subject(split, expected):
    blocks, split_by = split_scans(split, SCANS)
    sides = [
        "".join(SCANS[name].subject_id for side, name, _ in blocks if side == of) for of in ("train", "val", "test")
    ]
    assert "|".join(sides) == expected and split_by == "subjects"
    assert all(slices == tuple(range(SCANS[name].num_slices)) for _, name, slices in blocks)


def test_the_split_seed_shuffles_subjects():
    sides = {seed: tuple(split_scans(("2", "1", "1"), SCANS, seed)[0]) for seed in range(8)}
    assert len(set(sides.values())) > 2
    assert sides[3] == tuple(split_scans(("0.5", "0.25", "0.25"), SCANS, 3)[0])
    for blocks in sides.values():
        subjects = {side: {SCANS[name].subject_id for s, name, _ in blocks if s == side} for side, _, _ in blocks}
        assert sum(map(len, subjects.values())) == 4


def test_one_subject_is_split_into_blocks_of_slices():
    scans = {"a1": ScanInfo("A", 2), "a2": ScanInfo("A", 3)}
    expected = [("train", "a1", (0, 1)), ("train", "a2", (0,)), ("val", "a2", (1,)), ("test", "a2", (2,))]
    assert split_scans(("3", "1", "1"), scans) == (expected, "slice blocks of one subject")
    assert split_scans(("0.6", "0.2", "0.2"), scans)[0] == expected
    assert split_scans(("1", "0", "0"), scans) == ([("train", "a1", (0, 1)), ("train", "a2", (0, 1, 2))], "subjects")
    assert split_scans(("A", "none", "none"), scans)[1] == "subjects"


@pytest.mark.parametrize(
    "split,seed,message",
    [
        (("A,B", "C", "a2"), None, "subject 'A' on two sides, train and test"),
        (("a1", "a2", "none"), None, "subject 'A' on two sides, train and val"),
        (("A", "E", "none"), None, "found 'E', allowed A, B, C, D"),
        (("0.5", "0.2", "0.2"), None, "allowed fractions whose sum is 1"),
        (("1", "1", "1"), None, "sum 3.* allowed a sum of 4 subjects"),
        (("A", "B", "C"), 1, "--split-seed: found 1, allowed only where subjects are counted"),
        (("0-0", "1-1", "none"), 1, "--split-seed: found 1, allowed only where subjects are counted"),
    ],
)
def test_wrong_splits(split, seed, message):
    with pytest.raises(UserError, match=message):
        split_scans(split, SCANS, seed)


# --- Wrong input ---

EMPTY_TAGS = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "TriggerTime", "RescaleSlope")


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory, heart, magnitude):
    folder = tmp_path_factory.mktemp("bad")
    one = heart.coil_images[:1]

    def mrd(name, coil_images=one, **settings):
        return write_mrd(folder / name, coil_images, Mrd(**settings))

    mrd("good.h5")
    mrd("other_good.h5")
    content = (folder / "good.h5").read_bytes()
    (folder / "truncated.h5").write_bytes(content[: len(content) // 2])
    (folder / "text.h5").write_text("hello")
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["kspace"] = np.zeros(3)
    with h5py.File(folder / "no_acquisitions.h5", "w") as file:
        file["dataset/xml"], file["dataset/data"] = [mrd_header(Mrd(), PHASES, 1).encode()], np.zeros(3)
    with h5py.File(folder / "no_header.h5", "w") as file:
        file["dataset/xml"], file["dataset/data"] = [b"<hello/>"], np.zeros(3)
    mrd("spiral.h5", trajectory="spiral")
    mrd("radial.h5", trajectory="radial")
    mrd("one_phase.h5", one[:, :1])
    mrd("nan.h5", broken="nan")
    mrd("coils.h5", broken="coils")
    mrd("zeros.h5", 0 * one)
    mrd("flow.h5", sets=2)
    mrd("undersampled.h5", sampled=kt_mask())
    mrd("us_narrow.h5", sampled=kt_mask() & (np.abs(np.arange(WIDTH) - WIDTH // 2) < 8)[:, None])
    mrd("dead_coil.h5", noise=np.ones((1, COILS, 64)) * np.random.default_rng(0).standard_normal((1, 1, 64)))
    mrd("quiet_noise.h5", noise=np.zeros((1, COILS, 64)))
    small_echo = Mrd(asymmetry=HEIGHT)
    write_mrd(folder / "half_echo.h5", one, small_echo)

    kspace = matlab_axes(heart.kspace)[:, :, :, :1]
    (folder / "v5.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(200))
    write_mat(folder / "real.mat", kspace.real, "kspace_full")
    write_mat(folder / "frame.mat", kspace[..., 0])
    write_mat(folder / "name.mat", kspace, "img")
    write_mat(folder / "nan.mat", kspace * np.nan)
    write_mat(folder / "zeros.mat", kspace * 0)
    write_mat(folder / "kus.mat", kspace, "kus")
    write_mat(folder / "mask.mat", np.zeros((HEIGHT, WIDTH), np.uint8), "mask")

    write_nifti(folder / "good.nii", magnitude[:1])
    content = (folder / "good.nii").read_bytes()
    (folder / "truncated.nii").write_bytes(content[: len(content) // 2])
    (folder / "text.nii.gz").write_text("hello")
    nibabel.save(nibabel.Nifti1Image(magnitude[0].astype(np.int16), np.eye(4)), folder / "volume.nii")
    write_nifti(folder / "still.nii", magnitude[:, :1])
    write_nifti(folder / "nan.nii", magnitude * np.float32("nan"))
    (folder / "image.jpg").write_text("hello")
    (folder / "empty").mkdir()
    small = magnitude[:, :, :16, :16]
    write_dicom(folder / "two_patients", small, "", PatientID=lambda s, t: f"S{s}")
    write_dicom(folder / "two_views", small, "", ImageOrientationPatient=lambda s, t: [1, 0, 0, 0, 1 - s, s])
    write_dicom(folder / "twice", small, "", TriggerTime=lambda s, t: 0.0)
    write_dicom(folder / "cut", small, "")
    first = sorted((folder / "cut").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-100])
    for tag in EMPTY_TAGS:
        write_dicom(folder / f"empty_{tag}", small, "", **{tag: lambda s, t: None})
    write_dicom(folder / "few_numbers", small, "", ImagePositionPatient=lambda s, t: [1, 2])
    write_dicom(folder / "some_times", small, "")
    first = sorted((folder / "some_times").iterdir())[0]
    untimed = pydicom.dcmread(first)
    del untimed.TriggerTime
    untimed.save_as(first)
    write_dicom(folder / "uneven", small, "")
    sorted((folder / "uneven").iterdir())[0].unlink()
    return folder


WRONG = [
    ("ismrmrd {dir}/absent.h5", "absent.h5: no such file or folder"),
    ("ismrmrd {dir}/empty", "empty: found no .h5, .mrd file"),
    ("ismrmrd {dir}/truncated.h5", "truncated.h5: truncated, damaged or not an HDF5 file"),
    ("ismrmrd {dir}/text.h5", "text.h5: truncated, damaged or not an HDF5 file"),
    ("ismrmrd {dir}/foreign.h5", "foreign.h5: found kspace in it, allowed an ISMRMRD group"),
    ("ismrmrd {dir}/no_acquisitions.h5", "no_acquisitions.h5: found no acquisitions in '/dataset/data'"),
    ("ismrmrd {dir}/no_header.h5", "no_header.h5: the XML header cannot be read"),
    ("ismrmrd {dir}/spiral.h5", "spiral.h5: found a spiral trajectory, allowed cartesian"),
    ("ismrmrd {dir}/radial.h5", "radial.h5: found a radial trajectory, allowed cartesian"),
    ("ismrmrd {dir}/one_phase.h5", "one_phase.h5: no cardiac phases: found 1"),
    ("ismrmrd {dir}/nan.h5 --coils 4", "nan.h5: slice 0: found NaN or infinite values in k-space"),
    ("ismrmrd {dir}/coils.h5", "coils.h5: coils differ between acquisitions: active_channels: found 5, 6"),
    ("ismrmrd {dir}/zeros.h5 --coils 4", "zeros.h5: slice 0: found nothing but zeros in k-space"),
    ("ismrmrd {dir}/flow.h5", "flow.h5: found 2 values of idx.set (flow encodings), allowed one"),
    ("ismrmrd {dir}/undersampled.h5", "of the lines are missing, allowed every line of every phase; for data under"),
    ("ismrmrd {dir}/us_narrow.h5 --coils 4", "calibration region of 20 x 20: only the central 15 x 15 of 64 x 48 was"),
    ("ismrmrd {dir}/half_echo.h5 --coils 4", "only the central 1 x 1 of 64 x 48 was sampled"),
    ("ismrmrd {dir}/good.h5 --coils 4 --calib 49", "calibration region of 49 x 49: only the central 48 x 48"),
    ("ismrmrd {dir}/dead_coil.h5", "dead_coil.h5: noise: found linearly dependent coils"),
    ("ismrmrd {dir}/quiet_noise.h5", "quiet_noise.h5: noise: found no noise in coil 0"),
    ("ismrmrd {dir}/good.h5", "good.h5: slice 0: --coils: found 8 with 6 coils in the file, allowed 1 to 6"),
    ("ismrmrd {dir}/good.h5 --coils 0", "--coils: found 0, allowed at least 1"),
    ("ismrmrd {dir}/good.h5 --coils 4 --compression none", "--coils: found 4, allowed only with --compression"),
    ("ismrmrd {dir}/good.h5 --maps 3", "--maps: found 3, allowed 1 or 2"),
    ("ismrmrd {dir}/good.h5 --crop 1", "--crop: found 1.0, allowed 0 to below 1"),
    ("ismrmrd {dir}/good.h5 --calib 5", "--calib: found 5, allowed 6"),
    ("ismrmrd {dir}/good.h5 --jobs 0", "--jobs: found 0, allowed at least 1"),
    ("ismrmrd {dir}/good.h5 --frame-time 0", "--frame-time: found (0.0,), allowed above 0"),
    ("ismrmrd {dir}/good.h5 --subject-pattern (", "--subject-pattern: found '(', no regular expression"),
    ("ismrmrd {dir}/good.h5 --subject-pattern good", "--subject-pattern: found 'good', allowed a regular expression"),
    ("ismrmrd {dir}/good.h5 --subject-pattern P(X)", "'P(X)' finds no subject in"),
    ("ismrmrd {dir}/good.h5 --output {dir}/text.h5", "text.h5: found a file, allowed a folder"),
    ("ismrmrd {dir}/good.h5 --output {dir}", "allowed a new folder or a prepared one"),
    (
        "ismrmrd {dir}/good.h5 {dir}/other_good.h5 --subject-pattern (good).h5 --split good other_good none",
        "--split: found subject 'good' on two sides, train and val; allowed one",
    ),
    ("ismrmrd {dir}/good.h5 {dir}/us_narrow.h5", "found 1 fully sampled and 1 undersampled files, allowed one kind"),
    ("cmrxrecon {dir}/v5.mat", "v5.mat: found a MATLAB v5 file, allowed v7.3"),
    ("cmrxrecon {dir}/text.h5", "text.h5: truncated, damaged or not an HDF5 file"),
    ("cmrxrecon {dir}/real.mat", "real.mat: kspace_full: found float64 of shape (4, 1, 6, 48, 64), allowed complex"),
    ("cmrxrecon {dir}/frame.mat", "frame.mat: no cardiac phases: kspace_full has 1 frame"),
    ("cmrxrecon {dir}/name.mat", "name.mat: found img, allowed one variable kspace_full"),
    ("cmrxrecon {dir}/nan.mat", "nan.mat: slice 0: found NaN"),
    ("cmrxrecon {dir}/zeros.mat", "zeros.mat: slice 0: found nothing but zeros"),
    ("cmrxrecon {dir}/kus.mat", "kus.mat: slice 0: k-space is not zero where its mask is"),
    ("cmrxrecon {dir}/kus.mat --masks {dir}/empty", "--masks: found none of"),
    ("cmrxrecon {dir}/zeros.mat --readout-oversampling 3", "--readout-oversampling: found 3, allowed divisors of 64"),
    ("images {dir}/truncated.nii", "truncated.nii: truncated, damaged or not a NIfTI file"),
    ("images {dir}/text.nii.gz", "text.nii.gz: truncated, damaged or not a NIfTI file"),
    ("images {dir}/volume.nii", "volume.nii: no cardiac phases: found 3 axes"),
    ("images {dir}/still.nii", "still.nii: no cardiac phases: found 1, allowed 2 or more"),
    ("images {dir}/nan.nii", "nan.nii: magnitude: found NaN"),
    ("images {dir}/image.jpg", "image.jpg: found a '.jpg' file, allowed .npy, .npz, .nii"),
    ("images {dir}/empty", "empty: found no DICOM, NIfTI, npy or npz file"),
    ("images {dir}/two_patients", "two_patients: found 2 patients, allowed one in a folder"),
    ("images {dir}/two_views", "two_views: found images of several orientations"),
    ("images {dir}/twice", "twice: found two images at one place and time"),
    ("images {dir}/cut", "cut: pixels of IM0000 cannot be read"),
    *(
        (f"images {{dir}}/empty_{tag}", f"empty_{tag}/IM0000: {tag}: found none, allowed finite numbers, ")
        for tag in EMPTY_TAGS
    ),
    ("images {dir}/few_numbers", "IM0000: ImagePositionPatient: found 2, allowed finite numbers, 3 of them"),
    ("images {dir}/some_times", "some_times: found images with and without TriggerTime, allowed all of one kind"),
    ("images {dir}/uneven", "uneven: slices have 3 to 4 cardiac phases, allowed equally many"),
    ("images {dir}/good.nii --matrix 65 48", "--matrix: found (65, 48), allowed up to the acquired matrix (64, 48)"),
    ("images {dir}/good.nii --noise -1", "--noise: found -1.0"),
]


@pytest.mark.parametrize("arguments,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, bad_files, tmp_path, capsys):
    output = "" if "--output" in arguments else f" --output {tmp_path}/out"
    split = "" if "--split" in arguments else " --split 1 0 0"
    arguments = arguments.replace("(", r"\(").replace(")", r"\)")
    before = sorted(bad_files.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        prepare.main(shlex.split(arguments.format(dir=bad_files) + output + split))
    errors = [line for line in capsys.readouterr().err.split("\n") if "error: " in line]
    assert exit_.value.code == 2
    assert len(errors) == 1 and message in errors[0], errors
    assert not (tmp_path / "out").exists() and sorted(bad_files.rglob("*")) == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_file_is_skipped_and_the_others_are_there(bad_files, heart, tmp_path, capsys, jobs):
    files = " ".join(str(bad_files / name) for name in ("good.h5", "nan.h5", "truncated.h5", "other_good.h5"))
    with pytest.raises(SystemExit) as exit_:
        prepare.main(shlex.split(f"ismrmrd {files} --coils 4 --split 2 1 1 --jobs {jobs} --output {tmp_path}/out"))
    assert exit_.value.code == 2
    errors = [line for line in capsys.readouterr().err.split("\n") if "error: " in line]
    assert len(errors) == 3
    assert "truncated.h5: truncated" in errors[0] and "nan.h5: slice 0: found NaN" in errors[1]
    assert errors[2].endswith("error: 2 of 4 files could not be used, see above")
    assert sorted(path.name for path in (tmp_path / "out" / "scans").iterdir()) == ["good.h5", "other_good.h5"]
    # The split is that of all four, in order of their names: good, nan | other_good | truncated.
    listed = {
        path.stem: json.loads(path.read_text())["images"] for path in (tmp_path / "out" / "annotations").iterdir()
    }
    found = {split: [image["subject_id"] for image in scans] for split, scans in listed.items()}
    assert found == {"train": ["good"], "val": ["other_good"]}


def test_an_anonymized_folder_is_skipped_and_the_others_are_there(bad_files, tmp_path, capsys):
    sources = f"{bad_files}/empty_TriggerTime {bad_files}/good.nii"
    with pytest.raises(SystemExit):
        prepare.main(shlex.split(f"images {sources} --split 2 0 0 --output {tmp_path}/out"))
    assert [path.name for path in (tmp_path / "out" / "scans").iterdir()] == ["good.h5"]
    assert "error: 1 of 2 files could not be used" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("errno = 28, No space left")])
def test_a_full_disk_is_one_line_and_nothing_is_half_written(bad_files, tmp_path, capsys, monkeypatch, error):
    def full(*arguments):
        raise error

    monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
    files = f"{bad_files}/good.h5 {bad_files}/other_good.h5"
    with pytest.raises(SystemExit) as exit_:
        prepare.main(shlex.split(f"ismrmrd {files} --coils 4 --split 1 1 0 --output {tmp_path}/out"))
    errors = [line for line in capsys.readouterr().err.split("\n") if "error: " in line]
    assert exit_.value.code == 2 and len(errors) == 1 and "good.h5: cannot be written" in errors[0]
    assert "No space left" in errors[0] and not (tmp_path / "out").exists()


def test_an_interrupted_run_goes_on(bad_files, tmp_path, monkeypatch):
    files = [bad_files / "good.h5", bad_files / "other_good.h5"]
    converted, convert = [], preparation.slice_arrays

    def interrupted(scan, *arguments):
        converted.append(scan.path.name)
        if len(converted) == 2:
            raise KeyboardInterrupt
        return convert(scan, *arguments)

    monkeypatch.setattr(preparation, "slice_arrays", interrupted)
    arguments = (tmp_path / "out", "ismrmrd", *files)
    with pytest.raises(KeyboardInterrupt):
        prepared(*arguments, split=("1", "1", "0"))
    assert [path.name for path in (tmp_path / "out").rglob("*.h5")] == ["good.h5"]
    assert len(prepared(*arguments, split=("1", "1", "0"))) == 2
    assert converted == ["good.h5", "other_good.h5", "other_good.h5"]
