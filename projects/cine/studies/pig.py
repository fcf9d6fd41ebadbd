"""Studies on the real cine series of one animal: prepare data, train, reconstruct, compare, update the page.

    8x    greedy training against zero-filled images: minutes on two CPU cores
    12x   two ESPIRiT map sets; zero-filled, compressed sensing, the image that the networks start from, and the same
          network trained end to end and greedily

The series is public (WrightGroupSRI/ep-dataset, commit bc049db9, folder E774S5-shortAxis, CC0) and not part of this
repository; --images names it as an npz file with ``magnitude`` (slice, phase, row, column). Networks are trained at the
same time, each in a process of its own. Run again, the command continues where it was ended: what is trained or tuned
in --output stays.

Example::

    python -m projects.cine.studies.pig --images pig_cine_sax.npz --study 12x
"""

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch import nn

from meddlr_greedy import compare, eval_net, prepare
from meddlr_greedy.arguments import CommandParser, run_parser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import datasets_root, register_datasets
from meddlr_greedy.engine.setup import setup_run
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.evaluation.report import RESULTS_FOLDER
from meddlr_greedy.evaluation.run import evaluate_test_sets, make_results_folder, run_info
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.phase_constrained import phase_constrained_reconstruction
from projects.cine.baselines import compressed_sensing
from projects.cine.paths import CONFIGS, RESULTS_PAGE
from projects.cine.support.tables import check_page, publish_picture, publish_table, results_folder, versions_as_text
from projects.cine.support.trials import ending_processes, read_results, results_file, training_minutes

# The acquired matrix of the series; blocks of neighboring slices, mid-ventricle held out.
SIMULATION = [
    *("--acquired-matrix", "224", "160", "--matrix", "128", "128", "--coils", "8"),
    *("--split", "0-6,13-19", "7-8", "9-12"),
]

_CS, _START = "compressed sensing", "phase-constrained, where the networks start"
_METRICS = {"PSNR (dB)": ("psnr_scan", 2), "SSIM": ("ssim (Wang)_scan", 3), "NRMSE": ("nrmse_scan", 3)}
_SAME = 1e-3  # relative


@dataclass(frozen=True)
class Study:
    """One table of the project's page.

    Args:
        name: Of the data set, and of the table, the files in results/ and the marks in the page.
        prepare: Called with the file and the folder of the data set.
        networks: Label -> config file.
        compares: Whether compressed sensing, and the image that the networks start from, are in the table.
    """

    name: str
    prepare: Callable[[str, str], None]
    networks: Dict[str, Path]
    compares: bool = False


def _prepare(images: str, output: str) -> None:
    prepare.main(["images", images, *SIMULATION, "--output", output])


def _prepare_two_maps(images: str, output: str) -> None:
    prepare.main(["images", images, *SIMULATION, "--maps", "2", "--output", output])


STUDIES = {
    "8x": Study("pig", _prepare, {"greedy": CONFIGS / "pig.yaml"}),
    "12x": Study(
        "pig12",
        _prepare_two_maps,
        {"backprop": CONFIGS / "pig12_backprop.yaml", "greedy": CONFIGS / "pig12_greedy.yaml"},
        compares=True,
    ),
}


