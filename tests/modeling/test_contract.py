"""Every registered unrolled network, and that of a user, through the contract."""

import copy

import numpy as np
import pytest
import torch
from meddlr.modeling import build_model
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import (
    CINE_AXES,
    PLAIN_AXES,
    NetworkTraits,
    build_network,
    check_compatible,
    is_compatible,
    traits_of,
)
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.networks.cine import CineUnrolledCNN
from tests.helpers.networks import small_config
from tests.helpers.plugin import FOLDER, NAME, importable
from tests.helpers.scans import make_scan

USERS = "CineVariationalNetwork"
NETWORKS = [*sorted(name for name, network in META_ARCH_REGISTRY if is_compatible(network)), USERS]


@pytest.fixture(autouse=True, scope="module")
def users_package():
    with importable(FOLDER):
        __import__(NAME)
        yield


def config(name, **greedy):
    cfg = small_config(name, **greedy)
    if name == USERS:
        cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = "PlainConv3d"
    return cfg


def build(name, **greedy):
    torch.manual_seed(0)
    model = build_model(config(name, **greedy))
    assert isinstance(model, GreedyUnrolled)
    return model


def make_batch(axes):
    frames = {"num_frames": 3} if axes == CINE_AXES else {}
    scan = make_scan(np.random.default_rng(0), num_slices=2, height=10, width=8, num_coils=3, **frames)
    batch = {name: torch.from_numpy(array) for name, array in scan.items()}
    kspace = batch["kspace"]
    assert kspace.ndim == axes
    mask = torch.rand(2, 1, *kspace.shape[2:-1], 1, generator=torch.Generator().manual_seed(0)) < 0.6
    return {**batch, "mask": mask.float().expand(*kspace.shape[:-1], 1).clone()}


def batch_for(network):
    return make_batch(traits_of(network).kspace_axes)


def explicit_loop(network, batch):
    """Two modules of two steps, by the definition; returns the last image."""
    A = traits_of(network).signal_model(batch["maps"], batch["mask"])
    kspace = batch["kspace"] * batch["mask"]
    image = zf_image = A(kspace, adjoint=True)
    for module in ((0, 1), (2, 3)):
        image = image.detach() if module[0] else image  # the first step gets zf_image itself
        for i in module:
            image = network.step(
                image=image,
                model=network.resnets[i],
                A=A,
                zf_image=zf_image,
                step_size=network.step_sizes[i],
                dims=tuple(kspace.shape),
            )
        complex_l1(image, batch["target"]).backward()
    return image


