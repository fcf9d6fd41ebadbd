"""The command ``meddlr-greedy``: trains, evaluates and uses unrolled MRI reconstruction networks.

Commands:

  prepare       make a data set: from a phantom, from images, or from the files of a scanner
  plan          predict the memory of a training step, without a GPU
  train         train a network from a config, greedily or end to end
  eval          evaluate a trained network
  compare       compare evaluated runs
  reconstruct   reconstruct scans with a trained network
  zoo           show the trained networks that come with the package

meddlr-greedy COMMAND --help tells more of each. A config is a file of your own, or one that comes with the package.

Example::

    meddlr-greedy prepare phantom --output datasets/phantom
    meddlr-greedy train --config-file cine/demo.yaml OUTPUT_DIR results/my_run
    meddlr-greedy eval --weights results/my_run/model_best.pth
"""

import importlib
import sys
from typing import Optional, Sequence

from meddlr_greedy import __version__
from meddlr_greedy.arguments import CommandParser

__all__ = ["COMMANDS", "main"]

#: The module of each command, imported when the command is called.
COMMANDS = {
    "prepare": "meddlr_greedy.prepare",
    "plan": "meddlr_greedy.plan",
    "train": "meddlr_greedy.train_net",
    "eval": "meddlr_greedy.eval_net",
    "compare": "meddlr_greedy.compare",
    "reconstruct": "meddlr_greedy.reconstruct",
    "zoo": "meddlr_greedy.show_zoo",
}

_PROG = "meddlr-greedy"


def build_parser() -> CommandParser:
    """The parser of the first argument; those that follow are for the command."""
    parser = CommandParser(_PROG, __doc__, usage=f"{_PROG} COMMAND ...")
    parser.add_argument("--version", action="version", version=f"{_PROG} {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of those above")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Runs a command.

    Args:
        argv: The command and its arguments; default: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = build_parser().parse_args(arguments[:1]).command
    importlib.import_module(COMMANDS[command]).main(arguments[1:], prog=f"{_PROG} {command}")
