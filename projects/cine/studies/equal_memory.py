r"""What a memory buys: backpropagation against greedy learning, each with the network that fills the same memory best.

A budget is the peak memory of a training step of the network of configs/cine/equal_memory.yaml (shaped as DL-ESPIRiT),
trained end to end, batch size 1; in the sweep with other numbers of unrolled steps. For each budget:

    candidates   backprop: the budget's network, by itself in the table; and with it shallower and deeper ones, each
                           with the most features that fit; without checkpointing, which trades memory for time (what
                           it costs is in `projects.cine.benchmarks all`);
                 greedy:   modules as deep as the budget's network, and deeper, with the most features that fit, and as
                           many modules as a step of at most --times the operations of the smallest budget's network
                           allows (memory sets no bound to it). Those that fill 95 to 100 % of the budget.
    search       the best candidate, then its best learning rate, by PSNR on the validation set: one seed, a quarter of
                 the iterations, the same learning rates for both
    training     three seeds each, with the same data and iterations; PSNR and SSIM on the test set

Memory is planned (meddlr-greedy plan), and measured for the networks that are trained; so is the time of
a step, of all in turn. The command continues where it was ended: what is trained stays.

A budget is of training alone: evaluation of a whole readout needs more here, where training crops it.

With --full, the budget is 24 GB of a GPU, for 224 x 160, 20 phases, 8 coils and two map sets.

Example::

    python -m projects.cine.studies.pig --images pig_cine_sax.npz        # makes the data set, and more
    python -m projects.cine.studies.equal_memory                         # hours on two cores

    meddlr-greedy prepare images pig_cine_sax.npz --acquired-matrix 224 160 --maps 2 --coils 8 \
        --split 0-6,13-19 7-8 9-12 --output datasets/pigfull
    python -m projects.cine.studies.equal_memory --full                  # on a GPU
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from meddlr_greedy import compare
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.planning.example import Example
from projects.cine.paths import RESULTS_PAGE
from projects.cine.studies.budget import FULL, SMALL, Budget, Candidate
from projects.cine.support.measuring import ratio, step_times, versions
from projects.cine.support.tables import (
    check_page,
    publish_picture,
    publish_table,
    ratio_as_text,
    results_folder,
    save_figure,
    spread,
    versions_as_text,
)
from projects.cine.support.trials import Trial, run_trials, scores

SEEDS = (1, 2, 3)

#: The sides of the table: what the memory was needed for before, the best that backpropagation makes of it, and greedy.
OWN, BEST, GREEDY = "backprop, the budget's network", "backprop, best shape", "greedy"


@dataclass(frozen=True)
class Study:
    """How the networks of a budget are trained.

    Attributes:
        output: Folder of all trainings.
        jobs: Trainings at the same time.
        iterations: Of the final trainings.
        learning_rates: To try; the first one while the shape is sought.
    """

    output: Path
    jobs: int
    iterations: int
    learning_rates: Tuple[str, ...]

    def search(self, folder: Path, label: str, candidates: Sequence[Candidate]) -> Tuple[Candidate, str, List[Any]]:
        """The best candidate, its best learning rate, and the validation PSNR of all that was tried."""
        first, *others = self.learning_rates
        shapes = {(c, first): self._trial(folder / "search", c, first, SEEDS[0], search=True) for c in candidates}
        run_trials(list(shapes.values()), self.jobs, f"{label}, shapes")
        best = max(shapes, key=lambda key: shapes[key].validation())[0]
        rates = {(best, rate): self._trial(folder / "search", best, rate, SEEDS[0], search=True) for rate in others}
        run_trials(list(rates.values()), self.jobs, f"{label}, learning rates")
        tried = {**shapes, **rates}
        rate = max((key for key in tried if key[0] == best), key=lambda key: tried[key].validation())[1]
        psnr = [
            {"network": c.name, "learning_rate": r, "val_psnr": None if t.diverged else t.validation()}
            for (c, r), t in tried.items()
        ]
        return best, rate, psnr

    def final(self, folder: Path, candidate: Candidate, rate: str) -> List[Trial]:
        """The trainings of the result, one for each seed."""
        return [self._trial(folder / "final", candidate, rate, seed) for seed in SEEDS]

    def _trial(self, folder: Path, candidate: Candidate, rate: str, seed: int, search: bool = False) -> Trial:
        iterations = self.iterations // 4 if search else self.iterations
        opts = ("SOLVER.BASE_LR", rate, "SOLVER.MAX_ITER", str(iterations), "SEED", str(seed))
        name = f"{candidate.name}-lr{rate}-seed{seed}"
        return Trial(folder / name, candidate.config, (*candidate.opts, *opts), evaluates=not search)


def table(budgets: Sequence[Dict[str, Any]]) -> str:
    """The result as Markdown, and what greedy gains at each budget."""
    rows = []
    gains = []
    for budget in budgets:
        for label, side in budget["sides"].items():
            rows.append(
                {
                    "budget (MB)": f"{budget['bytes'] / 1e6:.0f}",
                    "training": label,
                    "steps x features": f"{side['steps']} x {side['features']}",
                    "modules": side["modules"],
                    "parameters": side["parameters"],
                    "planned / budget": f"{side['planned'] / budget['bytes']:.1%}",
                    "measured / budget": f"{side['measured'] / budget['bytes']:.1%}",
                    "learning rate": side["learning_rate"],
                    "PSNR (dB)": spread(side["psnr"], 2),
                    "SSIM": spread(side["ssim"], 4),
                    "s / step": f"{statistics.median(side['step_s']):.2f}",
                }
            )
        greedy = budget["sides"][GREEDY]
        for label in (BEST, OWN):
            other = budget["sides"][label]
            psnr, ssim = (statistics.mean(greedy[m]) - statistics.mean(other[m]) for m in ("psnr", "ssim"))
            times = greedy["parameters"] / other["parameters"]
            time = ratio(greedy["step_s"], other["step_s"])
            gains.append(
                f"* {budget['bytes'] / 1e6:.0f} MB, against {label}: {psnr:+.2f} dB PSNR and {ssim:+.4f} SSIM with"
                f" {times:.1f} times the parameters, in {ratio_as_text(time, 1)} times the time"
            )
    text = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return "\n".join([text, "", "Greedy:", "", *gains])


def draw(budgets: Sequence[Dict[str, Any]], path: Path) -> None:
    """PSNR and SSIM against the budget, a point for each seed."""
    figure = Figure(figsize=(8, 3), dpi=130, layout="constrained")
    for axes, (metric, name) in zip(figure.subplots(1, 2), {"psnr": "PSNR (dB)", "ssim": "SSIM"}.items()):
        for label, color in ((OWN, "#9ecae9"), (BEST, "#4c78a8"), (GREEDY, "#c0392b")):
            megabytes = [budget["bytes"] / 1e6 for budget in budgets]
            values = [budget["sides"][label][metric] for budget in budgets]
            axes.plot(megabytes, [statistics.mean(v) for v in values], color=color, label=label)
            for x, seed_values in zip(megabytes, values):
                axes.plot([x] * len(seed_values), seed_values, "o", color=color, markersize=4, alpha=0.7)
        axes.set_xlabel("peak memory of a training step (MB)")
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.equal_memory``."""
    args = _parse_arguments(argv)
    size = FULL if args.full else SMALL
    jobs = args.jobs if args.jobs is not None else 1 if args.full else 2
    output = args.output or Path("results") / size.name.replace("_", "-")

    check_page(args.page, size.name)
    torch.set_num_threads(1)  # as the trainings
    register_datasets()
    reference = load_config(str(size.backprop))
    check_dataset_names(reference.DATASETS.TEST)
    # The budget is of a training step: evaluation, which does not crop, does not count.
    example = Example.from_data(reference)
    example = example._replace(evaluated=example.tensors)
    study = Study(output, jobs, reference.SOLVER.MAX_ITER, size.learning_rates)
    budgets: List[Dict[str, Any]] = []
    max_operations = args.times * Budget.from_steps(size, example, min(size.budgets)).memory.operations
    for steps in args.budgets or size.budgets:
        budget = Budget.from_steps(size, example, steps)
        trials, sides = _compare(study, budget, max_operations, reference.DATASETS.TEST[0])
        budgets.append({"steps": steps, "bytes": budget.bytes, "sides": sides})
        budgets.sort(key=lambda entry: entry["bytes"])
        runs = {label: side_trials[0].folder for label, side_trials in trials.items()}
        result = {"budgets": budgets, "times": args.times, "versions": versions(reference.MODEL.DEVICE)}
        publish(args.page, size.name, result, runs, output)


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.equal_memory", __doc__)
    parser.add_argument("--full", action="store_true", help="24 GB of a GPU, full matrix (see above)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="of the trainings (default: results/equal-memory[-full])"
    )
    parser.add_argument("--jobs", type=int, help="trainings at the same time (default: 2, of one thread; --full: 1)")
    parser.add_argument("--budgets", type=int, nargs="+", metavar="STEPS", help="some of them (default: all)")
    parser.add_argument(
        "--times",
        type=float,
        default=4.0,
        help="most operations of a greedy step, in those of the smallest budget's network (default: %(default)s)",
    )
    parser.add_argument("--page", type=Path, default=RESULTS_PAGE, metavar="FILE", help="where the table goes")
    return parser


