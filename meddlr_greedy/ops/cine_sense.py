"""The SENSE signal model of Cartesian cine: A, A^H and A^H A."""

import math
from functools import partial
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from meddlr_greedy.ops.devices import computing_device
from meddlr_greedy.ops.fft import centered_fft, centered_ifft, from_fft_layout, to_fft_layout
from meddlr_greedy.ops.parts import Operator, Part, linear, parts_of

__all__ = ["CineSenseModel"]

# On a CPU, coil images of about this many bytes for each thread (or of one frame, if that is more) are made at a time,
# so that each pass finds in the cache what the pass before it left there. Smaller parts would wait for Python.
_IN_CACHE = 3 * 2**20

# Axes of the layout (B, M, T, H, W).
_READOUT_AND_PHASE_ENCODE = (-2, -1)
_PHASE_ENCODE = (-1,)


class _NormalForm(NamedTuple):
    """F^H M^2 F as a product between two FFTs that do not scale, which takes a sixth less than orthonormal ones."""

    dims: Tuple[int, ...]  #: axes that the FFTs are along
    factors: torch.Tensor  #: M^2, zero frequency first, over the pixels along dims; complex, (B, 1, T, H or 1, W)

    @classmethod
    def of(cls, weights: torch.Tensor, constant_along_readout: Optional[bool], dtype: torch.dtype) -> "_NormalForm":
        mask = to_fft_layout(weights)
        if constant_along_readout is None:
            constant_along_readout = bool((mask == mask[..., :1, :]).all())
        dims = _PHASE_ENCODE if constant_along_readout else _READOUT_AND_PHASE_ENCODE
        num_pixels = math.prod(mask.shape[dim] for dim in dims)
        mask = mask[..., :1, :] if constant_along_readout else mask
        # A real weight enters A and A^H once each, hence the square (for a binary mask the same).
        square = torch.fft.ifftshift(mask * mask, dim=dims).to(dtype)  # before the division, which rounds
        return cls(dims, (square / num_pixels).contiguous())


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
    ``largest_part`` says so, forward and backward. On a CPU they run by parts that fit into its cache anyway, which is
    faster, but where autograd follows what is inside.

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
        # Of each set (B, C, 1, H, W), the coils of an example in one block of memory.
        self._coil_maps = maps.permute(0, 5, 4, 3, 1, 2).contiguous().unbind(1)
        self._largest_eigenvalue: Optional[torch.Tensor] = None
        self._constant_along_readout = constant_along_readout
        self._form: Optional[_NormalForm] = None

    def forward(self, input: torch.Tensor, adjoint: bool = False) -> torch.Tensor:
        """A (image to k-space) or, with ``adjoint``, A^H (k-space to image), as in meddlr's SenseModel."""
        return self._linear(input, *((self._adjoint, self._forward) if adjoint else (self._forward, self._adjoint)))

    def zero_filled(self, kspace: torch.Tensor) -> torch.Tensor:
        """A^H of k-space (B, H, W, T, C) that is multiplied by the mask once more, as the networks' first image is."""

        def adjoint(image: torch.Tensor) -> torch.Tensor:
            kspace = to_fft_layout(self._forward(image))
            return from_fft_layout(self._masked(kspace, Part()))

        return self._linear(kspace, partial(self._adjoint, masked=True), adjoint)

    def _linear(self, x: torch.Tensor, operator: Operator, adjoint: Operator) -> torch.Tensor:
        """``operator(x)``; by parts in backward, too, where there are parts for the sake of memory."""
        if self.largest_part is None:
            return operator(x)
        self._check_constant()
        return linear(x, operator, adjoint)

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
            maps = torch.stack(self._coil_maps, dim=1)
            gram = torch.einsum("bmcthw,bncthw->bmnthw", maps.conj(), maps)
            bound = gram.abs().sum(dim=2).amax(dim=(1, 2, 3, 4))
            if self.weights is not None:
                bound = bound * self.weights.square().amax(dim=(1, 2, 3, 4))
            self._largest_eigenvalue = bound.reshape(-1, 1, 1, 1, 1)
        return self._largest_eigenvalue

    def _forward(self, image: torch.Tensor) -> torch.Tensor:
        image = to_fft_layout(image)

        def of_part(part: Part) -> torch.Tensor:
            return self._masked(centered_fft(self._expand(image, part), _READOUT_AND_PHASE_ENCODE), part)

        parts = self._parts(image)
        if len(parts) == 1:
            return from_fft_layout(of_part(parts[0]))
        dtype = self._type_with(image)
        dtype = dtype if self.weights is None else torch.promote_types(dtype, self.weights.dtype)
        kspace = image.new_empty(self._batch_with(image), self.maps.shape[4], *image.shape[2:], dtype=dtype)
        for part in parts:
            part.coils_of(part.frames_of(kspace)).copy_(of_part(part))
        return from_fft_layout(kspace)

    def _adjoint(self, kspace: torch.Tensor, masked: bool = False) -> torch.Tensor:
        kspace = to_fft_layout(kspace)

        def of_part(part: Part) -> torch.Tensor:
            own = self._masked(part.coils_of(part.frames_of(kspace)), part)
            own = self._masked(own, part) if masked else own
            return centered_ifft(own, _READOUT_AND_PHASE_ENCODE)

        # The shifts and the FFT of k-space make twice as many copies of a part as A^H A does.
        return from_fft_layout(self._combined(kspace, of_part, copies=2))

    def _normal(self, image: torch.Tensor) -> torch.Tensor:
        image, form = to_fft_layout(image), self._form
        if form is None and self.weights is not None:  # not all signal models are asked for A^H A: those of losses
            form = _NormalForm.of(self.weights, self._constant_along_readout, self.maps.dtype)
            self._form = form

        def of_part(part: Part) -> torch.Tensor:
            coil_images = self._expand(image, part)
            if form is not None:
                coil_images = torch.fft.fftn(coil_images, dim=form.dims, norm="backward")  # does not scale
                coil_images.mul_(part.coils_of(part.frames_of(form.factors)))
                coil_images = torch.fft.ifftn(coil_images, dim=form.dims, norm="forward")  # nor does this
            return coil_images

        return from_fft_layout(self._combined(image, of_part))

    def _masked(self, kspace: torch.Tensor, part: Part) -> torch.Tensor:
        """A part of k-space (B, C, T, H, W) times the mask."""
        if self.weights is None:
            return kspace
        return part.coils_of(part.frames_of(to_fft_layout(self.weights))) * kspace

    def _parts(self, x: torch.Tensor, copies: int = 1) -> List[Part]:
        """The parts of coil images or k-space, (B, M or C, T, H, W).

        Those of ``largest_part`` are the smaller, the more copies of them there are.
        """
        _, _, num_frames, height, width = x.shape
        frames_of_mask = 1 if self.weights is None else self.weights.shape[3]
        are_others = frames_of_mask not in (1, num_frames)
        if are_others and self.largest_part is not None:
            raise ValueError(f"{num_frames} frames: as many as the mask's are needed, found {frames_of_mask}")
        if are_others or x.numel() == 0:
            return [Part()]
        num_coils, plane_bytes = self.maps.shape[4], self._batch_with(x) * height * width * self.maps.element_size()
        largest = None if self.largest_part is None else self.largest_part // copies
        if not torch.is_grad_enabled() and computing_device(x).type == "cpu":
            in_cache = max(_IN_CACHE * torch.get_num_threads(), num_coils * plane_bytes)
            largest = in_cache if largest is None else min(largest, in_cache)
        return parts_of(num_frames, num_coils, plane_bytes, largest)

    def _batch_with(self, x: torch.Tensor) -> int:
        return max(len(x), len(self.maps))

    def _type_with(self, x: torch.Tensor) -> torch.dtype:
        return torch.promote_types(x.dtype, self.maps.dtype)

    def _expand(self, image: torch.Tensor, part: Part) -> torch.Tensor:
        """A part of the coil images (B, C, T, H, W) of an image (B, M, T, H, W)."""
        first, *others = _of_coils(self._coil_maps, part)
        own = part.frames_of(image).contiguous()
        coil_images = first * own[:, :1]
        for m, maps in enumerate(others, start=1):
            coil_images = torch.addcmul(coil_images, maps, own[:, m : m + 1])
        return coil_images

    def _combined(self, x: torch.Tensor, of_part: Callable[[Part], torch.Tensor], copies: int = 1) -> torch.Tensor:
        """The image (B, M, T, H, W) of the coil images that ``of_part`` makes of ``x``, (B, M or C, T, H, W)."""
        parts, conj_maps = self._parts(x, copies), [maps.conj() for maps in self._coil_maps]
        if len(parts) == 1:
            return _combine(conj_maps, of_part(parts[0]))
        if parts[0].has_all_coils:
            conj_maps = [maps.resolve_conj() for maps in conj_maps]  # once for all parts
        shape = (self._batch_with(x), self.maps.shape[5], *x.shape[2:])
        image = x.new_empty(shape, dtype=self._type_with(x))
        for part in parts:
            frames, own_maps = part.frames_of(image), _of_coils(conj_maps, part)
            if part.has_first_coil:
                _combine(own_maps, of_part(part), out=frames)
            else:
                frames += _combine(own_maps, of_part(part))
        return image


