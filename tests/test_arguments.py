"""The command line: flags anywhere, mistakes in one line."""

import itertools

import pytest

from meddlr_greedy.arguments import run_parser

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
