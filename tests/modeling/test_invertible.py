"""Networks that run backwards: bounds, inverses, and the gradient against plain backpropagation."""

import re

import pytest
import torch
from meddlr.config import CfgNode, get_cfg
from meddlr.modeling import build_model
from torch import nn

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.regularizers.invertible import InvertibleResBlock, InvertibleSpatioTemporalResNet
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.train_net import main as train_main
from tests.helpers.operators import randn, relative
from tests.helpers.runs import metrics

STEP_SIZES = {"InvertibleCineUnrolledCNN": -0.6, "InvertibleCGCineUnrolledCNN": 0.5}
both_networks = pytest.mark.parametrize("arch", STEP_SIZES)


def make_network(arch, num_steps=4, greedy=None, **unrolled):
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", arch
    cfg.MODEL.RECON_LOSS.RENORMALIZE_DATA = False
    values = {"NUM_UNROLLED_STEPS": num_steps, "NUM_FEATURES": 6, "NUM_RESBLOCKS": 2, "KERNEL_SIZE": (3,)}
    for key, value in {**values, "STEP_SIZES": (STEP_SIZES.get(arch, -2.0),), **unrolled}.items():
        cfg.MODEL.UNROLLED[key] = value
    if greedy is not None:
        cfg.MODEL.META_ARCHITECTURE = "GreedyUnrolled"
        cfg.MISC.GREEDY = CfgNode({"META_ARCHITECTURE": arch, "TRAINING": "invertible", **greedy})
    torch.manual_seed(0)
    return build_model(cfg).train()


def strengthen(network):
    """Regularizers whose residual is several hundredths of the image, and not the one that they start with.

    Kernels that map all channels to all others alike: no bound of a norm can be tight for random ones.
    """
    for block in network.modules():
        if isinstance(block, InvertibleResBlock):
            for conv in (block.conv1, block.conv2):
                for layer in (conv.spatial, conv.temporal):
                    with torch.no_grad():
                        layer.weight.add_(2 * layer.weight.abs().mean())


@pytest.fixture
def batch():
    """Two examples, two map sets whose scale differs: no orthonormal maps, so that the bound has to be used."""
    torch.manual_seed(1)
    B, H, W, T, C, M = 2, 10, 9, 4, 5, 2
    maps = torch.linalg.qr(randn(B, H, W, 1, C, M))[0] * torch.tensor([1.0, 3.0]).reshape(B, 1, 1, 1, 1, 1)
    mask = (torch.rand(B, 1, W, T, 1) < 0.5).float().expand(B, H, W, T, 1).clone()
    target = randn(B, H, W, T, M)
    return {"kspace": CineSenseModel(maps, mask)(target), "maps": maps, "mask": mask, "target": target}


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_residual_never_expands_by_more_than_half(scale):
    torch.manual_seed(0)
    block = InvertibleResBlock(2, 4)
    strengthen(block)
    for p in block.parameters():
        p.data.mul_(scale)
    x, direction = torch.randn(1, 2, 5, 8, 8), torch.randn(1, 2, 5, 8, 8)
    for _ in range(20):  # the direction that the residual expands most
        _, along = torch.autograd.functional.jvp(lambda x: block(x) - x, x, direction)
        ratio = along.norm() / direction.norm()
        _, direction = torch.autograd.functional.vjp(lambda x: block(x) - x, x, along)
        direction = direction / direction.norm().clamp(min=1e-30)
    assert ratio <= 0.5
    assert ratio > 0.05 or scale < 1  # or the test would say nothing


@pytest.mark.parametrize("channel_multiple", [1, 8])
def test_inverse_of_the_regularizer(channel_multiple):
    torch.manual_seed(0)
    network = InvertibleSpatioTemporalResNet(4, channels=6, num_blocks=3, channel_multiple=channel_multiple)
    strengthen(network)
    x = torch.randn(2, 4, 5, 8, 8)
    y = network(x)
    assert relative(y, x) > 0.05
    assert relative(network.inverse(y), x) < 1e-6
    assert torch.equal(network(x), y)
    assert relative(network.eval()(x), y) < 1e-6  # where convolutions along time are computed in another way


