"""The slices that an evaluation keeps to be looked at: images in physical units, in a small HDF5 file and as pictures.

Reads and writes files, needs no model.
"""

from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Sequence

import h5py
import numpy as np

from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure, drawn_or_told
from meddlr_greedy.files import UniqueNames, reading, written_atomically

__all__ = ["IMAGES", "KeptSlice", "draw_slice", "read_slices", "write_slices"]

_LARGEST_IMAGE = 2**28  # bytes; a series of 256 x 256 pixels, 30 frames and 2 map sets has 31 MB

#: The images of a kept slice, by their names in the file.
IMAGES = ("zero_filled", "reconstruction", "target")


class KeptSlice(NamedTuple):
    """One slice.

    Attributes:
        scan: Name of the scan.
        slice_id: Number of the slice in it.
        images: "zero_filled", "reconstruction" and "target" -> complex64 (H, W, M) or (H, W, T, M).
        geometry: Pixel spacing and frame time.
    """

    scan: str
    slice_id: int
    images: Dict[str, np.ndarray]
    geometry: Geometry = Geometry()


def write_slices(path: Path, slices: Sequence[KeptSlice]) -> None:
    """Writes ``/<scan>/<slice>/<image>`` datasets, whole or not at all."""
    with written_atomically(path) as partial, h5py.File(partial, "w") as file:
        for kept in slices:
            group = file.create_group(f"{kept.scan}/{kept.slice_id}")
            group.attrs.update(kept.geometry.as_attributes())
            for name in IMAGES:
                group[name] = kept.images[name]


def read_slices(path: Path) -> List[KeptSlice]:
    """Reads what :func:`write_slices` wrote.

    Raises:
        UserError: The file is missing or holds something else.
    """
    with reading(path, "a file of images that meddlr-greedy eval wrote; evaluate the run again"):
        if not path.is_file():
            raise FileNotFoundError(path)
        with h5py.File(path, "r") as file:
            return [
                KeptSlice(scan, int(number), _images(group), Geometry.of(group.attrs))
                for scan, groups in file.items()
                for number, group in sorted(groups.items(), key=lambda item: int(item[0]))
            ]


def _images(group: h5py.Group) -> Dict[str, np.ndarray]:
    """The images of one slice, all of one shape (H, W, M) or (H, W, T, M)."""
    datasets = [group[name] for name in IMAGES]
    shape, size = datasets[0].shape, datasets[0].size
    for dataset in datasets:
        if dataset.shape != shape or dataset.ndim not in (3, 4) or not size or dataset.dtype.kind not in "cfiu":
            raise ValueError(f"{dataset.name} has shape {dataset.shape} and type {dataset.dtype}")
        if size * dataset.dtype.itemsize > _LARGEST_IMAGE:
            raise ValueError(f"{dataset.name} has {size * dataset.dtype.itemsize} bytes, allowed are {_LARGEST_IMAGE}")
    return {name: dataset[()].astype(np.complex64) for name, dataset in zip(IMAGES, datasets)}


def draw_slice(
    recons: Mapping[str, np.ndarray],
    kept: KeptSlice,
    dataset: str,
    metrics: Mapping[str, Mapping[str, float]],
    folder: Path,
    names: UniqueNames,
) -> List[Path]:
    """Draws reconstructions of one slice beside its target.

    Args:
        recons: Name of a reconstruction -> (H, W, M) or (H, W, T, M), complex.
        kept: The slice that they are of.
        dataset: Name of its data set.
        metrics: Name of a reconstruction -> metric -> value, written above the images.
        folder: Where to write ``<dataset>-<scan>-slice<number>.png`` and, of a series, ``.gif``.
        names: Gives the name of a file for ``<dataset>-<scan>``, one that no other slice has.

    Returns:
        List[Path]: The files. One that cannot be drawn is left out, and told of.
    """
    stem = names(f"{dataset}-{kept.scan}-slice{kept.slice_id}")
    title = f"{dataset}: {kept.scan}, slice {kept.slice_id}"
    target = kept.images["target"]
    is_series = target.ndim == 4
    if is_series:
        title += " (scores: mean over frames)"
    png, gif = folder / f"{stem}.png", folder / f"{stem}.gif"
    with drawn_or_told(png) as drawn:
        draw_recon_figure(recons, png, metrics, target=target, title=title, **kept.geometry._asdict())
    if not is_series:
        return drawn
    with drawn_or_told(gif) as drawn_gif:
        draw_cine_gif(recons, gif, metrics, target=target, title=title, **kept.geometry._asdict())
    return [*drawn, *drawn_gif]
