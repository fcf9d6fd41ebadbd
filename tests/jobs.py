"""Jobs of several real processes for the tests, forked from a server that has imported everything: a fast start."""

import contextlib
import multiprocessing
import os
import time

import conftest  # noqa: F401 (its mask function, in every process)
import torch
import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["jobs", "meddlr_greedy.train_net"])


def _run(function, environment, output, args):
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.setpgrp()
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in a process from the command line
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*args)


class TestJob:
    """``num`` processes that each call ``function(*args)`` in the environment of a job."""

    __test__ = False

    def __init__(self, num, function, args, output):
        self.output = output
        # The store outlives the processes, as torchrun's does.
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {
            **{key: value for key, value in os.environ.items() if key.startswith("MEDDLR")},
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(num),
            "LOCAL_WORLD_SIZE": str(num),
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.processes = []
        for rank in range(num):
            of_rank = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = _CONTEXT.Process(target=_run, args=(function, of_rank, str(output), args))
            process.start()
            self.processes.append(process)

    def text(self):
        with contextlib.suppress(FileNotFoundError), open(self.output) as file:
            return file.read()
        return ""

    def wait(self, seconds=90):
        """The exit status of each process; kills those that hang."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            process.kill()
            process.join()
        assert not hung, f"ranks {hung} hung\n{self.text()[-3000:]}"
        return [process.exitcode for process in self.processes]


def train(*argv):
    from meddlr_greedy.train_net import main

    main(list(argv))


def call(function, *args):
    """Joins the job, and calls ``function(job, *args)`` with torch.distributed connected."""
    from meddlr_greedy.engine.processes import Job

    job = Job.join()
    with job.ending_together():
        job.init_process_group("gloo")
        function(job, *args)
        job.finish()
