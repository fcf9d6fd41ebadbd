"""Trains a network from a config, greedily or end to end.

On several devices, a greedy network is spread over them: start with --num-gpus N (N processes on this machine; on the
CPU too), or with torchrun on one machine or many.

Example::

    meddlr-greedy train --config-file cine/greedy.yaml OUTPUT_DIR results/cine-greedy
    meddlr-greedy train --config-file cine/greedy.yaml OUTPUT_DIR results/cine-greedy --resume
    meddlr-greedy train --config-file cine/greedy.yaml --num-gpus 4 OUTPUT_DIR results/cine-greedy
    torchrun --nproc-per-node 4 -m meddlr_greedy.train_net --config-file cine/greedy.yaml
"""

import sys
from typing import Any, Optional, Sequence

from meddlr_greedy.arguments import CommandParser, run_parser
from meddlr_greedy.errors import UserError, check, exit_with_one_line
from meddlr_greedy.jobs.end_request import SIGNALS, end_at_once
from meddlr_greedy.jobs.environment import MAX_PROCESSES
from meddlr_greedy.signals import handling_signals

__all__ = ["build_parser", "main"]


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    return run_parser(prog or "python -m meddlr_greedy.train_net", __doc__)


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> Any:
    """Trains.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.

    Returns:
        What the trainer returns.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(prog).parse_args(arguments)
    if args.eval_only:
        raise UserError("--eval-only: use meddlr-greedy eval")
    check(0 < args.num_gpus <= MAX_PROCESSES, "--num-gpus", args.num_gpus, f"1 to {MAX_PROCESSES}")
    with handling_signals(SIGNALS, end_at_once):
        # What needs torch, whose import takes seconds, is imported once the arguments are known to be right.
        from meddlr_greedy.parallel.training import run_training

        return run_training(args, arguments)


if __name__ == "__main__":
    main()
