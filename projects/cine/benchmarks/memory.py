"""Memory of training steps, measured and planned."""

from typing import Any, Dict

from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.benchmarks.options import Options
from projects.cine.support.measuring import held_megabytes, make_batch, make_cfg, measured_peak

__all__ = ["PLANNED", "memory", "plan"]

#: Networks and k-space of one example that :func:`plan` measures.
PLANNED = [
    ("GeneralizedUnrolledCNN", (96, 96, 4)),
    ("CGUnrolledCNN", (96, 96, 4)),
    ("CineUnrolledCNN", (64, 48, 12, 4)),
    ("CGCineUnrolledCNN", (64, 48, 12, 4)),
]


def memory(options: Options) -> Dict[str, Any]:
    """Bytes held for backward against the number of modules: 2D and cine, 32 features."""
    rows = []
    cases = {"2D": ("GeneralizedUnrolledCNN", (96, 96)), "cine": ("CineUnrolledCNN", (64, 48, 12))}
    for kind, (arch, shape) in cases.items():
        batch = make_batch(options.device, shape, num_coils=4)
        end_to_end = held_megabytes(make_cfg(options.device, arch, 8, 32, 1), batch)
        for steps, modules in ((8, 1), (8, 2), (8, 4), (8, 8), (16, 16)):
            held = held_megabytes(make_cfg(options.device, arch, steps, 32, modules), batch)
            fewer = end_to_end / held if steps == 8 else None
            rows.append({"network": kind, "steps": steps, "modules": modules, "held_mb": held, "times_fewer": fewer})
    return {"rows": rows}


def plan(options: Options) -> Dict[str, Any]:
    """Peak memory of a training step, as planned and as measured: 4 steps, 32 features, 2D and cine, PGD and CG."""
    rows = []
    for arch, shape in PLANNED:
        for modules in (0, 2, 4):
            cfg = make_cfg(options.device, arch, 4, 32, modules).clone().defrost()
            if "CG" in arch:
                cfg.MODEL.UNROLLED.STEP_SIZES = (0.1,)
                cfg.MODEL.UNROLLED.DC.EPS = 0.0  # so that meddlr's runs all of its iterations, as planned
            cfg.SOLVER.TRAIN_BATCH_SIZE = 1
            example = Example.from_shape(cfg.freeze(), shape)
            planned_step, measured = plan_step(cfg, example), measured_peak(cfg, example)
            planned = planned_step.peak - planned_step.copied_ahead  # here is one batch alone
            rows.append(
                {
                    "network": arch,
                    "modules": modules or "backpropagation",
                    "planned_mb": planned / 1e6,
                    "measured_mb": measured / 1e6,
                    "planned/measured": planned / measured,
                }
            )
    return {"rows": rows}
