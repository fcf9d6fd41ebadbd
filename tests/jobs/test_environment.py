"""The environment variables of a job: what is read, and how mistakes are told."""

import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.environment import MAX_PROCESSES, Environment, in_job, num_local_processes, num_processes
from meddlr_greedy.parallel import training
from tests.helpers.errors import expect_error

VARIABLES = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def set_variables(monkeypatch):
    """set_variables(NAME=value): the variables of a job with some changed; None: missing."""

    def set_variables(**changes):
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        for name, value in {**VARIABLES, **changes}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_variables


def test_variables_are_read(set_variables):
    set_variables()
    assert Environment.read() == Environment(4, 3, 1, "host", 29500, launcher_holds_store=False)
    assert num_processes() == 4 and num_local_processes() == 2 and in_job()
    set_variables(TORCHELASTIC_USE_AGENT_STORE="True", LOCAL_RANK=None, LOCAL_WORLD_SIZE=None)
    assert Environment.read() == Environment(4, 3, 3, "host", 29500, launcher_holds_store=True)
    assert num_local_processes() == 4


def test_without_variables_there_is_one_process(set_variables):
    set_variables(**dict.fromkeys(VARIABLES))
    assert num_processes() == num_local_processes() == 1 and not in_job()


@pytest.mark.parametrize(
    ("name", "found", "line"),
    [
        *(
            ("WORLD_SIZE", found, f"WORLD_SIZE: found '{found}', allowed are whole numbers from 1 to {MAX_PROCESSES}")
            for found in ("four", "0", "-2", "", "1.5", "1_0", "\u0664", "1000000000", "9" * 5000)
        ),
        *(
            (name, found, f"{name}: found '{found}', allowed are whole numbers from {allowed}")
            for name, allowed in (
                ("RANK", "0 to 3"),
                ("LOCAL_RANK", "0 to 1"),
                ("LOCAL_WORLD_SIZE", "1 to 4"),
                ("MASTER_PORT", "1 to 65535"),
            )
            for found in ("abc", "-1", "65536", "2 3", "0x1")
        ),
        ("RANK", "4", "RANK: found '4', allowed are whole numbers from 0 to 3"),
        ("LOCAL_RANK", "2", "LOCAL_RANK: found '2', allowed are whole numbers from 0 to 1"),
        ("LOCAL_WORLD_SIZE", "0", "LOCAL_WORLD_SIZE: found '0', allowed are whole numbers from 1 to 4"),
        ("MASTER_PORT", "0", "MASTER_PORT: found '0', allowed are whole numbers from 1 to 65535"),
        *(
            (name, found, f"{name}: missing, but WORLD_SIZE is 4; start with torchrun")
            for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")
            for found in (None, "", " ")
        ),
    ],
)
def test_mistakes_name_the_variable(set_variables, name, found, line):
    set_variables(**{name: found})
    with pytest.raises(UserError) as error:
        Environment.read()
    assert str(error.value) == " ".join(line.split())


def test_a_mistake_ends_the_command_before_anything_is_done(set_variables, write_config, tmp_path, capsys):
    set_variables(RANK="7")
    expect_error(capsys, write_config(modules=4), words=["RANK: found '7'"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("world_size", "is_said"), [(None, "missing"), ("1", "1")])
@pytest.mark.parametrize("rank", ["1", "abc"])
def test_one_of_several_that_does_not_know_it(set_variables, world_size, is_said, rank):
    """Each would train alone, and all of them into the same folder."""
    set_variables(WORLD_SIZE=world_size, RANK=rank)
    with pytest.raises(UserError, match=f"RANK: found '{rank}', but WORLD_SIZE is {is_said}; allowed is 0"):
        in_job()
    set_variables(WORLD_SIZE=world_size, RANK="0")
    assert not in_job()


@pytest.mark.parametrize("num", ["0", "-1", "1000000"])
def test_number_of_processes_to_start(write_config, tmp_path, capsys, num):
    expect_error(capsys, write_config(modules=4), "--num-gpus", num, words=[f"--num-gpus: found {num}, allowed 1 to"])
    assert not (tmp_path / "run").exists()


def test_processes_without_modules_are_not_started(write_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "launch", None)
    expect_error(capsys, write_config(modules=4), "--num-gpus", "5", words=["NUM_MODULES: found 4", "5 processes"])
    assert not (tmp_path / "run").exists()