@both_networks
def test_inverse_of_a_step(batch, arch):
    network = make_network(arch, NUM_EMAPS=2)
    strengthen(network)
    A = CineSenseModel(batch["maps"], batch["mask"])
    arguments = {"A": A, "zf_image": A(batch["kspace"], adjoint=True), "model": network.resnets[0]}
    for parameter in (-6.0, 0.0, 6.0):  # whatever a step size becomes in training
        arguments["step_size"] = torch.tensor([parameter])
        image = randn(*batch["target"].shape)
        with torch.no_grad():
            after = network.step(image=image, dims=None, **arguments)
        assert relative(after, image) > 1e-2
        assert relative(network.inverse_step(image=after, **arguments), image) < 1e-5


def test_step_sizes_are_those_of_the_config(batch):
    A = CineSenseModel(batch["maps"], batch["mask"])
    for arch, value in STEP_SIZES.items():
        network = make_network(arch, STEP_SIZES=(value,))
        relative_to_eigenvalue = A.largest_eigenvalue_bound() ** (-1 if value < 0 else 1)
        for fixed in (network, make_network(arch, STEP_SIZES=(value,), FIX_STEP_SIZE=True)):
            found = fixed.bounded(fixed.step_sizes[0], A)
            assert torch.allclose(found, value * relative_to_eigenvalue, rtol=1e-5)


# ---- gradients


def gradients(model, batch):
    model.zero_grad()
    outputs = model(batch)
    complex_l1(outputs["pred"], batch["target"]).backward()
    return {name.replace("model.", "", 1): p.grad.clone() for name, p in model.named_parameters()}, outputs


@both_networks
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("num_steps", [3, 4])
def test_gradient_is_that_of_plain_backpropagation(batch, arch, share, num_steps):
    plain = make_network(arch, num_steps, NUM_EMAPS=2, SHARE_WEIGHTS=share)
    inverting = make_network(arch, num_steps, {}, NUM_EMAPS=2, SHARE_WEIGHTS=share)
    strengthen(plain)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    for iteration in range(3):
        inverting.load_state_dict({f"model.{key}": value for key, value in plain.state_dict().items()})
        expected, outputs = gradients(plain, batch)
        found, inverting_outputs = gradients(inverting, batch)
        assert torch.equal(inverting_outputs["pred"], outputs["pred"])
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            assert gradient.norm() > 0 and relative(found[name], gradient) < 1e-3, (iteration, name)
        assert 0 < inverting_outputs["inversion_error_module_1"].item() < 1e-4
        optimizer.step()


@both_networks
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("num_steps", "greedy"),
    [
        (5, {"NUM_MODULES": 2}),
        (5, {"NUM_MODULES": [1, 4]}),
        (3, {"NUM_MODULES": 3}),
        (6, {"NUM_MODULES": 2, "OVERLAP": 2, "LOSS_WEIGHTS": [1.0, 3.0]}),
        (4, {"NUM_MODULES": 1, "SAVED": "int8"}),
    ],
    ids=str,
)
def test_gradient_of_modules_is_that_of_greedy_training(batch, arch, share, num_steps, greedy):
    options = {"NUM_EMAPS": 2, "SHARE_WEIGHTS": share}
    plain = make_network(arch, num_steps, {**greedy, "TRAINING": "greedy"}, **options)
    inverting = make_network(arch, num_steps, greedy, **options)
    strengthen(plain)
    inverting.load_state_dict(plain.state_dict())
    expected, outputs = gradients(plain, batch)
    found, inverting_outputs = gradients(inverting, batch)
    assert expected.keys() == found.keys() and torch.equal(inverting_outputs["pred"], outputs["pred"])
    for name, gradient in expected.items():
        assert gradient.norm() > 0 and relative(found[name], gradient) < 1e-3, name
    errors = {key: value.item() for key, value in inverting_outputs.items() if "inversion_error" in key}
    inverted = [k for k, steps in enumerate(inverting.unrolled.steps) if len(steps) - greedy.get("OVERLAP", 0) > 1]
    assert {f"inversion_error_module_{k + 1}" for k in inverted} <= errors.keys()
    assert bool(errors) == (greedy["NUM_MODULES"] != 3) and all(0 < error < 1e-4 for error in errors.values())
    losses = {key: value for key, value in outputs.items() if "loss_module" in key}
    assert (
        losses
        and all(torch.equal(inverting_outputs[key], value) for key, value in losses.items())
        or (greedy["NUM_MODULES"] == 1)
    )


