"""What greedy learning gives up at equal architecture, and what its options win back.

The network of a config is trained end to end, greedily, and greedily with each option that lets a local loss see more
of the network. For each of these:

    search       the learning rate that is best on the validation set: the config's, its half and its double, and on, by
                 factors of two, until the best one has a worse neighbor on each side; one seed
    training     the seeds; PSNR and SSIM on the test set, differences taken seed by seed

End to end it is trained a second time, with the loss times 3. Adam cancels that factor, but for its eps and for
rounding, a change of about 1e-5: so the two trainings show what chance makes of the same search and the same seeds.
Memory and time of a step are measured, on a made-up batch of the same size.

The command continues where it was ended: what is trained stays. The table goes between the marks of the config's name.

Example::

    python -m projects.cine.studies.pig --images pig_cine_sax.npz        # makes the data set, and more
    python -m projects.cine.studies.equal_architecture                   # an hour on two cores
    python -m projects.cine.studies.equal_architecture --config-file configs/cine/equal_architecture_deeper.yaml
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from meddlr.config import CfgNode
from meddlr.modeling import build_model
from tabulate import tabulate

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.planning.example import Example
from projects.cine.paths import CONFIGS, RESULTS_PAGE
from projects.cine.support.measuring import measured_peak, ratio, step_times, versions
from projects.cine.support.tables import (
    check_page,
    publish_table,
    ratio_as_text,
    results_folder,
    spread,
    versions_as_text,
)
from projects.cine.support.trials import SCORE, Trial, run_trials, scores

CONFIG = CONFIGS / "equal_architecture.yaml"

_MODULES, _OVERLAP, _WEIGHTS = "MISC.GREEDY.NUM_MODULES", "MISC.GREEDY.OVERLAP", "MISC.GREEDY.LOSS_WEIGHTS"
BACKPROP, AGAIN, PLAIN = "backprop", "backprop, loss times 3", "greedy"


def changes(num_steps: int) -> Dict[str, Tuple[str, ...]]:
    """Label -> what that training changes in a config of ``num_steps`` unrolled steps in three modules.

    The first three are what the others are measured by. In the last, two losses reach all steps but one each: the first
    all but the last step, the second all but the first one.
    """
    return {
        BACKPROP: (_MODULES, "1"),
        AGAIN: (_MODULES, "1", _WEIGHTS, "[3]"),
        PLAIN: (),
        "greedy, OVERLAP 1": (_OVERLAP, "1"),
        "greedy, OVERLAP 2": (_OVERLAP, "2"),
        "greedy, OVERLAP 2, weights 0.01 0.1 1": (_OVERLAP, "2", _WEIGHTS, "[0.01, 0.1, 1]"),
        f"greedy, modules of {num_steps - 1} and 1 steps, OVERLAP {num_steps - 2}, weights 0.1 1": (
            *(_MODULES, f"[{num_steps - 1}, 1]", _OVERLAP, str(num_steps - 2), _WEIGHTS, "[0.1, 1]"),
        ),
    }


@dataclass(frozen=True)
class Variant:
    """One way to train the network.

    Args:
        config: The network and its plain greedy training.
        output: Folder of the study.
        label: One of :func:`changes`.
        opts: What it changes in the config.
    """

    config: Path
    output: Path
    label: str
    opts: Tuple[str, ...]

    @property
    def cfg(self) -> CfgNode:
        """The config of its training."""
        return load_config(str(self.config), self.opts)

    def trial(self, rate: str, seed: int, evaluates: bool = True) -> Trial:
        """Its training with a learning rate and a seed."""
        folder = self.output / self.label.replace(", ", "-").replace(" ", "-").lower() / f"lr{rate}-seed{seed}"
        opts = (*self.opts, "SOLVER.BASE_LR", rate, "SEED", str(seed))
        return Trial(folder, self.config, opts, evaluates)

    def search(self) -> Dict[str, Trial]:
        """The trainings of the search that are known to be needed so far, by learning rate."""
        low, high = -1, 1
        trials = self._at_powers(low, high)
        while all(trial.is_done for trial in trials.values()):
            best = list(trials).index(best_rate(trials))
            if 0 < best < len(trials) - 1:
                break
            low, high = (low - 1, high) if best == 0 else (low, high + 1)
            trials = self._at_powers(low, high)
        return trials

    def _at_powers(self, low: int, high: int) -> Dict[str, Trial]:
        middle = self.cfg.SOLVER.BASE_LR
        rates = [f"{1000 * 2**power * middle:g}e-3" for power in range(low, high + 1)]
        return {rate: self.trial(rate, seed=1, evaluates=False) for rate in rates}

    def final(self, rate: str, num_seeds: int) -> List[Trial]:
        """The trainings of the result, one for each seed."""
        return [self.trial(rate, seed) for seed in range(1, num_seeds + 1)]


def all_variants(config: Path, output: Path) -> List[Variant]:
    """The ways to train the network of a config that are compared."""
    num_steps = load_config(str(config)).MODEL.UNROLLED.NUM_UNROLLED_STEPS
    return [Variant(config, output, label, opts) for label, opts in changes(num_steps).items()]


def best_rate(trials: Dict[str, Trial]) -> str:
    """Of the learning rates of a search, the one that validates best."""
    return max(trials, key=lambda rate: trials[rate].validation())


def search_rates(variants: Sequence[Variant], jobs: int) -> Dict[str, Dict[str, Trial]]:
    """Trains until each variant's best learning rate has a worse neighbor on each side: the searches, by label."""
    while True:
        searches = {variant.label: variant.search() for variant in variants}
        trials = [trial for search in searches.values() for trial in search.values()]
        if all(trial.is_done for trial in trials):
            return searches
        run_trials(trials, jobs, "learning rates")


