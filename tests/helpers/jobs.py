"""What the processes of the tests' jobs call."""

import os
import time

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.jobs.local import preload
from meddlr_greedy.train_net import main
from tests import conftest  # noqa: F401 (its mask function, in every process)

preload("tests.helpers.jobs")


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
        time.sleep(60)


def call(function, *args):
    """Joins the job, and calls ``function(job, *args)`` with torch.distributed connected."""
    job = Job.join()
    with job.ending_together():
        job.init_process_group("gloo")
        function(job, *args)
        job.finish()


def ended_well(job):
    statuses = job.wait()
    assert statuses == [0] * len(statuses), job.text()[-3000:]


def fail_before_connecting():
    """The last process fails while the first waits for it."""
    job = Job.join()
    with job.ending_together():
        if job.rank == job.world_size - 1:
            raise UserError("the last process does not like it")
        job.init_process_group("gloo")
