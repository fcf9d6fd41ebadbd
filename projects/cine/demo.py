"""The whole way on phantom data: simulate, train greedily, evaluate, draw.

Example::

    python -m projects.cine.demo
"""

import os
from typing import Optional, Sequence

from meddlr_greedy import eval_net, prepare, train_net
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import exit_with_one_line
from projects.cine.paths import CONFIGS


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.demo", __doc__)
    parser.add_argument("--output", default="results/demo", metavar="FOLDER", help="weights, metrics and pictures")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.demo``."""
    args = build_parser().parse_args(argv)
    # It needs torch, whose import takes seconds: only once the arguments are known to be right.
    from meddlr_greedy.data.catalog import datasets_root

    config = ["--config-file", os.path.relpath(CONFIGS / "demo.yaml"), "OUTPUT_DIR", args.output]

    prepare.main(["phantom", "--output", str(datasets_root() / "phantom")])
    train_net.main(["--resume", *config])  # run again, it goes on where it was
    eval_net.main(config)


if __name__ == "__main__":
    main()
