"""What greedy learning gives up at equal architecture, and what its options win back.

The network of a config is trained end to end, greedily, and greedily with each option that lets a local loss see more
of the network. For each of these:

    search       the learning rate that is best on the validation set, of the same ones for all: one seed
    training     the seeds; PSNR and SSIM on the test set, differences taken seed by seed

End to end it is trained a second time, with the loss times 3: that cancels in Adam's update, but for how numbers are
rounded, and what it changes is what chance changes. Memory and time of a step are measured, on a made-up batch of the
same size.

The command continues where it was ended: what is trained stays. The table goes between the marks of the config's name.

Example::

    python -m projects.cine.pig --images pig_cine_sax.npz        # makes the data set, and more
    python -m projects.cine.equal_architecture                   # an hour on two cores
    python -m projects.cine.equal_architecture --config-file configs/cine/equal_architecture_deeper.yaml   # two hours
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from meddlr.config import CfgNode
from tabulate import tabulate

from meddlr_greedy.config import load_config
from meddlr_greedy.data.datasets import check_dataset_names, register_datasets
from meddlr_greedy.engine.planning import Example
from meddlr_greedy.errors import UserError, exit_with_one_line
from projects.cine.measuring import measured_peak, ratio, step_times, versions
from projects.cine.tables import check_page, publish_result, spread
from projects.cine.trials import Trial, run_trials, scores

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "cine" / "equal_architecture.yaml"
#: Factors of the config's learning rate that the search tries.
RATE_FACTORS = (1.0, 0.5, 2.0)

_OVERLAP, _WEIGHTS = "MISC.GREEDY.OVERLAP", "MISC.GREEDY.LOSS_WEIGHTS"
_END_TO_END = ("MISC.GREEDY.NUM_MODULES", "1")
BACKPROP, AGAIN, PLAIN = "backprop", "backprop, rounded otherwise", "greedy"
#: Label -> what it changes in the config. The first three are what the others are measured by.
VARIANTS: Dict[str, Tuple[str, ...]] = {
    BACKPROP: _END_TO_END,
    AGAIN: (*_END_TO_END, _WEIGHTS, "[3]"),
    PLAIN: (),
    "greedy, OVERLAP 1": (_OVERLAP, "1"),
    "greedy, OVERLAP 2": (_OVERLAP, "2"),
    "greedy, OVERLAP 2, weights 0.01 0.1 1": (_OVERLAP, "2", _WEIGHTS, "[0.01, 0.1, 1]"),
}


@dataclass(frozen=True)
class Variant:
    """One way to train the network.

    Args:
        config: The network and its plain greedy training.
        output: Folder of the study.
        label: One of :data:`VARIANTS`.
    """

    config: Path
    output: Path
    label: str

    @property
    def cfg(self) -> CfgNode:
        return load_config(str(self.config), VARIANTS[self.label])

    def trial(self, rate: str, seed: int, evaluates: bool = True) -> Trial:
        folder = self.output / self.label.replace(", ", "-").replace(" ", "-").lower() / f"lr{rate}-seed{seed}"
        opts = (*VARIANTS[self.label], "SOLVER.BASE_LR", rate, "SEED", str(seed))
        return Trial(folder, self.config, opts, evaluates)

    def search(self) -> Dict[str, Trial]:
        """Learning rate -> the training that tells what it is worth."""
        rates = [f"{1000 * factor * self.cfg.SOLVER.BASE_LR:g}e-3" for factor in RATE_FACTORS]
        return {rate: self.trial(rate, seed=1, evaluates=False) for rate in rates}

    def best_rate(self) -> str:
        trials = self.search()
        return max(trials, key=lambda rate: trials[rate].validation())

    def final(self, num_seeds: int) -> List[Trial]:
        return [self.trial(self.best_rate(), seed) for seed in range(1, num_seeds + 1)]


def table(variants: Dict[str, Dict[str, Any]]) -> str:
    """The result as Markdown, and which variants stay within the memory of two plain ones.

    Args:
        variants: Label -> ``psnr``, ``ssim``, ``val_psnr`` of each seed, ``bytes``, ``step_s`` of each round, and
            ``learning_rate``.
    """
    backprop, plain = variants[BACKPROP], variants[PLAIN]
    rows = []
    to_backprop: Dict[str, float] = {}
    for label, variant in variants.items():
        differences = [own - other for own, other in zip(variant["psnr"], backprop["psnr"])]
        to_backprop[label] = statistics.mean(differences)
        time = ratio(variant["step_s"], plain["step_s"])
        rows.append(
            {
                "training": label,
                "learning rate": variant["learning_rate"],
                "PSNR (dB)": spread(variant["psnr"], 2),
                "SSIM": spread(variant["ssim"], 4),
                "PSNR to backprop (dB)": "" if label == BACKPROP else spread(differences, 2, sign="+"),
                "memory (MB)": f"{variant['bytes'] / 1e6:.0f}",
                "memory / greedy": f"{variant['bytes'] / plain['bytes']:.2f}",
                "time / greedy": f"{time['ratio']:.2f} ({time['low']:.2f} to {time['high']:.2f})",
            }
        )
    text = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    greedy = [name for name in variants if name not in (BACKPROP, AGAIN)]
    affordable = [name for name in greedy if variants[name]["bytes"] <= 2 * plain["bytes"]]
    best = max(affordable, key=lambda name: statistics.mean(variants[name]["val_psnr"]))
    note = (
        f"Best on the validation set, of the greedy ones within twice the memory of plain greedy: {best},"
        f" {to_backprop[best]:+.2f} dB to backprop on the test set."
    )
    return f"{text}\n\n{note}"


@exit_with_one_line
def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config-file", type=Path, default=CONFIG, metavar="FILE", help="the network, trained greedily"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="of the trainings; default: the config's OUTPUT_DIR"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time, one thread each")
    parser.add_argument("--page", type=Path, default=HERE / "RESULTS.md", metavar="FILE", help="where the table goes")
    args = parser.parse_args(argv)

    if args.seeds < 2:
        raise UserError(f"--seeds: found {args.seeds}, allowed is 2 or more (of one there is no spread)")
    torch.set_num_threads(1)  # as the trainings
    register_datasets()
    cfg = load_config(str(args.config_file))
    name = args.config_file.stem
    check_page(args.page, name.replace("_", "-"))
    check_dataset_names(cfg.DATASETS.TEST)
    example = Example.of_data(cfg)
    variants = [Variant(args.config_file, args.output or Path(cfg.OUTPUT_DIR), label) for label in VARIANTS]
    run_trials([trial for v in variants for trial in v.search().values()], args.jobs, "learning rates")
    finals = {v.label: v.final(args.seeds) for v in variants}
    # Seed by seed, so that what runs at the same time is alike.
    run_trials([trial for of_seed in zip(*finals.values()) for trial in of_seed], args.jobs, "final")
    times = step_times({v.label: v.cfg for v in variants}, example)
    found = {
        v.label: {
            **scores(finals[v.label], cfg.DATASETS.TEST[0]),
            "val_psnr": [trial.validation() for trial in finals[v.label]],
            "learning_rate": v.best_rate(),
            "search_val_psnr": {rate: None if t.diverged else t.validation() for rate, t in v.search().items()},
            "bytes": measured_peak(v.cfg, example),
            "step_s": times[v.label],
        }
        for v in variants
    }
    result = {"variants": found, "versions": versions(cfg.MODEL.DEVICE)}
    publish_result(args.page, name, result, table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
