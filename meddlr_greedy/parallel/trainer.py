"""Parallel greedy learning: the modules of one network spread over processes, through which the batches flow.

No gradient goes back from one module to the one before. So the process of module k may start mini-batch t + 1 as soon
as it has updated on mini-batch t, while later modules still work on t: a pipeline without bubbles after it has filled,
without stale gradients, and with the results of a single process, bit for bit. Each process, in a loop::

    image, problem = receive()                 # of mini-batch t; the first process reads and prepares the batch
    for each own module: image = forward;  if it is the last: send(detach(image));  gradient of its local loss
    update own parameters                      # and on to mini-batch t + 1, at once

Everything else of a run follows the batches down the chain: validation images, the request to end, what is measured.
Files are written by the last process of the first chain (the I/O rank): it is the last to be done with an iteration, so
that what it gathers from the others is there already.
"""

import json
import logging
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import torch
from meddlr.config import CfgNode
from meddlr.evaluation import inference_on_dataset
from meddlr.evaluation.testing import print_csv_format

from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.errors import PreemptedError, UserError
from meddlr_greedy.jobs.end_request import JobEndRequest
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.modeling.wrappers.inside import greedy_inside
from meddlr_greedy.parallel.backend import GLOO, connect
from meddlr_greedy.parallel.batches import BATCHES, HandOn, ReceivedBatches
from meddlr_greedy.parallel.channel import Receiver, Sender
from meddlr_greedy.parallel.checkpointer import ChainCheckpointer
from meddlr_greedy.parallel.groups import Groups
from meddlr_greedy.parallel.limits import check_last_batches, check_possible, check_replicable
from meddlr_greedy.parallel.measurements import ShareMeasurements
from meddlr_greedy.parallel.partition import balanced_partition, measure_modules, store_partition, stored_partition
from meddlr_greedy.parallel.place import Place
from meddlr_greedy.parallel.step import ChainStep
from meddlr_greedy.registry import TRAINER_REGISTRY

__all__ = ["ParallelGreedyTrainer"]

logger = logging.getLogger(__name__)


def _place_of_this_process(cfg: CfgNode) -> Place:
    job = Job.current()
    return Place.of(job.rank, job.world_size, cfg.MISC.GREEDY.PARALLEL.REPLICAS)


