"""The door for other packages: that of a user, tests/data/plugin, through all commands, imported in either way."""

import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
import yaml
from meddlr.data.transforms.subsample import build_mask_func
from meddlr.modeling import build_loss_computer, build_model
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

from meddlr_greedy import eval_net, plan, prepare, reconstruct, train_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.engine.build import trainer_class
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.plugins import import_plugins
from tests.helpers.errors import expect_error
from tests.helpers.examples import equal, first_batches
from tests.helpers.jobs import assert_one_line, ended_well, start, start_job  # noqa: F401
from tests.helpers.plugin import CONFIG, FOLDER, NAME, importable, prepare_command, write_npz
from tests.helpers.runs import ROOT, assert_same_training, metrics, train

IMPORTS = "MISC.GREEDY.RUN.IMPORTS"
# A trainer for one process cannot train in two.
IN_JOB = ("MISC.GREEDY.RUN.TRAINER", "auto")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the data set "mine" and the run "one", made by the package of a user that the config names."""
    folder = tmp_path_factory.mktemp("door")
    assert "CineVariationalNetwork" not in META_ARCH_REGISTRY
    with importable(FOLDER), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDDLR_GREEDY_DATASETS", str(folder / "datasets"))
        files = write_npz(folder / "npz")
        prepare.main(["--imports", NAME, *prepare_command(files, folder / "datasets" / "mine")])
        train(CONFIG, "OUTPUT_DIR", str(folder / "one"))
        yield folder


def load(*opts):
    cfg = load_config(str(CONFIG), opts)
    register_datasets()
    return cfg


# ---- named in the config


def test_reader(world):
    names = {path.stem: path for path in (world / "datasets" / "mine" / "scans").iterdir()}
    assert sorted(names) == ["a", "b", "c"]
    with h5py.File(names["b"]) as file, np.load(world / "npz" / "b.npz") as given:
        np.testing.assert_array_equal(file["kspace"][()], 2 * given["kspace"])


def test_training_leaves_what_its_parts_write(world):
    lines = metrics(world / "one")
    table = [line.split(",") for line in (world / "one" / "losses.csv").read_text().splitlines()]
    assert [int(iteration) for iteration, _ in table] == [0, 1, 2, 3]
    assert float(table[0][1]) == lines[0]["loss"]  # of the later ones the log has a mean
    assert all("loss_module_1" in line and "module_2/grad_norm" in line for line in lines)
    assert float((world / "one" / "seconds.txt").read_text()) > 0
    assert (world / "one" / "model_best.pth").exists()


def test_parts_are_those_of_the_config(world):
    import my_recon

    cfg = load()
    network = build_model(cfg).model
    assert type(network) is my_recon.network.CineVariationalNetwork
    assert [type(block) for block in network.resnets] == [my_recon.regularizer.PlainConv3d] * 4
    assert type(build_mask_func(cfg.AUG_TRAIN)) is my_recon.mask.ShuffledKtMaskFunc
    assert trainer_class(cfg) is my_recon.trainer.TimedTrainer


@pytest.mark.parametrize("renormalize", ["True", "False"])
def test_loss_of_every_module_and_of_the_network(world, renormalize):
    import my_recon

    cfg = load("MODEL.RECON_LOSS.RENORMALIZE_DATA", renormalize)
    model, batch = build_model(cfg).train(), next(iter(build_train_loader(cfg, seed=1)))
    outputs = model(batch)
    last = build_loss_computer(cfg, "LeanLossComputer")(batch, outputs)["loss"]
    problem = UnrolledProblem.prepare(model.model, batch)
    first = model.unrolled.run(0, problem.image, problem)
    scale = batch["std"].reshape(-1, 1, 1, 1, 1) if renormalize == "True" else 1
    for image, loss in ((first, outputs["loss_module_1"]), (outputs["pred"], last)):
        expected = my_recon.loss.charbonnier(scale * image, scale * problem.target)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    last.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_workers_of_the_loader_know_the_mask(world):
    read_by_worker = build_train_loader(load("DATALOADER.NUM_WORKERS", "1"), seed=1)
    read_here = build_train_loader(load(), seed=1)
    (batch,), (other,) = first_batches(read_by_worker, 1), first_batches(read_here, 1)
    tensors = [key for key, value in batch.items() if isinstance(value, torch.Tensor)]
    assert {"kspace", "mask", "target"} <= {*tensors} and all(equal(batch[key], other[key]) for key in tensors)


def test_two_processes_of_num_gpus_give_the_same_weights(world):
    with pytest.raises(SystemExit) as end:
        train(CONFIG, "--num-gpus", "2", "OUTPUT_DIR", str(world / "two"), *IN_JOB)
    assert end.value.code == 0
    assert_same_training(world / "one" / "model_final.pth", world / "two" / "model_final.pth")
    losses = [(world / run / "losses.csv").read_text() for run in ("one", "two")]
    assert losses[0] == losses[1]


def test_a_job_gives_the_same_weights(world, start):  # noqa: F811
    ended_well(start(2, CONFIG, "OUTPUT_DIR", str(world / "job"), *IN_JOB))
    assert_same_training(world / "one" / "model_final.pth", world / "job" / "model_final.pth")


def test_a_trainer_for_one_process_is_refused_in_a_job(world, tmp_path, start):  # noqa: F811
    job = start(2, CONFIG, "OUTPUT_DIR", str(tmp_path / "run"))
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), "RUN.TRAINER: found 'TimedTrainer', which trains in one process")


def test_plan(world):
    planned = plan.main(["--config-file", str(CONFIG)])["config"]
    assert planned["parameters"] == 4 * sum(p.numel() for p in build_model(load()).parameters())
    assert planned["peak"] > planned["parameters"] and len(planned["activations"]) == 2


def evaluate(run, *arguments):
    eval_net.main(["--weights", str(run / "model_final.pth"), "--num-figures", "1", *arguments])
    return json.loads((run / "test_results" / "results.json").read_text())["datasets"]["mine_test"]


def reconstruct_scan(world, output, *arguments):
    (scan,) = (world / "datasets" / "mine" / "scans").glob("c.h5")
    weights = ["--weights", str(world / "one" / "model_final.pth")]
    reconstruct.main([str(scan), *weights, "--output", str(output), *arguments])
    with h5py.File(output / "c_recon.h5") as file:
        return file["image"][()]


def test_evaluation_and_reconstruction(world, tmp_path):
    config = ["--config-file", str(world / "one" / "config.yaml")]
    assert evaluate(world / "one", *config)["reconstruction"]["psnr"]["count"] == 8
    image = reconstruct_scan(world, tmp_path, *config)
    assert image.shape == (2, 16, 12, 4, 1) and np.isfinite(image).all() and image.any()


def test_a_config_found_beside_weights_imports_nothing_by_itself(world, tmp_path, capsys):
    for command in (lambda: evaluate(world / "one"), lambda: reconstruct_scan(world, tmp_path / "recon")):
        with pytest.raises(SystemExit) as end:
            command()
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1
        assert error.startswith(
            f"error: {world}/one/config.yaml: found beside the weights, it names packages to import"
        )
        assert "--config-file" in error
    assert not (tmp_path / "recon").exists()
    assert evaluate(world / "one", IMPORTS, f"['{NAME}']")["reconstruction"]["psnr"]["count"] == 8


# ---- installed, with an entry point


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder in which pip has installed the package."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(FOLDER, folder / "source")  # setuptools builds where the source is
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", folder / "source"], check=True)
    config = yaml.safe_load(CONFIG.read_text())
    del config["MISC"]["GREEDY"]["RUN"]["IMPORTS"]
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_installed_it_works_without_a_word_in_the_config(world, installed, tmp_path):
    config = ["--config-file", str(installed / "train.yaml"), "OUTPUT_DIR", str(tmp_path / "run")]
    weights = ["--weights", str(tmp_path / "run" / "model_final.pth")]
    scan = str(tmp_path / "datasets" / "mine" / "scans" / "c.h5")
    commands = [
        ["prepare", *prepare_command(world / "npz", tmp_path / "datasets" / "mine")],
        ["train", *config],
        ["eval", *weights, "--num-figures", "1"],
        ["reconstruct", scan, *weights, "--output", str(tmp_path / "recon")],
    ]
    # One process for all of them: it takes seconds to start.
    script = "import json, sys; from meddlr_greedy import cli\nfor argv in json.load(sys.stdin): cli.main(argv)"
    environment = {
        **os.environ,
        "MEDDLR_GREEDY_DATASETS": str(tmp_path / "datasets"),
        "PYTHONPATH": os.pathsep.join([str(installed / "site"), str(ROOT)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(commands), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(world / "one" / "model_final.pth", tmp_path / "run" / "model_final.pth")
    assert (tmp_path / "run" / "losses.csv").read_text() == (world / "one" / "losses.csv").read_text()
    assert (tmp_path / "run" / "test_results" / "results.json").exists()
    assert (tmp_path / "recon" / "c_recon.h5").exists()


def test_installed_it_works_in_two_processes(world, installed, tmp_path, monkeypatch, start):  # noqa: F811
    # The job's processes look where this one looks, but not where the package's source is.
    monkeypatch.setattr(sys, "path", [str(installed / "site"), *(path for path in sys.path if path != str(FOLDER))])
    ended_well(start(2, installed / "train.yaml", "OUTPUT_DIR", str(tmp_path / "run"), *IN_JOB))
    assert_same_training(world / "one" / "model_final.pth", tmp_path / "run" / "model_final.pth")


# ---- packages that cannot be imported


BROKEN = {
    "raises": ("raise RuntimeError('was\\nrun')", "RuntimeError: was run"),
    "ends": ("import sys\nsys.exit('needs a license')", "SystemExit: needs a license"),
    "taken": (
        "from meddlr_greedy.registry import LOSS_REGISTRY\n"
        "def mine(pred, target): ...\nLOSS_REGISTRY.register(mine)\nLOSS_REGISTRY.register(mine)",
        "already registered",
    ),
    "no_such_package": (None, "ModuleNotFoundError: No module named 'no_such_package'"),
}


@pytest.fixture(params=BROKEN)
def broken(request, tmp_path):
    """The name of a package that cannot be imported, and what is said of it."""
    code, said = BROKEN[request.param]
    (tmp_path / "packages").mkdir()
    if code:
        (tmp_path / "packages" / f"{request.param}.py").write_text(code)
    with importable(tmp_path / "packages", forget=[request.param]):
        yield request.param, said


@pytest.mark.parametrize("command", ["train", "plan", "eval", "reconstruct", "prepare"])
def test_a_package_that_cannot_be_imported_is_one_line(broken, command, write_config, tmp_path, capsys):
    name, said = broken
    text = write_config().read_text().replace("RUN: {", f"RUN: {{IMPORTS: [{name}], ")
    config = tmp_path / "config.yaml"
    config.write_text(text)
    main, arguments = {
        "train": (train_net.main, ["--config-file", str(config), "--num-gpus", "2"]),
        "plan": (plan.main, ["--config-file", str(config)]),
        "eval": (eval_net.main, ["--config-file", str(config)]),
        "reconstruct": (reconstruct.main, ["scan.h5", "--config-file", str(config), "--output", "out"]),
        "prepare": (prepare.main, ["--imports", name, "phantom", "--output", str(tmp_path / "out")]),
    }[command]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capsys.readouterr().err
    option = "--imports" if command == "prepare" else IMPORTS
    assert end.value.code == 2 and error.startswith(f"error: {option}: '{name}' cannot be imported: ")
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_the_processes_of_a_job_say_it_once(write_config, tmp_path, start):  # noqa: F811
    job = start(2, write_config(data="beat", arch="CineUnrolledCNN"), IMPORTS, "['no_such_package']")
    assert job.wait() == [2, 2]
    assert_one_line(job.text(), f"{IMPORTS}: 'no_such_package' cannot be imported")


@pytest.mark.parametrize("name", ["raises", "ends"])
def test_an_installed_package_that_cannot_be_imported_is_one_line(write_config, tmp_path, capsys, name):
    code, said = BROKEN[name]
    site = tmp_path / "site"
    (site / "broken-1.0.dist-info").mkdir(parents=True)
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "entry_points.txt").write_text(f"[meddlr_greedy.plugins]\nparts = {name}\n")
    (site / f"{name}.py").write_text(code)
    config = write_config()
    with importable(site, forget=[name]):
        expect_error(capsys, config, words=["entry point 'parts' of meddlr_greedy.plugins", said], out=tmp_path / "run")
        with pytest.raises(UserError, match="uninstall the package"):
            import_plugins()