@both_networks
def test_shorter_modules_are_inverted_more_exactly(batch, arch):
    """8 steps; for each cut, the gradient against that of the same cut without inversion."""
    errors = []
    for num_modules in (1, 4):
        plain = make_network(arch, 8, {"NUM_MODULES": num_modules, "TRAINING": "greedy"}, NUM_EMAPS=2)
        inverting = make_network(arch, 8, {"NUM_MODULES": num_modules}, NUM_EMAPS=2)
        strengthen(plain)
        inverting.load_state_dict(plain.state_dict())
        whole = [
            torch.cat([gradient.flatten() for gradient in gradients(model, batch)[0].values()])
            for model in (inverting, plain)
        ]
        errors.append(relative(*whole))
    assert errors[1] < errors[0] / 10


def test_gradient_of_conjugate_gradients_is_that_of_their_iterations(batch, monkeypatch):
    from meddlr_greedy.modeling.networks import invertible
    from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient

    network = make_network("InvertibleCGCineUnrolledCNN", NUM_EMAPS=2)
    implicit, _ = gradients(network, batch)
    monkeypatch.setattr(invertible, "implicit_conjugate_gradient", conjugate_gradient)
    unrolled, _ = gradients(network, batch)
    whole = [torch.cat([gradient.flatten() for gradient in each.values()]) for each in (implicit, unrolled)]
    assert relative(*whole) < 1e-4


@both_networks
def test_a_wrong_inverse_shows(batch, arch):
    """The logged error and the gradient both tell it: the checks above can fail."""
    model = make_network(arch, 4, {}, NUM_EMAPS=2)
    strengthen(model)
    right, _ = gradients(model, batch)
    model.model.resnets[2].inverse = lambda y: y
    wrong, outputs = gradients(model, batch)
    assert outputs["inversion_error_module_1"] > 1e-2
    assert any(relative(wrong[name], right[name]) > 1e-2 for name in right)


@both_networks
def test_frozen_and_fixed_parameters(batch, arch):
    whole = make_network(arch, 3, {}, NUM_EMAPS=2)
    part = make_network(arch, 3, {}, NUM_EMAPS=2, FIX_STEP_SIZE=True)
    for p in part.model.resnets[1].parameters():
        p.requires_grad_(False)
    expected, _ = gradients(whole, batch)
    complex_l1(part(batch)["pred"], batch["target"]).backward()
    for name, p in part.named_parameters():
        assert (p.grad is None) == ("resnets.1" in name)
        assert p.grad is None or torch.equal(p.grad, expected[name.replace("model.", "", 1)])


@both_networks
def test_bytes_held_do_not_grow_with_steps(batch, arch):
    def held(num_steps, greedy):
        model = make_network(arch, num_steps, greedy, NUM_EMAPS=2, NUM_RESBLOCKS=1)
        tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        with HeldForBackward(exclude=[*model.parameters(), *tensors]) as counter:
            # With backward inside: it runs the steps once more.
            complex_l1(model(batch)["pred"], batch["target"]).backward()
        return counter.peak_bytes

    assert held(6, {}) == held(2, {})
    assert held(6, None) > 2.5 * held(2, None) and held(6, None) > 4 * held(6, {})


# ---- training and refusals


@both_networks
def test_trains_and_logs_the_inversion_error(write_config, tmp_path, arch):
    config = write_config(data="beat", arch=arch, modules=1)
    opts = ["MODEL.UNROLLED.STEP_SIZES", f"({STEP_SIZES[arch]},)", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "2"]
    train_main(["--config-file", str(config), *opts, "MISC.GREEDY.TRAINING", "invertible"])
    lines = metrics(tmp_path / "run")
    assert [line["iteration"] for line in lines] == [0, 1]
    for line in lines:
        assert 0 <= line["inversion_error_module_1"] < 1e-5
        assert all(key in line for key in ("loss", "module_1/grad_norm", "module_1/memory_mb"))
    assert "beat_val/val_psnr" in lines[-1]


