"""Reconstructions, what an evaluator is given, and what an evaluation leaves in its folder."""

import numpy as np
import pandas as pd
import torch
from skimage.metrics import structural_similarity

from meddlr_greedy.evaluation.report import RESULTS_FILE, RESULTS_FOLDER, DatasetReport, write_results
from meddlr_greedy.evaluation.slices import IMAGES, KeptSlice

MEAN, STD = 0.25, 3.0  # of the normalized images that a batch holds
FRAMES = 3  # of the series in a run that write_run writes


def make_reconstruction(*shape, seed=0):
    """A reconstruction and its target, complex, of very unequal brightness between slices and frames; a part beats."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(shape, dtype=torch.complex64, generator=generator)
    brightness = torch.linspace(0.2, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    if len(shape) == 5:
        brightness = brightness * torch.linspace(1, 0.3, shape[3])[:, None]
        target[:, 4:9, 3:8, 1::2] *= 8
    error = torch.randn(shape, dtype=torch.complex64, generator=generator)
    return target * brightness + 0.1 * error, target * brightness


def feed(evaluator, scans, batch_size=2, mean=MEAN, std=STD):
    """Gives the evaluator scans {id: (pred, target)}, in batches normalized by mean and std."""
    slices = [
        (scan_id, i, (pred[i] - mean) / std, (target[i] - mean) / std)
        for scan_id, (pred, target) in scans.items()
        for i in range(len(target))
    ]
    evaluator.reset()
    for start in range(0, len(slices), batch_size):
        ids, numbers, preds, targets = zip(*slices[start : start + batch_size])
        inputs = {
            "mean": torch.full((len(ids), 1), mean),
            "std": torch.full((len(ids), 1), std),
            "metadata": [{"scan_id": s, "slice_id": i} for s, i in zip(ids, numbers)],
        }
        outputs = {"pred": torch.stack(preds), "target": torch.stack(targets)}
        outputs["zf_image"] = torch.view_as_real(outputs["pred"])
        evaluator.process(inputs, outputs)
    return evaluator


def ssim_by_skimage(pred, target, data_range):
    return structural_similarity(
        pred, target, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


def beating_disc(height=40, width=30, num_frames=6, center=(22, 12)):
    """A disc that grows and shrinks: magnitudes (H, W, T)."""
    row, column = np.ogrid[:height, :width]
    distance = np.hypot(row - center[0], column - center[1])
    radius = 6 + 3 * np.cos(2 * np.pi * np.arange(num_frames) / num_frames)
    return 0.2 + np.clip(radius - distance[..., None] + 0.5, 0, 1)


def write_run(folder, gain, scans, seed=0, zero_filled_seed=0, slices=2, images=True, dataset="d"):
    """An evaluated run: scan i of subject i // 2; PSNR of the frames around 30 + gain."""
    rng, zero_filled_rng = np.random.default_rng(seed), np.random.default_rng(zero_filled_seed)
    rows = {"zero_filled": [], "reconstruction": []}
    for scan in scans:
        for method, mean, generator in (("zero_filled", 20, zero_filled_rng), ("reconstruction", 30 + gain, rng)):
            for s in range(slices):
                for t in range(FRAMES):
                    value = mean + generator.standard_normal()
                    rows[method] += [("psnr", scan, f"{scan}-{s}-{t}", value)]
                    rows[method] += [("ssim (Wang)", scan, f"{scan}-{s}-{t}", value / 40)]
                rows[method].append(("nrmse_xt", scan, f"{scan}-{s}", 1 / value if s else np.nan))
            rows[method].append(("psnr_scan", scan, scan, mean + 1))
    tables = {m: pd.DataFrame(r, columns=["metric", "scan", "image", "value"]) for m, r in rows.items()}
    shape = (12, 10, FRAMES, 1)
    kept = [
        KeptSlice(scan, 1, {name: np.full(shape, i + 1, np.complex64) for i, name in enumerate(IMAGES)})
        for scan in (scans[:2] if images else [])
    ]
    subjects = {scan: f"subject {i // 2}" for i, scan in enumerate(scans)}
    report = DatasetReport(dataset, "greedy", True, tables, kept, subjects)
    (folder / RESULTS_FOLDER).mkdir(parents=True)
    report.write(folder / RESULTS_FOLDER)
    write_results(folder / RESULTS_FOLDER / RESULTS_FILE, {}, [report])
    return tables
