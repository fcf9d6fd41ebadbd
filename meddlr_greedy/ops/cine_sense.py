"""The SENSE signal model of Cartesian cine: A, A^H and A^H A."""

from typing import Callable, List, NamedTuple, Optional, Tuple

import torch
from torch import nn

from meddlr_greedy.ops.fft import centered_fft, centered_ifft, from_fft_layout, to_fft_layout
from meddlr_greedy.ops.parts import Part, linear, parts_of

__all__ = ["CineSenseModel"]

# Axes of the layout (B, M, T, H, W).
_READOUT_AND_PHASE_ENCODE = (-2, -1)
_PHASE_ENCODE = (-1,)


class _NormalForm(NamedTuple):
    """How F^H M^2 F is computed."""

    dims: Tuple[int, ...]  #: axes that the FFT is along
    shifted_mask: torch.Tensor  #: M^2 with zero frequency first, (B, 1, T, H or 1, W)

    @classmethod
    def of(cls, weights: torch.Tensor, constant_along_readout: Optional[bool]) -> "_NormalForm":
        mask = to_fft_layout(weights)
        if constant_along_readout is None:
            constant_along_readout = bool((mask == mask[..., :1, :]).all())
        dims = _PHASE_ENCODE if constant_along_readout else _READOUT_AND_PHASE_ENCODE
        mask = mask[..., :1, :] if constant_along_readout else mask
        # A real weight enters A and A^H once each, hence the square (for a binary mask the same).
        return cls(dims, torch.fft.ifftshift(mask * mask, dim=dims).contiguous())


