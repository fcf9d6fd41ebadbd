"""Evaluates a trained network on ``DATASETS.TEST``.

Writes to ``OUTPUT_DIR/test_results``: results.json with the metrics of the network and of the zero-filled images, the
metrics of every slice and every subject as CSV, pictures of a few slices and their images (HDF5), from which
``meddlr-greedy compare`` draws several runs side by side; and report.html, these slices and metrics to look at in a
browser (it opens from disk, without network). Prints a short table.

Config: --config-file, else the config.yaml beside the weights; then OUTPUT_DIR is the folder of the weights. One found
there may not name packages to import (MISC.GREEDY.RUN.IMPORTS): give it by --config-file, if you trust it.

Weights: --weights (or the override MODEL.WEIGHTS), else the best checkpoint in OUTPUT_DIR, else the last (with
--resume: the last), else MODEL.WEIGHTS of the config file. Trained networks come with the package (meddlr-greedy zoo):
zoo://NAME is the weights of one, with its config; give DATASETS.TEST and OUTPUT_DIR of your own.

Examples::

    meddlr-greedy eval --config-file cine/greedy.yaml OUTPUT_DIR results/cine-greedy
    meddlr-greedy eval --weights results/cine-greedy/model_best.pth DATASETS.TEST "('phantom_test',)"
    meddlr-greedy eval --weights zoo://cine-phantom-8x DATASETS.TEST "('phantom_test',)" OUTPUT_DIR results/phantom-8x
"""

from typing import Optional, Sequence

from meddlr_greedy.arguments import CommandParser, run_parser
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.zoo import zoo_names

__all__ = ["build_parser", "main"]


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    parser = run_parser(prog or "python -m meddlr_greedy.eval_net", __doc__, trains=False)
    parser.add_argument(
        "--weights", default="", metavar="FILE", help=f"checkpoint to evaluate, or one of {', '.join(zoo_names())}"
    )
    parser.add_argument(
        "--num-figures", type=int, default=2, metavar="N", help="slices to draw per data set (default: 2)"
    )
    parser.set_defaults(eval_only=True)
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Evaluates a network.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.
    """
    args = build_parser(prog).parse_args(argv)
    if args.num_figures < 0:
        raise UserError(f"--num-figures: found {args.num_figures}, allowed is a number from 0 on")
    # What needs torch, whose import takes seconds, is imported once the arguments are known to be right.
    from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
    from meddlr_greedy.engine.run_files import find_weights, load_network, load_run_config
    from meddlr_greedy.engine.setup import check_axes, output_dir, setup_run
    from meddlr_greedy.evaluation.run import evaluate_test_sets, make_results_folder, run_info
    from meddlr_greedy.modeling.contract import check_keys_of_network

    given = args.weights or _override(args.opts, "MODEL.WEIGHTS")
    cfg = load_run_config(args.config_file, given, args.opts)
    check_keys_of_network(cfg)
    register_datasets()
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST: missing; name at least one data set to evaluate on")
    check_dataset_names(cfg.DATASETS.TEST)
    check_axes(cfg, "TEST")
    # Before folders are made: a misspelled one stays absent.
    weights = find_weights(output_dir(cfg), given, fallback=cfg.MODEL.WEIGHTS, last=args.resume)
    folder = make_results_folder(output_dir(cfg))
    args.resume = True  # so that setup_run takes the seed, which decides the masks, of the training run
    cfg = setup_run(cfg, args, trains=False)
    model, iteration = load_network(cfg, weights, args.config_file)
    info = run_info(cfg, model, weights, iteration)
    print(f"weights: {weights}, {info['parameters']} parameters")
    evaluate_test_sets(cfg, model, info, folder, args.num_figures)


def _override(opts: Sequence[str], key: str) -> str:
    """The value of a key among the overrides of the command line, or an empty string."""
    return dict(zip(opts[::2], opts[1::2])).get(key, "")


if __name__ == "__main__":
    main()
