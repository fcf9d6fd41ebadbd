"""Jobs of the tests: what their processes call, how they are started and what is expected of them."""

import os
import re
import resource
import subprocess
import sys
import time

import pytest
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.jobs import launch as launch_module
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.jobs.local import LocalJob, preload
from meddlr_greedy.train_net import main
from tests import conftest  # noqa: F401 (it imports the mask function of tests.helpers.scans, in every process)
from tests.helpers.runs import PATIENCE_S, ROOT

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
    """The other processes join the job, tell that they have no GPU, and then do nothing."""
    if os.environ["RANK"] == "0":
        main(list(argv))
    else:
        Job.join().exchange("gpu", "null")
        time.sleep(600)  # the test kills it


def call(function, *args):
    """Joins the job, and calls ``function(job, *args)`` with torch.distributed connected."""
    job = Job.join()
    with job.ending_together():
        job.init_process_group("gloo")
        function(job, *args)
        job.finish()


def train_without_end_of_an_iteration(*argv):
    """Each process says so where its first iteration begins, and waits there."""

    def wait(self):
        print("begins", flush=True)
        time.sleep(600)  # the test ends it

    GreedyTrainer.run_step = wait
    main(list(argv))


def setup_without_end(*argv):
    """Says so where the network is built, and waits there."""

    def wait(cls, cfg):
        print("begins", flush=True)
        time.sleep(600)  # the test ends it

    GreedyTrainer.build_model = classmethod(wait)
    main(list(argv))


def train_where_one_has_no_room(has_stderr, *argv):
    """The last process cannot write files of more than a few kB, as where its disk is full."""
    if os.environ["RANK"] == "1":
        if has_stderr:  # through a pipe, which has no size
            cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
            os.dup2(cat.stdin.fileno(), 1)
            os.dup2(cat.stdin.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    main(list(argv))


def wait_for_a_lost_launcher():
    """The launcher is lost after all have joined."""
    job = Job.join()
    with job.ending_together():
        os.getppid = lambda: 1
        time.sleep(600)


def wait_as_another(ranks):
    """Joins as the process that ``ranks`` names in the place of this one."""
    os.environ["RANK"] = ranks[int(os.environ["RANK"])]
    with exit_with_one_line(Job.join)().ending_together():
        time.sleep(600)


def _leave_job():
    """From here on this process is no part of a job: it starts one."""
    for name in ("WORLD_SIZE", "RANK"):
        del os.environ[name]


def launch_in(folder, module, end_s):
    """Starts two processes of a module in ``folder``; they write their numbers there."""
    os.chdir(folder)
    _leave_job()
    launch_module.END_S = end_s
    sys.exit(launch_module.launch(2, [], module))


def train_by_launcher(*argv):
    """The command, which starts its processes itself; the mask is one that they know."""
    _leave_job()
    os.chdir(ROOT)
    main(list(argv))


def train_by_torchrun(*argv):
    """What torchrun does for two processes that it restarts once, but that they are forked: they import nothing."""
    _leave_job()
    options = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "max_restarts": 1, "monitor_interval": 0.1}
    options.update(run_id="run", rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork")
    elastic_launch(LaunchConfig(**options), train_until_killed)(*argv)


def train_until_killed(*argv):
    """The first attempt waits in iteration 8 for what the test does to it."""
    run_step = GreedyTrainer.run_step

    def wait(self):
        if self.iter == 8 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            time.sleep(600)  # the test ends it
        run_step(self)

    GreedyTrainer.run_step = wait
    main(list(argv))


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


def wait_until(condition, job):
    """Waits for what a job does, as long as its processes run."""
    deadline = time.monotonic() + PATIENCE_S
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
