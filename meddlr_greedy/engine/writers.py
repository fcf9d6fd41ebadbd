"""What a training measures, for programs that draw curves: TensorBoard, Weights & Biases, MLflow (``RUN.WRITERS``).

The last two are no dependencies: they are imported where a config asks for them. By default each writes into the folder
of the run, and nothing leaves the machine. Their own environment variables (``WANDB_MODE=online``,
``MLFLOW_TRACKING_URI``) say otherwise.
"""

import os
import re
import time
from importlib.util import find_spec
from typing import Any, Dict, List

import yaml
from meddlr.config import CfgNode
from meddlr.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from meddlr_greedy.errors import UserError

__all__ = ["build_run_writers", "check_writers"]

_PROJECT = "meddlr-greedy"  # what runs are filed under
_WINDOW = 20  # of the median that smooths a curve, as meddlr's writers


class _WandbWriter(EventWriter):
    """Writes ``wandb/offline-run-...``, which ``wandb sync`` uploads."""

    def __init__(self, cfg: CfgNode):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=_name(cfg),
            dir=cfg.OUTPUT_DIR,
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=yaml.safe_load(cfg.dump()),
            settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
        )

    def write(self) -> None:
        """Writes the newest values."""
        self._run.log(_newest(), step=get_event_storage().iter)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class _MlflowWriter(EventWriter):
    """Writes ``mlflow.db``, which ``mlflow ui --backend-store-uri sqlite:///<folder of the run>/mlflow.db`` shows."""

    def __init__(self, cfg: CfgNode):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        folder = os.path.abspath(cfg.OUTPUT_DIR)
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db"))
        experiment = self._client.get_experiment_by_name(_PROJECT)
        if experiment is not None:
            number = experiment.experiment_id
        elif "MLFLOW_TRACKING_URI" in os.environ:
            number = self._client.create_experiment(_PROJECT)
        else:
            number = self._client.create_experiment(_PROJECT, artifact_location=f"{folder}/mlflow")
        self._run_id = self._client.create_run(number, run_name=_name(cfg)).info.run_id
        self._client.log_text(self._run_id, cfg.dump(), "config.yaml")

    def write(self) -> None:
        """Writes the newest values."""
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), get_event_storage().iter
        # Names may hold neither parentheses nor brackets.
        values = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in _newest().items()}
        self._client.log_batch(self._run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        """Ends the run."""
        self._client.set_terminated(self._run_id)


# Name in RUN.WRITERS -> its class, and the package it needs.
_WRITERS = {"wandb": _WandbWriter, "mlflow": _MlflowWriter}


def check_writers(cfg: CfgNode) -> None:
    """Checks that what the writers need is installed.

    Raises:
        UserError: It is not.
    """
    for name in cfg.MISC.GREEDY.RUN.WRITERS:
        if name in _WRITERS and find_spec(name) is None:
            raise UserError(
                f"MISC.GREEDY.RUN.WRITERS: found '{name}', whose package is not installed (pip install {name});"
                " allowed without it: 'tensorboard'"
            )


def build_run_writers(cfg: CfgNode, start_iter: int) -> List[EventWriter]:
    """The writers that ``MISC.GREEDY.RUN.WRITERS`` names, in its order.

    Args:
        cfg: The config of the run.
        start_iter: The first iteration. What an interrupted run wrote beyond it is not shown by TensorBoard; the others
            begin a new curve.
    """
    return [
        TensorboardXWriter(cfg.OUTPUT_DIR, purge_step=start_iter) if name == "tensorboard" else _WRITERS[name](cfg)
        for name in cfg.MISC.GREEDY.RUN.WRITERS
    ]


def _name(cfg: CfgNode) -> str:
    return os.path.basename(os.path.abspath(cfg.OUTPUT_DIR))


def _newest() -> Dict[str, Any]:
    return {name: float(value) for name, value in get_event_storage().latest_with_smoothing_hint(_WINDOW).items()}