def _of_coils(maps: Sequence[torch.Tensor], part: Part) -> Sequence[torch.Tensor]:
    """The maps (B, C, 1, H, W) of each set, of the coils of a part."""
    return maps if part.has_all_coils else [part.coils_of(own) for own in maps]


def _combine(
    conj_maps: Sequence[torch.Tensor], coil_images: torch.Tensor, out: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """Coil images (B, C, T, H, W), which are of no use after, to the image of each map set (B, M, T, H, W).

    Args:
        conj_maps: Of each set, shape (B, C, 1, H, W).
        coil_images: Overwritten, but where autograd looks on.
        out: Where the image is written, if given and autograd does not look on.
    """
    # Coil images times maps, not maps times coil images: in this order products in place give the same bits.
    if torch.is_grad_enabled():
        return torch.stack([(coil_images * maps).sum(dim=1) for maps in conj_maps], dim=1)
    dtype = torch.promote_types(coil_images.dtype, conj_maps[0].dtype)
    if out is None:
        batch, _, *shape = coil_images.shape
        out = coil_images.new_empty(batch, len(conj_maps), *shape, dtype=dtype)
    for m, maps in enumerate(conj_maps, start=1):
        is_last_use = m == len(conj_maps) and coil_images.dtype == dtype
        torch.sum(coil_images.mul_(maps) if is_last_use else coil_images * maps, dim=1, out=out[:, m - 1])
    return out
