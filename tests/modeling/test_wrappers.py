"""meddlr's wrappers around a greedy network, against meddlr's own wrappers and the definition, bit for bit."""

import itertools

import pytest
import torch
from meddlr.utils.events import EventStorage

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.wrappers.draws import seed_draws
from tests.helpers.steps import batch
from tests.helpers.wrappers import (
    WRAPPERS,
    plain,
    train_by_definition,
    train_stock_wrapper,
    train_wrapped,
    wrapped_batches,
    wrapped_config,
)

SOLVER = ["SOLVER.BASE_LR", 1e-2, "SOLVER.WARMUP_ITERS", 0]


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def assert_moved(start, end):
    assert all(not torch.equal(start[name], end[name]) for name in start)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_one_module_is_meddlrs_wrapper(name, share):
    cfg = wrapped_config(name, overrides=[*SOLVER, "MODEL.UNROLLED.SHARE_WEIGHTS", share], NUM_MODULES=1)
    batches = wrapped_batches(5)
    start, end, _ = train_wrapped(cfg, batches)
    assert_moved(start, end)
    assert_same_bits(end, train_stock_wrapper(plain(cfg), batches, start))


def test_cine_in_one_module():
    """Noise and motion do not ask for the number of axes."""
    for name in ("N2R", "M2R", "NM2R"):
        cfg = wrapped_config(name, "CineUnrolledCNN", overrides=SOLVER, NUM_MODULES=1)
        cine = batch(is_cine=True, dtype=torch.complex64, num_examples=2)
        cine["mask"] = (cine["mask"] > 0).float()
        cine.update({"kspace": cine["kspace"] * cine["mask"], "norm": torch.ones(2)})
        batches = [{"supervised": cine, "unsupervised": {k: v for k, v in cine.items() if k != "target"}}]
        start, end, _ = train_wrapped(cfg, batches)
        assert_moved(start, end)
        assert_same_bits(end, train_stock_wrapper(plain(cfg), batches, start, loss_of_cine))


def loss_of_cine(_, outputs):
    """meddlr's loss of N2R by its formula: its loss computer fails for series of images."""
    recon, consistency = (complex_l1(part["pred"], part["target"]) for part in outputs.values())
    return {"loss": recon + 0.1 * consistency}


def test_both_names_of_vortex():
    cfg = wrapped_config("VORTEX", overrides=SOLVER, NUM_MODULES=2)
    ends = []
    for cfg.MODEL.META_ARCHITECTURE in ("VortexModel", "A2RModel"):
        ends.append(train_wrapped(cfg, wrapped_batches(2))[1])
    assert_same_bits(*ends)


def test_denoising_under_meddlrs_trainer():
    """Denoising puts its target into the batch, so that the local losses need nothing else."""
    cfg = wrapped_config("Denoising", overrides=SOLVER, NUM_MODULES=4)
    batches = wrapped_batches(3)
    start, end, _ = train_wrapped(cfg, batches)
    assert_same_bits(end, train_stock_wrapper(cfg, batches, start))


@pytest.mark.parametrize("target", ["network", "module"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_modules_by_definition(name, target):
    if target == "module" and name in ("SSDU", "Denoising"):
        pytest.skip("has no consistency")
    cfg = wrapped_config(name, overrides=SOLVER, NUM_MODULES=4, CONSISTENCY_TARGET=target)
    batches = wrapped_batches(3)
    start, end, _ = train_wrapped(cfg, batches)
    assert_moved(start, end)
    assert_same_bits(end, train_by_definition(cfg, batches, start))


@pytest.mark.parametrize("kinds", [("supervised",), ("unsupervised",)])
@pytest.mark.parametrize("name", ["N2R", "VORTEX", "SSDU", "Denoising"])
def test_batches_of_one_kind(name, kinds):
    cfg = wrapped_config(name, overrides=SOLVER, NUM_MODULES=4)
    cfg.MODEL.DENOISING.NOISE.USE_FULLY_SAMPLED_TARGET = False
    batches = wrapped_batches(2, kinds)
    start, end, results = train_wrapped(cfg, batches)
    assert_same_bits(end, train_by_definition(cfg, batches, start))
    of_parts = {"N2R": {"supervised": "recon_loss", "unsupervised": "cons_loss"}}
    assert of_parts.get(name, {}).get(kinds[0], "loss") in results[0].losses


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("N2R", ["MODEL.CONSISTENCY.USE_CONSISTENCY", False]),
        ("N2R", ["MODEL.RECON_LOSS.NAME", "ssim_loss", "MODEL.CONSISTENCY.LOSS_NAME", "k_l1"]),
        ("N2R", ["MODEL.RECON_LOSS.RENORMALIZE_DATA", True]),
        ("N2R", ["MODEL.N2R.USE_SUPERVISED_CONSISTENCY", True]),
        ("SSDU", ["MODEL.SSDU.POSTPROCESSOR.NAME", "hard_dc_edge"]),
        ("SSDU", ["MODEL.SSDU.POSTPROCESSOR.NAME", "hard_dc_all", "MODEL.RECON_LOSS.NAME", "k_l1_l2_sum_normalized"]),
        ("N2R around SSDU", ["MODEL.RECON_LOSS.NAME", "k_l1"]),
    ],
)
def test_keys_of_wrappers_by_definition(name, change):
    cfg = wrapped_config(name, overrides=[*SOLVER, *change], NUM_MODULES=[1, 3])
    batches = wrapped_batches(2)
    start, end, _ = train_wrapped(cfg, batches)
    assert_same_bits(end, train_by_definition(cfg, batches, start))


