"""The part of a training step that one process of a chain runs."""

import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
import torch.distributed as dist
from meddlr.modeling.meta_arch.vortex import VortexModel
from torch import nn

from meddlr_greedy.data.seeding import example_seed
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.jobs.end_request import EndRequest
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.parts import CONSISTENCY, Part
from meddlr_greedy.ops.devices import to_device
from meddlr_greedy.parallel.batches import batch_message, parts_message, received_parts
from meddlr_greedy.parallel.channel import Sender
from meddlr_greedy.parallel.place import Place

__all__ = ["ChainStep"]


class ChainStep(TrainingStep):
    """The modules of one process: it hands its image on before backward, and averages over the replicas.

    Args:
        model: The network, of which this process keeps its modules.
        optimizer: Of their parameters.
        loss_computer: Of the last image of the whole network.
        run_seed: The seed of the run.
        place: Where this process stands.
        replicas: The processes that run the same modules in all replicas; None where there is one.
        end_request: Whether the run ends after this batch; it goes down the chain with it.

    Attributes:
        sender: To the next process of the chain, once connected; None at its end.
        waited_s: Seconds that this process has waited for other replicas so far.
    """

    greedy: GreedyUnrolled

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        loss_computer: Any,
        run_seed: int,
        place: Place,
        replicas: Any,
        end_request: EndRequest,
    ):
        super().__init__(model, optimizer, loss_computer, run_seed)
        self.place, self.replicas, self.end_request = place, replicas, end_request
        self.sender: Optional[Sender] = None
        self.waited_s = 0.0

    def seed(self, iteration: int) -> Optional[int]:
        """Another seed in each replica: their examples are others, too."""
        if self.place.replica == 0:
            return super().seed(iteration)
        return example_seed(self.run_seed, iteration, f"random layers, replica {self.place.replica}")

    def parts(self, inputs: Dict[str, Any], iteration: int) -> Dict[str, Part]:
        """The first process draws; where images are transformed, the others draw the same transforms once more."""
        if self.place.is_first:
            return super().parts(inputs, iteration)
        parts = received_parts(inputs)
        if CONSISTENCY in parts and isinstance(self.model, VortexModel):
            part = parts[CONSISTENCY]
            kspace = part.inputs["zf_image"].new_ones(part.inputs["dims"])
            with self.drawing(iteration):
                *_, transform = self.draws.augmented(self.model.augmentor, kspace, part.inputs["maps"])
            parts[CONSISTENCY] = part._replace(transform=transform)
        return parts

    def hand_on(self, outputs: Dict[str, Any]) -> None:
        """Sends the image on before backward, so that the next process need not wait for it."""
        if self.sender is not None:
            message = parts_message("training", outputs) if self.in_wrapper else batch_message("training", outputs)
            self.sender.put({**message, "end_signal": self.end_request.signal})

    def last_loss(
        self, inputs: Dict[str, Any], outputs: Dict[str, Any]
    ) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
        """The local loss of the last module that runs here."""
        if self.place.is_last:
            return super().last_loss(inputs, outputs)
        if self.in_wrapper:
            local_losses = self.loss_computer.local_losses
            of_parts = [local_losses[name](of_part["inputs"], of_part) for name, of_part in outputs.items()]
            loss = sum(of_parts[1:], of_parts[0])
        else:
            loss = self.greedy.losses.loss(inputs, outputs)
        name = f"loss_module_{self.greedy.unrolled.own.stop}"
        return loss, {name: outputs.get(name, loss)}

    def average(self, values: Dict[str, float]) -> None:
        """Gradients, and what is logged, become those of the whole batch: the replicas' mean."""
        if self.replicas is None:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        logged = torch.tensor(list(values.values()), dtype=gradients[0].dtype)
        if gradients[0].is_cuda:
            logged = logged.pin_memory()  # so that the host need not wait for the copy
        logged = to_device(logged, gradients[0].device)
        flat = torch.cat([g.reshape(-1) for g in (*gradients, logged)])
        with self._waiting():
            dist.all_reduce(flat, group=self.replicas)
        flat /= self.place.num_replicas
        *averaged, logged = flat.split([g.numel() for g in (*gradients, logged)])
        for g, mean in zip(gradients, averaged):
            g.copy_(mean.view_as(g))
        values.update(zip(values, logged.tolist()))

    def largest_of_replicas(self, number: int) -> int:
        """The largest ``number`` that the processes of the same modules in all replicas give."""
        if self.replicas is None:
            return number
        agreed = torch.tensor([number])
        with self._waiting():
            dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.replicas)
        return int(agreed)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - start
