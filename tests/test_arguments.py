"""The command line: flags anywhere, mistakes in one line."""

import importlib
import itertools

import pytest

from meddlr_greedy.arguments import CommandParser, run_parser
from meddlr_greedy.errors import UserError, exit_with_one_line

FLAGS = [["--config-file", "F"], ["--resume"], ["--num-gpus", "2"]]
OVERRIDES = [["OUTPUT_DIR", "X"], ["MODEL.UNROLLED.STEP_SIZES", "-1e-3"], ["SOLVER.WARMUP_FACTOR", "-.5"]]


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_flags_stand_before_between_and_after_overrides(order):
    parts = [FLAGS[0], FLAGS[1] + FLAGS[2], OVERRIDES[0], OVERRIDES[1] + OVERRIDES[2]]
    args = run_parser("train").parse_args(sum((parts[i] for i in order), []))
    assert (args.config_file, args.resume, args.num_gpus) == ("F", True, 2)
    found = dict(zip(args.opts[::2], args.opts[1::2]))
    assert found == {"OUTPUT_DIR": "X", "MODEL.UNROLLED.STEP_SIZES": "-1e-3", "SOLVER.WARMUP_FACTOR": "-.5"}


@pytest.mark.parametrize(
    "argv, said",
    [
        (["OUTPUT_DIR", "X", "--resum"], "unrecognized arguments: --resum; did you mean '--resume'?"),
        (["--num-gpus", "two"], "argument --num-gpus: invalid int value: 'two'"),
    ],
)
def test_mistakes_are_one_line(argv, said, capsys):
    with pytest.raises(SystemExit) as end:
        run_parser("train").parse_args(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {said}; see train --help\n"


# Of each command: two groups of flags, two groups of positional arguments, and what is parsed of each.
COMMANDS = {
    "train_net": ([], ["--config-file", "F", "--resume"], ["--num-gpus", "2"], ["A", "-1e-3"], ["B", "1"]),
    "eval_net": ([], ["--config-file", "F"], ["--num-gpus", "2"], ["A", "-1e-3"], ["B", "1"]),
    "compare": ([], ["--output", "O"], ["--unit", "subject"], ["a"], ["b", "c"]),
    "reconstruct": ([], ["--config-file", "F"], ["--output", "O", "--modules", "1"], ["a"], ["b", "c"]),
    "plan": ([], ["--config-file", "F"], ["--memory", "10"], ["A", "-1e-3"], ["B", "1"]),
    "prepare phantom": (["phantom"], ["--output", "O"], ["--noise", "0.5", "--subjects", "4"], [], []),
    "prepare images": (["images"], ["--output", "O"], ["--matrix", "8", "9", "--overwrite"], ["a"], ["b", "c"]),
    "prepare ismrmrd": (["ismrmrd"], ["--output", "O"], ["--split", "1", "1", "0"], ["a"], ["b", "c"]),
    "prepare cmrxrecon": (["cmrxrecon"], ["--output", "O"], ["--jobs", "2"], ["a"], ["b", "c"]),
}


def _parser(name):
    return importlib.import_module(f"meddlr_greedy.{name.split()[0]}").build_parser()


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_of_every_command_stand_anywhere(name):
    subcommand, *parts = COMMANDS[name]
    expected = vars(_parser(name).parse_args([*subcommand, *sum(parts, [])]))
    assert any(value == parts[2] + parts[3] for value in expected.values()) or not parts[3]
    expected.pop("reader", None)
    for order in itertools.permutations(range(4)):
        if order.index(2) < order.index(3):
            found = vars(_parser(name).parse_args([*subcommand, *sum((parts[i] for i in order), [])]))
            found.pop("reader", None)
            assert found == expected, order


def _with_subcommands():
    parser = CommandParser("tool")
    parser.add_argument("--verbose", action="store_true")
    command = parser.add_subparsers(dest="command", required=True).add_parser("run")
    command.add_argument("files", nargs="+")
    command.add_argument("--output", required=True)
    command.add_argument("--scale", type=float)
    return parser


@pytest.mark.parametrize("line", ["a b --output x --scale -1e-3", "--output x a --scale -1e-3 b"])
def test_flags_of_a_subcommand_stand_anywhere(line):
    found = vars(_with_subcommands().parse_args(["--verbose", "run", *line.split()]))
    assert found.pop("debug") is False
    assert found == {"verbose": True, "command": "run", "files": ["a", "b"], "output": "x", "scale": -1e-3}


@pytest.mark.parametrize("line", ["a --output x --scal 2", "--scal 2 a --output x", "a --scal 2 b --output x"])
def test_a_mistyped_flag_of_a_subcommand_is_one_line(line, capsys):
    with pytest.raises(SystemExit) as end:
        _with_subcommands().parse_args(["run", *line.split()])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert "error: unrecognized arguments: --scal" in error and "did you mean '--scale'?; see tool run --help" in error


@pytest.mark.parametrize("line", [["--debug", "run", "a", "--output", "x"], ["run", "a", "--output", "x", "--debug"]])
def test_debug_shows_tracebacks_before_and_behind_a_subcommand(line, capsys):
    @exit_with_one_line
    def main(arguments):
        assert vars(_with_subcommands().parse_args(arguments))["debug"] == ("--debug" in arguments)
        raise UserError("x: found 1, allowed 2") from KeyError("the cause")

    for arguments in (line, [word for word in line if word != "--debug"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.endswith("error: x: found 1, allowed 2\n")
        assert ("Traceback" in error and "KeyError: 'the cause'" in error) == ("--debug" in arguments)