def drawn_parts(draw):
    """The tensors that the network gets, after the global generator was put somewhere else each time."""
    out = []
    for elsewhere in (1, 2):
        torch.manual_seed(elsewhere)
        before = torch.get_rng_state()
        parts = draw()
        out.append([part.inputs[key] for part in parts.values() for key in ("kspace", "mask", "maps")])
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))
    return out[0], torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", WRAPPERS)
def test_draws_are_a_function_of_seed_and_iteration(name):
    # Rotations are drawn from torch's global generator.
    turns = ({"name": "RandomRot90", "p": 1.0, "ks": (2, 4)}, {"name": "RandomNoise", "p": 1.0, "std_devs": (0.1, 0.2)})
    overrides = ["MODEL.CONSISTENCY.AUG.MRI_RECON.TRANSFORMS", turns] if name == "VORTEX" else []
    step = TrainingStep.from_config(wrapped_config(name, overrides=overrides, NUM_MODULES=2).clone().freeze())
    (inputs,) = wrapped_batches(1)
    found = []
    for step.run_seed, iteration in ((0, 3), (0, 4), (1, 3)):
        with EventStorage(iteration):
            tensors, untouched = drawn_parts(lambda i=iteration: step.parts(inputs, i))
        assert untouched  # the generator that dropout and others draw from
        found.append(tensors)
    for pair in itertools.combinations(found, 2):
        assert not all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "VORTEX"])  # it draws from global ones, too
def test_every_generator_of_a_wrapper_is_seeded(name):
    step = TrainingStep.from_config(wrapped_config(name, NUM_MODULES=2).clone().freeze())
    (inputs,) = wrapped_batches(1)

    def draw():
        seed_draws(step.model, 7, torch.device("cpu"))
        return step.draws.parts(step.model, inputs)

    with EventStorage(0):
        drawn_parts(draw)
    if name == "N2R around SSDU":
        noise, mask = step.model.noiser.generator, step.model.model.masker._generator
        assert noise.initial_seed() != mask.initial_seed()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_clean_and_perturbed_images_have_a_dropout_of_their_own(dropout):
    """Without noise, both are images of the same batch."""
    noise = ["MODEL.CONSISTENCY.AUG.NOISE.STD_DEV", (0.0,)]
    cfg = wrapped_config("N2R", overrides=[*SOLVER, *noise, "MODEL.UNROLLED.DROPOUT", dropout], NUM_MODULES=1)
    _, _, results = train_wrapped(cfg, wrapped_batches(1, kinds=("unsupervised",)))
    assert (results[0].losses["total_loss"] > 0) == (dropout > 0)


def test_modules_that_share_weights_add_up_in_their_order():
    """The gradients of both parts of a module first, then those of the next module."""
    cfg = wrapped_config("N2R", overrides=[*SOLVER, "MODEL.UNROLLED.SHARE_WEIGHTS", True], NUM_MODULES=4)
    batches = wrapped_batches(3)
    start, end, _ = train_wrapped(cfg, batches)
    assert_same_bits(end, train_by_definition(cfg, batches, start))


@pytest.mark.parametrize("name", WRAPPERS)
def test_pictures(name):
    cfg = wrapped_config(name, overrides=[*SOLVER, "VIS_PERIOD", 2], NUM_MODULES=2)
    drawn = [set() for _ in range(3)]
    torch.manual_seed(1)
    step = TrainingStep.from_config(cfg.clone().freeze())
    for iteration, inputs in enumerate(wrapped_batches(3)):
        with EventStorage(iteration) as storage:
            step(inputs, iteration)
            drawn[iteration] = {image[0].split("/")[0] for image in storage.vis_data}
    expected = {"Denoising": {"train"}, "SSDU": {"ssdu"}, "N2R around SSDU": {"ssdu", "train_aug"}}
    assert drawn == [expected.get(name, {"train", "train_aug"}), set(), expected.get(name, {"train", "train_aug"})]


def test_two_batches_are_held_of_the_last_module_alone():
    """Bytes held for backward do not grow with the number of modules."""
    held = {}
    for modules in (1, 2, 4):
        cfg = wrapped_config("N2R", overrides=SOLVER, NUM_MODULES=modules)
        step = TrainingStep.from_config(cfg.clone().freeze())
        (inputs,) = wrapped_batches(1)
        with EventStorage(0), HeldForBackward(exclude=step.model.parameters()) as bytes_held:
            step(inputs, 0)
        held[modules] = bytes_held.peak_bytes
    assert held[4] < 0.6 * held[2] < 0.4 * held[1]