class PhaseConstrained(nn.Module):
    """The image that a ``PhaseConstrainedCineUnrolledCNN`` starts from, as the output of a network."""

    @torch.no_grad()
    def forward(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        """From a cine batch: ``pred``, ``target`` and ``zf_image``, (B, H, W, T, M)."""
        A = CineSenseModel(inputs["maps"], inputs["mask"])  # noqa: N806 (meddlr's name)
        zf_image = A(inputs["kspace"], adjoint=True)
        return {"pred": phase_constrained_reconstruction(A, zf_image), "target": inputs["target"], "zf_image": zf_image}


def train(study: Study, output: Path) -> None:
    """Trains the networks of a study side by side; one that is finished ends at once.

    Raises:
        UserError: names the trainings that failed.
        PreemptedError: a signal asked this process to end; the trainings have saved checkpoints.
    """
    command = [sys.executable, "-m", "meddlr_greedy.train_net", "--resume", "--config-file"]
    with ending_processes() as processes:
        for label, config in study.networks.items():
            run = [*command, str(config), "OUTPUT_DIR", str(_folder(output, label))]
            processes.append(subprocess.Popen(run, start_new_session=True))
        failed = [label for label, process in zip(study.networks, processes) if process.wait()]
    if failed:
        raise UserError(f"training of {', '.join(failed)} failed, see above; run the command again to continue")


def table(results: Dict[str, Any], dataset: str, minutes: Dict[str, float]) -> str:
    """The result as Markdown.

    Args:
        results: Label -> what eval_net wrote for it.
        dataset: The data set to show.
        minutes: Label -> minutes of training.

    Raises:
        UserError: where results are of different data, as those kept from an earlier run may be.
    """
    _check_same_data(results, dataset)
    first, *_ = results.values()
    scores = {"zero-filled": first["datasets"][dataset]["zero_filled"]}
    scores.update({label: result["datasets"][dataset]["reconstruction"] for label, result in results.items()})
    rows = [f"| | {' | '.join(_METRICS)} | training (min) |", "|---|" + "---|" * (len(_METRICS) + 1)]
    for label, values in scores.items():
        cells = [f"{values[metric]['mean']:.{digits}f}" for metric, digits in _METRICS.values()]
        rows.append(f"| {label} | {' | '.join(cells)} | {f'{minutes[label]:.1f}' if label in minutes else ''} |")
    psnr = {label: values["psnr_scan"]["mean"] for label, values in scores.items()}
    gains = [f"{psnr['greedy'] - value:+.2f} dB over {label}" for label, value in psnr.items() if label != "greedy"]
    greedy = results["greedy"]
    note = (
        f"Greedy on the four held-out slices: {', '.join(gains)}. Trained on two CPU cores;"
        f" {greedy['parameters']} parameters; {versions_as_text(greedy['versions'])}."
    )
    return "\n".join([*rows, "", note])


def _check_same_data(results: Dict[str, Any], dataset: str) -> None:
    """Zero-filled images of the same scans and masks differ by rounding only."""
    scores = {label: result["datasets"][dataset]["zero_filled"] for label, result in results.items()}
    first, *others = scores
    for label in others:
        for name, (metric, _) in _METRICS.items():
            found, expected = (scores[compared][metric]["mean"] for compared in (label, first))
            if not math.isclose(found, expected, rel_tol=_SAME):
                raise UserError(
                    f"{label}: zero-filled {name} of {dataset}: found {found:.4g}, allowed {expected:.4g} as for"
                    f" {first}; one of them was evaluated on other data: remove its folder in --output, and run again"
                )


def _evaluate(study: Study, output: Path) -> Dict[str, Any]:
    """Evaluates every method that is not yet: label -> results."""
    first, *_ = study.networks.values()
    if study.compares and not results_file(_folder(output, _CS)).is_file():
        cs = ["--config-file", str(first), "--output", str(_folder(output, _CS)), "--num-figures", "1"]
        compressed_sensing.main(cs)
    if study.compares and not results_file(_folder(output, _START)).is_file():
        cfg = load_config(str(first), ["OUTPUT_DIR", str(_folder(output, _START))])
        register_datasets()
        cfg = setup_run(cfg, run_parser().parse_args([]), trains=False)
        model = PhaseConstrained()
        info = {**run_info(cfg, model, weights=cfg.OUTPUT_DIR, iteration=None), "weights": None, "architecture": _START}
        evaluate_test_sets(cfg, model, info, make_results_folder(cfg.OUTPUT_DIR), num_figures=0, label=_START)
    for label, config in study.networks.items():
        eval_net.main(["--config-file", str(config), "--num-figures", "1", "OUTPUT_DIR", str(_folder(output, label))])
    labels = [*([_CS, _START] if study.compares else []), *study.networks]
    return {label: read_results(_folder(output, label)) for label in labels}


def _draw(study: Study, output: Path, results: Dict[str, Any]) -> List[Path]:
    """Pictures of all methods side by side."""
    labels = [label for label in results if label != _START]
    if len(labels) == 1:
        figures = results[labels[0]]["datasets"][f"{study.name}_test"]["figures"]
        return [_folder(output, labels[0]) / RESULTS_FOLDER / figure for figure in figures]
    compared = output / "compared"
    runs = [str(_folder(output, label)) for label in labels]
    compare.main([*runs, "--labels", *labels, "--output", str(compared)])
    return sorted([*compared.glob("*.png"), *compared.glob("*.gif")])


def _folder(output: Path, label: str) -> Path:
    return output / label.split(",")[0].replace(" ", "-")


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.pig", __doc__)
    parser.add_argument("--images", required=True, metavar="FILE", help="the series, .npz or .npy")
    parser.add_argument("--study", choices=[*STUDIES], default="8x", help="default: %(default)s")
    parser.add_argument("--output", metavar="FOLDER", help="weights, metrics and pictures (default: results/<name>)")
    parser.add_argument("--page", type=Path, default=RESULTS_PAGE, metavar="FILE", help="where the table goes")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.pig``."""
    args = build_parser().parse_args(argv)
    study = STUDIES[args.study]
    output = Path(args.output or f"results/{study.name}")

    check_page(args.page, study.name)
    study.prepare(args.images, str(datasets_root() / study.name))
    train(study, output)
    results = _evaluate(study, output)
    pictures = _draw(study, output, results)
    minutes = {label: training_minutes(_folder(output, label) / "metrics.json") for label in study.networks}
    text = table(results, f"{study.name}_test", minutes)  # refuses results of different data before anything is written
    folder = results_folder(args.page)
    publish_table(study.name, {"training_minutes": minutes, **results}, text, folder, args.page)
    for picture in pictures:
        publish_picture(picture, folder / f"{study.name}{picture.suffix}")


if __name__ == "__main__":
    main()
