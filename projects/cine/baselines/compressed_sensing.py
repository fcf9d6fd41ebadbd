r"""Compressed sensing with spatio-temporal total variation: the conventional baseline, on the data of a config.

Reconstructs :math:`\min_x \frac{1}{2} \|A x - y\|_2^2 + w (\|D_t x\|_1 + s \|D_y x\|_1 + s \|D_x x\|_1)` with the
masks, maps and scaling that a network of the same config gets. Differences along time carry most of the weight, as is
usual for cine; without any in space, nothing keeps noise out of what no frame has sampled. The weights w and s are
tuned on DATASETS.VAL (highest PSNR per scan), then DATASETS.TEST is reconstructed and scored as by eval_net:
DIR/test_results/results.json holds the same, and the weights and every step of their search.

Example::

    python -m projects.cine.baselines.compressed_sensing --config-file configs/cine/pig.yaml --output results/pig-cs
"""

import argparse
import contextlib
import logging
import math
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from meddlr.config import CfgNode
from meddlr.evaluation import inference_on_dataset
from meddlr.utils.general import move_to_device
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from meddlr_greedy.arguments import CommandParser, run_parser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_val_loader
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.data.loader import ExampleLoader
from meddlr_greedy.engine.setup import setup_run
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.evaluation.evaluator import build_evaluator
from meddlr_greedy.evaluation.run import evaluate_test_sets, make_results_folder, run_info
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.total_variation import total_variation_reconstruction

__all__ = ["CompressedSensing", "tune"]

_LABEL = "compressed sensing"
_METRIC = "psnr_scan"
_EVALUATION_LOG = "meddlr.evaluation"  # several lines for each weight tried
_START = (4e-3, 0.1)  # of the search; images are scaled to about one
_STEPS = (4, 2, 2**0.5)
_SMALLEST, _LARGEST = 1e-6, 1e2  # where a search that runs away ends


# --- The reconstruction ---


