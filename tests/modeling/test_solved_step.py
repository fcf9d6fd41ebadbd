"""Modules of one step that regularize by tiles and then solve: the gradient of the whole image, in six images."""

import pytest
import torch
from meddlr.modeling import build_model
from torch import nn

from meddlr_greedy.modeling.networks.cine import CGCineUnrolledCNN
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import ImplicitSolve
from tests.helpers.steps import GENERAL_LOSSES, LOSSES, assert_same, batch, check_tiles, config, trained

SOLVED = {"NUM_MODULES": 4, "CG_BACKWARD": "implicit"}


def solved_config(loss="l1", num_maps=1, **greedy):
    cfg = config("CGCineUnrolledCNN", loss, num_maps, **{**SOLVED, **greedy})
    cfg.MODEL.UNROLLED.STEP_SIZES = (0.3,)
    return cfg


@pytest.mark.parametrize("num_maps", [1, 2])
@pytest.mark.parametrize("loss", [*LOSSES, *GENERAL_LOSSES])
def test_losses_of_solutions(loss, num_maps, passes):
    cfg = solved_config(loss, num_maps, LOSS_WEIGHTS=[1.0, 2.0, 0.5, 3.0])
    check_tiles(cfg, batch(True, 2, num_maps), (8, 7), 1e-10)
    assert passes == [False] * 4 + [loss in LOSSES] * 4


@pytest.mark.parametrize("tile", [(6, 0), (0, 5), (1, 18)])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_tiles_and_paddings_of_solutions(padding, tile, passes):
    check_tiles(solved_config(PADDING=padding), batch(), tile, 1e-10)
    assert passes[4:] == [True] * 4


@pytest.mark.parametrize(
    ("greedy", "fits"),
    [
        ({"NUM_MODULES": 4, "CHECKPOINT": "block"}, [True] * 4),
        ({"NUM_MODULES": [1, 3]}, [True, False]),
        ({"NUM_MODULES": 4, "OVERLAP": 1}, [False] * 4),
        ({"NUM_MODULES": 4, "CG_BACKWARD": "unrolled"}, [False] * 4),
        ({"NUM_MODULES": 4, "DC_MEMORY": 1}, [True] * 4),
    ],
    ids=str,
)
def test_knobs_of_solutions(greedy, fits, passes):
    check_tiles(solved_config(**greedy), batch(), (8, 7), 1e-10)
    assert passes[len(fits) :] == fits


@pytest.mark.parametrize("eps", [1.0, 0.03])
def test_solves_that_end_early(eps):
    """Backward's at the relative residual of forward's, for each example on its own."""
    cfg = solved_config()
    cfg.MODEL.UNROLLED.DC.EPS = eps
    inputs = batch(num_examples=2)
    inputs["kspace"][0] /= 20
    check_tiles(cfg, inputs, (8, 7), 1e-10)


@pytest.mark.parametrize("fixed", ["step_sizes", "resnets", "resnets.1", "step_sizes.1", ""])
def test_frozen_parameters_of_solutions(fixed, passes, monkeypatch):
    def freeze(model):
        for name, p in model.model.named_parameters():
            p.requires_grad_(not (name.startswith(fixed) if fixed else name.split(".")[1] == "1"))

    solved = []
    adjoint = ImplicitSolve.adjoint
    monkeypatch.setattr(ImplicitSolve, "adjoint", lambda *args, **kwargs: solved.append(1) or adjoint(*args, **kwargs))
    check_tiles(solved_config(), batch(), (8, 7), 1e-10, change=freeze)
    assert passes[4:] == [True] * 4
    assert len(solved) == 2 * (4 if fixed else 3)  # a frozen step needs no gradient


def test_shared_weights_and_fixed_step_sizes_of_solutions():
    cfg = solved_config()
    cfg.MODEL.UNROLLED.SHARE_WEIGHTS = True
    cfg.MODEL.UNROLLED.FIX_STEP_SIZE = True
    check_tiles(cfg, batch(), (8, 7), 1e-10)


class OwnStep(CGCineUnrolledCNN):
    def step(self, **kwargs):
        return 2 * super().step(**kwargs)


class OwnRegularization(CGCineUnrolledCNN):
    def reg(self, *, image, model, dims=None):
        return super().reg(image=image, model=model, dims=dims) + image.abs().mean()


@pytest.mark.parametrize("network", [OwnStep, OwnRegularization])
def test_a_step_or_regularization_of_ones_own_takes_the_general_form(network, passes):
    def change(model):
        model.model.__class__ = network

    check_tiles(solved_config(), batch(), (8, 7), 1e-10, change=change)
    assert not any(passes)


def test_the_zero_filled_image_is_made_again_for_each_module(monkeypatch):
    made = []
    zero_filled = CineSenseModel.zero_filled
    monkeypatch.setattr(CineSenseModel, "zero_filled", lambda *args: made.append(1) or zero_filled(*args))
    outputs = trained_outputs(solved_config(TILE=[8, 7]), batch())
    assert len(made) == 4 and "zf_image" not in outputs
    others = [
        trained_outputs(cfg, batch(), takes_last_loss=False) for cfg in (solved_config(TILE=[8, 7]), solved_config())
    ]
    torch.testing.assert_close(*(outputs["zf_image"] for outputs in others))


def trained_outputs(cfg, inputs, takes_last_loss=True):
    return build_model(cfg.clone().freeze()).double().train()(inputs, takes_last_loss=takes_last_loss)


def test_step_sizes_that_are_not_trained_stay_on_the_cpu():
    cfg = solved_config(TILE=[8, 7])
    cfg.MODEL.UNROLLED.FIX_STEP_SIZE = True
    model = build_model(cfg.clone().freeze()).to("meta").train()
    assert {s.device.type for s in model.model.step_sizes} == {"cpu"}
    inputs = {
        key: value.to("meta", torch.complex64 if value.is_complex() else torch.float32)
        for key, value in batch().items()
    }
    inputs["constant_along_readout"] = True
    assert model(inputs, takes_last_loss=True)["pred"].device.type == "meta"


def test_dropout_of_solutions_is_a_function_of_the_position():
    cfg = solved_config("l2", TILE=[21, 18])
    cfg.MODEL.UNROLLED.DROPOUT = 0.3
    inputs = batch(num_examples=2)
    change = lambda m: [nn.init.normal_(p, std=0.1) for n, p in m.named_parameters() if "resnets" in n]  # noqa: E731
    options = {"change": change, "seed": 5}
    expected = trained(cfg, inputs, **options)
    assert not torch.equal(trained(cfg, inputs, **{**options, "seed": 6})["pred"], expected["pred"])
    cfg.MISC.GREEDY.TILE = [8, 7]
    assert_same(trained(cfg, inputs, **options), expected, 1e-10)
    # Under meddlr's trainer the last module takes the general form.
    assert_same(trained(cfg, inputs, takes_last_loss=False, **options), expected, 1e-10)
