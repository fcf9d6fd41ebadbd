"""Files as those of fastMRI, by h5py."""

import h5py
import numpy as np

from tests.helpers.heart import HEIGHT, WIDTH
from tests.helpers.mrd_lines import header, oversampled, space

PADDING = (3, 2)  # lines at the edges of k-space that were never sampled


def fastmri_kspace(coil_images):
    """k-space (S, C, 2H, W) of coil images (S, C, H, W), with lines of padding."""
    kspace = oversampled(coil_images)
    kspace[..., : PADDING[0]] = 0
    kspace[..., WIDTH - PADDING[1] :] = 0
    return kspace


def write_fastmri(path, kspace, mask=None, subject="0a1b", **changes):
    """Writes k-space (S, C, 2H, W), or of one coil (S, 2H, W); ``changes`` replace what is in the file."""
    rss = np.zeros((len(kspace), HEIGHT, WIDTH), np.float32)
    xml = header(space(HEIGHT, WIDTH)).encode()
    arrays = {"kspace": kspace, "mask": mask, "ismrmrd_header": xml, "reconstruction_rss": rss}
    with h5py.File(path, "w") as file:
        for name, value in {**arrays, **changes}.items():
            if value is not None:
                file[name] = value
        file.attrs.update({"acquisition": "CORPD_FBK", "max": 1e-3, "norm": 1e-2})
        if subject:
            file.attrs["patient_id"] = subject
    return path
