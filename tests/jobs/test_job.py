"""How the processes of a job end: together, in one line, and without losing anything."""

import os
import random
import signal
import time

import pytest

from meddlr_greedy.jobs.store import JOIN_S, KeyValueStore
from meddlr_greedy.train_net import main as train_main
from tests.helpers import jobs
from tests.helpers.jobs import CINE, assert_one_line, ended_well, endless, modules_of, opts_with, wait_until
from tests.helpers.runs import assert_same_training, load, metrics

# Shorter than any time that a process waits for one that does not come.
SOON_S = JOIN_S / 2


def test_exception_ends_all(write_config, tmp_path, start):
    config, opts = endless(write_config, tmp_path)
    job = start(2, config, *opts, "DATASETS.VAL", "('beat_missing',)")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "beat_missing")


def test_a_process_that_fails_before_the_others_are_connected_ends_them(start_job):
    """The first process waits inside torch for the one that has failed."""
    job = start_job(3, jobs.fail_before_connecting)
    assert job.wait() == [2, 2, 2], job.text()
    assert_one_line(job.text(), "rank 2: refused")


def test_keys_of_an_earlier_attempt_are_no_failure(write_config, tmp_path, start_job):
    """Machines that restart because another one failed do not count it: the next attempt finds the same store."""
    config, opts = endless(write_config, tmp_path)
    argv = ("--config-file", str(config), "--resume", *opts)
    first = start_job(2, jobs.train, *argv)
    wait_until((tmp_path / "run" / "last_checkpoint").exists, first)
    first.kill()
    iteration = load(tmp_path / "run" / (tmp_path / "run" / "last_checkpoint").read_text())["iteration"]
    argv = (*argv[:3], *opts_with(**{"SOLVER.MAX_ITER": iteration + 3}))
    ended_well(start_job(2, jobs.train, *argv, store=first.store))


def test_a_signal_while_waiting_for_the_others(write_config, start_job):
    job = start_job(2, jobs.train_first_alone, "--config-file", str(write_config(modules=4)))
    # The last thing that happens before the first process waits inside torch.
    wait_until(lambda: KeyValueStore(job.store).current_attempt().read("exchanged/gpu/1"), job)
    os.kill(job.processes[0].pid, signal.SIGTERM)
    job.processes[0].join(60)
    assert job.processes[0].exitcode == os.EX_TEMPFAIL, job.text()[-3000:]


@pytest.mark.parametrize("victim", [0, 1])
def test_the_first_process_holds_the_store(write_config, tmp_path, start_job, victim):
    """As under a scheduler alone, or an older torchrun: one line all the same, and soon."""
    config, opts = endless(write_config, tmp_path)
    job = start_job(3, jobs.train, "--config-file", str(config), *opts, agent_store=False)
    wait_until((tmp_path / "run" / "last_checkpoint").exists, job)
    job.processes[victim].kill()
    statuses = job.wait(SOON_S)
    assert statuses[victim] == -signal.SIGKILL and 0 not in statuses
    assert_one_line(job.text(), rf"rank {victim}\b.*lost")
    assert "Traceback" not in job.text()


def test_a_lost_launcher_is_told_of_once(start_job):
    """By processes that have joined; those that import end with it."""
    job = start_job(2, jobs.wait_for_a_lost_launcher)
    assert job.wait() == [1, 1]
    assert_one_line(job.text(), r"the launcher \(process \d+\): lost")


def test_a_lost_store_of_the_launcher_is_told_of_once(write_config, tmp_path, start):
    config, opts = endless(write_config, tmp_path)
    job = start(2, config, *opts)
    wait_until((tmp_path / "run" / "last_checkpoint").exists, job)
    job.store = None
    assert job.wait(SOON_S) == [1, 1]
    assert_one_line(job.text(), "the launcher: lost, with the job's store")


@pytest.mark.parametrize("ranks", ["011", "002"])
def test_two_processes_of_one_rank(start_job, ranks):
    job = start_job(3, jobs.wait_as_another, ranks)
    assert job.wait(SOON_S) == [2, 2, 2], job.text()
    assert_one_line(job.text(), f"RANK: found {ranks[1]} in two processes")


