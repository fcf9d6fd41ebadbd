"""What was undersampled on purpose is combined as well as by sigpy's maps of the same lines, whatever the format."""

import numpy as np
import pytest
from sigpy.mri.app import EspiritCalib

from meddlr_greedy.data.scan_file import write_scan
from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.readers.cmrxrecon import CmrxreconReader
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from meddlr_greedy.readers.kspace_files import KspaceFileReader
from tests.helpers.heart import PHASES, SLICES, WIDTH, fft, ifft, kt_mask, prepared, psnr, read
from tests.helpers.mrd_lines import EMBEDDED, Line, header, oversampled, space, write_lines
from tests.helpers.scanners import Mrd, write_mat, write_mat5, write_mrd

CALIB = 20
PREPARATION = Preparation(CoilMaps(calib_width=CALIB, crop=0.7), coils=None, compression="none")


def sampled():
    """(W, T): lines shifted from phase to phase, and all of the center."""
    mask = kt_mask()
    mask[WIDTH // 2 - CALIB // 2 : WIDTH // 2 + CALIB // 2] = True
    return mask


def write_ismrmrd(folder, heart, mask):
    return IsmrmrdReader(), write_mrd(folder / "us_0001.h5", heart.coil_images, Mrd(sampled=mask))


def write_embedded(folder, heart, mask):
    """Lines of the center are for calibration and imaging."""
    kspace = oversampled(heart.coil_images)
    slices, phases, _, height, width = kspace.shape
    middle = range(width // 2 - CALIB // 2, width // 2 + CALIB // 2)
    lines = [
        Line(kspace[s, t, :, :, line], line, slice=s, phase=t, flags=EMBEDDED if line in middle else ())
        for s in range(slices)
        for t in range(phases)
        for line in np.flatnonzero(mask[:, t])
    ]
    return IsmrmrdReader(), write_lines(folder / "us_0.h5", header(space(height // 2, width, phases=phases)), lines)


def write_cmrxrecon(write):
    def written(folder, heart, mask):
        lines = np.broadcast_to(mask, (heart.kspace.shape[-2], *mask.shape))
        kspace = heart.kspace.transpose(3, 4, 2, 0, 1) * mask[:, None, None]
        write(folder / "P1" / "cine_sax_mask_kt8.mat", lines.astype(np.uint8), "mask")
        return CmrxreconReader(), write(folder / "P1" / "cine_sax_kus_kt8.mat", kspace, "kus")

    return written


def write_hdf5(folder, heart, mask):
    path = folder / "a.h5"
    kspace = (heart.kspace * mask.T[:, None, None]).transpose(0, 3, 4, 1, 2).astype(np.complex64)
    stored = np.broadcast_to(mask[None, :, :, None], (1, *mask.shape, 1)).astype(np.uint8)
    write_scan(path, SLICES, ({"kspace": one, "mask": stored} for one in kspace), {})
    return KspaceFileReader(), path


WRITERS = {
    "ISMRMRD": write_ismrmrd,
    "ISMRMRD, embedded": write_embedded,
    "CMRxRecon, version 5": write_cmrxrecon(write_mat5),
    "CMRxRecon, version 7.3": write_cmrxrecon(write_mat),
    "HDF5": write_hdf5,
}


@pytest.fixture(scope="module")
def by_sigpy(heart):
    """Images (T, H, W) of each slice, combined by sigpy's maps of the same lines."""
    mask, images = sampled(), []
    for coil_images in heart.coil_images:
        lines = fft(coil_images, (-2, -1)) * mask.T[:, None, None]
        mean = lines.sum(axis=0) / np.maximum(mask.sum(axis=1), 1)
        maps = EspiritCalib(mean.astype(np.complex64), calib_width=CALIB, crop=0, show_pbar=False).run()
        images.append((maps.conj() * ifft(lines, (-2, -1))).sum(axis=1))
    return images


@pytest.mark.parametrize("form", WRITERS)
def test_as_near_to_the_image_as_by_the_maps_of_sigpy(heart, by_sigpy, tmp_path, form):
    mask = sampled()
    reader, source = WRITERS[form](tmp_path, heart, mask)
    (path,) = prepared(tmp_path / "out", reader, source, preparation=PREPARATION)
    arrays, _ = read(path)
    np.testing.assert_array_equal(arrays["mask"][:, -1, ..., 0], np.broadcast_to(mask, (SLICES, WIDTH, PHASES)))
    for s in range(SLICES):
        ours = arrays["maps"][s, :, :, 0, :, 0].transpose(2, 0, 1)
        support = np.abs(ours).sum(axis=0) > 0
        zero_filled = ifft(arrays["kspace"][s].transpose(2, 3, 0, 1), (-2, -1))  # the lines that came back
        found = psnr((ours.conj() * zero_filled).sum(axis=1), heart.image[s], support)
        expected = psnr(by_sigpy[s], heart.image[s], support)
        assert support.mean() > 0.3 and found > expected - 0.5, (found, expected)
