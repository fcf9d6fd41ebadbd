"""Small generated scans and data sets, and a mask that is the same for every example."""

import json
from pathlib import Path

import numpy as np
import torch
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY, MaskFunc
from meddlr.ops import fft2c, ifft2c

from meddlr_greedy.data.scan_file import write_scan


@MASK_FUNC_REGISTRY.register()
class FixedMaskFunc(MaskFunc):
    """The same lines for every example: every second one, and the center."""

    def __init__(self, accelerations, calib_size=None, center_fractions=None):
        super().__init__(accelerations)

    def __call__(self, shape, seed=None, acceleration=None):
        lines = torch.zeros(shape[2])
        lines[::2] = 1
        lines[shape[2] // 2 - 2 : shape[2] // 2 + 2] = 1
        return lines.reshape(1, 1, -1, *[1] * (len(shape) - 3)).expand(shape).contiguous()

    def get_edge_mask(self, kspace, out_shape=None):
        return torch.zeros(out_shape)


def random_complex(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def make_scan(rng, num_slices, height, width, num_coils, num_maps=1, num_frames=None):
    """Smooth-ish random images with normalized random maps; the arrays of one HDF5 scan."""
    frames = (num_frames,) if num_frames else ()
    maps = random_complex(rng, num_slices, height, width, *(1 for _ in frames), num_coils, num_maps)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(axis=-2, keepdims=True))
    image = random_complex(rng, num_slices, height, width, *frames, num_maps)
    image[:, height // 4 : height // 2, width // 4 : width // 2] += 3
    coils = (maps * image[..., None, :]).sum(-1)
    kspace = fft2c(torch.from_numpy(coils), channels_last=True).numpy()
    images = ifft2c(torch.from_numpy(kspace), channels_last=True).numpy()
    target = (maps.conj() * images[..., None]).sum(-2)
    return {"kspace": kspace, "maps": maps, "target": target.astype(np.complex64)}


def write_dataset(root: Path, name: str, scans_per_split, **kwargs):
    """A data set whose scans are all of one kind."""
    write_scans(root, name, {f"{split}_{i}": kwargs for split, n in scans_per_split.items() for i in range(n)})


def write_scans(root: Path, name: str, kinds, change=None):
    """A data set of scans ``<split>_<number>``, given by their names and what :func:`make_scan` makes them of.

    ``change`` makes other arrays of those of a scan.
    """
    rng = np.random.default_rng(sum(map(ord, name)))
    (root / name / "annotations").mkdir(parents=True, exist_ok=True)
    images = {}
    for scan_name, kind in kinds.items():
        split = scan_name.rpartition("_")[0]
        scan = make_scan(rng, **kind)
        scan = change(scan) if change else scan
        path = root / name / split / f"{name}_{scan_name}.h5"
        num_slices = len(scan["kspace"])
        write_scan(path, num_slices, ({key: scan[key][s] for key in scan} for s in range(num_slices)), {})
        listed = {"file_name": f"{split}/{path.name}", "kspace_size": list(scan["kspace"].shape)}
        images.setdefault(split, []).append(listed)
    for split, listed in images.items():
        (root / name / "annotations" / f"{split}.json").write_text(json.dumps({"images": listed, "info": {}}))