@both_networks
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("STEP_SIZES", (-0.9,)),
        ("STEP_SIZES", (0.2,)),
        ("DROPOUT", 0.1),
        ("NUM_RESBLOCKS", 0),
        ("BLOCK_ARCHITECTURE", "GeneralizedUNet"),
        ("BLOCK_ARCHITECTURE", "SpatioTemporalResNet"),
        ("CONV_BLOCK.NORM", "batch"),
    ],
)
def test_refuses_what_has_no_inverse(arch, key, value):
    with pytest.raises(UserError, match=f"MODEL.UNROLLED.{key}: found"):
        *section, name = key.split(".")
        unrolled = {section[0]: {**get_cfg().MODEL.UNROLLED[section[0]], name: value}} if section else {name: value}
        make_network(arch, **{k: CfgNode(v) if isinstance(v, dict) else v for k, v in unrolled.items()})


def test_refuses_other_trainings(write_config, capsys):
    arch = "InvertibleCineUnrolledCNN"
    for key, value in {"CHECKPOINT": "step", "AMP": "bf16", "TILE": (4, 4)}.items():
        with pytest.raises(UserError, match=re.escape(f"MISC.GREEDY.{key}: found {value!r}")):
            make_network(arch, greedy={key: value})
    for other in ("CineUnrolledCNN", "GeneralizedUnrolledCNN"):
        with pytest.raises(UserError, match=f"MISC.GREEDY.TRAINING: found 'invertible', but {other}"):
            make_network(other, greedy={})
    with pytest.raises(UserError, match="no inverse"):
        network = make_network(arch)
        type(network)(nn.ModuleList([nn.Identity()]), step_sizes=-0.6)
    with pytest.raises(SystemExit):
        train_main(["--config-file", str(write_config(modules=None)), "MISC.GREEDY.TRAINING", "invertible"])
    assert "MISC.GREEDY.TRAINING" in capsys.readouterr().err


def test_modules_of_an_invertible_network_train_greedily(batch):
    model = GreedyUnrolled(make_network("InvertibleCineUnrolledCNN", NUM_EMAPS=2), num_modules=2)
    complex_l1(model.train()(batch)["pred"], batch["target"]).backward()
    assert all(p.grad is not None for p in model.parameters())


class TestWithoutStop:
    """The inverse that does not ask its device, as on a GPU."""

    @staticmethod
    def run(network, batch, on_gpu, monkeypatch):
        """One training step; returns its gradients, and the evaluations of g that each block is left with."""
        calls = []
        with monkeypatch.context() as patch:
            if on_gpu:
                patch.setattr(InvertibleResBlock, "inverse", torch.no_grad()(InvertibleResBlock._inverse_without_stop))
            residual = InvertibleResBlock._residual
            patch.setattr(InvertibleResBlock, "_residual", lambda block, x: calls.append(block) or residual(block, x))
            network.zero_grad()
            outputs = network(batch)
            complex_l1(outputs["pred"], batch["target"]).backward()
        blocks = [part for part in network.modules() if isinstance(part, InvertibleResBlock)]
        gradients = [p.grad.clone() for p in network.parameters()]
        return gradients, [block.evaluations for block in blocks], len(calls), outputs["inversion_error_module_1"]

    @both_networks
    def test_bits_are_those_of_the_one_that_stops(self, arch, batch, monkeypatch):
        network = make_network(arch, greedy={}, NUM_EMAPS=2)
        strengthen(network)
        expected, untouched, fewest, error = self.run(network, batch, False, monkeypatch)
        assert set(untouched) == {None}
        calls = []
        for _ in range(3):
            found, evaluations, num_calls, error_again = self.run(network, batch, True, monkeypatch)
            assert all(map(torch.equal, found, expected)) and torch.equal(error, error_again)
            assert evaluations[:2] == [None, None]  # of the first step, whose input is there
            assert all(2 < n < 23 for n in evaluations[2:])
            calls.append(num_calls)
        # The first time as many as are enough for any weights, then a few more than needed.
        assert calls[0] > calls[1] == calls[2] > fewest

    def test_too_few_evaluations_are_found_and_made_up_for(self, batch, monkeypatch):
        network = make_network("InvertibleCineUnrolledCNN", greedy={}, NUM_EMAPS=2)
        strengthen(network)
        expected, *_ = self.run(network, batch, False, monkeypatch)
        self.run(network, batch, True, monkeypatch)
        blocks = [part for part in network.modules() if isinstance(part, InvertibleResBlock)]
        needed = [block.evaluations for block in blocks]
        blocks[3].evaluations = 2  # as if the weights had changed a lot
        found, evaluations, *_ = self.run(network, batch, True, monkeypatch)
        assert all(map(torch.equal, found, expected)) and evaluations == needed
