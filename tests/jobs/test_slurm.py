"""The SLURM script, with stand-ins for SLURM's commands and a small network on the CPU."""

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest

from meddlr_greedy.train_net import main as train_main
from tests.helpers.runs import PATIENCE_S, ROOT, load, metrics, wait_for

SCRIPT = ROOT / "configs" / "slurm" / "train_parallel.sbatch"

# What SLURM does, on one machine: a task for each node, signals to the tasks.
STAND_INS = {
    "srun": """
        for node in $(seq "$SLURM_NNODES"); do "$@" & echo $! >> tasks; done
        status=0
        for task in $(cat tasks); do wait "$task" || status=$?; done
        exit $status""",
    "scancel": """kill -TERM $(cat tasks)""",
    "scontrol": """
        case $1 in
            show) printf 'localhost\\nother\\n' ;;
            requeue) echo "$2" > requeued ;;
        esac""",
    "torchrun": f"""exec {sys.executable} -m torch.distributed.run --local-addr localhost "$@" """,
}


@pytest.fixture
def slurm(tmp_path):
    """slurm(*arguments, nodes=1): starts the script as a batch job in ``tmp_path``."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost,other",
        "SLURM_GPUS_ON_NODE": "1",
    }
    started = []

    def start(*arguments, nodes=1):
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            cwd=tmp_path,
            env={**environment, "SLURM_NNODES": str(nodes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_script_names_what_exists():
    text = SCRIPT.read_text()
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True).returncode == 0
    modules = re.findall(r"-m (\w+(?:\.\w+)+)", text)
    assert modules == ["meddlr_greedy.train_net"] and all(map(find_spec, modules))
    configs = re.findall(r"configs/\S+\.(?:yaml|sbatch)", text)
    assert len(configs) >= 2 and all((ROOT / name).is_file() for name in configs)
    options = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=B:USR1@120", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(options)


def test_script_needs_a_config(slurm):
    process = slurm()
    assert "usage: sbatch" in process.communicate(timeout=PATIENCE_S)[0] and process.returncode != 0


@pytest.mark.parametrize(("status", "is_requeued"), [(0, False), (1, False), (75, True)])
def test_requeued_where_the_training_can_go_on(slurm, tmp_path, status, is_requeued):
    (tmp_path / "bin" / "torchrun").write_text(f'#!/bin/bash\necho "$@"\nexit {status}\n')
    process = slurm("some.yaml", "SEED", "3", nodes=2)
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == status
    assert (tmp_path / "requeued").exists() == is_requeued
    assert "--nnodes 2 --nproc-per-node 1" in output and output.strip().endswith("--resume SEED 3")


def test_time_limit_requeues_and_the_job_goes_on(slurm, write_config, tmp_path):
    config = write_config(data="beat", arch="CineUnrolledCNN", modules=4, out=tmp_path / "run")
    opts = ["AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc", "TEST.EVAL_PERIOD", "0"]
    opts += ["SOLVER.CHECKPOINT_PERIOD", "5"]
    process = slurm(str(config), *opts, "SOLVER.MAX_ITER", "100000", nodes=2)
    last = tmp_path / "run" / "last_checkpoint"
    wait_for(last.exists, process)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert (tmp_path / "requeued").read_text().strip() == str(os.getpid()), output[-3000:]
    assert process.returncode != 0 and "SIGTERM received" in output, output[-3000:]
    iteration = load(tmp_path / "run" / last.read_text())["iteration"]
    assert f"written after iteration {iteration} " in output

    # The same script in the place of the first one, on one node: what it starts then is run here.
    (tmp_path / "requeued").unlink()
    (tmp_path / "tasks").unlink()
    (tmp_path / "bin" / "torchrun").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > arguments\n')
    process = slurm(str(config), *opts, "SOLVER.MAX_ITER", str(iteration + 3))
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0 and not (tmp_path / "requeued").exists(), output[-3000:]
    arguments = (tmp_path / "arguments").read_text().splitlines()
    train_main(arguments[arguments.index("meddlr_greedy.train_net") + 1 :])
    lines = metrics(tmp_path / "run")
    assert lines[-1]["iteration"] == iteration + 2
