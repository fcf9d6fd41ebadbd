"""Measures what the scaling model needs to know of this machine."""

import contextlib
import time
from collections import defaultdict
from typing import Any, Dict, Iterator, List

import numpy as np
import torch
import torch.distributed as dist
from meddlr.modeling import build_model

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.parallel.backend import GLOO, connect
from meddlr_greedy.parallel.channel import Message, Receiver, Sender
from projects.cine.benchmarks.sides import NETWORK
from projects.cine.scaling.model import Measured
from projects.cine.support.measuring import Batch, held_megabytes, make_batch, make_cfg

__all__ = ["Stopwatch", "measure", "measure_modules", "measure_transfer"]


class Stopwatch:
    """Collects the seconds of named blocks.

    Args:
        device: "cpu" or "cuda"; the work of a GPU is waited for.
    """

    def __init__(self, device: str):
        self._synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
        self.seconds: Dict[str, List[float]] = defaultdict(list)

    @contextlib.contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to ``seconds[name]``."""
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        self.seconds[name].append(time.perf_counter() - start)


def measure_modules(model: GreedyUnrolled, batch: Batch, device: str, seconds: float) -> Dict[str, float]:
    """Mean seconds of the parts of a training step of one module, which is repeated for ``seconds``."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    watch = Stopwatch(device)
    is_warm, start = False, time.perf_counter()
    while True:
        with watch.measuring("prepare_first_s"):
            problem = model.problem(batch)
        image = problem.image
        handed_on = problem.handed_on(image)
        with watch.measuring("prepare_later_s"):
            model.problem(handed_on)
        for k, parameters in enumerate(model.unrolled.own_parameters()):
            leaf = image.detach().requires_grad_()
            reached = model.unrolled.run(k, leaf, problem)
            ones = torch.ones_like(reached)
            with watch.measuring("through_s"):
                torch.autograd.grad(reached, [leaf, *parameters], ones)
            del reached
            image = image.detach()
            with watch.measuring("forward_s"):
                image = model.unrolled.run(k, image, problem)
            with watch.measuring("loss_s"):
                outputs = {"pred": image, "target": problem.target, "signal_model": problem.A}
                loss = model.losses.loss(problem.inputs, outputs)
            with watch.measuring("backward_s"):
                gradients = torch.autograd.grad(loss, parameters)
            image = image.detach()
            for p, gradient in zip(parameters, gradients):
                p.grad = gradient
            del loss, outputs, gradients
        with watch.measuring("update_s"):
            optimizer.step()
            optimizer.zero_grad()
        if not is_warm:  # the first round makes the optimizer's state, and more
            is_warm, start = True, time.perf_counter()
            watch.seconds.clear()
        elif time.perf_counter() - start > seconds:
            break
    means = {name: float(np.mean(values)) for name, values in watch.seconds.items()}
    means["update_s"] /= model.num_modules
    return means


def measure_transfer(job: Job, message: Message, device: str, stage_on_cpu: bool, count: int = 50) -> float:
    """Seconds of each of many messages in a row from process 0 to 1, as process 1 sees it; 0 elsewhere."""
    options: Dict[str, Any] = {
        "depth": GreedyConfig().PARALLEL.BATCHES_IN_FLIGHT,
        "device": torch.device(device),
        "stage_on_cpu": stage_on_cpu,
    }
    if job.rank == 0:
        sender = Sender(1, **options)
        for _ in range(count + 5):
            sender.put(message)
        sender.close()
    if job.rank != 1:
        return 0.0
    receiver = Receiver(0, **options)
    for _ in range(5):
        receiver.get()
    start = time.perf_counter()
    for _ in range(count):
        receiver.get()
    seconds = (time.perf_counter() - start) / count
    receiver.get()  # the end: only then may another channel take its place
    return seconds


def measure(device: str, seconds: float) -> Measured:
    """What the scaling model needs; every process of this job calls it, and gets the same."""
    job = Job.current()
    own_device = True
    if device.startswith("cuda"):
        torch.cuda.set_device(job.local_rank % torch.cuda.device_count())
        own_device = job.local_rank < torch.cuda.device_count()
    backend = connect(job, device)
    cfg = make_cfg(device, "CineUnrolledCNN", NETWORK["modules"], NETWORK["features"], NETWORK["modules"])
    batch = make_batch(device, NETWORK["shape"], NETWORK["num_coils"])
    held_mb = held_megabytes(cfg, batch)
    model: Any = build_model(cfg).to(device).train()
    # From here on side by side: cores share caches and memory, so a busy neighbor is part of what is measured.
    dist.barrier()
    means = measure_modules(model, batch, device, seconds) if own_device else None
    dist.barrier()
    handed_on = model.problem(batch).handed_on(batch["target"])
    message = {key: value for key, value in handed_on.items() if isinstance(value, torch.Tensor)}
    stage_on_cpu = backend == GLOO
    transfers = [measure_transfer(job, m, device, stage_on_cpu) for m in ({}, message)]
    gathered: List[Any] = [None] * job.world_size
    dist.all_gather_object(gathered, {"means": means, "transfers": transfers})
    busy = [found["means"] for found in gathered if found["means"]]
    latency_s, transfer_s = gathered[1]["transfers"]
    measured = Measured(
        **{name: float(np.mean([found[name] for found in busy])) for name in busy[0]},
        latency_s=latency_s,
        transfer_s=transfer_s,
        message_bytes=sum(tensor.nbytes for tensor in message.values()),
        image_bytes=batch["target"].nbytes,
        gradient_bytes=sum(p.nbytes for p in model.parameters()) // model.num_modules,
        activation_bytes=int(held_mb * 10**6),
    )
    job.finish()
    return measured
