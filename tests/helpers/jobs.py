"""Jobs of the tests: what their processes call, how they are started and what is expected of them."""

import os
import re
import time

import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.jobs.local import LocalJob, preload
from meddlr_greedy.train_net import main
from tests import conftest  # noqa: F401 (it imports the mask function of tests.helpers.scans, in every process)

preload("tests.helpers.jobs")

# An evaluation and a checkpoint in between, and a learning rate that changes.
OPTS = [
    *("SOLVER.MAX_ITER", "7", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "4"),
    *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "MISC.GREEDY.RUN.LOG_PERIOD", "2"),
]
# A cine network that several processes can share.
CINE = {"data": "beat", "arch": "CineUnrolledCNN", "modules": 4}


def opts_with(**changes):
    """``OPTS`` with other values for some keys."""
    values = {**dict(zip(OPTS[::2], OPTS[1::2])), **changes}
    return [text for pair in values.items() for text in map(str, pair)]


def endless(write_config, tmp_path, name="run"):
    """A config of a training that does not end by itself, and its overrides."""
    config = write_config(**CINE, out=tmp_path / name)
    return config, opts_with(**{"SOLVER.MAX_ITER": 100000, "MISC.GREEDY.RUN.LOG_PERIOD": 1})


# ---- what the processes call


def train(*argv):
    main(list(argv))


def train_in_folder_of_rank(config, folder):
    """Only the first process sees the run."""
    rank = os.environ["RANK"]
    train("--config-file", config, "--resume", "OUTPUT_DIR", folder if rank == "0" else f"{folder}-of-rank-{rank}")


def train_first_alone(*argv):
    """The other processes join the job, and then do nothing."""
    if os.environ["RANK"] == "0":
        main(list(argv))
    else:
        Job.join()
        time.sleep(600)  # the test kills it


def call(function, *args):
    """Joins the job, and calls ``function(job, *args)`` with torch.distributed connected."""
    job = Job.join()
    with job.ending_together():
        job.init_process_group("gloo")
        function(job, *args)
        job.finish()


def fail_before_connecting():
    """The last process fails while the first waits for it."""
    job = Job.join()
    with job.ending_together():
        if job.rank == job.world_size - 1:
            raise UserError("refused")
        job.init_process_group("gloo")


# ---- in the tests


@pytest.fixture
def start_job(tmp_path):
    """start_job(num, function, *args, **options): a :class:`LocalJob`, which is killed when the test ends."""
    started = []

    def start_job(num, function, *args, **options):
        started.append(LocalJob(num, function, args, tmp_path / f"job{len(started)}.txt", **options))
        return started[-1]

    yield start_job
    for job in started:
        job.kill()


@pytest.fixture
def start(start_job):
    """start(num, config, *opts): trains in ``num`` processes."""
    return lambda num, config, *opts: start_job(num, train, "--config-file", str(config), *opts)


def wait_until(condition, job, seconds=120):
    """Waits for what a job does, as long as its processes run."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert any(process.is_alive() for process in job.processes) or condition(), job.text()[-3000:]
        assert time.monotonic() < deadline, job.text()[-3000:]
        time.sleep(0.005)


def ended_well(job):
    statuses = job.wait()
    assert statuses == [0] * len(statuses), job.text()[-3000:]


def modules_of(rank):
    return rf"rank {rank} \(modules? \d"


def assert_one_line(text, pattern):
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and re.search(pattern, errors[0]), text[-3000:]
