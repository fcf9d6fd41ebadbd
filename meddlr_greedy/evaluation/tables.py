"""What results are called, and where they lie in the folder of a run."""

from pathlib import Path
from typing import List, Mapping

import numpy as np

from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure
from meddlr_greedy.evaluation.slices import KeptSlice

__all__ = ["ALL_SUBJECTS", "DETAILS", "HEADLINES", "LABELS", "RESULTS_FILE", "RESULTS_FOLDER", "draw_slice"]


RESULTS_FOLDER = "test_results"  # in the folder of a run
RESULTS_FILE = "results.json"

#: Column of the printed table -> metric. Complex PSNR and NRMSE, as meddlr's own headline numbers.
HEADLINES = {"PSNR": "psnr", "SSIM": "ssim (Wang)", "NRMSE": "nrmse"}
#: Methods by their names in files and in print.
LABELS = {"zero_filled": "zero-filled", "reconstruction": "reconstruction"}

#: In the table of subjects: mean and standard deviation over the subjects' means.
ALL_SUBJECTS = "(all subjects)"

#: Row of the second table, of cine -> metrics of its columns.
DETAILS = {
    "image, complex": {"PSNR": "psnr", "SSIM": "ssim_complex (Wang)", "NRMSE": "nrmse"},
    "image, magnitude": {"PSNR": "psnr_mag", "SSIM": "ssim (Wang)", "NRMSE": "nrmse_mag"},
    "heart, complex": {"PSNR": "psnr_heart", "SSIM": "ssim_complex (Wang)_heart", "NRMSE": "nrmse_heart"},
    "heart, magnitude": {"PSNR": "psnr_mag_heart", "SSIM": "ssim (Wang)_heart", "NRMSE": "nrmse_mag_heart"},
    "heart, x-t profile": {"NRMSE": "nrmse_xt"},
    "heart, temporal std": {"NRMSE": "nrmse_tstd"},
}


def draw_slice(
    recons: Mapping[str, np.ndarray],
    kept: KeptSlice,
    stem: Path,
    title_metrics: Mapping[str, Mapping[str, float]],
    title: str,
) -> List[Path]:
    """Draws reconstructions of one slice beside its target, as ``<stem>.png`` and, of a series, ``<stem>.gif``."""
    png, gif = Path(f"{stem}.png"), Path(f"{stem}.gif")
    target = kept.images["target"]
    draw_recon_figure(recons, png, title_metrics, target=target, title=title, **kept.geometry._asdict())
    if target.ndim < 4:
        return [png]
    draw_cine_gif(recons, gif, title_metrics, target=target, title=title, **kept.geometry._asdict())
    return [png, gif]
