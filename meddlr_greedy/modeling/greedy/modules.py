"""The modules of an unrolled network: which unrolled steps and which parameters they have, and how they run."""

from collections import defaultdict
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy.inversion import run_inverting
from meddlr_greedy.modeling.greedy.tiled_regularizer import TiledRegularizer
from meddlr_greedy.modeling.greedy.unrolled_step import StepMode, block_of_step, regularizer_of, run_step
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["Observer", "StepParameters", "UnrolledModules", "WholeNetwork", "partition_steps"]

#: Called as observer(k, begins) where forward and backward of module k (from 0) begin or have ended.
Observer = Callable[[int, bool], None]


def partition_steps(num_steps: int, num_modules: Union[int, Sequence[int]]) -> List[range]:
    """Cuts ``num_steps`` unrolled steps into modules of consecutive steps.

    Args:
        num_steps: N, the unrolled steps of the network.
        num_modules: K, or the number of steps of each module. An uneven K gives the larger modules first.

    Returns:
        List[range]: One range of step indices for each module.

    Raises:
        UserError: where K is larger than N, or the sizes do not add up to N.
    """
    key = "MISC.GREEDY.NUM_MODULES"
    if isinstance(num_modules, int):
        if not 1 <= num_modules <= num_steps:
            raise UserError(
                f"{key}: found {num_modules}, allowed is 1 to {num_steps} (the number of unrolled steps,"
                " MODEL.UNROLLED.NUM_UNROLLED_STEPS)"
            )
        size, larger = divmod(num_steps, num_modules)
        sizes = [size + 1] * larger + [size] * (num_modules - larger)
    else:
        sizes = list(num_modules)
        if not sizes or min(sizes) < 1 or sum(sizes) != num_steps:
            raise UserError(
                f"{key}: found sizes {sizes}, allowed are positive sizes that add up to {num_steps}"
                " (the number of unrolled steps, MODEL.UNROLLED.NUM_UNROLLED_STEPS)"
            )
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [range(end - size, end) for end, size in zip(ends, sizes)]


class StepParameters(NamedTuple):
    """The trainable parameters of a network, with the unrolled steps that each belongs to."""

    parameters: List[nn.Parameter]  #: in the order of the network
    steps: List[Set[int]]  #: of each parameter; none where it belongs to no step in particular

    def of(self, steps: range) -> List[nn.Parameter]:
        """The parameters of some unrolled steps, and those that belong to no step; of no steps, none."""
        if not steps:
            return []
        return [p for p, own in zip(self.parameters, self.steps) if not own or not own.isdisjoint(steps)]


class WholeNetwork(NamedTuple):
    """Names in the whole network, of which a process may keep a part."""

    shapes: Dict[str, Tuple[int, ...]]  #: of parameters and buffers
    trainable: List[str]  #: parameters, in the order of the network