def check_suits(variants: Sequence[Variant]) -> None:
    """Finds before anything is trained what would end a training, or make it another one than its label says.

    Raises:
        UserError: names the config, and the key.
    """
    config, cfg = variants[0].config, load_config(str(variants[0].config))
    for key in ("TRAIN", "VAL", "TEST"):
        if not cfg.DATASETS[key]:
            raise UserError(f"{config}: DATASETS.{key}: found none, allowed is at least one data set")
        check_dataset_names(cfg.DATASETS[key])
    if SCORE not in cfg.TEST.VAL_METRICS.RECON:
        raise UserError(f"{config}: TEST.VAL_METRICS.RECON: found {cfg.TEST.VAL_METRICS.RECON}, '{SCORE}' is needed")
    greedy = cfg.MISC.GREEDY
    is_whole = len(partition_steps(cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS, greedy.NUM_MODULES)) == 1
    if is_whole or greedy.OVERLAP or greedy.LOSS_WEIGHTS:
        raise UserError(f"{config}: MISC.GREEDY: plain greedy training is needed: modules, no OVERLAP, no LOSS_WEIGHTS")
    if cfg.SOLVER.OPTIMIZER != "Adam" or cfg.SOLVER.WEIGHT_DECAY or greedy.CLIP_NORM:
        raise UserError(
            f"{config}: '{AGAIN}' repeats '{BACKPROP}' under Adam alone, without WEIGHT_DECAY and CLIP_NORM"
        )
    for variant in variants:
        try:
            build_model(variant.cfg)
        except UserError as error:
            raise UserError(f"{config}, trained as '{variant.label}': {error}") from None


def table(variants: Dict[str, Dict[str, Any]]) -> str:
    """The result as Markdown, and which variants stay within the memory of two plain ones.

    Args:
        variants: Label -> ``psnr``, ``ssim``, ``val_psnr`` of each seed, ``bytes``, ``step_s`` of each round, and
            ``learning_rate``.
    """
    backprop, plain = variants[BACKPROP], variants[PLAIN]
    rows = []
    to_backprop: Dict[str, str] = {}
    for label, variant in variants.items():
        differences = [own - other for own, other in zip(variant["psnr"], backprop["psnr"])]
        to_backprop[label] = spread(differences, 2, sign="+")
        time = ratio(variant["step_s"], plain["step_s"])
        rows.append(
            {
                "training": label,
                "learning rate": variant["learning_rate"],
                "PSNR (dB)": spread(variant["psnr"], 2),
                "SSIM": spread(variant["ssim"], 4),
                "PSNR to backprop (dB)": "" if label == BACKPROP else to_backprop[label],
                "memory (MB)": f"{variant['bytes'] / 1e6:.0f}",
                "memory / greedy": f"{variant['bytes'] / plain['bytes']:.2f}",
                "time / greedy": ratio_as_text(time, 2),
            }
        )
    text = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    greedy = [name for name in variants if name not in (BACKPROP, AGAIN)]
    affordable = [name for name in greedy if variants[name]["bytes"] <= 2 * plain["bytes"]]
    best = max(affordable, key=lambda name: statistics.mean(variants[name]["val_psnr"]))
    note = (
        f"Best on the validation set, of the greedy ones within twice the memory of plain greedy: {best},"
        f" {to_backprop[best]} dB to backprop on the test set."
    )
    return f"{text}\n\n{note}"


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.equal_architecture", __doc__)
    parser.add_argument(
        "--config-file", type=Path, default=CONFIG, metavar="FILE", help="the network, trained greedily"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the trainings go, in place of OUTPUT_DIR")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time, one thread each")
    parser.add_argument("--page", type=Path, default=RESULTS_PAGE, metavar="FILE", help="where the table goes")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.equal_architecture``."""
    args = build_parser().parse_args(argv)

    if args.seeds < 2:
        raise UserError(f"--seeds: found {args.seeds}, allowed is 2 or more (of one there is no spread)")
    torch.set_num_threads(1)  # as the trainings
    register_datasets()
    cfg = load_config(str(args.config_file))
    name = args.config_file.stem
    check_page(args.page, name)
    variants = all_variants(args.config_file, args.output or Path(cfg.OUTPUT_DIR))
    check_suits(variants)
    example = Example.from_data(cfg)
    searches = search_rates(variants, args.jobs)
    rates = {label: best_rate(search) for label, search in searches.items()}
    finals = {v.label: v.final(rates[v.label], args.seeds) for v in variants}
    # Seed by seed, so that what runs at the same time is alike.
    run_trials([trial for same_seed in zip(*finals.values()) for trial in same_seed], args.jobs, "final")
    times = step_times({v.label: v.cfg for v in variants}, example)
    found = {
        v.label: {
            **scores(finals[v.label], cfg.DATASETS.TEST[0]),
            "val_psnr": [trial.validation() for trial in finals[v.label]],
            "learning_rate": rates[v.label],
            "search_val_psnr": {rate: None if t.diverged else t.validation() for rate, t in searches[v.label].items()},
            "bytes": measured_peak(v.cfg, example),
            "step_s": times[v.label],
        }
        for v in variants
    }
    result = {"variants": found, "versions": versions(cfg.MODEL.DEVICE)}
    text = f"{table(found)}\n\n{versions_as_text(result['versions'])}."
    publish_table(name, result, text, results_folder(args.page), args.page)


if __name__ == "__main__":
    main()
