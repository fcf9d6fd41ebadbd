"""What a memory buys: backpropagation against greedy learning, each with the network that fills the same memory best.

A budget is the peak memory of a training step of the network of configs/cine/equal_memory.yaml (shaped as DL-ESPIRiT),
trained end to end, batch size 1; in the sweep with other numbers of unrolled steps. For each budget:

    candidates   backprop: shallower, as deep as, and deeper than the budget's network, each with the most features
                           that fit;
                 greedy:   modules as deep as the budget's network, and deeper, with the most features that fit, and as
                           many modules as a step of at most --times the operations of the budget's network allows
                           (memory sets no bound to it). Those that fill 95 to 100 % of the budget.
    search       the best candidate, then its best learning rate, by PSNR on the validation set: one seed, a quarter of
                 the iterations, the same learning rates for both
    training     three seeds each, with the same data and iterations; PSNR and SSIM on the test set

Memory is planned (python -m meddlr_greedy.plan), and measured for the two networks that are trained. The command
continues where it was ended: what is trained stays.

Example::

    python -m projects.cine.pig --images pig_cine_sax.npz        # makes the data set, and more
    python -m projects.cine.equal_memory                         # hours on two cores
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from meddlr.config import CfgNode
from tabulate import tabulate

from meddlr_greedy import compare
from meddlr_greedy.config import load_config
from meddlr_greedy.data.datasets import check_dataset_names, register_datasets
from meddlr_greedy.engine.planning import FEATURES, STEPS, Example, Largest, StepMemory, largest, plan_step, with_value
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.files import written_atomically
from projects.cine.measuring import measured_peak
from projects.cine.pig import publish
from projects.cine.tables import check_page, publish_result, results_folder, spread
from projects.cine.trials import Trial, run_trials, scores

HERE = Path(__file__).parent
CONFIGS = {
    name: HERE.parents[1] / "configs" / "cine" / f"{name}.yaml" for name in ("equal_memory", "equal_memory_greedy")
}
BACKPROP, GREEDY = CONFIGS.values()
MODULES = "MISC.GREEDY.NUM_MODULES"

#: Unrolled steps of the networks that give the budgets.
BUDGETS = (3, 4, 5)
#: Depths of the candidates, in that of the budget's network; deeper ones are as much narrower.
SHALLOWER = 0.6
DEEPER = (1.6, 2.5)
LEARNING_RATES = ("4e-3", "8e-3", "2e-3")  # the first one while the shape is sought
SEEDS = (1, 2, 3)
FILLED = 0.95


@dataclass(frozen=True)
class Candidate:
    """A network that fills a budget.

    Attributes:
        config: Config file.
        steps: Unrolled steps.
        features: Of the regulariser.
        modules: Greedy modules; 1 is backpropagation.
        memory: What its training step needs, as planned.
    """

    config: Path
    steps: int
    features: int
    modules: int
    memory: StepMemory

    @property
    def opts(self) -> Tuple[str, ...]:
        modules = () if self.modules == 1 else (MODULES, str(self.modules))
        return (STEPS, str(self.steps), FEATURES, str(self.features), *modules)

    @property
    def name(self) -> str:
        return f"steps{self.steps}-features{self.features}-modules{self.modules}"


def backprop_candidates(example: Example, budget_steps: int, budget: int) -> List[Candidate]:
    """Shallower, as deep as, and deeper than the network of the budget, each as wide as fits."""

    def shape(steps: int) -> Optional[Candidate]:
        widest = _widest(load_config(str(BACKPROP), [STEPS, str(steps)]), steps, example, budget_steps, budget)
        return None if widest.memory is None else Candidate(BACKPROP, steps, widest.value, 1, widest.memory)

    return _filling(budget, [_fullest(shape, times * budget_steps) for times in (SHALLOWER, 1, *DEEPER)])


def greedy_candidates(example: Example, budget_steps: int, budget: int, max_operations: float) -> List[Candidate]:
    """Modules as deep as the network of the budget, and deeper, each as wide as fits."""

    def shape(of_module: int) -> Optional[Candidate]:
        features = _widest(_greedy_cfg(2, of_module), of_module, example, budget_steps, budget).value
        while features:
            # Every module computes the same, so two numbers of modules tell of all; at least two, or nothing is greedy.
            of_two = plan_step(_greedy_cfg(2, of_module, features), example).operations
            of_three = plan_step(_greedy_cfg(3, of_module, features), example).operations
            modules = max(2, 2 + int((max_operations - of_two) / (of_three - of_two)))
            memory = plan_step(_greedy_cfg(modules, of_module, features), example)
            if memory.peak <= budget:
                return Candidate(GREEDY, modules * of_module, features, modules, memory)
            features -= 1  # the parameters of more modules need some memory, too
        return None

    return _filling(budget, [_fullest(shape, times * budget_steps) for times in (1, DEEPER[0])])


def _greedy_cfg(modules: int, of_module: int, features: int = 0) -> CfgNode:
    opts = [STEPS, str(modules * of_module), MODULES, str(modules)]
    return load_config(str(GREEDY), opts + ([FEATURES, str(features)] if features else []))


def _widest(cfg: CfgNode, held_steps: int, example: Example, budget_steps: int, budget: int) -> Largest:
    """The most features that fit, looked for from where memory is about that of the budget's network."""
    of_budget = cfg.get_recursive(FEATURES)
    cfg = with_value(cfg, FEATURES, max(1, round(of_budget * budget_steps / held_steps)))
    return largest(cfg, example, budget, FEATURES, bound=256)


