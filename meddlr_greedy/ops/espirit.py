"""Coil sensitivity maps from the center of k-space by ESPIRiT (Uecker et al., MRM 71:990-1001, 2014)."""

from typing import Iterator, Tuple, TypeVar

import numpy as np
import torch

from meddlr_greedy.errors import UserError

__all__ = ["eigenvalue_weights", "espirit_eigenmaps", "espirit_maps"]

_Array = TypeVar("_Array", np.ndarray, torch.Tensor)

_BLOCK_ELEMENTS = 2**20  # of the C x C matrices decomposed together: bounds the memory, and stays in the cache


def espirit_maps(
    kspace_calib: _Array,
    calib_width: int = 20,
    thresh: float = 0.02,
    kernel_width: int = 6,
    crop: float = 0.8,
    num_maps: int = 1,
    soft: bool = False,
) -> _Array:
    """Estimates one or more sets of coil sensitivity maps (soft-SENSE).

    One set describes what the coils see of one point. Two sets are needed where the body is larger than the field of
    view: a folded pixel holds two points, which no single set can describe.

    ESPIRiT leaves the phase of the maps free at every pixel. Here it is fixed to that of the first principal component
    of the coils over the calibration region, and not to the first coil: where a single coil sees nothing its phase is
    noise, while the principal component is strong over the whole body, so that maps and combined image stay smooth.

    Args:
        kspace_calib: Fully sampled, centered k-space (C, H, W), or of several slices (S, C, H, W), complex; of cine the
            mean over the frames. Only the central ``calib_width`` x ``calib_width`` points are used.
        calib_width: Width of the calibration region along H and W.
        thresh: Singular values of the calibration matrix below this fraction of the largest count as noise.
        kernel_width: Width of the convolution kernel along H and W.
        crop: Maps are zero where their eigenvalue, 1 where the coils see consistent signal, is not above this. An image
            combined with the maps is zero there too, hence also its forward projection: a high value loses dark tissue
            (the lungs first) from the image, 0 keeps noise around the body.
        num_maps: Number of map sets M, at most C. Each set is cropped by its own eigenvalue.
        soft: Whether the maps fade out around ``crop`` instead of stopping at it (:func:`eigenvalue_weights`).

    Returns:
        Maps (H, W, C, M), or (S, H, W, C, M), complex64, the strongest set first; numpy or torch (on the same device)
        as given. At every pixel the sets are orthogonal, and of norm one over coils times their weight in [0, 1].

    Raises:
        UserError: where an argument is not allowed, or the calibration region does not fit, was not sampled in full,
            or holds no signal.
    """
    if not 0 <= crop < 1:
        raise UserError(f"ESPIRiT: crop: found {crop}, allowed 0 to below 1")
    if not isinstance(kspace_calib, torch.Tensor):
        kspace = torch.from_numpy(np.array(kspace_calib, order="C"))
        return espirit_maps(kspace, calib_width, thresh, kernel_width, crop, num_maps, soft).numpy()
    eigenvalues, maps = espirit_eigenmaps(kspace_calib, calib_width, thresh, kernel_width, num_maps)
    return maps * eigenvalue_weights(eigenvalues, crop, soft)[..., None, :]