class CompressedSensing(nn.Module):
    """Takes a batch, and gives what a network gives: ``pred``, ``target`` and ``zf_image``, (B, H, W, T, M).

    Args:
        weight: Of the total variation along time; of images in the scaling of the batches.
        spatial: Weight of the total variation along H and along W, relative to that along time.
        iterations: Iterations of the primal-dual algorithm.
        device: Where to compute.
    """

    def __init__(self, weight: float, spatial: float, iterations: int = 200, device: str = "cpu"):
        super().__init__()
        self.weight = weight
        self.spatial = spatial
        self.iterations = iterations
        self.device = device

    @torch.no_grad()
    def forward(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        """Reconstructs a batch: ``kspace`` (B, H, W, T, C), ``maps`` (B, H, W, 1, C, M), ``mask`` (B, H, W, T, 1).

        Raises:
            UserError: k-space is not cine.
        """
        kspace = inputs["kspace"]
        if kspace.ndim != 5:
            raise UserError(f"compressed sensing: cine k-space (B, H, W, T, C) expected, found {tuple(kspace.shape)}")
        inputs = move_to_device(inputs, self.device)
        kspace, maps, mask = inputs["kspace"], inputs["maps"], inputs["mask"]
        pred = total_variation_reconstruction(kspace, maps, mask, self.weight, self.spatial, self.iterations)
        zf_image = CineSenseModel(maps, mask)(kspace, adjoint=True)
        return {"pred": pred, "target": inputs.get("target"), "zf_image": zf_image}


# --- The search of its weights ---


def tune(
    score: Callable[[float, float], float], start: Tuple[float, float], factors: Sequence[float]
) -> Tuple[Tuple[float, float], List[Dict[str, float]]]:
    """Pattern search (Hooke and Jeeves, 1961) in steps of a factor: up or down one weight at a time, ever finer.

    Args:
        score: Of (weight, spatial); higher is better.
        start: Where to start.
        factors: The steps, tried one after the other.

    Returns:
        The best (weight, spatial), and every one tried with its score, in order.
    """
    scores: Dict[Tuple[float, float], float] = {}

    def score_of(point: Tuple[float, float]) -> float:
        if not all(_SMALLEST <= value <= _LARGEST for value in point):
            return -math.inf
        known = (float(f"{point[0]:.6g}"), float(f"{point[1]:.6g}"))  # the way there and back rounds
        if known not in scores:
            scores[known] = score(*known)
        return scores[known]

    best = start
    for factor in factors:
        moved = True
        while moved:
            moved = False
            for up_or_down in ((factor, 1), (1 / factor, 1), (1, factor), (1, 1 / factor)):
                candidate = (best[0] * up_or_down[0], best[1] * up_or_down[1])
                if score_of(candidate) > score_of(best):
                    best, moved = candidate, True
    table = [{"weight": point[0], "spatial": point[1], _METRIC: value} for point, value in scores.items()]
    return max(scores, key=lambda point: scores[point]), table


def validation_score(cfg: CfgNode, model: nn.Module, loaders: Mapping[str, ExampleLoader]) -> float:
    """Mean PSNR of the scans of the validation sets."""
    values = []
    for name, loader in loaders.items():
        evaluator = build_evaluator(cfg, name, (_METRIC,), prefix=None)
        with _quiet(_EVALUATION_LOG):
            results = inference_on_dataset(model, loader, evaluator)
        values.append(results[_METRIC])
    return sum(values) / len(values)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Inside the block, the logger tells warnings only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


# --- Command line ---


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.baselines.compressed_sensing``."""
    args = _parse_arguments(argv)
    cfg = load_config(args.config_file, [*args.opts, "OUTPUT_DIR", args.output])
    register_datasets()
    _check_config(cfg)
    cfg = setup_run(cfg, args, trains=False)
    folder = make_results_folder(cfg.OUTPUT_DIR)

    loaders = {name: build_val_loader(cfg, name, as_test=cfg.TEST.VAL_AS_TEST) for name in cfg.DATASETS.VAL}
    for name in cfg.DATASETS.TEST:
        build_val_loader(cfg, name)  # a mistake in there is told now, and not after the search

    def score(weight: float, spatial: float) -> float:
        model = CompressedSensing(weight, spatial, args.iterations, cfg.MODEL.DEVICE)
        value = validation_score(cfg, model, loaders)
        tqdm.write(f"weight {weight:.2e}, spatial {spatial:.2e}: {_METRIC} {value:.2f} dB on {', '.join(loaders)}")
        return value

    (weight, spatial), search = tune(score, _START, _STEPS)
    print(tabulate(search, headers="keys", floatfmt=".4g"))
    print(f"chosen: weight {weight:.3g}, spatial {spatial:.3g}")
    model = CompressedSensing(weight, spatial, args.iterations, cfg.MODEL.DEVICE)
    info = {
        **run_info(cfg, model, weights=cfg.OUTPUT_DIR, iteration=None),
        "weights": None,
        "architecture": _LABEL,
        "weight": weight,
        "spatial": spatial,
        "iterations": args.iterations,
        "tuned_on": list(cfg.DATASETS.VAL),
        "search": search,
    }
    evaluate_test_sets(cfg, model, info, folder, args.num_figures, label=_LABEL)


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = run_parser("python -m projects.cine.baselines.compressed_sensing", __doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results (sets OUTPUT_DIR)")
    parser.add_argument("--iterations", type=int, default=200, metavar="N", help="of the solver (default: 200)")
    parser.add_argument(
        "--num-figures", type=int, default=2, metavar="N", help="slices to draw per data set (default: 2)"
    )
    return parser


def _parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    args = build_parser().parse_args(argv)
    for option, minimum in (("iterations", 1), ("num_figures", 0)):
        value = getattr(args, option)
        if value < minimum:
            raise UserError(f"--{option.replace('_', '-')}: found {value}, allowed is a number from {minimum} on")
    return args


def _check_config(cfg: CfgNode) -> None:
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST: missing; name at least one data set to evaluate on")
    if not cfg.DATASETS.VAL:
        raise UserError("DATASETS.VAL: missing; name at least one data set to tune the weights on")
    both = sorted({*cfg.DATASETS.VAL} & {*cfg.DATASETS.TEST})
    if both:
        raise UserError(f"DATASETS.VAL: '{both[0]}' is in DATASETS.TEST too; weights may not be tuned on test data")
    if cfg.SEED < 0:
        raise UserError(
            f"SEED: found {cfg.SEED}, a number from 0 on is needed: it decides the masks, so that they are "
            "those of the run to compare with (its config.yaml holds its seed)"
        )
    check_dataset_names((*cfg.DATASETS.VAL, *cfg.DATASETS.TEST))


if __name__ == "__main__":
    main()