def _fullest(shape: Callable[[int], Optional[Candidate]], steps: float) -> Optional[Candidate]:
    """Of three neighbouring depths the one that fills the budget best: features are whole, so not every one can."""
    near = [shape(n) for n in range(round(steps) - 1, round(steps) + 2) if n > 0]
    return max((c for c in near if c), key=lambda c: c.memory.peak, default=None)


def _filling(budget: int, candidates: Sequence[Optional[Candidate]]) -> List[Candidate]:
    found = sorted({c for c in candidates if c}, key=lambda c: c.steps)
    filling = [c for c in found if FILLED * budget <= c.memory.peak <= budget]
    if not filling:
        tried = ", ".join(f"{c.name}: {c.memory.peak / budget:.1%}" for c in found)
        raise UserError(f"no network fills {FILLED:.0%} to 100 % of {budget / 1e6:.0f} MB ({tried or 'none fits'})")
    return filling


def measured(candidate: Candidate, example: Example, budget: int) -> int:
    """Peak bytes of a training step.

    Raises:
        UserError: it is not 95 to 100 % of the budget.
    """
    peak = measured_peak(load_config(str(candidate.config), candidate.opts), example)
    if not FILLED * budget <= peak <= budget:
        raise UserError(
            f"{candidate.name}: measured {peak / budget:.1%} of {budget / 1e6:.0f} MB, allowed are {FILLED:.0%} to"
            f" 100 % (planned {candidate.memory.peak / budget:.1%})"
        )
    return peak


@dataclass(frozen=True)
class Study:
    """How the networks of a budget are trained.

    Attributes:
        output: Folder of all trainings.
        jobs: Trainings at the same time.
        iterations: Of the final trainings.
    """

    output: Path
    jobs: int
    iterations: int

    def search(self, folder: Path, label: str, candidates: Sequence[Candidate]) -> Tuple[Candidate, str, List[Any]]:
        """The best candidate, its best learning rate, and the validation PSNR of all that was tried."""
        first, *others = LEARNING_RATES
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
                    "minutes": spread(side["minutes"], 1),
                }
            )
        backprop, greedy = budget["sides"]["backprop"], budget["sides"]["greedy"]
        psnr, ssim = (statistics.mean(greedy[m]) - statistics.mean(backprop[m]) for m in ("psnr", "ssim"))
        times = greedy["parameters"] / backprop["parameters"]
        gains.append(
            f"{budget['bytes'] / 1e6:.0f} MB: {psnr:+.2f} dB PSNR and {ssim:+.4f} SSIM with {times:.1f} times the"
            " parameters"
        )
    text = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return f"{text}\n\nGreedy against backprop, {'; '.join(gains)}."


