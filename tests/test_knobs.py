"""The keys of MISC.GREEDY that trade memory, time and the reach of the local losses, against explicit loops."""

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.config import load_config
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.modeling.losses import complex_l1
from projects.cine.measuring import make_batch

# Kinds of networks: data, architecture, overrides.
DROPOUT = ["MODEL.UNROLLED.DROPOUT", "0.3"]
SHARED = ["MODEL.UNROLLED.SHARE_WEIGHTS", "True"]
CG = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)"]
UNET = ["MODEL.UNROLLED.BLOCK_ARCHITECTURE", "UnetModel", "MODEL.UNET.CHANNELS", "4", "MODEL.UNET.NUM_POOL_LAYERS", "2"]
BATCH_NORM = ["MODEL.UNROLLED.CONV_BLOCK.NORM", "batch"]
KINDS = {
    "ResNet": ("flat", "GeneralizedUnrolledCNN", []),
    "U-Net": ("flat", "GeneralizedUnrolledCNN", UNET),
    "dropout": ("flat", "GeneralizedUnrolledCNN", DROPOUT),
    "BatchNorm": ("flat", "GeneralizedUnrolledCNN", BATCH_NORM),
    "shared": ("flat", "GeneralizedUnrolledCNN", SHARED + DROPOUT),
    "shared BatchNorm": ("flat", "GeneralizedUnrolledCNN", SHARED + BATCH_NORM),
    "CG": ("flat", "CGUnrolledCNN", CG),
    "cine": ("beat", "CineUnrolledCNN", DROPOUT),
    "cine CG": ("beat", "CGCineUnrolledCNN", CG),
}


def knobs(**values):
    """Overrides of MISC.GREEDY."""
    return [text for key, value in values.items() for text in (f"MISC.GREEDY.{key}", str(value))]


@pytest.fixture
def config_of(write_config):
    def load(kind, modules, *opts):
        data, arch, overrides = KINDS[kind]
        return load_config(str(write_config(data=data, arch=arch, modules=modules)), [*overrides, *opts])

    return load


def batch_of(cfg):
    batch = next(iter(GreedyTrainer.build_train_loader(cfg)))
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


def model_of(cfg, like=None):
    torch.manual_seed(0)
    model = build_model(cfg).train()
    if like is not None:
        model.load_state_dict(like.state_dict())
    return model


def gradients(model, batch, seed=None, batches=2):
    """Of the sum over some forward and backward passes, which draw random numbers one after the other."""
    torch.manual_seed(1)
    model.seed_of_batch = seed
    for _ in range(batches):
        outputs = model(batch)
        complex_l1(outputs["pred"], batch["target"]).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_equal(a, b, rtol=0.0):
    assert a.keys() == b.keys() and any(value is not None and value.abs().max() > 0 for value in a.values())
    for name, value in a.items():
        if rtol:
            assert (value - b[name]).norm() <= rtol * b[name].norm(), name
        else:
            assert (value is None and b[name] is None) or torch.equal(value, b[name]), name


# ---- CHECKPOINT


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("modules", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_bit(config_of, kind, modules, seed):
    cfg = config_of(kind, modules)
    plain, checkpointed = model_of(cfg), model_of(config_of(kind, modules, *knobs(CHECKPOINT=True)))
    assert checkpointed.checkpoint and not plain.checkpoint
    batch = batch_of(cfg)
    assert_equal(gradients(checkpointed, batch, seed), gradients(plain, batch, seed))
    for (name, a), b in zip(checkpointed.named_buffers(), plain.buffers()):
        assert torch.equal(a, b), name


def allocated_peak(step):
    """Most bytes that a step has allocated at one time; also those of a recomputation, which no hook sees."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    peak = now = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.fixture
def peak_of(config_of):
    def peak(kind, steps, modules, **values):
        features = ["MODEL.UNROLLED.NUM_FEATURES", "32", "MODEL.UNROLLED.NUM_UNROLLED_STEPS", str(steps)]
        model = model_of(config_of(kind, modules, *features, *knobs(**values)))
        batch = make_batch("cpu", (64, 64), num_coils=2)

        def step():
            complex_l1(model(batch)["pred"], batch["target"]).backward()

        step()  # the gradients are there already
        return allocated_peak(step)

    return peak


def test_checkpointing_holds_images_and_one_step(peak_of):
    one_step, eight_steps = (peak_of("ResNet", steps, 1) for steps in (1, 8))
    checkpointed = peak_of("ResNet", 8, 1, CHECKPOINT=True)
    images = 8 * 64 * 64 * 8
    assert eight_steps > 4 * one_step, "the test shows nothing"
    assert checkpointed < 1.1 * one_step + 2 * images
