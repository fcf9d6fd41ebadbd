"""A slice of cine -> a batch for a network; k-space is read frame by frame, and is never there as a whole."""

from typing import Any, Dict

import torch

from meddlr_greedy.data.augment import Augmentation
from meddlr_greedy.data.normalizers import LeanTopMagnitudeNormalizer, TimeAverageNormalizer
from meddlr_greedy.data.sampled_lines import SampledLines, TimeAverage
from meddlr_greedy.data.transform import check_scale, narrowed
from meddlr_greedy.reconstruction.acquired import AcquiredScan, AcquiredSlice

__all__ = ["FrameByFrame"]

# HDF5 goes through the whole slice for each part that is read, so that there are to be few.
_READ_AT_A_TIME = 16


class FrameByFrame:
    """Makes the batch of a slice: maps, mask and, in place of k-space, the zero-filled image.

    The lines of a frame are transformed as :class:`~meddlr_greedy.data.transform.CineDataTransform` does it, and the
    image is scaled as k-space is there.

    Args:
        normalizer: Scales the example.
        largest_part: Bytes of coil images that are made at a time; of k-space 16 times as many are read.
    """

    def __init__(self, normalizer: LeanTopMagnitudeNormalizer, largest_part: int):
        self._normalizer = normalizer
        self._read_at_a_time = _READ_AT_A_TIME * largest_part

    def __call__(self, scan: AcquiredScan, slice_id: int) -> Dict[str, Any]:
        """The batch of one slice.

        Returns:
            Dict[str, Any]: "maps" (1, H, W, 1, C, M), "mask" (1, H, W, T, 1), "zf_image" (1, H, W, T, M), "mean" and
            "std" (1, 1), and "dims", the shape of k-space.

        Raises:
            UserError: The slice cannot be used.
        """
        _, height, width, num_frames, _ = scan.shape
        image = torch.zeros(scan.num_maps, num_frames, height, width, dtype=torch.complex64).permute(2, 3, 1, 0)
        mask = torch.zeros(height, width, num_frames, 1)
        average = TimeAverage() if isinstance(self._normalizer, TimeAverageNormalizer) else None
        t = 0
        for acquired in scan.read_frames(slice_id, self._read_at_a_time):
            maps = torch.from_numpy(acquired.maps)
            for i in range(acquired.kspace.shape[2]):
                lines = _lines_of_frame(acquired, i)
                if len(lines.places):
                    image[:, :, t : t + 1], mask[:, :, t : t + 1] = lines.adjoint(maps), lines.mask
                if average is not None:
                    average.add(lines)
                t += 1
        # What scales k-space scales the image of it.
        scale_of = image if average is None else average.lines().adjoint(maps)
        scaled = self._normalizer.normalize(masked_kspace=image, image=scale_of, target=image)
        check_scale(scaled["std"], f"{scan.name}, slice {slice_id}", height, height)
        batch = {"maps": maps, "mask": mask, "zf_image": scaled["masked_kspace"]}
        batch.update({name: scaled[name] for name in ("mean", "std")})
        return {"dims": (1, *scan.shape[1:]), **{name: value.unsqueeze(0) for name, value in batch.items()}}


def _lines_of_frame(acquired: AcquiredSlice, i: int) -> SampledLines:
    kspace = torch.from_numpy(acquired.kspace[:, :, i : i + 1])
    mask = narrowed(torch.from_numpy(acquired.mask[:, :, i : i + 1].copy()))
    return SampledLines.of(kspace, mask, Augmentation.none(kspace.shape))
