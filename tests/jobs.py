"""What the processes of the tests' jobs call."""

import conftest  # noqa: F401 (its mask function, in every process)

from meddlr_greedy.engine.processes import Job
from meddlr_greedy.train_net import main
from projects.cine.local_job import preload

preload("jobs")


def train(*argv):
    main(list(argv))


def call(function, *args):
    """Joins the job, and calls ``function(job, *args)`` with torch.distributed connected."""
    job = Job.join()
    with job.ending_together():
        job.init_process_group("gloo")
        function(job, *args)
        job.finish()
