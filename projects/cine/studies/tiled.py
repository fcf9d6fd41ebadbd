"""Trainings on tiles of the image against trainings on the whole of it: one phantom data set, one number of iterations.

The network of configs/cine/demo.yaml, with gradient steps and with conjugate gradients, in modules of one step. A
training on tiles has the gradient of the whole image but for rounding. Rounding alone makes another training of it in
a few hundred iterations, so there are several seeds.

Example::

    python -m projects.cine.studies.tiled
"""

import statistics
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from meddlr_greedy import prepare
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.data.catalog import datasets_root, register_datasets
from meddlr_greedy.errors import check, exit_with_one_line
from projects.cine.paths import CONFIGS
from projects.cine.support.tables import (
    check_page,
    differences_as_text,
    publish_table,
    results_folder,
    versions_as_text,
)
from projects.cine.support.trials import SCORE, Trial, add_options_of_trials, run_trials

_NAME = "tiled"

#: Data consistency -> overrides of the config.
NETWORKS = {
    "gradient steps": ("MISC.GREEDY.META_ARCHITECTURE", "CineUnrolledCNN", "MODEL.UNROLLED.STEP_SIZES", "(-1.0,)"),
    "conjugate gradients": ("MISC.GREEDY.CG_BACKWARD", "implicit"),
}
#: Whether on tiles -> the same.
IMAGES = {"whole image": (), "tiles": ("MISC.GREEDY.TILE", "[24, 32]")}


class _Run(NamedTuple):
    network: str
    image: str
    seed: int

    def trial(self, output: Path, opts: Sequence[str]) -> Trial:
        words = f"{self.network} {self.image} {self.seed}".replace(" ", "-")
        fixed = ("SEED", str(self.seed), "MISC.GREEDY.RUN.THREADS", "1")
        overrides = (*NETWORKS[self.network], *IMAGES[self.image], *fixed, *opts)
        return Trial(output / words, CONFIGS / "demo.yaml", overrides)


def table(study: Dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = ["| network | whole image, PSNR (dB) | tiles, PSNR (dB) | difference, by seed |", "|---|---|---|---|"]
    for network, psnr in study["psnr"].items():
        whole, tiles = (psnr[image] for image in IMAGES)
        means = f"{statistics.mean(whole):.2f} | {statistics.mean(tiles):.2f}"
        rows.append(f"| {network} | {means} | {differences_as_text(whole, tiles)} |")
    seeds = ", ".join(map(str, study["seeds"]))
    note = f"{study['iterations']} iterations, seeds {seeds}; {versions_as_text(study['versions'])}."
    return "\n".join([*rows, "", note])


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.tiled", __doc__)
    add_options_of_trials(parser, Path("results/tiled"))
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.tiled``."""
    args = build_parser().parse_args(argv)
    check(args.seeds >= 1, "--seeds", args.seeds, "1 or more")
    check_page(args.page, _NAME)
    prepare.main(["phantom", "--output", str(datasets_root() / "phantom")])
    register_datasets()
    seeds = range(1, args.seeds + 1)
    runs = [_Run(network, image, seed) for seed in seeds for network in NETWORKS for image in IMAGES]
    trials = {run: run.trial(args.output, args.opts) for run in runs}
    run_trials(list(trials.values()), args.jobs, "trainings")
    psnr: Dict[str, Dict[str, List[float]]] = {network: {image: [] for image in IMAGES} for network in NETWORKS}
    for run, trial in trials.items():
        scored = trial.results()["datasets"]["phantom_test"]["reconstruction"]
        psnr[run.network][run.image].append(scored[SCORE]["mean"])
    first = next(iter(trials.values()))
    study = {
        "psnr": psnr,
        "seeds": list(seeds),
        "iterations": first.cfg.SOLVER.MAX_ITER,
        "versions": first.results()["versions"],
    }
    publish_table(_NAME, study, table(study), results_folder(args.page), args.page)


if __name__ == "__main__":
    main()
