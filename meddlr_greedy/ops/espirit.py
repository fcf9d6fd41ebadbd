"""Coil sensitivity maps from the centre of k-space by ESPIRiT."""

import numpy as np
import sigpy as sp
from sigpy.mri.app import EspiritCalib

from meddlr_greedy.errors import UserError

__all__ = ["espirit_maps"]


def espirit_maps(
    kspace_calib: np.ndarray,
    calib_width: int = 20,
    thresh: float = 0.02,
    kernel_width: int = 6,
    crop: float = 0.8,
) -> np.ndarray:
    """Estimates coil sensitivity maps by ESPIRiT (Uecker et al., MRM 71:990-1001, 2014; computed by sigpy).

    ESPIRiT leaves the phase of the maps free at every pixel. Here it is fixed to that of the first principal component
    of the coils over the calibration region, and not to the first coil: where a single coil sees nothing its phase is
    noise, while the principal component is strong over the whole body, so that maps and combined image stay smooth.

    Args:
        kspace_calib: Fully sampled, centred k-space (C, H, W), complex; of cine the mean over the frames. Only the
            central ``calib_width`` x ``calib_width`` points are used.
        calib_width: Width of the calibration region along H and W.
        thresh: Singular values of the calibration matrix below this fraction of the largest count as noise.
        kernel_width: Width of the convolution kernel along H and W.
        crop: Maps are zero where the eigenvalue, 1 where the coils see consistent signal, is not above this. An image
            combined with the maps is zero there too, hence also its forward projection: a high value loses dark tissue
            (the lungs first) from the image, 0 keeps noise around the body.

    Returns:
        Maps (H, W, C, M), complex64, M = 1 (sigpy estimates one set): unit norm over coils, or zero outside the crop
        threshold.

    Raises:
        UserError: where the calibration region does not fit or holds no signal.
    """
    if kspace_calib.ndim != 3:
        raise UserError(f"ESPIRiT: k-space of shape (C, H, W) expected, found {kspace_calib.shape}")
    if not kernel_width <= calib_width <= min(kspace_calib.shape[1:]):
        raise UserError(
            f"ESPIRiT: calibration width: found {calib_width}, allowed {kernel_width} (kernel width) to "
            f"{min(kspace_calib.shape[1:])} (matrix {kspace_calib.shape[1]} x {kspace_calib.shape[2]})"
        )
    # The same calibration region as in sigpy.
    calibration = sp.resize(kspace_calib, (len(kspace_calib), calib_width, calib_width)).reshape(len(kspace_calib), -1)
    if not np.isfinite(calibration).all() or not calibration.any():
        raise UserError("ESPIRiT: calibration region: found NaN, infinite values or nothing but zeros")

    # Unitary (C, C): its columns are the principal components of the coils, strongest first.
    to_coils, _, _ = np.linalg.svd(calibration)
    virtual_coils = np.tensordot(to_coils.conj().T, kspace_calib, axes=1).astype(np.complex64)
    virtual_maps = EspiritCalib(
        virtual_coils,
        calib_width=calib_width,
        thresh=thresh,
        kernel_width=kernel_width,
        crop=crop,
        show_pbar=False,
    ).run()
    maps = np.einsum("cv,vhw->hwc", to_coils, virtual_maps)
    return np.ascontiguousarray(maps[..., None], dtype=np.complex64)