class CineSenseModel(nn.Module):
    r"""Multi-coil Cartesian cine: :math:`A x = M F \sum_m S_m x_m` with coil maps :math:`S_m`, centered FFT F, mask M.

    Agrees with :class:`meddlr.forward.SenseModel` on the same tensors. Faster, because the normal operator
    :meth:`normal` uses two facts: (1) :math:`F^H M F` commutes with circular shifts, so the mask is shifted once
    instead of the data four times; (2) a mask that is constant along the readout leaves
    :math:`F^H M F = F_y^H M F_y`, a one-dimensional FFT along the phase encodes.

    Args:
        maps: Sensitivity maps, complex, shape (B, H, W, 1, C, M).
        weights: Sampling mask, real, shape (B, H, W, T, 1); ``None`` where everything is sampled.
        constant_along_readout: Whether the mask is; None looks at it, for which the host waits for the device. It
            decides which of the two exact forms of :meth:`normal` is used.

    Images have shape (B, H, W, T, M), k-space (B, H, W, T, C), both complex. Results of :meth:`normal` and of the
    adjoint are views of that shape on memory ordered (B, M, T, H, W), so that the next operation need not copy.

    Frames are independent of each other, and coils are but for a sum. So all operators run part by part where
    ``largest_part`` says so, forward and backward.

    Attributes:
        largest_part: Bytes that the coil images that are made at a time may have, see
            :func:`~meddlr_greedy.ops.parts.parts_of`; None is no limit.

    Raises:
        ValueError: where the shapes of maps and weights disagree.
    """

    #: Of what makes signal models: it takes ``constant_along_readout``.
    takes_form_of_mask = True
    largest_part: Optional[int] = None

    def __init__(
        self,
        maps: torch.Tensor,
        weights: Optional[torch.Tensor] = None,
        constant_along_readout: Optional[bool] = None,
    ):
        super().__init__()
        if maps.ndim != 6 or maps.shape[3] != 1:
            raise ValueError(f"maps: shape (B, H, W, 1, C, M) expected, found {tuple(maps.shape)}")
        if weights is not None and (weights.ndim != 5 or weights.shape[:3] != maps.shape[:3]):
            raise ValueError(f"mask: shape {(*maps.shape[:3], 'T', 1)} expected, found {tuple(weights.shape)}")
        self.maps = maps
        self.weights = weights
        # (B, M, C, 1, H, W): one map set is one contiguous block over coils.
        self._coil_maps = maps.permute(0, 5, 4, 3, 1, 2).contiguous()
        self._largest_eigenvalue: Optional[torch.Tensor] = None
        self._constant_along_readout = constant_along_readout
        self._form: Optional[_NormalForm] = None

    def forward(self, input: torch.Tensor, adjoint: bool = False) -> torch.Tensor:
        """A (image to k-space) or, with ``adjoint``, A^H (k-space to image), as in meddlr's SenseModel."""
        operators = (self._adjoint, self._forward) if adjoint else (self._forward, self._adjoint)
        if self.largest_part is None:
            return operators[0](input)
        self._check_constant()
        return linear(input, *operators)

    def zero_filled(self, kspace: torch.Tensor) -> torch.Tensor:
        """A^H of k-space (B, H, W, T, C) that is multiplied by the mask once more, as the networks' first image is."""
        return self._adjoint(kspace, masked=True)

    def normal(self, image: torch.Tensor) -> torch.Tensor:
        """A^H A: image (B, H, W, T, M) to image. Differentiable in the image; nothing is kept for backward.

        Raises:
            ValueError: where maps or mask want a gradient, which this form of A^H A does not give.
        """
        self._check_constant()
        return linear(image, self._normal, self._normal)

    def _check_constant(self) -> None:
        for name, tensor in (("maps", self.maps), ("mask", self.weights)):
            if tensor is not None and tensor.requires_grad:
                raise ValueError(f"{name}: requires a gradient, which this operator gives to its argument alone")

    def largest_eigenvalue_bound(self) -> torch.Tensor:
        """Bounds the largest eigenvalue of A^H A of each example, shape (B, 1, 1, 1, 1), for images (B, H, W, T, M).

        The FFT is unitary, so it is at most that of S^H S, the largest of the (M, M) matrices of all pixels, times the
        largest squared weight. Of these matrices the largest absolute row sum is taken: for orthonormal maps (ESPIRiT)
        it is the eigenvalue, 1. Computed once.
        """
        if self._largest_eigenvalue is None:
            gram = torch.einsum("bmcthw,bncthw->bmnthw", self._coil_maps.conj(), self._coil_maps)
            bound = gram.abs().sum(dim=2).amax(dim=(1, 2, 3, 4))
            if self.weights is not None:
                bound = bound * self.weights.square().amax(dim=(1, 2, 3, 4))
            self._largest_eigenvalue = bound.reshape(-1, 1, 1, 1, 1)
        return self._largest_eigenvalue

    def _forward(self, image: torch.Tensor) -> torch.Tensor:
        image = to_fft_layout(image)

        def of_part(part: Part) -> torch.Tensor:
            coil_images = self._expand(image[:, :, part.frames], part)
            return self._masked(from_fft_layout(centered_fft(coil_images, _READOUT_AND_PHASE_ENCODE)), part)

        parts = self._parts(image)
        if len(parts) == 1:
            return of_part(parts[0])
        kspace = from_fft_layout(self.maps.new_empty(image.shape[0], self.maps.shape[4], *image.shape[2:]))
        for part in parts:
            kspace[:, :, :, part.frames, part.coils] = of_part(part)
        return kspace

    def _adjoint(self, kspace: torch.Tensor, masked: bool = False) -> torch.Tensor:
        def of_part(part: Part) -> torch.Tensor:
            own = self._masked(kspace[:, :, :, part.frames, part.coils], part)
            own = self._masked(own, part) if masked else own
            return self._combine(centered_ifft(to_fft_layout(own), _READOUT_AND_PHASE_ENCODE), part)

        # The shifts and the FFT of k-space make twice as many copies of a part as A^H A does.
        return from_fft_layout(self._summed(to_fft_layout(kspace), of_part, copies=2))

    def _normal(self, image: torch.Tensor) -> torch.Tensor:
        image = to_fft_layout(image)
        form = self._form
        if form is None and self.weights is not None:  # not all signal models are asked for A^H A: those of losses
            form = self._form = _NormalForm.of(self.weights, self._constant_along_readout)

        def of_part(part: Part) -> torch.Tensor:
            coil_images = self._expand(image[:, :, part.frames].contiguous(), part)
            if form is not None:
                coil_images = torch.fft.fftn(coil_images, dim=form.dims, norm="ortho")
                coil_images.mul_(_of_part(form.shifted_mask, part, 2, 1))
                coil_images = torch.fft.ifftn(coil_images, dim=form.dims, norm="ortho")
            return self._combine(coil_images, part)

        return from_fft_layout(self._summed(image, of_part))

    def _masked(self, kspace: torch.Tensor, part: Part) -> torch.Tensor:
        """A part of k-space (B, H, W, T, C) times the mask."""
        return kspace if self.weights is None else _of_part(self.weights, part, 3, 4) * kspace

    def _parts(self, x: torch.Tensor, copies: int = 1) -> List[Part]:
        """The parts of coil images or k-space, (B, M or C, T, H, W): the smaller, the more copies there are."""
        batch, _, num_frames, height, width = x.shape
        if self.largest_part is not None and self.weights is not None and self.weights.shape[3] not in (1, num_frames):
            raise ValueError(f"{num_frames} frames: as many as the mask's are needed, found {self.weights.shape[3]}")
        plane_bytes = batch * height * width * self.maps.element_size()
        largest = None if self.largest_part is None else self.largest_part // copies
        return parts_of(num_frames, self.maps.shape[4], plane_bytes, largest)

    def _summed(self, x: torch.Tensor, of_part: Callable[[Part], torch.Tensor], copies: int = 1) -> torch.Tensor:
        """The image (B, M, T, H, W) whose parts ``of_part`` gives of ``x``, (B, M or C, T, H, W)."""
        parts = self._parts(x, copies)
        if len(parts) == 1:
            return of_part(parts[0])
        image = self.maps.new_zeros(x.shape[0], self.maps.shape[5], *x.shape[2:])
        for part in parts:
            image[:, :, part.frames] += of_part(part)
        return image

    def _expand(self, image: torch.Tensor, part: Part) -> torch.Tensor:
        """Image of each map set (B, M, T, H, W) to coil images (B, C, T, H, W)."""
        maps = self._coil_maps[:, :, part.coils]
        coil_images = maps[:, 0] * image[:, :1]
        for m in range(1, maps.shape[1]):
            coil_images = torch.addcmul(coil_images, maps[:, m], image[:, m : m + 1])
        return coil_images

    def _combine(self, coil_images: torch.Tensor, part: Part) -> torch.Tensor:
        """Coil images (B, C, T, H, W) to the image of each map set (B, M, T, H, W)."""
        maps_of_sets = self._coil_maps[:, :, part.coils].unbind(1)
        return torch.stack([(maps.conj() * coil_images).sum(dim=1) for maps in maps_of_sets], dim=1)


def _of_part(mask: torch.Tensor, part: Part, frame_axis: int, coil_axis: int) -> torch.Tensor:
    """A part of a mask, whose axes of one element count for all frames or coils."""
    for axis, own in ((frame_axis, part.frames), (coil_axis, part.coils)):
        if mask.shape[axis] > 1:
            mask = mask[(slice(None),) * axis + (own,)]
    return mask