@pytest.mark.parametrize("name", NETWORKS)
def test_greedy_step_is_an_explicit_loop_over_modules(name):
    model = build(name).train()
    network, batch = copy.deepcopy(model.model), batch_for(model.model)
    image = explicit_loop(network, batch)
    outputs = model(batch)
    complex_l1(outputs["pred"], batch["target"]).backward()
    assert torch.equal(outputs["pred"], image)
    expected = dict(network.named_parameters())
    for key, parameter in model.model.named_parameters():
        assert parameter.requires_grad and torch.isfinite(parameter.grad).all(), key
        assert torch.equal(parameter.grad, expected[key].grad), key
    assert any(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_is_the_plain_network(name):
    model = build(name).eval()
    batch = batch_for(model.model)
    with torch.no_grad():
        outputs, plain = model(batch), model.model(copy.deepcopy(batch))
    for key in ("pred", "zf_image"):
        assert outputs[key].shape == batch["target"].shape
        assert torch.equal(outputs[key], plain[key])
    assert torch.equal(plain["target"], batch["target"])


@pytest.mark.parametrize("name", NETWORKS)
class TestTraits:
    def test_axes_of_kspace(self, name):
        model = build(name).eval()
        (other,) = {PLAIN_AXES, CINE_AXES} - {traits_of(model.model).kspace_axes}
        with torch.no_grad(), pytest.raises(Exception):  # noqa: B017 (whatever a network says of it)
            model.model(make_batch(other))

    def test_signal_model_and_one_run_of_each_step_in_its_forward(self, name):
        network = build(name).eval().model
        step, blocks = network.step, []

        def counted(**arguments):
            blocks.append(arguments["model"])
            return step(**arguments)

        network.step = counted
        with torch.no_grad():
            outputs = network(batch_for(network))
        assert type(outputs["signal_model"]) is traits_of(network).signal_model
        assert blocks == list(network.resnets)

    def test_inverse(self, name):
        network, traits = build(name).eval().model, traits_of(META_ARCH_REGISTRY.get(name))
        assert hasattr(network, "inverse_step") == traits.invertible
        if not traits.invertible:
            with pytest.raises(UserError, match="has no inverse"):
                build(name, NUM_MODULES=1, TRAINING="invertible")
            return
        batch = batch_for(network)
        A = traits.signal_model(batch["maps"], batch["mask"])
        zf_image = A(batch["kspace"] * batch["mask"], adjoint=True)
        step = {"model": network.resnets[0], "A": A, "zf_image": zf_image, "step_size": network.step_sizes[0]}
        with torch.no_grad():
            after = network.step(image=zf_image, dims=tuple(batch["kspace"].shape), **step)
            before = network.inverse_step(image=after, **step)
        assert (before - zf_image).norm() / zf_image.norm() < 1e-4

    def test_backward_of_conjugate_gradients(self, name):
        def gradient(**greedy):
            model = build(name, **greedy).train()
            batch = batch_for(model.model)
            complex_l1(model(batch)["pred"], batch["target"]).backward()
            return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

        acts = not torch.equal(gradient(CG_BACKWARD="unrolled"), gradient(CG_BACKWARD="implicit"))
        assert acts == traits_of(META_ARCH_REGISTRY.get(name)).chooses_cg_backward


# ---- networks that do not meet the contract


class OwnForward(CineUnrolledCNN):
    """Does something between its steps, and says nothing of it."""

    def forward(self, inputs, return_pp=False, vis_training=False):
        return super().forward(inputs)


class NotDrivenBySteps(OwnForward):
    traits = NetworkTraits(kspace_axes=CINE_AXES)


class WithoutTraits(OwnForward):
    traits = {"kspace_axes": CINE_AXES, "forward_runs_steps": True}


class WithoutInverse(CineUnrolledCNN):
    traits = NetworkTraits(kspace_axes=CINE_AXES, forward_runs_steps=True, invertible=True)


class NoUnrolledNetwork(nn.Linear):
    def __init__(self, cfg):
        super().__init__(1, 1)


REFUSED = {
    OwnForward: "traits = NetworkTraits.forward_runs_steps=True",
    NotDrivenBySteps: "forward_runs_steps=True",
    WithoutTraits: "traits: found dict",
    WithoutInverse: "inverse_step",
    NoUnrolledNetwork: "GeneralizedUnrolledCNN",
}


@pytest.fixture(params=REFUSED, ids=lambda network: network.__name__)
def refused(request):
    with importable(FOLDER):
        META_ARCH_REGISTRY.register(request.param)
        yield request.param.__name__, REFUSED[request.param]


def test_a_network_that_does_not_meet_the_contract_is_refused(refused):
    name, said = refused
    with pytest.raises(UserError, match=said) as error:
        build(name)
    assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="allowed are .*CineUnrolledCNN") as error:
        build_network(config("CineUnrolledCNN"), "CineUnroledCNN")
    assert "did you mean 'CineUnrolledCNN'?" in str(error.value)


def test_a_step_of_its_own_needs_no_traits():
    class OwnStep(GeneralizedUnrolledCNN):
        def step(self, **arguments):
            return super().step(**arguments)

    check_compatible(OwnStep(nn.ModuleList([nn.Conv2d(2, 2, 1)])))
    assert traits_of(OwnStep) == NetworkTraits()


def test_all_networks_are_here():
    assert {"GeneralizedUnrolledCNN", "CGUnrolledCNN", "CineUnrolledCNN", "CGCineUnrolledCNN"} < set(NETWORKS)
    assert "GreedyUnrolled" not in NETWORKS and is_compatible(META_ARCH_REGISTRY.get(USERS))
    assert "forward" in vars(META_ARCH_REGISTRY.get(USERS))
