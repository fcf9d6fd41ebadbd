"""meddlr's wrappers in 2D, greedy and by backpropagation: with targets, N2R, SSDU, for equal iterations.

The data are frames of the phantom, taken for 2D images. With targets, N2R (half of the scans have targets) and SSDU
(none has) train the network of configs/knee/demo.yaml once by backpropagation and once in modules, from the same
weights, with the same batches and masks. All are scored on the same test scans. Memory is the planned peak of a
training step.

A study that was ended goes on where it was.

Example::

    python -m projects.cine.studies.wrapped
"""

import statistics
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import h5py
import numpy as np
from meddlr.data import DatasetCatalog

from meddlr_greedy import prepare
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.data.catalog import datasets_root, register_datasets
from meddlr_greedy.errors import check, exit_with_one_line
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.paths import CONFIGS
from projects.cine.support.tables import (
    check_page,
    differences_as_text,
    publish_table,
    results_folder,
    versions_as_text,
)
from projects.cine.support.trials import SCORE, Trial, add_options_of_trials, run_trials

_NAME = "wrapped"
_DATA = "phantom_2d"
_SPLITS = ("train", "val", "test")
_FRAMES = (0, 4, 8)  # of each slice of the phantom; neighbors are alike

#: What the network is trained with -> its config, and overrides of it.
KINDS = {
    "targets": ("demo.yaml", ()),
    "N2R": ("n2r.yaml", ("DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", "3")),  # of six scans
    "SSDU": ("ssdu.yaml", ()),
}


class _Run(NamedTuple):
    """A training: what with, in how many modules, and its seed."""

    kind: str
    modules: int
    seed: int


def prepare_data() -> None:
    """Takes frames of the phantom for 2D images, with maps and targets of their own."""
    root = datasets_root()
    prepare.main(["phantom", "--output", str(root / "phantom")])
    folder = root / "phantom_frames"
    folder.mkdir(exist_ok=True)
    frames = []
    for path in _scans_of_phantom():
        with h5py.File(path) as file:
            kspace = np.concatenate([file["kspace"][:, :, :, t] for t in _FRAMES])
        frames.append(folder / path.name)
        with h5py.File(frames[-1], "w") as file:
            file["kspace"] = kspace  # (S, H, W, C)
    prepare.main(["maps", *map(str, frames), "--output", str(root / _DATA), "--compression", "none"])


def _scans_of_phantom() -> List[Path]:
    """The scans of the data set; a larger one that was prepared before has left others beside them."""
    register_datasets()
    return sorted({Path(scan["file_name"]) for split in _SPLITS for scan in DatasetCatalog.get(f"phantom_{split}")})


def _trial(run: _Run, output: Path, opts: Sequence[str]) -> Trial:
    data = [f"DATASETS.{split.upper()}" for split in _SPLITS]
    names = [f"('{_DATA}_{split}',)" for split in _SPLITS]
    overrides = [word for pair in zip(data, names) for word in pair]
    overrides += ["MISC.GREEDY.NUM_MODULES", str(run.modules), "SEED", str(run.seed), "MISC.GREEDY.RUN.THREADS", "1"]
    config, own = KINDS[run.kind]
    folder = output / f"{run.kind.lower()}-{run.modules}-{run.seed}"
    return Trial(folder, CONFIGS.parent / "knee" / config, (*overrides, *own, *opts))


def _peak(trial: Trial) -> int:
    return plan_step(trial.cfg, Example.from_data(trial.cfg)).peak


def _scores(trial: Trial) -> Tuple[float, float]:
    """PSNR of the zero-filled images and of the network, dB."""
    scored = trial.results()["datasets"][f"{_DATA}_test"]
    return scored["zero_filled"][SCORE]["mean"], scored["reconstruction"][SCORE]["mean"]


def _rows(study: Dict[str, Any]) -> Iterator[str]:
    few, many = study["modules"]
    yield f"| trained with | backpropagation, PSNR (dB) | {many} modules, PSNR (dB) | difference, by seed | peak (MB) |"
    yield "|---|---|---|---|---|"
    for kind, runs in study["runs"].items():
        by, greedy = ([run[str(number)] for run in runs] for number in (few, many))
        psnr = [[run["psnr"] for run in found] for found in (by, greedy)]
        peaks = " / ".join(f"{found[0]['peak'] / 1e6:.1f}" for found in (by, greedy))
        means = " | ".join(f"{statistics.mean(found):.2f}" for found in psnr)
        yield f"| {kind} | {means} | {differences_as_text(*psnr)} | {peaks} |"


def table(study: Dict[str, Any]) -> str:
    """The result as Markdown."""
    note = (
        f"Zero-filled: {study['zero_filled']:.2f} dB. {study['iterations']} iterations, seeds"
        f" {', '.join(map(str, study['seeds']))}; peak: planned, of a training step, backpropagation /"
        f" modules; {versions_as_text(study['versions'])}."
    )
    return "\n".join([*_rows(study), "", note])


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.wrapped", __doc__)
    parser.add_argument("--modules", type=int, default=4, metavar="K", help="of the greedy network (default: 4)")
    add_options_of_trials(parser, Path("results/wrapped"))
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.wrapped``."""
    args = build_parser().parse_args(argv)
    check(args.seeds >= 1, "--seeds", args.seeds, "1 or more")
    check(args.modules >= 2, "--modules", args.modules, "2 or more")
    check_page(args.page, _NAME)
    prepare_data()
    register_datasets()
    seeds, modules = range(1, args.seeds + 1), (1, args.modules)
    trials = {
        _Run(kind, number, seed): _trial(_Run(kind, number, seed), args.output, args.opts)
        for seed in seeds
        for kind in KINDS
        for number in modules
    }
    run_trials(list(trials.values()), args.jobs, "trainings")
    runs: Dict[str, List[Dict[str, Any]]] = {kind: [{} for _ in seeds] for kind in KINDS}
    for run, trial in trials.items():
        psnr = _scores(trial)[1]
        runs[run.kind][run.seed - 1][str(run.modules)] = {"psnr": psnr, "peak": _peak(trial)}
    first = next(iter(trials.values()))
    study = {
        "modules": modules,
        "seeds": list(seeds),
        "iterations": first.cfg.SOLVER.MAX_ITER,
        "zero_filled": _scores(first)[0],
        "runs": runs,
        "versions": first.results()["versions"],
    }
    publish_table(_NAME, study, table(study), results_folder(args.page), args.page)


if __name__ == "__main__":
    main()