class UnrolledModules:
    """A network as a sequence of modules: the partition, the parameters of its parts, and how they run.

    Args:
        network: An :class:`~meddlr_greedy.modeling.contract.UnrolledNetwork`.
        num_modules: K, or the number of unrolled steps of each module.
        mode: How an unrolled step runs; by default, as in the plain network.

    Attributes:
        network: The network.
        steps: The unrolled steps of each module of the whole network, from 0.
        own: The modules that run in this process.

    Raises:
        UserError: where the modules do not fit the network.
    """

    def __init__(
        self,
        network: Any,
        num_modules: Union[int, Sequence[int]] = 1,
        mode: Optional[StepMode] = None,
    ):
        self.network: Any = network
        num_steps: int = len(self.network.step_sizes)
        self.steps = partition_steps(num_steps, num_modules)
        self.own = range(len(self.steps))
        self.mode = mode or StepMode()
        self._observers: List[Observer] = []

    def __len__(self) -> int:
        """K, the number of modules of the whole network."""
        return len(self.steps)

    @property
    def holds_last(self) -> bool:
        """Whether the last module of the network runs in this process."""
        return self.own.stop == len(self)

    # ---- running

    def run(self, k: int, image: torch.Tensor, problem: UnrolledProblem, seed: Optional[int] = None) -> torch.Tensor:
        """Runs module ``k`` (from 0): image (B, H, W, [T,] M) to image; for ``seed`` see :meth:`run_steps`."""
        return self.run_steps(self.steps[k], image, problem, seed)

    def run_steps(
        self, steps: range, image: torch.Tensor, problem: UnrolledProblem, seed: Optional[int] = None
    ) -> torch.Tensor:
        """Runs unrolled steps (from 0).

        Args:
            steps: Which.
            image: Complex, (B, H, W, [T,] M).
            problem: The batch.
            seed: Where given, what the random layers (dropout) of step i draw is a function of it and of i alone,
                wherever and after whatever the step runs.

        Returns:
            torch.Tensor: The image after them, complex, (B, H, W, [T,] M).
        """
        mode = self._mode
        if mode.inverts and len(steps) > 1 and torch.is_grad_enabled():
            error = self._error("inversion_error", steps.start, problem, image)
            return run_inverting(self.network, steps, image, problem, mode, error)
        for i in steps:
            residual = self.residual_of(i, problem, image)
            image = run_step(self.network, i, image, problem, mode, None if seed is None else seed + i, residual)
        return image

    def residual_of(self, i: int, problem: UnrolledProblem, image: torch.Tensor) -> Optional[torch.Tensor]:
        """What the solves of unrolled step ``i`` tell how far they converge, where its gradient relies on that."""
        relies = self.network.training and getattr(self.network, "relies_on_convergence", False)
        return self._error("cg_residual", i, problem, image) if relies else None

    def _error(self, name: str, i: int, problem: UnrolledProblem, image: torch.Tensor) -> torch.Tensor:
        """The scalar of a batch that tells an error of the module of unrolled step ``i``."""
        k = next(k for k, steps in enumerate(self.steps) if i in steps)
        real = image.real.dtype if image.is_complex() else image.dtype
        zero = torch.zeros((), dtype=real, device=image.device)
        return problem.errors.setdefault(f"{name}_module_{k + 1}", zero)

    @property
    def _mode(self) -> StepMode:
        return self.mode if self.network.training else self.mode._replace(recompute="", saved="", inverts=False)

    def data_consistency(self, i: int, image: torch.Tensor, problem: UnrolledProblem) -> torch.Tensor:
        """Data consistency of unrolled step ``i`` (from 0), which comes before its regularizer: image to image."""
        step_size = self.network.step_sizes[i].to(image.device)
        return self.network.dc(image=image, A=problem.A, zf_image=problem.zf_image, step_size=step_size)

    def tiled_regularizer(self, i: int, seed: Optional[int] = None) -> TiledRegularizer:
        """The regularizer of unrolled step ``i`` (from 0), where it runs tile by tile; for ``seed`` see `run_steps`."""
        tiled = regularizer_of(block_of_step(self.network, i), self._mode, None if seed is None else seed + i)
        assert isinstance(tiled, TiledRegularizer)
        return tiled

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Inside the block, ``observer`` is told where the forward and backward of each module begin and have ended."""
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    @property
    def is_observed(self) -> bool:
        """Whether there are observers now."""
        return bool(self._observers)

    def mark(self, k: int, begins: bool) -> None:
        """Tells the observers that forward and backward of module ``k`` begin or have ended."""
        for observer in self._observers:
            observer(k, begins)

    # ---- parameters

    def step_parameters(self) -> StepParameters:
        """The parameters that are trainable now, and where they belong; looked up once for a whole forward."""
        steps: Dict[int, Set[int]] = defaultdict(set)
        for i, step_size in enumerate(self.network.step_sizes):
            for p in (*block_of_step(self.network, i).parameters(), step_size):
                steps[id(p)].add(i)
        trainable = self.trainable_parameters()
        return StepParameters(trainable, [steps.get(id(p), set()) for p in trainable])

    def own_parameters(self) -> List[List[nn.Parameter]]:
        """For each module that runs here, the parameters that its loss trains.

        Those of its steps, and those that belong to no step in particular.
        """
        parameters = self.step_parameters()
        return [parameters.of(self.steps[k]) for k in self.own]

    def trainable_parameters(self) -> List[nn.Parameter]:
        """The parameters of the network that want a gradient, in its order."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def check_one_for_each(self, key: str, numbers: Sequence[float]) -> None:
        """Refuses a list of ``MISC.GREEDY`` that has another number of elements than there are modules.

        Raises:
            UserError: names the key.
        """
        if len(numbers) != len(self):
            raise UserError(
                f"MISC.GREEDY.{key}: found {len(numbers)} numbers, allowed are {len(self)} (one for each module)"
            )

    # ---- a part of the network in this process

    def keep(self, own: range) -> None:
        """Keeps the modules ``own`` alone, and lets go of the parameters of the others, which run in other processes.

        Raises:
            UserError: where modules share parameters, so that they cannot be split.
        """
        names = {id(p): name for name, p in self.network.named_parameters()}
        parameters = self.step_parameters()
        owners = [{id(p) for p in parameters.of(steps)} for steps in self.steps]
        others = [k for k in range(len(self)) if k not in own]
        shared = set().union(*(owners[k] for k in own)) & set().union(*(owners[k] for k in others))
        if shared:
            raise UserError(
                f"MISC.GREEDY.PARALLEL.PARTITION: modules {own.start + 1} to {own.stop} share"
                f" '{names[min(shared)]}' with modules of other processes; weights shared between modules"
                " (MODEL.UNROLLED.SHARE_WEIGHTS) allow one process"
            )
        for k in others:
            for i in self.steps[k]:
                self.network.resnets[i] = nn.Identity()
                self.network.step_sizes[i] = nn.Parameter(torch.empty(0), requires_grad=False)
        self.own = own

    def given_up_steps(self) -> List[int]:
        """The unrolled steps that run in other processes."""
        return [i for k, steps in enumerate(self.steps) if k not in self.own for i in steps]