@pytest.mark.parametrize("is_told", [True, False])
def test_no_room_in_the_process_that_writes(write_config, tmp_path, start_job, is_told):
    """Where stderr is on the full disk, too, nothing can be told; all end nevertheless."""
    config, opts = endless(write_config, tmp_path)
    job = start_job(2, jobs.train_where_one_has_no_room, is_told, "--config-file", str(config), *opts)
    statuses = job.wait(SOON_S)
    assert statuses[0] == statuses[1] != 0
    if is_told:
        assert_one_line(job.text(), r"rank 1\b.*(cannot be written|write failed)")
    assert not (tmp_path / "run" / "last_checkpoint").exists() and not list((tmp_path / "run").glob(".partial-*"))


def kill_and_resume(write_config, tmp_path, start, rng, number):
    """Kills a random process at a random moment: a clean end, and the same bits when resumed."""
    victim, num = rng.randrange(3), 3
    iteration, delay = rng.randrange(0, 30), rng.random() / 5
    opts = opts_with(**{"SOLVER.MAX_ITER": 40, "SOLVER.CHECKPOINT_PERIOD": 4, "MISC.GREEDY.RUN.LOG_PERIOD": 1})
    opts += ["MODEL.UNROLLED.DROPOUT", "0.1"]
    if not (tmp_path / "whole").exists():
        train_main(["--config-file", str(write_config(**CINE, out=tmp_path / "whole")), *opts])
    run = tmp_path / f"killed{number}"
    config = write_config(**CINE, out=run)
    job = start(num, config, *opts)
    log = run / "metrics.json"
    wait_until(lambda: log.exists() and log.read_text().count("\n") > iteration, job)
    time.sleep(delay)
    killed = job.processes[victim]
    was_running = killed.is_alive()
    killed.kill()
    began = time.monotonic()
    statuses = job.wait(SOON_S)
    assert time.monotonic() - began < SOON_S
    if was_running and statuses[victim] == -signal.SIGKILL:
        survivors = [status for rank, status in enumerate(statuses) if rank != victim]
        # A process that had already done everything may have ended well.
        if any(survivors):
            assert_one_line(job.text(), modules_of(victim) + r".*lost")
    ended_well(start(num, config, "--resume", *opts))
    assert_same_training(tmp_path / "whole" / "model_final.pth", run / "model_final.pth")
    assert not list(run.glob(".partial-*")), "half-written"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.stress)])
def test_killed_process(write_config, tmp_path, start, kills):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the kills: {seed}")  # shown where the test fails
    rng = random.Random(seed)
    for number in range(kills):
        kill_and_resume(write_config, tmp_path, start, rng, number)


@pytest.mark.parametrize(
    ("number", "rank"), [(signal.SIGUSR1, 0), (signal.SIGTERM, 1), (signal.SIGINT, None)], ids=lambda value: str(value)
)
def test_signal_ends_all_after_the_same_iteration(write_config, tmp_path, start, number, rank):
    config, opts = endless(write_config, tmp_path)
    job = start(2, config, *opts)
    run = tmp_path / "run"
    wait_until((run / "last_checkpoint").exists, job)
    for process in job.processes if rank is None else [job.processes[rank]]:
        os.kill(process.pid, number)
    assert job.wait() == [os.EX_TEMPFAIL] * 2, job.text()[-3000:]
    assert_one_line(job.text(), f"{number.name} received")
    name = (run / "last_checkpoint").read_text()
    iteration = load(run / name)["iteration"]
    assert name in job.text() and metrics(run)[-1]["iteration"] == iteration
    again = opts_with(**{"SOLVER.MAX_ITER": iteration + 3})
    ended_well(start(2, config, "--resume", *again))


def test_a_second_ctrl_c_ends_all_at_once(write_config, tmp_path, start_job):
    config, opts = endless(write_config, tmp_path)
    job = start_job(2, jobs.train_without_end_of_an_iteration, "--config-file", str(config), *opts)
    wait_until(lambda: job.text().count("begins") == 2, job)
    for _ in range(2):
        for process in job.processes:
            os.kill(process.pid, signal.SIGINT)
        time.sleep(2)  # the watch reads them one after the other
    assert job.wait(SOON_S) == [128 + signal.SIGINT] * 2, job.text()[-3000:]
    assert_one_line(job.text(), "SIGINT received twice")
