"""The networks whose training step fills a budget of memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from meddlr.config import CfgNode

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.search import FEATURES, STEPS, Largest, growth_of, largest, with_value
from meddlr_greedy.planning.step_memory import StepMemory, plan_step
from projects.cine.paths import CONFIGS
from projects.cine.support.measuring import measured_peak

__all__ = ["DEEPER", "FILLED", "FULL", "MODULES", "SHALLOWER", "SMALL", "Budget", "Candidate", "Size"]

MODULES = "MISC.GREEDY.NUM_MODULES"

#: Depths of the candidates over that of the budget's network; what is deeper is narrower by as much.
SHALLOWER = 0.6
DEEPER = (1.6, 2.5)

#: The part of the budget that a candidate fills at least.
FILLED = 0.95
# What a convolution needs inside, no plan sees: some kilobytes.
_SEEN_BY_NO_PLAN = 0.001


@dataclass(frozen=True)
class Size:
    """One size of the study.

    Attributes:
        name: Of the result.
        backprop: Config of the network that gives the budgets.
        greedy: Its greedy twin.
        learning_rates: To try; the first one while the shape is sought.
        budgets: Unrolled steps of the networks that give the budgets, in the order of the study.
        memory: Bytes; the one budget where it is given, with the number of steps as the depth to start from.
    """

    name: str
    backprop: Path
    greedy: Path
    learning_rates: Tuple[str, ...]
    budgets: Tuple[int, ...]
    memory: Optional[int] = None


SMALL = Size(
    "equal_memory",
    CONFIGS / "equal_memory.yaml",
    CONFIGS / "equal_memory_greedy.yaml",
    learning_rates=("4e-3", "8e-3", "2e-3"),
    budgets=(3, 5, 4),  # the smallest and the one of the config first
)
FULL = Size(
    "equal_memory_full",
    CONFIGS / "equal_memory_full.yaml",
    CONFIGS / "equal_memory_full_greedy.yaml",
    learning_rates=("1e-3", "2e-3", "5e-4"),
    budgets=(5,),
    memory=24 * 10**9,
)


@dataclass(frozen=True)
class Candidate:
    """A network that fills a budget.

    Attributes:
        config: Config file.
        steps: Unrolled steps.
        features: Of the regularizer.
        modules: Greedy modules; 1 is backpropagation.
        memory: What its training step needs, as planned.
    """

    config: Path
    steps: int
    features: int
    modules: int
    memory: StepMemory

    @property
    def opts(self) -> Tuple[str, ...]:
        """Overrides of the config: ``KEY, VALUE, KEY, VALUE, ...``."""
        modules = () if self.modules == 1 else (MODULES, str(self.modules))
        return (STEPS, str(self.steps), FEATURES, str(self.features), *modules)

    @property
    def cfg(self) -> CfgNode:
        """The config of its training."""
        return load_config(str(self.config), self.opts)

    @property
    def name(self) -> str:
        """For files and tables."""
        return f"steps{self.steps}-features{self.features}-modules{self.modules}"


@dataclass(frozen=True)
class Budget:
    """Networks that fill the memory of a training step.

    Attributes:
        size: Of the study.
        example: Of its data.
        steps: Of the network that gives the budget.
        features: Of the same.
        bytes: The budget.
        memory: What a training step of that network needs, and computes.
    """

    size: Size
    example: Example
    steps: int
    features: int
    bytes: int
    memory: StepMemory

    @classmethod
    def from_steps(cls, size: Size, example: Example, steps: int) -> "Budget":
        """The peak of the network of the config with ``steps`` unrolled steps.

        Where ``size.memory`` is given, that is the budget, and its network is the widest that fits.

        Raises:
            UserError: none fits.
        """
        cfg = load_config(str(size.backprop), [STEPS, str(steps)])
        features, memory = cfg.get_recursive(FEATURES), None
        if size.memory is None:
            memory = plan_step(cfg, example)
        else:
            features, memory, _ = _widest(cfg, example, size.memory)
        if memory is None:
            raise UserError(f"{size.backprop}: no network of {steps} steps fits in {size.memory} bytes")
        return cls(size, example, steps, features, size.memory or memory.peak, memory)

    @property
    def network(self) -> Candidate:
        """The network that gives the budget."""
        return Candidate(self.size.backprop, self.steps, self.features, 1, self.memory)

    def backprop(self) -> List[Candidate]:
        """Shallower, as deep as, and deeper than the network of the budget, each as wide as fits."""

        def shape(steps: int) -> Optional[Candidate]:
            widest = self._widest(load_config(str(self.size.backprop), [STEPS, str(steps)]), steps)
            found = widest.memory
            return None if found is None else Candidate(self.size.backprop, steps, widest.value, 1, found)

        return self._filling([self._fullest(shape, times) for times in (SHALLOWER, 1, *DEEPER)])

    def greedy(self, max_operations: float) -> List[Candidate]:
        """Modules as deep as the network of the budget, and deeper, each as wide as fits."""

        def plan(modules: int, module_steps: int, features: int) -> StepMemory:
            return plan_step(self._greedy_cfg(modules, module_steps, features), self.example)

        def shape(module_steps: int) -> Optional[Candidate]:
            features = self._widest(self._greedy_cfg(2, module_steps), module_steps).value
            while features:
                # Every module computes as much as another: what two and three compute tells the rest. Fewer than two
                # would not be greedy.
                with_two, with_three = (plan(n, module_steps, features).operations for n in (2, 3))
                if with_two > max_operations:
                    return None
                modules = 2 + int((max_operations - with_two) / (with_three - with_two))
                memory = plan(modules, module_steps, features)
                if memory.peak <= self.bytes:
                    return Candidate(self.size.greedy, modules * module_steps, features, modules, memory)
                features -= 1  # the parameters of more modules need some memory, too
            return None

        return self._filling([self._fullest(shape, times) for times in (1, DEEPER[0])])

    def measured(self, candidates: Sequence[Candidate]) -> Dict[Candidate, int]:
        """Measured peak bytes of a training step, of those candidates that fill 95 to 100 % of the budget by them, too.

        Raises:
            UserError: none of them does.
        """
        peaks = {c: measured_peak(c.cfg, self.example) for c in candidates}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the trainings are other processes
        most = self.bytes * (1 + _SEEN_BY_NO_PLAN)
        filling = {c: peak for c, peak in peaks.items() if FILLED * self.bytes <= peak <= most}
        if not filling:
            raise self._unfilled("measured", peaks)
        return filling

    def _greedy_cfg(self, modules: int, module_steps: int, features: int = 0) -> CfgNode:
        opts = [STEPS, str(modules * module_steps), MODULES, str(modules)]
        return load_config(str(self.size.greedy), opts + ([FEATURES, str(features)] if features else []))

    def _widest(self, cfg: CfgNode, held_steps: int) -> Largest:
        """The most features that fit; the search starts where memory is about that of the budget's network."""
        cfg = with_value(cfg, FEATURES, max(1, round(self.features * self.steps / held_steps)))
        return _widest(cfg, self.example, self.bytes)

    def _fullest(self, shape: Callable[[int], Optional[Candidate]], times: float) -> Optional[Candidate]:
        """Of neighboring depths the one that fills the budget best; the number of features is whole, so not all can."""
        steps = round(times * self.steps)
        near = [shape(n) for n in range(steps - 1, steps + 2) if n > 0]
        return max((c for c in near if c), key=lambda c: c.memory.peak, default=None)

    def _filling(self, candidates: Sequence[Optional[Candidate]]) -> List[Candidate]:
        found = sorted({c for c in candidates if c}, key=lambda c: c.steps)
        filling = [c for c in found if FILLED * self.bytes <= c.memory.peak <= self.bytes]
        if not filling:
            raise self._unfilled("planned", {c: c.memory.peak for c in found})
        return filling

    def _unfilled(self, how: str, peaks: Mapping[Candidate, int]) -> UserError:
        tried = ", ".join(f"{c.name}: {peak / self.bytes:.1%}" for c, peak in peaks.items())
        return UserError(
            f"no network fills {FILLED:.0%} to 100 % of {self.bytes / 1e6:.0f} MB, {how}"
            f" ({tried or 'none fits, within the operations that --times allows'})"
        )


def _widest(cfg: CfgNode, example: Example, budget: int) -> Largest:
    """The most features with which a training step fits, of at most 1024; the search starts at those of the config."""
    return largest(growth_of(cfg, example, FEATURES)._replace(bound=1024), budget)
