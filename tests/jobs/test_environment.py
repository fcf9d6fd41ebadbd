"""The environment variables of a job: what is read, and how mistakes are told."""

import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.environment import Environment, in_job, num_local_processes, num_processes

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
        ("WORLD_SIZE", "four", "WORLD_SIZE: found 'four', allowed are whole numbers from 1"),
        ("WORLD_SIZE", "0", "WORLD_SIZE: found '0', allowed are whole numbers from 1"),
        ("RANK", None, "RANK: missing, but WORLD_SIZE is 4; start with torchrun"),
        ("RANK", "4", "RANK: found '4', allowed are whole numbers from 0 to 3"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK: found '-1', allowed are whole numbers from 0 to 3"),
        ("MASTER_ADDR", "", "MASTER_ADDR: missing, but WORLD_SIZE is 4; start with torchrun"),
        ("MASTER_PORT", None, "MASTER_PORT: missing, but WORLD_SIZE is 4; start with torchrun"),
        ("MASTER_PORT", "http", "MASTER_PORT: found 'http', allowed are whole numbers from 1 to 65535"),
    ],
)
def test_mistakes_name_the_variable(set_variables, name, found, line):
    set_variables(**{name: found})
    with pytest.raises(UserError) as error:
        Environment.read()
    assert str(error.value) == line


def test_more_processes_here_than_anywhere(set_variables):
    set_variables(LOCAL_WORLD_SIZE="5")
    with pytest.raises(UserError, match="LOCAL_WORLD_SIZE: found '5', allowed are whole numbers from 1 to 4"):
        num_local_processes()
