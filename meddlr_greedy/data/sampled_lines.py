"""The sampled lines of an undersampled example, on which it is cropped, scaled and averaged."""

import math
from typing import NamedTuple, Tuple, Union

import numpy as np
import torch

from meddlr_greedy.data.augment import Augmentation
from meddlr_greedy.ops.fft import centered_ifft

__all__ = ["SampledLines", "TimeAverage"]


class SampledLines(NamedTuple):
    """The sampled lines of k-space, those of all frames side by side."""

    values: torch.Tensor  #: (H, L, C), complex64
    places: torch.Tensor  #: w T + t of each line, (L,)
    mask: torch.Tensor  #: (1, W, T, 1), or (H, W, T, 1) where it varies along the readout; float32

    @classmethod
    def of(cls, kspace: torch.Tensor, mask: torch.Tensor, augmentation: Augmentation) -> "SampledLines":
        """The lines of augmented k-space that a mask samples and that hold signal.

        Args:
            kspace: Shape (H, W, T, C), before the augmentation.
            mask: Shape (1, W, T, 1) or (H, W, T, 1), for the augmented k-space.
            augmentation: Is applied to the sampled lines only; the result is the same.
        """
        num_frames = kspace.shape[2]
        w, t = mask.amax(dim=0).squeeze(-1).nonzero(as_tuple=True)
        source = torch.from_numpy(augmentation.lines)[w] * num_frames + torch.from_numpy(augmentation.frames)[t]
        values = augmentation.readout(kspace.flatten(1, 2).index_select(1, source))
        if mask.shape[0] > 1:
            values = values * mask[:, w, t]
        signal = _with_signal(values)
        if not signal.all():
            mask = mask.clone(memory_format=torch.contiguous_format)
            mask[:, w[~signal], t[~signal]] = 0
            values, w, t = values[:, signal], w[signal], t[signal]
        return cls(values, w * num_frames + t, mask)

    def kspace(self, shape: Tuple[int, ...]) -> torch.Tensor:
        """k-space (H, W, T, C), zero where it is not sampled."""
        # numpy asks the system for huge pages, torch only where it was told to before its first tensor: most of the
        # time of a large allocation is faults.
        kspace = torch.from_numpy(np.empty(shape, self.values.numpy().dtype)).zero_()
        kspace.flatten(1, 2).index_copy_(1, self.places, self.values)
        return kspace

    def only(self, chosen: torch.Tensor) -> "SampledLines":
        """The lines for which ``chosen``, (W, T), is true."""
        own = chosen.flatten()[self.places]
        return SampledLines(self.values[:, own], self.places[own], self.mask * chosen.unsqueeze(-1))

    def time_average(self) -> "SampledLines":
        """One frame of W lines: each line's sum over the frames that sampled it, divided by their number."""
        average = TimeAverage()
        average.add(self)
        return average.lines()

    def adjoint(self, maps: torch.Tensor) -> torch.Tensor:
        """A^H: the zero-filled image (H, W, T, M) for maps (H, W, 1, C, M).

        As :class:`meddlr_greedy.ops.cine_sense.CineSenseModel` computes it; but lines of zeros get no FFT along the
        readout, and coil images are made frame by frame, which fits into the cache.
        """
        num_rows, num_lines, _, num_coils, num_maps = maps.shape
        num_frames = self.mask.shape[2]
        readout = centered_ifft(self.values, dims=(0,))  # (H, L, C)
        # Along the phase encode the FFT is centered by the place and the phase of the lines, which are few, so that
        # neither maps nor images have to be moved.
        center = num_lines // 2
        w = torch.div(self.places, num_frames, rounding_mode="floor") - center
        phase = torch.exp(-2j * math.pi * center / num_lines * w.double()).to(maps.dtype)
        readout = (readout * phase[:, None]).permute(2, 0, 1).contiguous()  # (C, H, L)
        maps_conj = maps[:, :, 0].permute(3, 2, 0, 1).contiguous().conj_physical()
        image = torch.empty(num_maps, num_frames, num_rows, num_lines, dtype=maps.dtype)
        for frame in range(num_frames):
            own = (self.places % num_frames == frame).nonzero().squeeze(1)
            hybrid = torch.zeros(num_coils, num_rows, num_lines, dtype=maps.dtype)
            hybrid.index_copy_(2, w[own] % num_lines, readout.index_select(2, own))
            coil_images = torch.fft.ifft(hybrid, dim=-1, norm="ortho")
            for m in range(num_maps):
                torch.sum(maps_conj[m] * coil_images, dim=0, out=image[m, frame])
        return image.permute(2, 3, 1, 0)


class TimeAverage:
    """:meth:`SampledLines.time_average` of frames that come in parts, in their order."""

    def __init__(self) -> None:
        self._total: Union[torch.Tensor, int] = 0
        self._count: Union[torch.Tensor, int] = 0

    def add(self, lines: SampledLines) -> None:
        """Adds the lines of some frames."""
        num_lines, num_frames = lines.mask.shape[1:3]
        w = torch.div(lines.places, num_frames, rounding_mode="floor")
        if isinstance(self._total, int):
            self._total = torch.zeros(lines.values.shape[0], num_lines, lines.values.shape[2], dtype=lines.values.dtype)
        self._total.index_add_(1, w, lines.values)
        self._count = self._count + lines.mask.sum(dim=2)

    def lines(self) -> SampledLines:
        """One frame of W lines, the average of what has been added."""
        assert isinstance(self._total, torch.Tensor) and isinstance(self._count, torch.Tensor)
        mask = (self._count > 0).float().unsqueeze(2)
        return SampledLines(self._total / self._count.clamp(min=1), torch.arange(self._total.shape[1]), mask)


def _with_signal(values: torch.Tensor) -> torch.Tensor:
    """Which of the lines (H, L, C) are not all zero, (L,)."""
    signal = (values[len(values) // 2] != 0).any(dim=1)  # nearly always all of them: one point is enough to know
    if not signal.all():
        signal = (values != 0).any(dim=0).any(dim=1)
    return signal
