r"""Shows the trained networks that come with the package: their names, or the card of one.

A card tells what a network was trained on and the terms of use of these data, the command that trained it, figures on
data held out, and limits. None is for clinical use.

A name is taken wherever weights are: by --weights of reconstruct and eval, which then need no config, and by the key
MODEL.WEIGHTS, from which a training starts.

Examples::

    meddlr-greedy zoo
    meddlr-greedy zoo cine-phantom-8x
    meddlr-greedy reconstruct --weights zoo://cine-phantom-8x scan.h5 --output results/recon
    meddlr-greedy train --config-file zoo/cine-phantom-8x.yaml MODEL.WEIGHTS zoo://cine-phantom-8x \
        DATASETS.TRAIN "('mine_train',)" DATASETS.VAL "('mine_val',)" OUTPUT_DIR results/mine
"""

from typing import Optional, Sequence

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import exit_with_one_line
from meddlr_greedy.zoo import card, summary, zoo_names

__all__ = ["build_parser", "main"]


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    parser = CommandParser(prog or "python -m meddlr_greedy.show_zoo", __doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the card of this network (default: list all)")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Shows the networks.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.
    """
    args = build_parser(prog).parse_args(argv)
    if args.name is not None:
        print(card(args.name))
        return
    names = zoo_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {summary(name)}")


if __name__ == "__main__":
    main()
