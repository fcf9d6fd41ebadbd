"""Parallel greedy learning: the modules of one network spread over processes, through which the batches flow.

No gradient goes back from one module to the one before. So the process of module k may start mini-batch t + 1 as soon
as it has updated on mini-batch t, while later modules still work on t: a pipeline without bubbles after it has filled,
without stale gradients, and with the results of a single process, bit for bit. Each process, in a loop::

    image, problem = receive()                 # of mini-batch t; the first process reads and prepares the batch
    for each own module: image = forward;  if it is the last: send(detach(image));  gradient of its local loss
    update own parameters                      # and on to mini-batch t + 1, at once

Everything else of a run follows the batches down the chain: validation images, the request to end, what is measured.
Files are written by the last process, which is the last to be done with each iteration and so never waits for one.
"""

import io
import json
import logging
import os
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.distributed as dist
from meddlr.config import CfgNode
from meddlr.engine.train_loop import HookBase
from meddlr.evaluation import DatasetEvaluator, inference_on_dataset
from meddlr.evaluation.testing import print_csv_format
from torch import nn

from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.seeding import example_seed
from meddlr_greedy.engine.build import TRAINER_REGISTRY
from meddlr_greedy.engine.channel import END, Message, Receiver, Sender, receive
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer, plain_name
from meddlr_greedy.engine.launch import handling_signals
from meddlr_greedy.engine.partition import (
    Place,
    balanced_partition,
    check_partition,
    measure_modules,
    store_partition,
    stored_partition,
)
from meddlr_greedy.engine.shards import merge_optimizers, merge_schedulers, select_optimizer, select_scheduler
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.errors import Preempted, UserError
from meddlr_greedy.jobs.board import PeerLost, is_lost_connection
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled

__all__ = ["ParallelGreedyTrainer", "choose_backend"]

logger = logging.getLogger(__name__)

# Tags of what travels between two processes, so that neither is taken for the other.
_BATCHES, _REPORTS = 0, 1
# Reports (measurements, states) that may wait for the writer; more than a chain has batches in flight.
_WAITING_REPORTS = 1024


def choose_backend(device: str) -> str:
    """NCCL where each process of a machine has a GPU of its own; gloo on CPUs, and where processes share a GPU."""
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    own_gpu = device.startswith("cuda") and torch.cuda.device_count() >= processes_here
    return "cpu:gloo,cuda:nccl" if own_gpu and dist.is_nccl_available() else "gloo"


def place_of_this_process(cfg: CfgNode) -> Place:
    job = Job.current()
    return Place.of(job.rank, job.world_size, cfg.MISC.GREEDY.REPLICAS)