@TRAINER_REGISTRY.register()
class ParallelGreedyTrainer(GreedyTrainer):
    """:class:`GreedyTrainer` over the processes of a job, with the same results, logs and checkpoints.

    World size = ``MISC.GREEDY.PARALLEL.REPLICAS`` x the number of processes in a chain.
    ``MISC.GREEDY.PARALLEL.PARTITION`` says which modules a process runs; only their parameters, optimizer state and
    activations live there.

    Raises:
        UserError: for what cannot be spread over these processes, before anything is trained.
    """

    step: ChainStep
    data_loader: Any  # a loader, then perhaps ReceivedBatches
    end_request: JobEndRequest
    for_several_processes = True

    def __init__(self, cfg: CfgNode):
        self.job = Job.current()
        self.place = _place_of_this_process(cfg)
        check_possible(cfg, self.place)
        self._stage_on_cpu = connect(self.job, cfg.MODEL.DEVICE) == GLOO
        if self._stage_on_cpu and cfg.MODEL.DEVICE != "cpu":
            logger.warning(
                "Processes share GPUs, or torch has no NCCL: what they exchange passes through host memory (gloo)"
            )
        connected_on = None if self._stage_on_cpu else torch.device("cuda", torch.cuda.current_device())
        self._groups = Groups.make(self.place, connected_on)
        cfg = self._with_partition(cfg)
        own = _own_modules(cfg, self.place)
        self.job.introduce(_name_modules(own))

        super().__init__(cfg)
        check_replicable(self.model, self.place)
        check_last_batches(self.data_loader.batch_sampler, self.place)
        self._receiver: Optional[Receiver] = None
        self.end_request = self.job.end_request
        logger.info("Process %d of %d runs %s", self.job.rank, self.job.world_size, _name_modules(own))

    @property
    def is_io_rank(self) -> bool:
        """Whether this process writes files and logs; of a job it is one."""
        return self.place.is_io_rank

    # ---- parts, built from the config

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """The endless loader of the share that this process's replica has of every batch."""
        place = _place_of_this_process(cfg)
        return build_train_loader(cfg, cfg.SEED, share=(place.replica, place.num_replicas))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        """The network with the modules of this process; whole, as long as the partition is not known."""
        model: Any = super().build_model(cfg)  # whole, so that the weights start as in a single process
        if cfg.MISC.GREEDY.PARALLEL.PARTITION != "auto":
            greedy = greedy_inside(model)
            assert greedy is not None, "refused by check_possible"
            greedy.keep_modules(_own_modules(cfg, _place_of_this_process(cfg)))
        return model

    def build_checkpointer(self, **parts: Any) -> ChainCheckpointer:
        """What gathers the parts of the network from the chain, and saves and loads them as one."""
        return ChainCheckpointer(self.model, self.cfg.OUTPUT_DIR, place=self.place, **parts)

    def build_step(self) -> ChainStep:
        """The part of the training step that runs in this process."""
        parts = (self.model, self.optimizer, self.loss_computer, max(self.cfg.SEED, 0))
        return ChainStep(*parts, self.place, self._groups.replicas, self.job.end_request)

    def build_hooks(self) -> list:
        """The hooks of one process, then the one that brings what they measured to the I/O rank."""
        return [*super().build_hooks(), ShareMeasurements(self.writing_periods)]

    def build_writers(self) -> list:
        """Those of one process on the I/O rank, nothing elsewhere."""
        return super().build_writers() if self.is_io_rank else []

    def _with_partition(self, cfg: CfgNode) -> CfgNode:
        """The config with the partition as a list; "auto" is measured by the first process, once a run."""
        partition = cfg.MISC.GREEDY.PARALLEL.PARTITION
        if partition == "auto":
            measured = None
            if self.job.rank == 0:
                measured = json.dumps(self._balanced_partition(cfg))
            partition = tuple(json.loads(self.job.agree("partition", measured)))
        cfg = cfg.clone().defrost()
        cfg.MISC.GREEDY.PARALLEL.PARTITION = partition
        return cfg.freeze()

    def _balanced_partition(self, cfg: CfgNode) -> List[int]:
        num_stages = self.place.num_stages
        modules = partition_steps(cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS, cfg.MISC.GREEDY.NUM_MODULES)
        sizes = [len(steps) for steps in modules]
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
            step = TrainingStep(model.train(), None, self.build_loss_computer(cfg), max(cfg.SEED, 0))
            seconds = measure_modules(step, next(iter(self.build_train_loader(cfg))))
        del model
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # of the whole network, of which this process will run a part
        partition = balanced_partition(seconds, num_stages)
        store_partition(cfg.OUTPUT_DIR, key, partition, seconds)
        logger.info("Measured %s s for the modules; modules of each process: %s", _rounded(seconds), partition)
        return partition

    # ---- training

    def resume_or_load(self, resume: bool = True, restart_iter: bool = False) -> None:
        """As in one process.

        Raises:
            UserError: The processes do not find the same checkpoint.
        """
        super().resume_or_load(resume, restart_iter)
        found = f"iteration {self.start_iter}"
        agreed = self.job.agree("start", found)
        if found != agreed:
            raise UserError(
                f"OUTPUT_DIR: {self.cfg.OUTPUT_DIR} starts from {found} here, but from {agreed} on rank 0; all"
                " processes must see the same folder"
            )

    def train(self) -> Optional[Dict[str, Any]]:
        """Trains from ``start_iter`` to ``max_iter``; returns the last evaluation's results on the I/O rank.

        Raises:
            NonFiniteLossError: The loss of a module is NaN or infinite.
            PeerLostError: A neighbor is gone.
            PreemptedError: A process was asked to end; a checkpoint has been written.
        """
        with self._connected():
            return super().train()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Channels to the neighbors; at a regular end, all processes leave together."""
        device = next(self.model.parameters()).device
        depth = self.cfg.MISC.GREEDY.PARALLEL.BATCHES_IN_FLIGHT
        options = {"depth": depth, "device": device, "tag": BATCHES, "stage_on_cpu": self._stage_on_cpu}
        if not self.place.is_last:
            self.step.sender = Sender(self.job.rank + 1, group=self._groups.sending, **options)
        if not self.place.is_first:
            self._receiver = Receiver(self.job.rank - 1, group=self._groups.receiving, **options)
            self.data_loader = ReceivedBatches(self._receiver, "training", end_request=self.end_request)
        self.checkpointer.connect()
        with self.job.training():
            try:
                yield
            except PreemptedError:
                self._leave_together()
                raise
            self._leave_together()

    def _leave_together(self) -> None:
        if self.step.sender is not None:
            self.step.sender.close()
        self.checkpointer.close()
        self.job.finish()

    def seek_first_batch(self) -> None:
        """Only the first process of a chain reads batches."""
        if self.place.is_first:
            super().seek_first_batch()

    @property
    def reads_batches(self) -> bool:
        """The first process of a chain reads batches; to the others they come on their device."""
        return self.place.is_first

    def next_batch(self) -> Dict[str, Any]:
        """The next mini-batch; the first process of a chain reads it, the others receive it."""
        return super().next_batch() if self.reads_batches else next(self._data_loader_iter)

    def run_step(self) -> None:
        """Runs the part that this process has in a training step."""
        self.checkpointer.release()
        if self.place.is_first:
            self.end_request.decide(self.step.largest_of_replicas(self.end_request.pending))
        super().run_step()

    def waited_s(self) -> float:
        """Seconds that this process has waited for others so far."""
        return sum(side.waited_s for side in self._sides()) + self.step.waited_s

    def in_flight_mb(self) -> float:
        """Memory of the batches that may wait beside this process."""
        # Those in the queue, and the one that its thread copies.
        return (
            sum(side.largest_bytes for side in self._sides())
            * (self.cfg.MISC.GREEDY.PARALLEL.BATCHES_IN_FLIGHT + 1)
            / 1e6
        )

    def _sides(self) -> List[Union[Receiver, Sender]]:
        return [side for side in (self._receiver, self.step.sender) if side is not None]

    # ---- evaluation

    def evaluate(self) -> Dict[str, Any]:
        """As in one process; the results are on the I/O rank."""
        results = super().evaluate()
        if self.cfg.DATASETS.VAL:  # whether this becomes the best checkpoint is known at the end of the chain alone
            self.checkpointer.gather(min(self.iter, self.max_iter - 1))  # a finished run stands one behind its end
        return results

    def score(self) -> Dict[str, Any]:
        """Validation flows down the first chain like training; its last process scores."""
        results: Dict[str, Any] = {}
        if self.place.replica == 0:
            for name in self.cfg.DATASETS.VAL or self.cfg.DATASETS.TEST:
                evaluator = self.build_evaluator(self.cfg, name, is_val=True) if self.place.is_last else None
                batches = self._evaluation_batches(name)
                # A wrapper of meddlr prepares a batch; what is handed on is for the network inside of it.
                model = self.model if self.place.is_first else self.step.greedy
                results[name] = inference_on_dataset(model, batches, evaluator or HandOn(self.step.sender))
        if not self.is_io_rank:
            return {}
        for metrics in results.values():
            print_csv_format(metrics)
        return results

    def _evaluation_batches(self, name: str) -> Any:
        batches: Any
        if self.place.is_first:
            batches = self.build_test_loader(self.cfg, name)
        else:
            assert self._receiver is not None
            batches = ReceivedBatches(self._receiver, "evaluation", self._receiver.get()["num_batches"])
        if self.step.sender is not None:
            self.step.sender.put({"kind": "evaluation begins", "num_batches": len(batches)})
        return batches


def _own_modules(cfg: CfgNode, place: Place) -> range:
    sizes = cfg.MISC.GREEDY.PARALLEL.PARTITION
    first = sum(sizes[: place.stage])
    return range(first, first + sizes[place.stage])


def _name_modules(own: range) -> str:
    return f"module {own.stop}" if len(own) == 1 else f"modules {own.start + 1} to {own.stop}"


def _rounded(seconds: Sequence[float]) -> List[float]:
    return [round(s, 4) for s in seconds]
