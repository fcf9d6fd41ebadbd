"""Reports to test, and what their pixels should be."""

import json
import re

import numpy as np

from meddlr_greedy.viewer.frames import LEVELS
from meddlr_greedy.viewer.page import Metric, Page, Row, Shown
from tests.helpers.evaluation import beating_disc

WHITE = 1.0
TOP = 1.5 * WHITE

PSNR, SSIM = Metric("complex", "PSNR", 2), Metric("magnitude", "SSIM", 4)


def movies(methods=("target", "zero-filled", "greedy"), num_frames=6, height=40, width=30, seed=0):
    """Name -> magnitudes (H, W, T): a beating disc, with other noise in each."""
    rng = np.random.default_rng(seed)
    disc = beating_disc(height, width, num_frames)
    return {name: np.abs(disc + 0.1 * k * rng.standard_normal(disc.shape)) for k, name in enumerate(methods)}


def shown(images, scan="scan", slice_id=0, dataset="d", **more):
    kept = {"white": WHITE, "target": "target" if "target" in images else None, "line": (1, 4), "frame_time_ms": 20.0}
    return Shown(dataset, scan, slice_id, images, **{**kept, **more})


def page_of(*slices, rows=(), **more):
    page = Page("Evaluation", **more)
    for one in slices:
        page.add(one)
    page.rows += rows
    return page


def data_of(path):
    """What the file of a report tells its script: texts, slices, metrics."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1]
    return json.loads(text)


def levels_of(series):
    return np.clip(np.rint(series * LEVELS / TOP), 0, LEVELS)


def gray(levels, low=0.0, high=WHITE):
    """Levels -> gray of the screen in a window."""
    return np.clip(np.rint(255 * (levels / LEVELS * TOP - low) / (high - low)), 0, 255)


def score_rows(psnr_by_subject, method="greedy", dataset="d"):
    return [Row(dataset, subject, method, {PSNR: value}) for subject, value in psnr_by_subject.items()]