@TRAINER_REGISTRY.register()
class ParallelGreedyTrainer(GreedyTrainer):
    """:class:`GreedyTrainer` over the processes of a job, with the same results, logs and checkpoints.

    World size = ``MISC.GREEDY.REPLICAS`` x the number of processes in a chain. ``MISC.GREEDY.PARTITION`` says which
    modules a process runs; only their parameters, optimizer state and activations live there.

    Raises:
        UserError: for what cannot be spread over these processes, before anything is trained.
    """

    model: GreedyUnrolled
    for_several_processes = True

    def __init__(self, cfg: CfgNode):
        self.job = Job.current()
        self.place = place_of_this_process(cfg)
        _check_possible(cfg, self.place)
        backend = self.job.agree("backend", choose_backend(cfg.MODEL.DEVICE))
        self.job.init_process_group(backend)
        self._stage_on_cpu = backend == "gloo"
        if self._stage_on_cpu and cfg.MODEL.DEVICE != "cpu":
            logger.warning("Processes share GPUs: what they exchange passes through host memory (gloo, not NCCL)")
        self._replicas = _group_of_replicas(self.place)
        cfg = self._with_partition(cfg)
        own = _own_modules(cfg, self.place)
        self.job.introduce(_name_modules(own))

        super().__init__(cfg)
        _check_replicable(self.model, self.place)
        _check_last_batch(self.data_loader, cfg, self.place)
        self.checkpointer = ChainCheckpointer(
            self.model,
            cfg.OUTPUT_DIR,
            place=self.place,
            run=self.run_state,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
        )
        self._receiver: Optional[Receiver] = None
        self._sender: Optional[Sender] = None
        self._waited_for_replicas_s = 0.0
        self._ends_for = 0  # the signal for which the run ends after this batch
        logger.info("Process %d of %d runs %s", self.job.rank, self.job.world_size, _name_modules(own))

    @property
    def is_writer(self) -> bool:
        return self.job.rank == self.place.writer

    # ---- parts, built from the config

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        place = place_of_this_process(cfg)
        return build_train_loader(cfg, cfg.SEED, share=(place.replica, place.num_replicas))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        model: Any = super().build_model(cfg)  # whole, so that the weights start as in a single process
        if cfg.MISC.GREEDY.PARTITION != "auto":
            model.keep_modules(_own_modules(cfg, place_of_this_process(cfg)))
        return model

    def build_hooks(self) -> list:
        self.measurements = ShareMeasurements(self.cfg.MISC.GREEDY.LOG_PERIOD, self.cfg.TEST.EVAL_PERIOD)
        return [*super().build_hooks(), self.measurements]

    def build_writers(self) -> list:
        return super().build_writers() if self.is_writer else []

    def _with_partition(self, cfg: CfgNode) -> CfgNode:
        """The config with the partition as a list; "auto" is measured by the first process, once a run."""
        partition = cfg.MISC.GREEDY.PARTITION
        if partition == "auto":
            measured = None
            if self.job.rank == 0:
                measured = json.dumps(self._balanced_partition(cfg))
            partition = tuple(json.loads(self.job.agree("partition", measured)))
        cfg = cfg.clone().defrost()
        cfg.MISC.GREEDY.PARTITION = partition
        return cfg.freeze()

    def _balanced_partition(self, cfg: CfgNode) -> List[int]:
        num_stages = self.place.num_stages
        sizes = [len(steps) for steps in partition_steps(cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS, _num_modules(cfg))]
        if num_stages in (1, len(sizes)):
            return [len(sizes) // num_stages] * num_stages
        key = {"steps_of_modules": sizes, "processes": num_stages, "batch_size": cfg.SOLVER.TRAIN_BATCH_SIZE}
        stored = stored_partition(cfg.OUTPUT_DIR, key)
        if stored is not None:
            return stored
        cfg = cfg.clone().defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            model = self.build_model(cfg.freeze()).to(cfg.MODEL.DEVICE)
            seconds = measure_modules(model, next(iter(self.build_train_loader(cfg))))
        partition = balanced_partition(seconds, num_stages)
        store_partition(cfg.OUTPUT_DIR, key, partition, seconds)
        logger.info("Measured %s s for the modules; modules of each process: %s", _rounded(seconds), partition)
        return partition

    # ---- training

    def resume_or_load(self, resume: bool = True, restart_iter: bool = False) -> None:
        super().resume_or_load(resume, restart_iter)
        found = f"iteration {self.start_iter}"
        agreed = self.job.agree("start", found)
        if found != agreed:
            raise UserError(
                f"OUTPUT_DIR: {self.cfg.OUTPUT_DIR} starts from {found} here, but from {agreed} on rank 0; all"
                " processes must see the same folder"
            )

    def train(self) -> Optional[Dict[str, Any]]:
        with self._connected():
            return super().train()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Channels to the neighbours; at a regular end, all processes leave together."""
        device = next(self.model.parameters()).device
        depth = self.cfg.MISC.GREEDY.BATCHES_IN_FLIGHT
        options = {"depth": depth, "device": device, "tag": _BATCHES, "stage_on_cpu": self._stage_on_cpu}
        if not self.place.is_last:
            self._sender = Sender(self.job.rank + 1, **options)
        if not self.place.is_first:
            self._receiver = Receiver(self.job.rank - 1, **options)
            self.data_loader = _ReceivedBatches(self._receiver, "training")
        self.checkpointer.connect()
        self.job.in_training = True  # to the end: what is left to do then is short, and half of it would be nothing
        try:
            yield
        except Preempted:
            self._leave_together()
            raise
        self._leave_together()

    def _leave_together(self) -> None:
        with handling_signals(lambda number, frame: None):
            if self._sender is not None:
                self._sender.close()
            self.checkpointer.close()
            self.job.finish()

    def _seek_first_batch(self) -> None:
        if self.place.is_first:
            super()._seek_first_batch()

    def _next_batch(self) -> Dict[str, Any]:
        return super()._next_batch() if self.place.is_first else next(self._data_loader_iter)

    def run_step(self) -> None:
        self.checkpointer.release()
        if self.place.is_first:
            self._ends_for = self._agreed_signal()
        super().run_step()

    def _agreed_signal(self) -> int:
        """The signal that asked for the end, or 0; the same in the first processes of all replicas."""
        if self._signals and not self.job.asked_to_end:
            self.job.ask_to_end(self._signals[0])
        asked = self._signals[0] if self._signals else self.job.asked_to_end
        if self._replicas is None:
            return asked
        agreed = torch.tensor([asked])
        with self._waiting_for_replicas():
            dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self._replicas)
        return int(agreed)

    @contextmanager
    def _waiting_for_replicas(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited_for_replicas_s += time.perf_counter() - start

    def _asked_to_end(self) -> int:
        if self.place.is_first:
            return self._ends_for
        if self._signals and not self.job.asked_to_end:
            self.job.ask_to_end(self._signals[0])  # the first process hears of it, and tells it with a batch
        return self.data_loader.ends_for

    def _hand_on(self, outputs: Dict[str, Any]) -> None:
        """Before backward, so that the next process need not wait for it."""
        if self._sender is not None:
            ends_for = self._ends_for if self.place.is_first else self.data_loader.ends_for
            self._sender.put({**_message("training", outputs), "ends_for": ends_for})

    def _loss(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
        if self.place.is_last:
            return super()._loss(inputs, outputs)
        loss = self.model.local_loss(inputs, outputs)
        return loss, {f"loss_module_{self.model.own_modules.stop}": loss}

    def _average(self, values: Dict[str, float]) -> None:
        """Gradients, and what is logged, become those of the whole batch: the replicas' mean."""
        if self._replicas is None:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        logged = torch.tensor(list(values.values()), dtype=gradients[0].dtype, device=gradients[0].device)
        flat = torch.cat([g.reshape(-1) for g in (*gradients, logged)])
        with self._waiting_for_replicas():
            dist.all_reduce(flat, group=self._replicas)
        flat /= self.place.num_replicas
        *averaged, logged = flat.split([g.numel() for g in (*gradients, logged)])
        for g, mean in zip(gradients, averaged):
            g.copy_(mean.view_as(g))
        values.update(zip(values, logged.tolist()))

    def _seed_of_batch(self) -> int:
        if self.place.replica == 0:
            return super()._seed_of_batch()
        return example_seed(max(self.cfg.SEED, 0), self.iter, f"random layers, replica {self.place.replica}")

    def waited_s(self) -> float:
        """Seconds that this process has waited for others so far."""
        sides = [side for side in (self._receiver, self._sender) if side is not None]
        return sum(side.waited_s for side in sides) + self._waited_for_replicas_s

    def in_flight_mb(self) -> float:
        """Memory of the batches that may wait beside this process."""
        sides = [side for side in (self._receiver, self._sender) if side is not None]
        # Those in the queue, and the one in the hand of its thread.
        return sum(side.largest_bytes for side in sides) * (self.cfg.MISC.GREEDY.BATCHES_IN_FLIGHT + 1) / 1e6

    # ---- evaluation

    def evaluate(self) -> Dict[str, Any]:
        """Validation flows down the first chain like training; its last process scores."""
        results: Dict[str, Any] = {}
        if self.place.replica == 0:
            for name in self.cfg.DATASETS.VAL or self.cfg.DATASETS.TEST:
                evaluator = self.build_evaluator(self.cfg, name, is_val=True) if self.place.is_last else None
                batches = self._evaluation_batches(name)
                results[name] = inference_on_dataset(self.model, batches, evaluator or _HandOn(self._sender))
        if self.cfg.DATASETS.VAL:  # whether this becomes the best checkpoint is known at the end of the chain alone
            self.checkpointer.gather(min(self.iter, self.max_iter - 1))  # a finished run stands one behind its end
        if not self.is_writer:
            return {}
        for of_dataset in results.values():
            print_csv_format(of_dataset)
        self._last_eval_results = results
        return results

    def _evaluation_batches(self, name: str) -> Any:
        batches: Any
        if self.place.is_first:
            batches = self.build_test_loader(self.cfg, name)
        else:
            assert self._receiver is not None
            batches = _ReceivedBatches(self._receiver, "evaluation", self._receiver.get()["num_batches"])
        if self._sender is not None:
            self._sender.put({"kind": "evaluation begins", "num_batches": len(batches)})
        return batches


class _ReceivedBatches:
    """What the process before hands on, in the place of a loader."""

    def __init__(self, receiver: Receiver, kind: str, num_batches: Optional[int] = None):
        self._receiver, self._kind, self._num_batches = receiver, kind, num_batches
        #: The signal for which the run ends after the last batch that came, or 0.
        self.ends_for = 0

    def __len__(self) -> int:
        assert self._num_batches is not None, "training has no end"
        return self._num_batches

    def __iter__(self) -> Iterator[Message]:
        count = 0
        while self._num_batches is None or count < self._num_batches:
            count += 1
            message = self._receiver.get()
            kind = message.pop("kind")
            assert kind == self._kind, f"found {kind}, expected {self._kind}"
            self.ends_for = message.pop("ends_for", 0)
            yield message


class _HandOn(DatasetEvaluator):
    """In the place of an evaluator, where the network goes on in another process."""

    def __init__(self, sender: Optional[Sender]):
        assert sender is not None
        self._sender = sender

    def process(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> None:
        self._sender.put(_message("evaluation", outputs))


def _message(kind: str, outputs: Dict[str, Any]) -> Message:
    """The batch to hand on: its tensors, and whose images they are."""
    batch = outputs.pop("problem").handed_on(outputs["pred"])
    kept = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    named = {key: batch[key] for key in ("metadata", "dims") if key in batch}
    return {**kept, **named, "kind": kind}


class ChainCheckpointer(GreedyCheckpointer):
    """Checkpoints in the format of a single process: gathered from the first chain, written by its last process.

    To gather, a process sends its part and goes on; the writer comes last and finds everything there.
    """

    def __init__(self, model: GreedyUnrolled, save_dir: str, *, place: Place, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        assert model.whole is not None
        self._whole = model.whole
        own = set(dict(model.named_parameters()))
        self._positions = [i for i, name in enumerate(self._whole.trainable) if name in own - self._given_up()]
        self._place = place
        self._reports: Optional[Sender] = None
        self._gathered: Tuple[Optional[int], Dict[str, Any]] = (None, {})

    def _given_up(self) -> set:
        return set(self.model.state_dict()) - set(self.model.own_state_dict())

    @property
    def _writes(self) -> bool:
        return self._place.rank == self._place.writer

    def connect(self) -> None:
        """Opens the way to the writer, for states and for what else it has to know (:meth:`report`)."""
        if not self._writes:
            cpu = torch.device("cpu")
            self._reports = Sender(self._place.writer, depth=_WAITING_REPORTS, device=cpu, tag=_REPORTS)

    def close(self) -> None:
        if self._reports is not None:
            self._reports.close()
        else:
            self.reports(END["kind"], self._place.num_processes)

    def report(self, kind: str, message: Message) -> None:
        """Tells the writer something; for all other processes."""
        assert self._reports is not None
        self._reports.put({**message, "kind": kind})

    def reports(self, kind: str, num_processes: int) -> List[Message]:
        """The next report of each of the first ``num_processes``, in their order; for the writer."""
        received = []
        for rank in (rank for rank in range(num_processes) if rank != self._place.writer):
            try:
                received.append(receive(rank, tag=_REPORTS))
            except RuntimeError as error:
                if not is_lost_connection(error):
                    raise
                raise PeerLost(rank, error) from error
            assert received[-1]["kind"] == kind, f"found {received[-1]['kind']}, expected {kind}"
        return received

    def gather(self, iteration: int) -> None:
        """Collects the state after an iteration, once however often it is asked for; called in all processes."""
        if self._gathered[0] == iteration or self._place.replica > 0:
            return
        part = {**super().state(), "model": self.model.own_state_dict(), "positions": self._positions}
        part.pop("run")  # that of the writer is the run's
        if not self._writes:
            self.report("state", _pack(part))
            self._gathered = (iteration, {})
            return
        parts = [*map(_unpack, self.reports("state", self._place.num_stages)), part]
        positions = [p["positions"] for p in parts]
        weights = {name: value for p in parts for name, value in p["model"].items()}
        whole = {
            "model": {name: weights[name] for name in self._whole.shapes},
            "optimizer": merge_optimizers([p["optimizer"] for p in parts], positions),
            "scheduler": merge_schedulers([p["scheduler"] for p in parts], positions),
        }
        self._gathered = (iteration, whole)

    def save(self, name: str, tag: bool = True, **kwargs: Any) -> None:
        self.gather(kwargs["iteration"])
        if self._writes:
            super().save(name, tag, **kwargs)

    def state(self) -> Dict[str, Any]:
        # The generators as they are now, not as they were inside an evaluation, when the rest may have been gathered.
        return {**self._gathered[1], "run": self.checkpointables["run"].state_dict()}

    def release(self) -> None:
        """Lets go of what was gathered: the whole network does not fit everywhere."""
        self._gathered = (self._gathered[0], {})

    def prune(self, keep: int) -> None:
        if self._writes:
            super().prune(keep)

    def load(self, path: str, checkpointables: Optional[list] = None) -> Dict[str, Any]:
        parts = dict(self.checkpointables)
        selects = {"optimizer": select_optimizer, "scheduler": select_scheduler}
        for key, select in selects.items():
            self.checkpointables[key] = _Part(parts[key], lambda whole, select=select: select(whole, self._positions))
        try:
            return super().load(path, checkpointables)
        finally:
            self.checkpointables.update(parts)

    def _shapes(self) -> Dict[str, Tuple[int, ...]]:
        return self._whole.shapes

    def _load_weights(self, weights: Dict[str, torch.Tensor]) -> None:
        own = {key: weights[plain_name(key)] for key in self.model.own_state_dict()}
        self.model.load_state_dict(own, strict=False)


class _Part:
    """Loads what belongs here of the whole network's state."""

    def __init__(self, part: Any, select: Any):
        self._part, self._select = part, select

    def load_state_dict(self, whole: Dict[str, Any]) -> None:
        self._part.load_state_dict(self._select(whole))


def _pack(state: Dict[str, Any]) -> Message:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {"state": torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)}


def _unpack(message: Message) -> Dict[str, Any]:
    return torch.load(io.BytesIO(message["state"].numpy()), map_location="cpu", weights_only=True)


class ShareMeasurements(HookBase):
    """Brings what every process of a chain has logged to the writer, before it writes.

    Adds, for each process: ``rank_<r>/batches_per_s``; ``rank_<r>/wait_s``, the time for which it waited for its
    neighbours, per batch; ``rank_<r>/idle_share``, the same as a share of all time; and ``rank_<r>/in_flight_mb``, the
    memory of batches on their way to and from it. The bottleneck is the process that waits least.
    """

    def __init__(self, period: int, eval_period: int):
        self._periods = [p for p in (period, eval_period) if p]
        self._values: List[Dict[str, float]] = []

    def before_train(self) -> None:
        self._start()

    def _start(self) -> None:
        self._since, self._waited_before = time.perf_counter(), self.trainer.waited_s()
        self._values = []

    def after_step(self) -> None:
        trainer = self.trainer
        done = trainer.iter + 1
        values = {}
        if trainer.place.replica == 0 and not trainer.is_writer:
            names = ("loss_module_", "module_", *(["data_time"] if trainer.place.is_first else []))
            values = {k: v for k, v in trainer.storage.latest().items() if k.startswith(names)}
        self._values.append(values)
        if done != trainer.max_iter and not any(done % period == 0 for period in self._periods):
            return  # nothing is written in this iteration
        values.update(self._of_this_process())
        if trainer.is_writer:
            reports = trainer.checkpointer.reports("measurements", trainer.place.num_processes)
            for of_process in (self._values, *(report["values"] for report in reports)):
                self._put(of_process)
        else:
            trainer.checkpointer.report("measurements", {"values": self._values})
        self._start()

    def _of_this_process(self) -> Dict[str, float]:
        elapsed, count = time.perf_counter() - self._since, len(self._values)
        waited = self.trainer.waited_s() - self._waited_before
        values = {
            "batches_per_s": count / elapsed,
            "wait_s": waited / count,
            "idle_share": waited / elapsed,
            "in_flight_mb": self.trainer.in_flight_mb(),
        }
        return {f"rank_{self.trainer.job.rank}/{name}": value for name, value in values.items()}

    def _put(self, values_of_iterations: Sequence[Dict[str, float]]) -> None:
        for values in values_of_iterations:
            for name, value in values.items():
                is_smoothed = not name.startswith(("module_", "rank_"))
                self.trainer.storage.put_scalar(name, value, smoothing_hint=is_smoothed)


# ---- what cannot be spread


def _num_modules(cfg: CfgNode) -> Any:
    return cfg.MISC.GREEDY.NUM_MODULES


def _check_possible(cfg: CfgNode, place: Place) -> None:
    if cfg.MODEL.META_ARCHITECTURE != GreedyUnrolled.__name__:
        raise UserError(
            f"MODEL.META_ARCHITECTURE: found '{cfg.MODEL.META_ARCHITECTURE}', but {place.num_processes} processes were"
            f" started; only '{GreedyUnrolled.__name__}' can be spread (NUM_MODULES 1 with REPLICAS"
            f" {place.num_processes} is backpropagation with data parallelism)"
        )
    if cfg.MISC.GREEDY.TRAINING == "invertible":
        raise UserError(
            "MISC.GREEDY.TRAINING: found 'invertible', which allows one process, but"
            f" {place.num_processes} were started"
        )
    check_partition(cfg, place.num_stages)
    if cfg.MODEL.UNROLLED.SHARE_WEIGHTS and place.num_stages > 1:
        raise UserError(
            "MODEL.UNROLLED.SHARE_WEIGHTS: found True, but modules of different processes cannot share weights; allowed"
            f" is False, or MISC.GREEDY.REPLICAS {place.num_processes} (the whole network in each process)"
        )
    if cfg.MISC.GREEDY.OVERLAP and place.num_stages > 1:
        raise UserError(
            f"MISC.GREEDY.OVERLAP: found {cfg.MISC.GREEDY.OVERLAP}, but a chain has {place.num_stages} processes, and a"
            " gradient would have to travel back to the process before; allowed is 0, or MISC.GREEDY.REPLICAS"
            f" {place.num_processes} (the whole network in each process)"
        )
    if place.num_replicas == 1:
        return
    batch_size, loss = cfg.SOLVER.TRAIN_BATCH_SIZE, cfg.MODEL.RECON_LOSS.NAME
    if batch_size % place.num_replicas:
        raise UserError(
            f"SOLVER.TRAIN_BATCH_SIZE: found {batch_size}, allowed are multiples of {place.num_replicas}"
            " (MISC.GREEDY.REPLICAS: each replica gets an equal share of a batch)"
        )
    if "sum" in loss:
        raise UserError(
            f"MODEL.RECON_LOSS.NAME: found '{loss}', which is no mean over examples, so that replicas"
            " (MISC.GREEDY.REPLICAS above 1) cannot average it"
        )


def _check_replicable(model: nn.Module, place: Place) -> None:
    norms = [name for name, part in model.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if place.num_replicas > 1 and norms:
        raise UserError(
            f"MISC.GREEDY.REPLICAS: found {place.num_replicas}, but '{norms[0]}' normalizes over a batch, of which a"
            " replica sees a share; allowed is 1, or a network without BatchNorm"
        )


def _check_last_batch(loader: Any, cfg: CfgNode, place: Place) -> None:
    num_examples, batch_size = len(loader.dataset), cfg.SOLVER.TRAIN_BATCH_SIZE
    rest = num_examples % batch_size
    if rest % place.num_replicas and not cfg.DATALOADER.DROP_LAST:
        raise UserError(
            f"DATALOADER.DROP_LAST: found False, but the last batch of an epoch has {rest} of {num_examples} examples,"
            f" no multiple of {place.num_replicas} (MISC.GREEDY.REPLICAS); allowed is True"
        )


def _own_modules(cfg: CfgNode, place: Place) -> range:
    sizes = cfg.MISC.GREEDY.PARTITION
    first = sum(sizes[: place.stage])
    return range(first, first + sizes[place.stage])


def _name_modules(own: range) -> str:
    return f"module {own.stop}" if len(own) == 1 else f"modules {own.start + 1} to {own.stop}"


def _group_of_replicas(place: Place) -> Any:
    """The processes that run the same modules as this one in all replicas; None where there is one replica."""
    own = None
    if place.num_replicas > 1:
        for stage in range(place.num_stages):  # each group is made by all processes, in the same order
            group = dist.new_group([replica * place.num_stages + stage for replica in range(place.num_replicas)])
            own = group if stage == place.stage else own
    return own


def _rounded(seconds: Sequence[float]) -> List[float]:
    return [round(s, 4) for s in seconds]
