"""Parallel greedy learning in real processes, against one process."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs import job as processes
from meddlr_greedy.jobs.local import LocalJob
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.parallel.channel import Receiver, Sender
from meddlr_greedy.parallel.partition import balanced_partition, measure_modules
from meddlr_greedy.parallel.place import Place
from meddlr_greedy.parallel.trainer import ParallelGreedyTrainer
from meddlr_greedy.train_net import main as train_main
from tests.helpers import jobs
from tests.helpers.jobs import ended_well
from tests.helpers.runs import ROOT, assert_same_training, load, metrics, wait_for

# An evaluation and a checkpoint in between, and a learning rate that changes.
OPTS = [
    *("SOLVER.MAX_ITER", "7", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "4"),
    *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "MISC.GREEDY.RUN.LOG_PERIOD", "2"),
]
CG = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)"]
KNOBS = [
    *("MISC.GREEDY.CHECKPOINT", "True", "MISC.GREEDY.AMP", "bf16", "MISC.GREEDY.CLIP_NORM", "0.01"),
    *("MISC.GREEDY.LR_FACTORS", "[0.5, 1, 2, 3]", "MISC.GREEDY.LOSS_WEIGHTS", "[0.1, 0.3, 0.7, 1.1]"),
    *("SOLVER.GRAD_ACCUM_ITERS", "3", "MODEL.UNROLLED.DROPOUT", "0.2"),
]
# What needs the whole network in each process.
REACH = ["MISC.GREEDY.OVERLAP", "1"]


def opts_with(**changes):
    """``OPTS`` with other values for some keys."""
    values = {**dict(zip(OPTS[::2], OPTS[1::2])), **changes}
    return [text for pair in values.items() for text in map(str, pair)]


@pytest.fixture
def start(tmp_path):
    """start(num, config, *opts): trains in ``num`` processes."""
    started = []

    def start(num, config, *opts):
        argv = ("--config-file", str(config), *opts)
        job = LocalJob(num, jobs.train, argv, tmp_path / f"job{len(started)}.txt")
        started.append(job)
        return job

    yield start
    for job in started:
        job.kill()


# ---- the same bits as one process


@pytest.mark.parametrize(
    ("data", "arch", "opts", "runs"),
    [
        ("beat", "CineUnrolledCNN", ["MODEL.UNROLLED.DROPOUT", "0.2"], {2: [], 3: [], 4: []}),
        (
            "flat",
            "GeneralizedUnrolledCNN",
            ["SOLVER.GRAD_ACCUM_ITERS", "3", "MODEL.UNROLLED.DROPOUT", "0.2", "VIS_PERIOD", "2"],
            {2: ["MISC.GREEDY.PARALLEL.PARTITION", "[1, 3]"], 4: ["MISC.GREEDY.PARALLEL.BATCHES_IN_FLIGHT", "1"]},
        ),
        ("flat", "CGUnrolledCNN", CG, {3: ["MISC.GREEDY.PARALLEL.PARTITION", "[2, 1, 1]"]}),
        ("beat", "CGCineUnrolledCNN", [*CG, "DATALOADER.NUM_WORKERS", "1"], {2: []}),
        ("beat", "CineUnrolledCNN", KNOBS, {2: []}),
    ],
)
def test_same_bits_as_one_process(write_config, tmp_path, start, data, arch, opts, runs):
    def config(name):
        return write_config(data=data, arch=arch, modules=4, out=tmp_path / name)

    train_main(["--config-file", str(config("one")), *OPTS, *opts])
    for num, extra in runs.items():
        ended_well(start(num, config(f"{num}"), *OPTS, *opts, *extra))
        for name in ("model_final.pth", "model_best.pth", "model_0000002.pth"):
            assert_same_training(tmp_path / "one" / name, tmp_path / f"{num}" / name)
        one, many = metrics(tmp_path / "one"), metrics(tmp_path / f"{num}")
        assert [line["iteration"] for line in one] == [line["iteration"] for line in many]
        for line, other in zip(one, many):
            measured = {key: value for key, value in line.items() if "time" not in key and "seconds" not in key}
            same = {key: other.get(key) for key in measured}
            # Of memory, a process sees its own batch too.
            without = [key for key in measured if key.endswith("memory_mb")]
            assert {**same, **dict.fromkeys(without)} == {**measured, **dict.fromkeys(without)}
            for rank in range(num):
                assert 0 <= other[f"rank_{rank}/idle_share"] <= 1 and other[f"rank_{rank}/batches_per_s"] > 0


def test_resuming_on_other_numbers_of_processes(write_config, tmp_path, start):
    opts = [*OPTS, "MODEL.UNROLLED.DROPOUT", "0.2", "SOLVER.GRAD_ACCUM_ITERS", "2"]
    config = write_config(data="beat", arch="CineUnrolledCNN", modules=4, out=tmp_path / "whole")
    train_main(["--config-file", str(config), *opts])
    parts = write_config(data="beat", arch="CineUnrolledCNN", modules=4, out=tmp_path / "parts")
    run = tmp_path / "parts"
    # Each part ends in the middle of an accumulation window.
    for num, last in ((4, 2), (1, 4), (2, 6)):
        every = ["SOLVER.CHECKPOINT_PERIOD", "1", "MISC.GREEDY.RUN.KEEP_CHECKPOINTS", "0"]
        ended_well(start(num, parts, "--resume", *opts, *every))
        if last < 6:
            (run / "model_final.pth").unlink()
            (run / "last_checkpoint").write_text(f"model_000000{last}.pth")
            for later in range(last + 1, 7):
                (run / f"model_000000{later}.pth").unlink()
    assert_same_training(tmp_path / "whole" / "model_final.pth", run / "model_final.pth")
    assert [line["iteration"] for line in metrics(run)] == [line["iteration"] for line in metrics(tmp_path / "whole")]


@pytest.mark.parametrize(
    ("num", "replicas", "extra"), [(4, 2, []), (2, 2, []), (2, 2, [*REACH, "MISC.GREEDY.CLIP_NORM", "0.01"])]
)
def test_replicas_average_to_one_process(write_config, make_cfg, tmp_path, start, num, replicas, extra):
    of_kind = {"data": "beat", "arch": "CineUnrolledCNN", "modules": 4}
    # Not from zero biases: a difference in the last bits is no small part of what they become in a few steps of Adam.
    torch.manual_seed(0)
    weights = {
        key: value + 0.1 * torch.randn_like(value)
        for key, value in build_model(make_cfg(**of_kind)).state_dict().items()
    }
    torch.save({"model": weights}, tmp_path / "start.pth")
    opts = [*OPTS, *extra, "SOLVER.TRAIN_BATCH_SIZE", "4", "SOLVER.GRAD_ACCUM_ITERS", "2"]
    opts += ["MODEL.WEIGHTS", str(tmp_path / "start.pth")]
    train_main(["--config-file", str(write_config(**of_kind, out=tmp_path / "one")), *opts])
    config = write_config(**of_kind, out=tmp_path / "many")
    ended_well(start(num, config, *opts, "MISC.GREEDY.PARALLEL.REPLICAS", str(replicas)))
    a, b = (load(tmp_path / run / "model_final.pth")["model"] for run in ("one", "many"))
    for name in a:
        assert not torch.equal(a[name], weights[name]), "trained nothing"
        assert (a[name] - b[name]).norm() <= 1e-6 * a[name].norm(), name
    for line, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "many")):
        assert other["loss_module_1"] == pytest.approx(line["loss_module_1"], rel=1e-5)
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert all(f"rank_{rank}/wait_s" in other for rank in range(num))


# ---- what lives in a process


@pytest.mark.parametrize("num", [2, 4])
def test_a_process_holds_its_share(make_cfg, batch_of, num):
    cfg = make_cfg(["MODEL.UNROLLED.NUM_UNROLLED_STEPS", 8, "MODEL.UNROLLED.NUM_FEATURES", 16], modules=8)
    whole = build_model(cfg).train()
    batch = batch_of(cfg)

    def sizes(model, batch):
        optimizer = torch.optim.Adam(model.parameters())
        with HeldForBackward(exclude=[*model.parameters(), *batch.values()]) as held:
            outputs = model(batch)
            loss = complex_l1(outputs["pred"], outputs["target"])
        loss.backward()
        optimizer.step()
        values = [*model.parameters(), *(v for state in optimizer.state.values() for v in state.values())]
        return sum(v.nbytes for v in values), held.peak_bytes, outputs

    share, held, _ = sizes(whole, batch)
    for rank in range(num):
        model = build_model(cfg).train()
        model.keep_modules(range(rank * 8 // num, (rank + 1) * 8 // num))
        own_share, own_held, outputs = sizes(model, {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)})
        assert own_share <= 1.1 * share / num
        assert own_held <= 1.1 * held
        if not model.unrolled.holds_last:
            batch = outputs["problem"].handed_on(outputs["pred"])
            batch = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor) or k == "dims"}
            batch["dims"] = torch.tensor(batch["dims"])
            assert "kspace" not in batch


@pytest.fixture
def batch_of():
    def load(cfg):
        batch = next(iter(ParallelGreedyTrainer.__mro__[1].build_train_loader(cfg)))
        return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}

    return load


# ---- where modules run


@pytest.mark.parametrize(
    ("seconds", "num", "expected"),
    [
        ([1, 1, 1, 1], 2, [2, 2]),
        ([1, 1, 1, 1, 1], 2, [3, 2]),
        ([4, 1, 1, 1, 1], 2, [1, 4]),
        ([1, 1, 1, 3], 3, [2, 1, 1]),
        ([1, 2, 3], 3, [1, 1, 1]),
        ([2, 2, 2], 1, [3]),
    ],
)
def test_balanced_partition(seconds, num, expected):
    assert balanced_partition(seconds, num) == expected


def test_measured_modules(make_cfg, batch_of):
    cfg = make_cfg(modules=3)
    model = build_model(cfg)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seconds = measure_modules(model, batch_of(cfg), repetitions=1)
    assert len(seconds) == 3 and min(seconds) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_automatic_partition_is_measured_once(write_config, tmp_path, start):
    config = write_config(modules=4)
    ended_well(start(3, config))
    stored = json.loads((tmp_path / "run" / "partition.json").read_text())
    assert sum(stored["partition"]) == 4 and len(stored["partition"]) == 3 and len(stored["seconds_of_modules"]) == 4
    stored["partition"] = [1, 1, 2]
    (tmp_path / "run" / "partition.json").write_text(json.dumps(stored))
    job = start(3, config, "--resume", "SOLVER.MAX_ITER", "7")
    ended_well(job)
    assert "runs modules 3 to 4" in (tmp_path / "run" / "log.txt").read_text()


# ---- how batches travel


def send_and_receive(job, depth):
    device = torch.device("cpu")
    torch.manual_seed(0)
    image = torch.randn(2, 3, 4, 5, dtype=torch.complex64)
    messages = [
        {"a": image.permute(0, 3, 1, 2), "b": torch.tensor(3.0), "name": "x", "dims": (1, 2)},
        {"a": image[:, :2].conj(), "empty": torch.zeros(0, 4), "mask": torch.ones(1, 1).bool().expand(3, 4)},
        *({"n": torch.full((i,), i)} for i in range(1, 9)),
    ]
    if job.rank == 0:
        sender = Sender(1, depth, device)
        for message in messages:
            sender.put(message)
        sender.close()
        return
    receiver = Receiver(0, depth, device)
    for sent in messages:
        received = receiver.get()
        assert received.keys() == sent.keys()
        for key, value in sent.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(received[key], value) and received[key].dtype == value.dtype
                if value.numel() and value.stride() == sorted(value.stride(), reverse=True):
                    assert received[key].stride() == value.stride()
            else:
                assert received[key] == (list(value) if isinstance(value, tuple) else value)
    assert received["n"].tolist() == [8] * 8
    first = messages[0]["a"]
    assert first.stride() != tuple(sorted(first.stride(), reverse=True)), "the test shows nothing"


@pytest.mark.parametrize("depth", [1, 4])
def test_messages_arrive_as_they_left(tmp_path, depth):
    job = LocalJob(2, jobs.call, (send_and_receive, depth), tmp_path / "job.txt")
    ended_well(job)


# ---- how jobs end


def modules_of(rank):
    return rf"rank {rank} \(modules? \d"


def assert_one_line(text, pattern):
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and re.search(pattern, errors[0]), text[-3000:]


def endless(write_config, tmp_path, name="run"):
    config = write_config(data="beat", arch="CineUnrolledCNN", modules=4, out=tmp_path / name)
    return config, opts_with(**{"SOLVER.MAX_ITER": 100000, "MISC.GREEDY.RUN.LOG_PERIOD": 1})


def test_non_finite_loss_names_rank_and_module(write_config, tmp_path, start):
    config, opts = endless(write_config, tmp_path)
    job = start(3, config, *opts, "SOLVER.BASE_LR", "1e18", "MISC.GREEDY.PARALLEL.PARTITION", "[1, 2, 1]")
    assert job.wait() == [1, 1, 1]
    assert_one_line(
        job.text(),
        r"rank (0 \(module 1\).*loss of module 1|1 \(modules 2 to 3\).*loss of module [23]"
        r"|2 \(module 4\).*loss of module 4) is (nan|inf)",
    )


def test_exception_ends_all(write_config, tmp_path, start, datasets):
    config, opts = endless(write_config, tmp_path)
    job = start(2, config, *opts, "DATASETS.VAL", "('beat_missing',)")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "beat_missing")


def test_another_failure_in_a_channel_is_no_lost_peer(tmp_path):
    job = LocalJob(2, jobs.call, (send_what_cannot_be_sent,), tmp_path / "job.txt")
    assert job.wait() == [1, 1], job.text()
    assert_one_line(job.text(), "rank 0: TypeError")


def send_what_cannot_be_sent(job):
    if job.rank == 0:
        sender = Sender(1, 2, torch.device("cpu"))
        sender.put({"a": object()})
        sender.close()
    else:
        Receiver(0, 2, torch.device("cpu")).get()


def test_resuming_a_finished_run_evaluates(write_config, tmp_path, start):
    config = write_config(modules=4)
    ended_well(start(2, config))
    (tmp_path / "run" / "model_best.pth").unlink()
    ended_well(start(2, config, "--resume"))
    assert (tmp_path / "run" / "model_best.pth").exists()


def test_without_validation_data_there_is_no_best_checkpoint(write_config, tmp_path, start):
    job = start(2, write_config(modules=4), "DATASETS.VAL", "()", "TEST.EVAL_PERIOD", "2")
    ended_well(job)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "model_final.pth" in names and "model_best.pth" not in names
    assert job.text().count("no model_best.pth is kept") == 1


def test_processes_must_see_one_folder(write_config, tmp_path, start, monkeypatch):
    config = write_config(modules=4)
    ended_well(start(2, config))
    job = LocalJob(2, jobs.train_in_folder_of_rank, (str(config), str(tmp_path / "run")), tmp_path / "apart.txt")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "OUTPUT_DIR.*all processes must see the same folder")


def test_words_of_an_earlier_attempt_are_no_failure(write_config, tmp_path):
    """Machines that restart because another one failed do not count it: the next attempt finds the same store."""
    config, opts = endless(write_config, tmp_path)
    argv = ("--config-file", str(config), "--resume", *opts)
    first = LocalJob(2, jobs.train, argv, tmp_path / "first.txt")
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "last_checkpoint").exists():
        assert time.monotonic() < deadline, first.text()[-3000:]
        time.sleep(0.01)
    first.kill()
    iteration = load(tmp_path / "run" / (tmp_path / "run" / "last_checkpoint").read_text())["iteration"]
    argv = (*argv[:3], *opts_with(**{"SOLVER.MAX_ITER": iteration + 3}))
    ended_well(LocalJob(2, jobs.train, argv, tmp_path / "second.txt", store=first.store))


def test_a_signal_while_waiting_for_the_others(write_config, tmp_path):
    job = LocalJob(2, jobs.train_first_alone, ("--config-file", str(write_config(modules=4))), tmp_path / "job.txt")
    deadline = time.monotonic() + 60
    while "Environment info" not in job.text() and not (tmp_path / "run" / "log.rank0.txt").exists():
        assert time.monotonic() < deadline, job.text()[-3000:]
        time.sleep(0.05)
    time.sleep(1)
    os.kill(job.processes[0].pid, signal.SIGTERM)
    job.processes[0].join(10)
    assert job.processes[0].exitcode == os.EX_TEMPFAIL, job.text()[-3000:]
    job.kill()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_first_process_holds_the_store(write_config, tmp_path, victim):
    """As under a scheduler alone, or an older torchrun: one line all the same, and soon."""
    config, opts = endless(write_config, tmp_path)
    job = LocalJob(3, jobs.train, ("--config-file", str(config), *opts), tmp_path / "job.txt", agent_store=False)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "last_checkpoint").exists():
        assert time.monotonic() < deadline, job.text()[-3000:]
        time.sleep(0.01)
    job.processes[victim].kill()
    statuses = job.wait(30)
    assert statuses[victim] == -signal.SIGKILL and 0 not in statuses
    assert_one_line(job.text(), rf"rank {victim}\b.*lost")
    assert "Traceback" not in job.text()


def kill_and_resume(write_config, tmp_path, start, rng, number):
    """Kills a random process at a random moment: a clean end, and the same bits when resumed."""
    victim, num = rng.randrange(3), 3
    iteration, delay = rng.randrange(0, 30), rng.random() / 5
    opts = opts_with(**{"SOLVER.MAX_ITER": 40, "SOLVER.CHECKPOINT_PERIOD": 4, "MISC.GREEDY.RUN.LOG_PERIOD": 1})
    opts += ["MODEL.UNROLLED.DROPOUT", "0.1"]
    kind = {"data": "beat", "arch": "CineUnrolledCNN", "modules": 4}
    if not (tmp_path / "whole").exists():
        train_main(["--config-file", str(write_config(**kind, out=tmp_path / "whole")), *opts])
    run = tmp_path / f"killed{number}"
    config = write_config(**kind, out=run)
    job = start(num, config, *opts)
    log = run / "metrics.json"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") > iteration):
        assert time.monotonic() < deadline, job.text()[-3000:]
        time.sleep(0.005)
    time.sleep(delay)
    killed = job.processes[victim]
    was_running = killed.is_alive()
    killed.kill()
    began = time.monotonic()
    statuses = job.wait(30)
    assert time.monotonic() - began < 30
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


@pytest.mark.parametrize("rank", [0, 1, None])
def test_signal_ends_all_after_the_same_iteration(write_config, tmp_path, start, rank):
    config, opts = endless(write_config, tmp_path)
    job = start(2, config, *opts)
    run = tmp_path / "run"
    deadline = time.monotonic() + 60
    while not (run / "last_checkpoint").exists():
        assert time.monotonic() < deadline, job.text()[-3000:]
        time.sleep(0.01)
    for process in job.processes if rank is None else [job.processes[rank]]:
        os.kill(process.pid, signal.SIGTERM)
    assert job.wait() == [os.EX_TEMPFAIL] * 2, job.text()[-3000:]
    assert_one_line(job.text(), "SIGTERM received")
    name = (run / "last_checkpoint").read_text()
    iteration = load(run / name)["iteration"]
    assert name in job.text() and metrics(run)[-1]["iteration"] == iteration
    again = opts_with(**{"SOLVER.MAX_ITER": iteration + 3})
    ended_well(start(2, config, "--resume", *again))


def test_out_of_memory_is_told():
    class Ended(Exception):
        pass

    job = object.__new__(processes.Job)
    said = []
    job.fail = lambda message, status, details="": said.append(message) or (_ for _ in ()).throw(Ended())
    with pytest.raises(Ended), job.ending_together():
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    assert said[0].startswith("out of memory")


# ---- started by the command line


def run_command(command, timeout=150):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


MASK = ["AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc"]


def test_num_gpus_starts_processes_and_says_which_was_killed(write_config, tmp_path):
    config, opts = endless(write_config, tmp_path)
    command = [sys.executable, "-m", "meddlr_greedy.train_net", "--config-file", str(config), "--num-gpus", "2"]
    process = run_command([*command, *opts, *MASK])
    run = tmp_path / "run"
    wait_for(lambda: (run / "last_checkpoint").exists(), process)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[1]), signal.SIGKILL)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert_one_line(output, modules_of(1) + ".*(killed by SIGKILL|lost)")
    assert subprocess.run(["pgrep", "-f", str(config)], capture_output=True).returncode == 1, "processes are left"


def test_torchrun_restarts_and_resumes(write_config, tmp_path):
    kind = {"data": "beat", "arch": "CineUnrolledCNN", "modules": 4}
    opts = [
        *opts_with(**{"SOLVER.MAX_ITER": 300, "SOLVER.CHECKPOINT_PERIOD": 5}),
        *MASK,
        "MISC.GREEDY.RUN.LOG_PERIOD",
        "1",
    ]
    train_main(["--config-file", str(write_config(**kind, out=tmp_path / "whole")), *opts])
    config = write_config(**kind, out=tmp_path / "killed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    restarts = ["--max-restarts", "1", "--monitor-interval", "0.1", "-m", "meddlr_greedy.train_net"]
    process = run_command([*launcher, *restarts, "--config-file", str(config), "--resume", *opts])
    wait_for(lambda: (tmp_path / "killed" / "last_checkpoint").exists(), process)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(workers.stdout.split()[0]), signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output[-3000:]
    assert_same_training(tmp_path / "whole" / "model_final.pth", tmp_path / "killed" / "model_final.pth")


# ---- what is refused, before training


@pytest.mark.parametrize(
    ("num", "opts", "words"),
    [
        (5, [], ["MISC.GREEDY.NUM_MODULES: found 4", "5 processes"]),
        (3, ["MISC.GREEDY.PARALLEL.REPLICAS", 2], ["MISC.GREEDY.PARALLEL.REPLICAS: found 2", "3 processes"]),
        (
            2,
            ["MISC.GREEDY.PARALLEL.PARTITION", "[1, 2]"],
            ["MISC.GREEDY.PARALLEL.PARTITION: found [1, 2]", "add up to 4"],
        ),
        (2, ["MISC.GREEDY.PARALLEL.PARTITION", "[4]"], ["MISC.GREEDY.PARALLEL.PARTITION: found [4]", "2 numbers"]),
        (2, ["MODEL.UNROLLED.SHARE_WEIGHTS", True], ["MODEL.UNROLLED.SHARE_WEIGHTS"]),
        (2, ["MODEL.META_ARCHITECTURE", "GeneralizedUnrolledCNN"], ["MODEL.META_ARCHITECTURE", "GreedyUnrolled"]),
        (2, ["MISC.GREEDY.PARALLEL.REPLICAS", 2, "SOLVER.TRAIN_BATCH_SIZE", 3], ["SOLVER.TRAIN_BATCH_SIZE: found 3"]),
        (2, ["MISC.GREEDY.OVERLAP", 1], ["MISC.GREEDY.OVERLAP: found 1", "2 processes", "travel back"]),
        (
            2,
            ["MISC.GREEDY.PARALLEL.REPLICAS", 2, "MODEL.RECON_LOSS.NAME", "k_l1_sum"],
            ["MODEL.RECON_LOSS.NAME", "k_l1_sum"],
        ),
        (2, ["MISC.GREEDY.TRAINING", "invertible"], ["MISC.GREEDY.TRAINING: found 'invertible'", "one process"]),
    ],
)
def test_impossible_requests(write_config, num, opts, words):
    from meddlr_greedy.parallel.limits import check_possible

    cfg = load_config(str(write_config(modules=4)), [str(value) for value in opts])
    with pytest.raises(UserError) as error:
        check_possible(cfg, Place.of(0, num, cfg.MISC.GREEDY.PARALLEL.REPLICAS))
    for word in words:
        assert word in str(error.value)


def test_batches_and_norms_that_replicas_cannot_share(make_cfg):
    from meddlr_greedy.parallel.limits import check_last_batch, check_replicable

    place = Place.of(0, 2, 2)
    model = build_model(make_cfg(["MODEL.UNROLLED.CONV_BLOCK.NORM", "batch"]))
    with pytest.raises(UserError, match="MISC.GREEDY.PARALLEL.REPLICAS: found 2.*BatchNorm"):
        check_replicable(model, place)
    cfg = make_cfg(["SOLVER.TRAIN_BATCH_SIZE", 2, "DATALOADER.DROP_LAST", False])
    loader = SimpleNamespace(dataset=range(5))
    with pytest.raises(UserError, match="DATALOADER.DROP_LAST"):
        check_last_batch(loader, cfg, place)


def test_parameters_of_no_step_in_particular_cannot_be_parted(make_cfg):
    model = build_model(make_cfg(modules=4))
    model.model.scale = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="MISC.GREEDY.PARALLEL.PARTITION.*scale"):
        model.keep_modules(range(2))


def test_one_process_has_no_parallel_trainer(write_config, capsys):
    with pytest.raises(SystemExit) as end:
        train_main(["--config-file", str(write_config()), "MISC.GREEDY.RUN.TRAINER", "ParallelGreedyTrainer"])
    assert end.value.code == 2 and "MISC.GREEDY.RUN.TRAINER" in capsys.readouterr().err


def test_a_trainer_of_one_process_is_refused(write_config, tmp_path, start):
    job = start(2, write_config(modules=4), "MISC.GREEDY.RUN.TRAINER", "GreedyTrainer")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "MISC.GREEDY.RUN.TRAINER: found 'GreedyTrainer'")


def test_mistakes_of_a_job_are_told_once(write_config, tmp_path, start):
    job = start(2, write_config(modules=4), "MISC.GREEDY.PARALLEL.PARTITION", "[3, 2]")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "MISC.GREEDY.PARALLEL.PARTITION")
