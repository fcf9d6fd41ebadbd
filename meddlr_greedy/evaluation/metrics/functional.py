"""Image quality as functions of tensors, with one data range for the whole scan.

meddlr scores an image against its own maximum, and each map set by itself. In a cine series that would let
every frame be measured by another yardstick, so here the data range is an argument, and a pixel with M map
sets is one vector of M numbers: its magnitude is the root sum of squares over the sets. For one map set and
``data_range = |targets|.max()`` every function equals the one of the same name in
:mod:`meddlr.metrics.functional.image`.

Axes: N images, M map sets, then any number of axes of pixels (the last two in-plane for :func:`ssim`).
"""

from typing import Callable, Optional

import torch
from torch.nn.functional import conv2d

__all__ = [
    "as_one_image",
    "fold_frames",
    "mae",
    "magnitude",
    "mse",
    "nrmse",
    "nrmse_tstd",
    "psnr",
    "rmse",
    "ssim",
]


SSIM_WINDOW = 11  # pixels along an axis: the Gaussian window of Wang et al. 2004 (sigma 1.5)
_SSIM_SIGMA, _SSIM_K1, _SSIM_K2 = 1.5, 0.01, 0.03
_SSIM_CHUNK = 32  # images at a time: bounds the filtered copies of each


def magnitude(images: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Root sum of squares over the map sets.

    Args:
        images: (N, M, ...), complex or real.
        dim: Axis of the map sets.

    Returns:
        torch.Tensor: (N, ...), real.
    """
    return torch.linalg.vector_norm(images, dim=dim)


def fold_frames(series: torch.Tensor) -> torch.Tensor:
    """Lays the frames of a series out as a batch of images.

    Args:
        series: (..., H, W, T, M): readout, phase encode, cardiac phases, map sets.

    Returns:
        torch.Tensor: (N, M, H, W) with N = ... * T, the frame running fastest.
    """
    # The axes are permuted before they are merged: merging them in place (a view) would mix pixels with frames.
    return series.movedim((-2, -1), (-4, -3)).flatten(0, -4)


def as_one_image(frames: torch.Tensor) -> torch.Tensor:
    """Frames (N, M, H, W) as one image with N * H * W pixels, (1, M, N, H, W)."""
    return frames.movedim(0, 1).unsqueeze(0)


def _component(images: torch.Tensor, im_type: Optional[str]) -> torch.Tensor:
    """The part of complex images (N, M, ...) that is compared: (N, M or 1, ...)."""
    if im_type is None:
        return images
    if im_type == "magnitude":
        return magnitude(images).unsqueeze(1)
    part: Callable[[torch.Tensor], torch.Tensor] = {
        "real": torch.real,
        "imag": torch.imag,
        "phase": torch.angle,
    }[im_type]
    return part(images)


def _error(preds: torch.Tensor, targets: torch.Tensor, im_type: Optional[str]) -> torch.Tensor:
    """Error per pixel (N, pixels): the length of the vector over the map sets."""
    return magnitude(_component(preds, im_type) - _component(targets, im_type)).flatten(1)


def mae(preds, targets, data_range=None, im_type=None) -> torch.Tensor:  # noqa: ARG001 (one signature)
    """Mean absolute error, per image. See :func:`psnr` for the arguments."""
    return _error(preds, targets, im_type).mean(1)


def mse(preds, targets, data_range=None, im_type=None) -> torch.Tensor:  # noqa: ARG001 (one signature)
    """Mean squared error, per image. See :func:`psnr` for the arguments."""
    return _error(preds, targets, im_type).square().mean(1)


def rmse(preds, targets, data_range=None, im_type=None) -> torch.Tensor:  # noqa: ARG001 (one signature)
    """Root mean squared error, per image. See :func:`psnr` for the arguments."""
    return mse(preds, targets, im_type=im_type).sqrt()


def nrmse(preds, targets, data_range=None, im_type=None) -> torch.Tensor:  # noqa: ARG001 (one signature)
    """Root mean squared error over that of the target's magnitude, per image; NaN of an empty target. See `psnr`."""
    return _relative(rmse(preds, targets, im_type=im_type), magnitude(targets).flatten(1).square().mean(1).sqrt())


def _relative(error: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """The error over a norm of the target; NaN (not defined) where that is 0."""
    return torch.where(norm > 0, error / norm, torch.full_like(norm, float("nan")))


def psnr(
    preds: torch.Tensor,
    targets: torch.Tensor,
    data_range: torch.Tensor,
    im_type: Optional[str] = None,
) -> torch.Tensor:
    """Peak signal-to-noise ratio, per image.

    Args:
        preds: (N, M, ...), complex.
        targets: (N, M, ...), complex.
        data_range: Scalar: the peak, in the units of the images.
        im_type: What is compared: ``None`` (complex), "magnitude", "real", "imag" or "phase".

    Returns:
        torch.Tensor: (N,), in dB.
    """
    return 20 * torch.log10(data_range / rmse(preds, targets, im_type=im_type))


def ssim(
    preds: torch.Tensor, targets: torch.Tensor, data_range: torch.Tensor, im_type: Optional[str] = "magnitude"
) -> torch.Tensor:
    """Structural similarity, averaged over the frames of an image.

    Z Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
    2004: Gaussian window of 11 x 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03; the 5 pixels along the edge
    have no full window and do not count.

    Of complex images (``im_type`` None) the real and imaginary parts of all map sets are the components of one
    vector per pixel: products in the formula become scalar products. A wrong phase lowers it, a phase that both
    images share does not.

    Args:
        preds: (N, M, ..., H, W), complex.
        targets: (N, M, ..., H, W), complex.
        data_range: Scalar, in the units of the images.
        im_type: "magnitude" or ``None`` (complex).

    Returns:
        torch.Tensor: (N,). NaN where the image is smaller than the window: SSIM is not defined there.
    """
    num_images = len(targets)
    if min(targets.shape[-2:]) < SSIM_WINDOW:
        return targets.new_full((num_images,), float("nan"), dtype=torch.float32)
    # Scaled to a range of one: the constants, fourth powers of the data, would underflow on raw data.
    preds, targets = (_as_vectors(images, im_type) / data_range for images in (preds, targets))
    chunks = zip(preds.split(_SSIM_CHUNK), targets.split(_SSIM_CHUNK))
    return torch.cat([_mean_ssim(pred, target) for pred, target in chunks]).reshape(num_images, -1).mean(1)


def _as_vectors(images: torch.Tensor, im_type: Optional[str]) -> torch.Tensor:
    """Images (N, M, ..., H, W) -> (N * ..., V, H, W): a real vector of V components per pixel."""
    images = _component(images, im_type)
    parts = torch.view_as_real(images) if torch.is_complex(images) else images.unsqueeze(-1)
    vectors = parts.movedim((1, -1), (-4, -3))  # (N, ..., M, parts, H, W)
    return vectors.flatten(-4, -3).flatten(0, -4)


def _mean_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean over the SSIM map of each pair of images (N, V, H, W), of range one: (N,)."""
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    num = x.shape[1]
    products = torch.stack([(a * b).sum(1) for a, b in ((x, x), (y, y), (x, y))], dim=1)
    means = _gaussian_filter(torch.cat([x, y, products], dim=1))
    mean_x, mean_y, (xx, yy, xy) = means[:, :num], means[:, num : 2 * num], means[:, 2 * num :].unbind(1)
    mean_xx, mean_yy, mean_xy = ((a * b).sum(1) for a, b in ((mean_x, mean_x), (mean_y, mean_y), (mean_x, mean_y)))
    luminance = (2 * mean_xy + c1) / (mean_xx + mean_yy + c1)
    structure = (2 * (xy - mean_xy) + c2) / (xx - mean_xx + yy - mean_yy + c2)
    return (luminance * structure).flatten(1).mean(1)


def _gaussian_filter(images: torch.Tensor) -> torch.Tensor:
    """The means in Wang's window around every pixel that has a full one: (N, V, H, W) -> (N, V, H - 10, W - 10)."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    window = (window / window.sum()).reshape(1, 1, 1, -1)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = conv2d(conv2d(flat, window), window.transpose(2, 3))
    return flat.reshape(*images.shape[:2], *flat.shape[-2:])


def nrmse_tstd(preds, targets, data_range=None) -> torch.Tensor:  # noqa: ARG001 (one signature)
    """Error of the temporal standard deviation of the magnitude, per series.

    The map of standard deviations over the frames says where and how much a pixel changes: averaging over time, the
    usual mistake of an accelerated series, makes it too small where the heart moves; residual aliasing too large.

    Args:
        preds: (N, M, T, ...), complex: frames in the third place, then pixels.
        targets: As ``preds``.
        data_range: Not used.

    Returns:
        torch.Tensor: (N,): the root mean squared difference of the two maps over the root mean square of the target's;
        NaN where nothing changes in the target.
    """
    deviations = (m - m.mean(1, keepdim=True) for m in (magnitude(preds), magnitude(targets)))
    maps, target_maps = (deviation.square().mean(1).sqrt().flatten(1) for deviation in deviations)
    return _relative(torch.linalg.vector_norm(maps - target_maps, dim=1), torch.linalg.vector_norm(target_maps, dim=1))