@torch.no_grad()
def espirit_eigenmaps(
    kspace: torch.Tensor, calib_width: int = 20, thresh: float = 0.02, kernel_width: int = 6, num_maps: int = 1
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The maps before cropping, and the eigenvalues that tell where to crop them.

    Args and errors are those of :func:`espirit_maps`.

    Returns:
        Eigenvalues (..., H, W, M), float32, in [0, 1] and falling along M; unit-norm maps (..., H, W, C, M), complex64.
    """
    _check_arguments(kspace, calib_width, thresh, kernel_width, num_maps)
    calibration = _central(kspace, calib_width).to(torch.complex64)
    _check_calibration(calibration)
    lags = _autocorrelation(_signal_kernels(calibration, thresh, kernel_width))

    *batch, num_coils, height, width = kspace.shape
    eigenvalues = lags.real.new_empty(*batch, height, width, num_maps)
    maps = lags.new_empty(*batch, height, width, num_coils, num_maps)
    for rows, gram in _image_space_gram(lags, height, width):
        # Ascending: the sets kept are the last, the strongest first. Eigenvectors are columns.
        values, vectors = torch.linalg.eigh(gram)
        eigenvalues[..., rows, :, :] = values[..., -num_maps:].flip(-1)
        maps[..., rows, :, :, :] = vectors[..., -num_maps:].flip(-1)
    eigenvalues.clamp_(0, 1)  # leave that range by rounding alone

    overlap = torch.einsum("...c,...hwcm->...hwm", _principal_component(calibration).conj(), maps)
    return eigenvalues, maps * torch.exp(-1j * overlap.angle())[..., None, :]


def eigenvalue_weights(eigenvalues: torch.Tensor, crop: float, soft: bool = False) -> torch.Tensor:
    r"""Weight in [0, 1] of a map for its eigenvalue.

    Hard: 1 above ``crop``, else 0. Soft: :math:`1/2 + t/(1+t^2)` with :math:`t = (\sqrt\lambda - c)/(1 - c)` clamped
    to [-1, 1], the smooth step of BART's ``ecalib -S``: 1/2 where :math:`\sqrt\lambda` is ``crop``, 1 at eigenvalue 1.
    """
    if not soft:
        return (eigenvalues > crop).to(eigenvalues.dtype)
    t = ((eigenvalues.sqrt() - crop) / (1 - crop)).clamp(-1, 1)
    return 0.5 + t / (1 + t * t)


def _central(kspace: torch.Tensor, width: int) -> torch.Tensor:
    """The central ``width`` x ``width`` points of centered k-space (..., H, W)."""
    top, left = (n // 2 - width // 2 for n in kspace.shape[-2:])
    return kspace[..., top : top + width, left : left + width]


def _signal_kernels(calibration: torch.Tensor, thresh: float, kernel_width: int) -> torch.Tensor:
    """Kernels (..., N, C, k, k) that span the patches of the calibration region (..., C, w, w); of noise, zero."""
    k = kernel_width
    patches = calibration.unfold(-2, k, 1).unfold(-2, k, 1)  # (..., C, w-k+1, w-k+1, k, k)
    patches = patches.movedim(-5, -3).flatten(-5, -4)
    _, singular_values, kernels = torch.linalg.svd(patches.flatten(-3), full_matrices=False)
    # Zeros in place of the kernels left out, whose number differs between slices.
    kernels = kernels * (singular_values > thresh * singular_values[..., :1])[..., None]
    return kernels.unflatten(-1, patches.shape[-3:])


def _autocorrelation(kernels: torch.Tensor) -> torch.Tensor:
    """Sum over kernels of the correlation of each two coils, (..., C, C, 2k-1, 2k-1), lag zero first."""
    k = kernels.shape[-1]
    spectra = torch.fft.fft2(kernels, s=(2 * k - 1, 2 * k - 1))  # no wider: room for all lags, and no more
    return torch.fft.ifft2(torch.einsum("...ncij,...ndij->...cdij", spectra, spectra.conj())) / k**2


def _image_space_gram(lags: torch.Tensor, height: int, width: int) -> Iterator[Tuple[slice, torch.Tensor]]:
    """The C x C matrix of every pixel, whose eigenvectors are the maps; rows of pixels at a time, (..., rows, W, C, C).

    Few lags are not zero: their Fourier transform is a product with two thin matrices, and no kernel ever needs an
    array of the image's size.
    """
    num_lags = lags.shape[-1]
    lag = torch.fft.fftfreq(num_lags, 1 / num_lags, dtype=lags.real.dtype, device=lags.device)

    def fourier(n: int) -> torch.Tensor:
        pixel = torch.arange(n, device=lags.device) - n // 2
        return torch.exp(1j * (2 * torch.pi / n * pixel[:, None] * lag))

    along_height, along_width = fourier(height), fourier(width)
    matrices_per_row = width * lags[..., 0, 0].numel()
    step = max(1, _BLOCK_ELEMENTS // matrices_per_row)
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, torch.einsum("hi,...cdij,wj->...hwcd", along_height[rows], lags, along_width)


def _principal_component(calibration: torch.Tensor) -> torch.Tensor:
    """The coil combination (..., C) that holds most of the signal; its largest entry is real and positive."""
    samples = calibration.flatten(-2)
    _, vectors = torch.linalg.eigh(samples @ samples.mH)
    component = vectors[..., -1]
    largest = component.gather(-1, component.abs().argmax(-1, keepdim=True))
    return component * torch.exp(-1j * largest.angle())


def _check_arguments(kspace: torch.Tensor, calib_width: int, thresh: float, kernel_width: int, num_maps: int) -> None:
    if kspace.ndim not in (3, 4) or not kspace.is_complex():
        raise UserError(
            f"ESPIRiT: complex k-space of shape (S, C, H, W) or (C, H, W) expected, "
            f"found {tuple(kspace.shape)}, {kspace.dtype}"
        )
    num_coils, height, width = kspace.shape[-3:]
    if not 1 <= kernel_width <= calib_width <= min(height, width):
        raise UserError(
            f"ESPIRiT: calibration width: found {calib_width}, allowed {kernel_width} (kernel width) to "
            f"{min(height, width)} (matrix {height} x {width})"
        )
    if not 1 <= num_maps <= num_coils:
        raise UserError(f"ESPIRiT: number of map sets: found {num_maps}, allowed 1 to {num_coils} (coils)")
    if not 0 < thresh < 1:
        raise UserError(f"ESPIRiT: threshold of the singular values: found {thresh}, allowed between 0 and 1")


def _check_calibration(calibration: torch.Tensor) -> None:
    width = calibration.shape[-1]
    signal = calibration.abs().amax(dim=-3)
    if not torch.isfinite(signal).all() or not signal.flatten(-2).any(dim=-1).all():
        raise UserError("ESPIRiT: calibration region: found NaN, infinite values or nothing but zeros")
    sampled = [n for n in range(1, width + 1) if _central(signal, n).all()]
    if width not in sampled:
        raise UserError(
            f"ESPIRiT: calibration region: found {width} x {width} points of which not all were sampled (some are zero "
            f"in every coil), allowed a calibration width of up to {max(sampled, default=0)}"
        )
