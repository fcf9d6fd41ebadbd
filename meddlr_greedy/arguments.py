"""The command line of all commands: flags before and after the overrides of the config, mistakes in one line."""

import argparse
import functools
import re
import sys
from typing import Any, NoReturn, Optional

from meddlr_greedy.errors import did_you_mean, show_tracebacks

__all__ = ["CommandParser", "add_config_arguments", "run_parser"]

# A number that an override may give, however it is written; argparse alone takes "-1e-3" for a flag.
_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


_DEBUG = "print tracebacks of errors (train and eval: also meddlr's debug mode)"


class _ShowTracebacks(argparse.Action):
    """The flag ``--debug``: acts at once, since what follows may be a mistake."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Optional[str] = None) -> None:  # noqa: ARG002
        show_tracebacks()
        setattr(namespace, self.dest, True)


class CommandParser(argparse.ArgumentParser):
    """A parser of a command whose flags stand anywhere, also behind positional arguments.

    Sub-commands have parsers of this class too, and their flags stand anywhere behind the name of the sub-command.

    Args:
        prog: How the command is called, for example ``python -m meddlr_greedy.train_net``.
        description: The text of ``--help``, with an example.
        is_subcommand: Whether it parses what stands behind the name of a sub-command.
        **kwargs: For ``argparse.ArgumentParser``.
    """

    def __init__(
        self, prog: Optional[str] = None, description: Optional[str] = None, is_subcommand: bool = False, **kwargs: Any
    ):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, description=description, allow_abbrev=False, **kwargs)
        self.add_argument(
            "--debug",
            action=_ShowTracebacks,
            nargs=0,
            default=argparse.SUPPRESS if is_subcommand else False,
            help=_DEBUG,
        )
        self._negative_number_matcher = re.compile(f"{_NEGATIVE_NUMBER.pattern}$")
        self._is_subcommand, self._is_mixing = is_subcommand, False

    def add_subparsers(self, **kwargs: Any) -> Any:  # type: ignore[override]
        """Adds sub-commands, whose parsers are of this class."""
        kwargs["parser_class"] = functools.partial(CommandParser, is_subcommand=True)
        return super().add_subparsers(**kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses flags and positional arguments in any order.

        ``parse_args`` and the parsers of commands with sub-commands call it; so it is the one place for this.

        Returns:
            The namespace, and the arguments that are unknown. A sub-command has none: it refuses them itself, since its
            own flags are what a mistyped one is near to.
        """
        # argparse cannot mix the arguments of a command that has sub-commands. The mixing method calls this one.
        if self._subparsers is not None or self._is_mixing:
            return super().parse_known_args(args, namespace)
        self._is_mixing = True
        try:
            namespace, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False
        if unknown and self._is_subcommand:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Ends the command with one line and status 2."""
        near = ""
        if unknown := re.fullmatch(r"unrecognized arguments: (--\S+).*", message):
            near = did_you_mean(unknown[1], self._option_string_actions)
        elif choice := re.fullmatch(r"argument .*: invalid choice: '(.*)' \(choose from (.*)\)", message):
            near = did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2]))
        print(f"error: {message}{near}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--config-file`` and the overrides ``KEY VALUE ...``, which become ``config_file`` and ``opts``."""
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="config: a YAML file, or a name such as cine/greedy.yaml"
    )
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="overrides of the config, for example SOLVER.MAX_ITER 100"
    )


def run_parser(prog: Optional[str] = None, description: Optional[str] = None, trains: bool = True) -> CommandParser:
    """A parser with the flags of meddlr's train_net and eval_net.

    Args:
        prog: How the command is called.
        description: The text of ``--help``.
        trains: Whether the command trains; of another one the help leaves out what is of a training alone.
    """
    resume = (
        "continue from the last checkpoint in OUTPUT_DIR" if trains else "take the last checkpoint, not the best one"
    )
    restart = "with --resume: count iterations from 0 again"
    processes = "processes on this machine (default: 1)"
    repro = "set all seeds and make cuDNN deterministic (meddlr's reproducible mode)"
    parser = CommandParser(prog, description)
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.add_argument("--restart-iter", action="store_true", help=restart if trains else argparse.SUPPRESS)
    parser.add_argument("--eval-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help=processes if trains else argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, nargs=1, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--reproducible", "--repro", action="store_true", help=repro)
    parser.add_argument("--auto-version", action="store_true", help="make a numbered folder inside of OUTPUT_DIR")
    return parser