def _parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    args = build_parser().parse_args(argv)
    if args.budgets and min(args.budgets) < 1:
        raise UserError(f"--budgets: found {min(args.budgets)}, allowed are positive numbers of unrolled steps")
    return args


def _compare(
    study: Study, budget: Budget, max_operations: float, dataset: str
) -> Tuple[Dict[str, List[Trial]], Dict[str, Dict[str, Any]]]:
    """Finds the networks of a budget, trains and measures them.

    Returns:
        For each side its final trainings, and its part of the result.
    """
    candidates = {OWN: [budget.network], BEST: budget.backprop(), GREEDY: budget.greedy(max_operations)}
    folder, megabytes = study.output / f"budget{budget.steps}", f"{budget.bytes / 1e6:.0f} MB"
    chosen: Dict[str, Candidate] = {}
    sides: Dict[str, Dict[str, Any]] = {}
    trials: Dict[str, List[Trial]] = {}
    for label, side_candidates in candidates.items():
        side_folder = folder / label.split(",")[0]  # what both backprop sides train is trained once
        measured = budget.measured(side_candidates)
        best, rate, tried = study.search(side_folder, f"{megabytes}, {label}", list(measured))
        chosen[label], trials[label] = best, study.final(side_folder, best, rate)
        shape = {"steps": best.steps, "features": best.features, "modules": best.modules, "learning_rate": rate}
        sides[label] = {**shape, "planned": best.memory.peak, "measured": measured[best], "search": tried}
    # The long ones first: the processes then end at about the same time.
    finals = dict.fromkeys([*trials[GREEDY], *trials[OWN], *trials[BEST]])
    run_trials(list(finals), study.jobs, f"{megabytes}, final")
    times = step_times({label: best.cfg for label, best in chosen.items()}, budget.example)
    for label, side_trials in trials.items():
        sides[label].update(scores(side_trials, dataset), step_s=times[label])
    return trials, sides


def publish(page: Path, name: str, result: Dict[str, Any], runs: Dict[str, Path], output: Path) -> None:
    """Table, figure, and pictures of the last budget; after each, so that a study that is ended shows what it has."""
    results = results_folder(page)
    draw(result["budgets"], results / f"{name}.png")
    compared = output / "compared"
    compare.main([*map(str, runs.values()), "--labels", *runs, "--output", str(compared)])
    for picture in [*compared.glob("*.png"), *compared.glob("*.gif")]:
        publish_picture(picture, results / f"{name}_images{picture.suffix}")
    text = f"{table(result['budgets'])}\n\n{versions_as_text(result['versions'])}."
    publish_table(name, result, text, results, page)


if __name__ == "__main__":
    main()
