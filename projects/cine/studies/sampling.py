"""Draws k-t masks, and tells how far their time average covers k-space.

Writes <output>/sampling.png (phase encode against frame, and the time average), and prints a table. R is counted over
all frames, central lines included, partial echo not. "central lines covered" is the largest calibration region that the
time average holds; coil maps are estimated from it.

Example::

    python -m projects.cine.studies.sampling --lines 144 --frames 20 --accelerations 10 15 --output results/sampling
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY
from tabulate import tabulate
from tqdm import tqdm

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.data.coverage import time_average_coverage
from meddlr_greedy.data.kt_mask import KtMaskFunc, kt_mask_names, partial_echo
from meddlr_greedy.errors import UserError, exit_with_one_line
from projects.cine.support.tables import publish_table, save_figure

__all__ = ["draw", "survey"]

#: Rows along the readout of a drawn mask: enough to see a partial echo.
READOUT = 64


def survey(mask_func: KtMaskFunc, num_lines: int, num_frames: int, num_seeds: int) -> Dict[str, Any]:
    """Acceleration and coverage of many masks: one row of the table."""
    accelerations: List[float] = []
    always: List[int] = []
    coverages = []
    for seed in tqdm(range(num_seeds), desc=type(mask_func).__name__, leave=False, disable=None):
        mask = mask_func((1, 1, num_lines, num_frames, 1), seed)
        lines = mask[0, 0, ..., 0]
        accelerations.append(lines.numel() / lines.sum().item())
        always.append(int(lines.all(dim=1).sum()))
        coverages.append(time_average_coverage(mask))
    return {
        "mask function": type(mask_func).__name__,
        "R": f"{min(accelerations):.2f} to {max(accelerations):.2f}",
        "lines in every frame": f"{min(always)} to {max(always)}",
        "lines covered (%)": 100 * float(np.median([c.sampled for c in coverages])) / num_lines,
        "central lines covered": float(np.median([c.central for c in coverages])),
        "at least": min(c.central for c in coverages),
    }


def draw(masks: Dict[str, torch.Tensor], path: Path) -> None:
    """One row for each mask (1, H, W, T, 1): ky against frame, the time average, and the first frame."""
    figure = Figure(figsize=(9, 3 * len(masks)), layout="constrained")
    rows = figure.subplots(len(masks), 3, squeeze=False)
    for axes, (name, mask) in zip(rows, masks.items()):
        values = mask[0, ..., 0].numpy()
        axes[0].imshow(values.any(axis=0), cmap="gray", aspect="auto", interpolation="nearest")
        axes[0].set(title=name, xlabel="frame", ylabel="phase encode")
        axes[1].plot(values.max(axis=0).mean(axis=1), np.arange(values.shape[1]), linewidth=1)
        axes[1].set(title=f"central {time_average_coverage(mask).central} covered", xlabel="part of the frames")
        axes[1].invert_yaxis()
        axes[2].imshow(values[..., 0].T, cmap="gray", aspect="auto", interpolation="nearest")
        axes[2].set(title="first frame", xlabel="readout")
    save_figure(figure, path)


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.sampling", __doc__)
    parser.add_argument(
        "--masks", nargs="+", default=kt_mask_names(), choices=kt_mask_names(), metavar="NAME", help="mask functions"
    )
    parser.add_argument("--lines", type=int, default=144, help="phase encodes W")
    parser.add_argument("--frames", type=int, default=20, help="cardiac phases T")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[10, 15], help="R, or its range")
    parser.add_argument("--calibration-size", type=int, default=0, help="central lines in every frame")
    parser.add_argument("--partial-echo", type=float, default=0.0, help="part of the readout left out")
    parser.add_argument("--seeds", type=int, default=200, help="masks for the table")
    parser.add_argument(
        "--output", type=Path, default=Path("results/sampling"), metavar="FOLDER", help="picture and raw values"
    )
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.sampling``."""
    args = build_parser().parse_args(argv)
    for option in ("lines", "frames", "seeds"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option}: {getattr(args, option)} is not allowed; give 1 or more")
    if not 0 <= args.partial_echo < 0.5:
        raise UserError(f"--partial-echo: {args.partial_echo} is not allowed; give 0 to below 0.5")

    mask_funcs = [MASK_FUNC_REGISTRY.get(name)(args.accelerations, args.calibration_size) for name in args.masks]
    rows = [survey(mask_func, args.lines, args.frames, args.seeds) for mask_func in mask_funcs]
    shape = (1, READOUT, args.lines, args.frames, 1)
    masks = {name: partial_echo(func(shape, seed=0), args.partial_echo) for name, func in zip(args.masks, mask_funcs)}

    draw(masks, args.output / "sampling.png")
    print(f"{args.seeds} masks of {args.lines} lines, {args.frames} frames")
    publish_table("sampling", rows, tabulate(rows, headers="keys", floatfmt=".3g", tablefmt="github"), args.output)


if __name__ == "__main__":
    main()
