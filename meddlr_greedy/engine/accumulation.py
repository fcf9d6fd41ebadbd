"""Gradient accumulation that survives an interruption."""

from typing import Any, Dict

from meddlr.solver.optimizer import GradAccumOptimizer

__all__ = ["ResumableGradAccumOptimizer"]


class ResumableGradAccumOptimizer(GradAccumOptimizer):
    """meddlr's accumulation whose state holds the gradients so far and the position in the window.

    meddlr drops both, so a run resumed in the middle of a window would lose gradients.
    """

    def state_dict(self) -> Dict[str, Any]:
        """meddlr's state with ``step_iters``, the iterations in the window so far, and their summed ``gradients``."""
        in_window = self.step_iters > 0
        return {
            **super().state_dict(),
            "step_iters": self.step_iters,
            "gradients": [p.grad for p in self._parameters()] if in_window else [],
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Continues in the middle of the window; a state that meddlr wrote starts a new one."""
        super().load_state_dict(state_dict)
        self.step_iters = state_dict.get("step_iters", 0)
        for p, gradient in zip(self._parameters(), state_dict.get("gradients", [])):
            p.grad = None if gradient is None else gradient.to(p.device)

    def flush(self, closure: Any = None) -> None:
        """Updates with the gradients of an unfinished window; does nothing at its end."""
        if self.step_iters > 0:
            super().flush(closure)

    def _parameters(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]
