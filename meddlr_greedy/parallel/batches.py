"""Batches on their way down a chain of processes."""

from typing import Any, Dict, Iterator, Optional

import torch
from meddlr.evaluation import DatasetEvaluator

from meddlr_greedy.jobs.end_request import JobEndRequest
from meddlr_greedy.modeling.parts import Part
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.parallel.channel import Message, Receiver, Sender

# Before the name of a part: its batch before it was perturbed.
_CLEAN = "clean "

#: Tag of batches between two processes, so that they are not taken for reports.
BATCHES = 0


class ReceivedBatches:
    """The batches that the process before hands on, in the place of a loader.

    Args:
        receiver: Where they arrive.
        kind: "training" or "evaluation".
        num_batches: Their number; None where it has no end.
        end_request: Takes the decision that arrives with each batch of a training, whether the run ends after it.
    """

    def __init__(
        self,
        receiver: Receiver,
        kind: str,
        num_batches: Optional[int] = None,
        end_request: Optional[JobEndRequest] = None,
    ):
        self._receiver, self._kind, self._num_batches = receiver, kind, num_batches
        self._end_request = end_request

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
            if self._end_request is not None:
                self._end_request.decide(message.pop("end_signal"))
            yield message


class HandOn(DatasetEvaluator):
    """In the place of an evaluator, where the network goes on in another process."""

    def __init__(self, sender: Optional[Sender]):
        assert sender is not None
        self._sender = sender

    def process(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> None:
        """Sends a batch on; the outputs lose their ``problem``."""
        # The metadata, for the evaluator, are the loader's: meddlr's denoising makes something else of them on the way.
        self._sender.put({**batch_message("evaluation", outputs), "metadata": inputs["metadata"]})


def batch_message(kind: str, outputs: Dict[str, Any]) -> Message:
    """Packs the batch to hand on.

    Args:
        kind: "training" or "evaluation".
        outputs: Of the modules of this process; the ``problem`` is taken out.
    """
    return {**_packed(outputs.pop("problem"), outputs["pred"]), "kind": kind}


def parts_message(kind: str, outputs: Dict[str, Dict[str, Any]]) -> Message:
    """Packs the batches to hand on that a wrapper of meddlr has made of one, with what their targets are made of.

    Args:
        kind: "training".
        outputs: Of the modules of this process, for each part; the ``problem`` and ``clean`` are taken out.
    """
    message: Message = {"kind": kind, "parts": list(outputs)}
    for name, of_part in outputs.items():
        packed = {name: _packed(of_part.pop("problem"), of_part["pred"])}
        if "clean" in of_part:
            targets = of_part.pop("clean")
            packed[_CLEAN + name] = _packed(targets.problem, targets.image)
        message.update({f"{batch}/{key}": value for batch, values in packed.items() for key, value in values.items()})
    return message


def received_parts(message: Message) -> Dict[str, Part]:
    """The parts of a batch that :func:`parts_message` has packed, without what the perturbation does to images."""

    def batch(name: str) -> Dict[str, Any]:
        return {key[len(name) + 1 :]: value for key, value in message.items() if key.startswith(f"{name}/")}

    return {name: Part(batch(name), batch(_CLEAN + name) or None) for name in message["parts"]}


def _packed(problem: UnrolledProblem, image: torch.Tensor) -> Message:
    batch = problem.handed_on(image)
    kept = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    return {**kept, **{key: batch[key] for key in ("dims", "constant_along_readout") if key in batch}}
