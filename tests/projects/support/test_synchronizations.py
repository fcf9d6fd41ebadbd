"""Every network, loss and knob on a GPU that is not there, and how often a training step waits for it."""

import pytest
import torch
from meddlr.modeling.loss_computer import IMAGE_LOSSES, KSPACE_LOSSES
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.modeling.contract import CINE_AXES, is_compatible, traits_of
from meddlr_greedy.planning.example import Example
from projects.cine.support.synchronizations import (
    Synchronizations,
    counted_on_fake_gpu,
    step_on_fake_gpu,
)
from tests.helpers.networks import small_config

NETWORKS = sorted(name for name, network in META_ARCH_REGISTRY if is_compatible(network))
INVERTIBLE = [name for name in NETWORKS if traits_of(META_ARCH_REGISTRY.get(name)).invertible]
CINE = "CineUnrolledCNN"


def waits(cfg, spoil=None, constant_along_readout=True):
    """The places at which a training step of a config waits; of two unrolled steps, with three iterations in each."""
    cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS, cfg.MODEL.UNROLLED.DC.MAX_ITER = 2, 3
    name = cfg.MISC.GREEDY.META_ARCHITECTURE
    cine = traits_of(META_ARCH_REGISTRY.get(name)).kspace_axes == CINE_AXES
    cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
    cfg.MISC.GREEDY.CINE.PARTIAL_ECHO = 0.0 if constant_along_readout else 0.25
    example = Example.from_shape(cfg, (18, 17, 12, 3) if cine else (18, 17, 3))
    with counted_on_fake_gpu() as counted:
        return step_on_fake_gpu(cfg, example, counted, spoil)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_waits_once(name):
    found = waits(small_config(name))
    assert sum(found.values()) == 1, found


@pytest.mark.parametrize("name", ["GeneralizedUnrolledCNN", "CGUnrolledCNN", CINE])
def test_a_step_of_a_plain_network_waits_once(name):
    cfg = small_config(name)
    cfg.MODEL.META_ARCHITECTURE = name
    found = waits(cfg)
    assert sum(found.values()) == 1, found


@pytest.mark.parametrize("name", INVERTIBLE)
def test_a_step_that_runs_backwards_waits_twice(name):
    found = waits(small_config(name, NUM_MODULES=1, TRAINING="invertible"))
    assert sum(found.values()) == 2, found


KNOBS = [
    {"CHECKPOINT": True},
    {"OVERLAP": 1, "LOSS_WEIGHTS": [1.0, 2.0]},
    {"CLIP_NORM": 0.1, "LR_FACTORS": [1.0, 0.5]},
    {"PADDING": "circular"},
]  # without AMP: what stands for the GPU knows no autocast, which converts on the device


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda knobs: "-".join(knobs))
@pytest.mark.parametrize("name", [CINE, "GeneralizedUnrolledCNN"])
def test_knobs(name, knobs):
    cfg = small_config(name, **knobs)
    if name != CINE and "PADDING" in knobs:
        cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = "PaddedResNet"
    assert sum(waits(cfg).values()) == 1


@pytest.mark.parametrize("backward", ["unrolled", "implicit"])
def test_backward_of_conjugate_gradients(backward):
    assert sum(waits(small_config("CGCineUnrolledCNN", CG_BACKWARD=backward)).values()) == 1


@pytest.mark.parametrize("name", [CINE, "CGCineUnrolledCNN", "GeneralizedUnrolledCNN", "CGUnrolledCNN"])
def test_fixed_step_sizes_and_accumulation(name):
    cfg = small_config(name)
    cfg.MODEL.UNROLLED.FIX_STEP_SIZE, cfg.SOLVER.GRAD_ACCUM_ITERS = True, 2
    assert sum(waits(cfg).values()) == 1


@pytest.mark.parametrize("constant", [True, False])
def test_temporal_frequencies_and_both_forms_of_a_mask(constant):
    cfg = small_config(CINE)
    cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = "TemporalFrequencyResNet"
    assert sum(waits(cfg, constant_along_readout=constant).values()) == 1


def test_lines_for_the_loss():
    cfg = small_config(CINE, CINE={"LOSS_LINES": 0.4})
    cfg.MODEL.RECON_LOSS.NAME = "k_l1_l2_sum_normalized"
    assert sum(waits(cfg).values()) == 1


@pytest.mark.parametrize("name", sorted({*IMAGE_LOSSES, *KSPACE_LOSSES}))
def test_losses(name):
    cfg = small_config("GeneralizedUnrolledCNN")
    cfg.MODEL.RECON_LOSS.NAME, cfg.MODEL.RECON_LOSS.RENORMALIZE_DATA = name, True
    found = waits(cfg)
    assert sum(found.values()) == 1, found


# ---- the counter counts


def spoil_forward(wait):
    """In each of two unrolled steps, ``wait`` is called with what goes into the regularizer."""

    def spoil(step):
        for block in step.model.model.resnets:
            block.register_forward_pre_hook(lambda _, args: wait(args[0]))

    return spoil


@pytest.mark.parametrize(
    ("wait", "operation"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: float(x.mean()), "_local_scalar_dense"),
        (lambda x: bool((x > 0).all()), "_local_scalar_dense"),
        (lambda x: x.cpu(), "_to_copy"),
        (lambda x: torch.ones(3).to(x.device), "_to_copy"),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), "_to_copy"),
        (lambda x: x.new_zeros(3).copy_(torch.ones(3)), "copy_"),
        (lambda x: torch.equal(x, x), "equal"),
    ],
    ids=["item", "float", "bool", "to the host", "to the device", "new", "copy", "equal"],
)
def test_what_waits_is_counted_with_its_place(wait, operation):
    def without_result(x):
        wait(x)

    found = waits(small_config(CINE), spoil_forward(without_result))
    assert sum(found.values()) == 1 + 2
    (place,) = [place for place, count in found.items() if count == 2]
    assert "test_synchronizations.py:" in place and place.endswith(operation)


@pytest.mark.parametrize(
    "works_on",
    [
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: x.sum() + 1,
        lambda x: torch.full((), 3.0, device=x.device),
        lambda x: x.half().float(),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.ones(()).item(),
    ],
)
def test_what_does_not_wait_is_not_counted(works_on):
    def without_result(x):
        works_on(x)

    assert sum(waits(small_config(CINE), spoil_forward(without_result)).values()) == 1


def test_of_tensors_with_values_too():
    x = torch.arange(4.0)
    with Synchronizations("cpu") as counted:
        assert x.sum().item() == 6 and bool((x == x).all())
        x[x > 1] = torch.zeros(2)
    assert counted.count == 3
    with Synchronizations("cuda") as counted:
        x.sum().item()
    assert counted.count == 0
