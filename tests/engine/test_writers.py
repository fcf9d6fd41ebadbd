"""Curves for programs that draw them: read back by these programs, where they are installed."""

import math
import os
import sys
from types import SimpleNamespace

import pytest
from meddlr.utils.events import EventStorage, TensorboardXWriter

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine import writers
from meddlr_greedy.engine.writers import build_run_writers, check_writers
from meddlr_greedy.errors import UserError


@pytest.fixture
def cfg_of(write_config, tmp_path, monkeypatch):
    """cfg_of(*names): a config that asks for writers."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def make(*names):
        (tmp_path / "run").mkdir(exist_ok=True)
        return load_config(str(write_config()), ["MISC.GREEDY.RUN.WRITERS", str(names)])

    return make


def write_two_iterations(cfg):
    with EventStorage(0) as storage:
        (writer,) = build_run_writers(cfg, 0)
        for loss in (2.0, 1.5):
            storage.put_scalars(**{"module_1/loss": loss, "val_ssim (Wang)": math.nan}, smoothing_hint=False)
            writer.write()
            storage.step()
        writer.close()


def test_tensorboard_is_the_default(write_config):
    assert tuple(load_config(str(write_config())).MISC.GREEDY.RUN.WRITERS) == ("tensorboard",)


@pytest.mark.parametrize("names", ["('csv',)", "('wandb', 'wandb')", "wandb"])
def test_others_are_refused(write_config, names):
    with pytest.raises(UserError, match="RUN.WRITERS: found .*, allowed is a list of 'tensorboard', 'wandb', 'mlflow'"):
        load_config(str(write_config()), ["MISC.GREEDY.RUN.WRITERS", names])


def test_of_names_in_their_order(cfg_of, monkeypatch):
    monkeypatch.setitem(writers._WRITERS, "wandb", lambda cfg: "W&B")
    built = build_run_writers(cfg_of("wandb", "tensorboard"), 3)
    assert built[0] == "W&B" and isinstance(built[1], TensorboardXWriter)
    built[1].close()
    assert build_run_writers(cfg_of(), 0) == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_is_not_installed_is_refused(cfg_of, monkeypatch, name):
    monkeypatch.setattr(writers, "find_spec", lambda _: None)
    check_writers(cfg_of("tensorboard"))
    with pytest.raises(UserError, match=f"RUN.WRITERS: found '{name}', whose package is not installed"):
        check_writers(cfg_of("tensorboard", name))


def test_wandb_gets_no_network(cfg_of, monkeypatch, tmp_path):
    """What the package is asked for, by a stand-in."""
    calls = []
    run = SimpleNamespace(log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("end"))

    def init(**arguments):
        calls.append(arguments)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **settings: settings))
    write_two_iterations(cfg_of("wandb"))
    asked, first, second, end = calls
    assert asked["mode"] == "offline" and asked["dir"] == str(tmp_path / "run") and asked["name"] == "run"
    assert asked["config"]["SOLVER"]["BASE_LR"] == 0.001
    assert first[0] == 0 and first[1]["module_1/loss"] == 2.0 and second[0] == 1 and end == "end"


def test_wandb_writes_a_run_to_be_uploaded_later(cfg_of, tmp_path):
    wandb = pytest.importorskip("wandb", reason="needs Weights & Biases (pip install wandb)")
    write_two_iterations(cfg_of("wandb"))
    assert wandb.run is None
    (path,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    written = path.read_bytes()  # records, values in them as JSON
    assert b"module_1/loss" in written and b"1.5" in written and b"SOLVER" in written


def test_mlflow_reads_it_back(cfg_of, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs MLflow (pip install mlflow)")
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy (pip install mlflow)")
    write_two_iterations(cfg_of("mlflow"))
    write_two_iterations(cfg_of("mlflow"))  # the experiment is there already
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    experiment = client.get_experiment_by_name("meddlr-greedy")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "module_1/loss")
        assert [(metric.step, metric.value) for metric in history] == [(0, 2.0), (1, 1.5)]
        assert "val_ssim _Wang_" in run.data.metrics
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
    assert os.listdir(tmp_path / "run") and not (tmp_path / "mlruns").exists()
