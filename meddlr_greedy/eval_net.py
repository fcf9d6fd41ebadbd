"""Evaluates a trained network on ``DATASETS.TEST``.

Writes to ``OUTPUT_DIR/test_results``: results.json with the metrics of the network and of the zero-filled images, the
metrics of every slice and every subject as CSV, pictures of a few slices and their images (HDF5), from which
``python -m meddlr_greedy.compare`` draws several runs side by side. Prints a short table.

Weights: --weights (or the override MODEL.WEIGHTS), else the best checkpoint in OUTPUT_DIR, else the last (with
--resume: the last), else MODEL.WEIGHTS of the config file.

Example::

    python -m meddlr_greedy.eval_net --config-file configs/cine/greedy.yaml OUTPUT_DIR results/cine-greedy
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from meddlr.config import CfgNode
from meddlr.modeling import build_model
from meddlr.utils import env
from torch import nn

from meddlr_greedy.arguments import run_parser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_val_loader
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer, find_weights
from meddlr_greedy.engine.launch import setup_run
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.evaluation.report import DatasetReport
from meddlr_greedy.evaluation.run import evaluate_dataset, run_info, write_results
from meddlr_greedy.evaluation.tables import RESULTS_FILE, RESULTS_FOLDER


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = run_parser("python -m meddlr_greedy.eval_net", __doc__)
    parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint to evaluate")
    parser.add_argument(
        "--num-figures", type=int, default=2, metavar="N", help="slices to draw per data set (default: 2)"
    )
    parser.set_defaults(eval_only=True)
    args = parser.parse_args(argv)
    if args.num_figures < 0:
        raise UserError(f"--num-figures: found {args.num_figures}, allowed is a number from 0 on")

    cfg = load_config(args.config_file, args.opts)
    register_datasets()
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST: missing; name at least one data set to evaluate on")
    check_dataset_names(cfg.DATASETS.TEST)
    # Before setup_run makes the output folder: a misspelt one stays absent.
    weights = find_weights(
        env.get_path_manager().get_local_path(cfg.OUTPUT_DIR),
        given=args.weights or _override(args.opts, "MODEL.WEIGHTS"),
        fallback=cfg.MODEL.WEIGHTS,
        last=args.resume,
    )
    args.resume = True  # so that setup_run takes the seed, which decides the masks, of the training run
    cfg = setup_run(cfg, args, trains=False)
    folder = make_results_folder(cfg)
    model = build_model(cfg).to(cfg.MODEL.DEVICE)
    checkpointer = GreedyCheckpointer(model, cfg.OUTPUT_DIR)
    info = run_info(cfg, model, weights, checkpointer.load(weights).get("iteration"))
    print(f"weights: {weights}, {info['parameters']} parameters")
    evaluate_test_sets(cfg, model, info, folder, args.num_figures)


def make_results_folder(cfg: CfgNode) -> Path:
    """The folder of results inside ``OUTPUT_DIR``."""
    folder = Path(cfg.OUTPUT_DIR) / RESULTS_FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: {folder} cannot be made: {error.strerror}") from error
    return folder


def evaluate_test_sets(
    cfg: CfgNode, model: nn.Module, info: Dict[str, Any], folder: Path, num_figures: int, label: str = ""
) -> None:
    """Scores, draws and prints ``DATASETS.TEST``; ``info`` goes into the results.

    ``label`` is the method's name in the printed table.
    """
    reports: List[DatasetReport] = []
    for name in cfg.DATASETS.TEST:
        loader = build_val_loader(cfg, name, as_test=True)
        report = evaluate_dataset(cfg, model, loader, name, num_figures)
        report.label = label or report.label
        reports.append(report)
        report.write(folder)
        # After every data set, and before drawing: what is done is kept if a later step fails.
        write_results(folder / RESULTS_FILE, info, reports)
        report.draw(folder)
        write_results(folder / RESULTS_FILE, info, reports)
        print(f"\n{report.as_text()}\n")
        print("\n".join(f"picture: {figure}" for figure in report.figures))
        print(f"per subject: {report.files['subjects']}")
    print(f"results: {folder / RESULTS_FILE}")


def _override(opts: Sequence[str], key: str) -> str:
    """The value of a key among the overrides of the command line, or an empty string."""
    return dict(zip(opts[::2], opts[1::2])).get(key, "")


if __name__ == "__main__":
    main()