def draw(budgets: Sequence[Dict[str, Any]], path: Path) -> None:
    """PSNR and SSIM against the budget, a point for each seed."""
    figure = Figure(figsize=(8, 3), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (metric, name) in zip(figure.subplots(1, 2), {"psnr": "PSNR (dB)", "ssim": "SSIM"}.items()):
        for label, color in (("backprop", "#4c78a8"), ("greedy", "#c0392b")):
            megabytes = [budget["bytes"] / 1e6 for budget in budgets]
            values = [budget["sides"][label][metric] for budget in budgets]
            axes.plot(megabytes, [statistics.mean(v) for v in values], color=color, label=label)
            for x, of_seeds in zip(megabytes, values):
                axes.plot([x] * len(of_seeds), of_seeds, "o", color=color, markersize=4, alpha=0.7)
        axes.set_xlabel("peak memory of a training step (MB)")
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with written_atomically(path) as partial:
        figure.savefig(partial, format="png")


@exit_with_one_line
def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/equal-memory"), metavar="FOLDER")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time, one thread each")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="steps (default: %(default)s)")
    parser.add_argument(
        "--times",
        type=float,
        default=4.0,
        help="most operations of a greedy step, in those of the budget's network (default: %(default)s)",
    )
    parser.add_argument("--page", type=Path, default=HERE / "RESULTS.md", metavar="FILE", help="where the table goes")
    args = parser.parse_args(argv)

    check_page(args.page, "equal-memory")
    torch.set_num_threads(1)  # as the trainings
    register_datasets()
    reference = load_config(str(BACKPROP))
    check_dataset_names(reference.DATASETS.TEST)
    example = Example.of_data(reference)
    study = Study(args.output, args.jobs, reference.SOLVER.MAX_ITER)
    budgets: List[Dict[str, Any]] = []
    for steps in args.budgets:
        of_network = plan_step(load_config(str(BACKPROP), [STEPS, str(steps)]), example)
        budget = of_network.peak
        candidates = {
            "backprop": backprop_candidates(example, steps, budget),
            "greedy": greedy_candidates(example, steps, budget, args.times * of_network.operations),
        }
        of_budget: Dict[str, Any] = {"steps": steps, "bytes": budget, "sides": {}}
        folder = args.output / f"budget{steps}"
        trials: Dict[str, List[Trial]] = {}
        for label, of_label in candidates.items():
            best, rate, tried = study.search(folder / label, f"{budget / 1e6:.0f} MB, {label}", of_label)
            trials[label] = study.final(folder / label, best, rate)
            of_budget["sides"][label] = {
                **{"steps": best.steps, "features": best.features, "modules": best.modules, "learning_rate": rate},
                **{"planned": best.memory.peak, "measured": measured(best, example, budget)},
                "search": tried,
            }
        # The long ones first: the processes then end at about the same time.
        run_trials([*trials["greedy"], *trials["backprop"]], args.jobs, f"{budget / 1e6:.0f} MB, final")
        for label, of_label in trials.items():
            of_budget["sides"][label].update(scores(of_label, reference.DATASETS.TEST[0]))
        budgets.append(of_budget)
        _publish(args, budgets, {label: of_label[0].folder for label, of_label in trials.items()})


def _publish(args: argparse.Namespace, budgets: List[Dict[str, Any]], runs: Dict[str, Path]) -> None:
    """Table, figure, and the pictures of the last budget; after each, so that an ended study shows what it has."""
    results = results_folder(args.page)
    draw(budgets, results / "equal_memory.png")
    compared = args.output / "compared"
    compare.main([*map(str, runs.values()), "--labels", *runs, "--output", str(compared)])
    for picture in [*compared.glob("*.png"), *compared.glob("*.gif")]:
        publish(picture, results / f"equal_memory_images{picture.suffix}")
    publish_result(args.page, "equal_memory", {"budgets": budgets, "times": args.times}, table(budgets))


if __name__ == "__main__":
    main(sys.argv[1:])
