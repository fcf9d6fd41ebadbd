"""Padding of the regularizers: shifts, an independent implementation, and the bits without it."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from meddlr.config import CfgNode, get_cfg
from meddlr.modeling import build_model
from meddlr.modeling.meta_arch.resnet import ResNetModel

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import check_keys_of_network
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.regularizers.invertible import InvertibleResBlock, InvertibleSpatioTemporalResNet
from meddlr_greedy.modeling.regularizers.padded_resnet import PaddedResNet
from meddlr_greedy.modeling.regularizers.padding import Padding
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalResNet
from meddlr_greedy.modeling.regularizers.temporal_frequency import TemporalFrequencyResNet
from meddlr_greedy.ops.cine_sense import CineSenseModel
from tests.helpers.operators import randn, relative
from tests.helpers.scans import make_scan

READOUT, PHASE_ENCODE = -2, -1
WRAPPED = {"zeros": (), "circular": (READOUT, PHASE_ENCODE), "phase_encode": (PHASE_ENCODE,)}
every_padding = pytest.mark.parametrize("padding", WRAPPED)


#: Of (kernel size, padding).
NETWORKS = {
    "SpatioTemporalResNet": lambda k, padding: SpatioTemporalResNet(2, 4, 2, k, padding=padding),
    "TemporalFrequencyResNet": lambda k, padding: TemporalFrequencyResNet(2, 4, 1, k, 0.0, 1, padding),
    "InvertibleSpatioTemporalResNet": lambda k, padding: InvertibleSpatioTemporalResNet(2, 4, 2, k, padding),
    "PaddedResNet": lambda k, padding: PaddedResNet(2, 2, 4, kernel_size=k, padding=padding),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def make(name, padding, kernel_size=3):
    """A network none of whose weights is zero."""
    torch.manual_seed(0)
    network = NETWORKS[name](kernel_size, padding)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def image_for(name, size=(7, 6)):
    torch.manual_seed(1)
    return torch.randn(2, 2, *([] if name == "PaddedResNet" else [5]), *size)


# ---- shifts


@every_padding
@pytest.mark.parametrize("size", [(7, 6), (6, 9), (5, 5)])
@pytest.mark.parametrize("kernel_size", [3, 5])
@every_network
def test_commutes_with_shifts_along_the_axes_that_wrap_and_no_others(name, kernel_size, size, padding):
    network, image = make(name, padding, kernel_size), image_for(name, size)
    with torch.no_grad():
        out = network(image)
        for axis in (READOUT, PHASE_ENCODE):
            for shift in (1, 2, size[axis] // 2):
                difference = relative(network(image.roll(shift, axis)), out.roll(shift, axis))
                assert difference < 1e-5 if axis in WRAPPED[padding] else difference > 1e-3, (axis, shift)


@pytest.mark.parametrize("arch", ["CineUnrolledCNN", "CGCineUnrolledCNN", "InvertibleCineUnrolledCNN"])
def test_a_whole_network_does_not_see_where_the_image_begins(arch):
    """Shifted along both axes: maps, k-space and target of a fully periodic image."""
    torch.manual_seed(0)
    maps, target = randn(1, 7, 6, 1, 3, 1), randn(1, 7, 6, 4, 1)
    mask = (torch.rand(1, 1, 6, 4, 1) < 0.6).float().expand(1, 7, 6, 4, 1).clone()

    def reconstruct(network, shifts):
        moved_maps, moved = (x.roll(shifts, (1, 2)) for x in (maps, target))
        kspace = CineSenseModel(moved_maps, mask)(moved)
        with torch.no_grad():
            pred = network({"kspace": kspace, "maps": moved_maps, "mask": mask})["pred"]
        return pred.roll([-shift for shift in shifts], (1, 2))

    step = {"InvertibleCineUnrolledCNN": -0.5, "CGCineUnrolledCNN": 0.2}.get(arch, -1.0)
    for padding, shifts in (("circular", (3, 2)), ("phase_encode", (0, 4))):
        network = build(config(arch, padding, STEP_SIZES=(step,)))
        assert relative(reconstruct(network, shifts), reconstruct(network, (0, 0))) < 1e-5
    other = build(config(arch, "phase_encode", STEP_SIZES=(step,)))
    assert relative(reconstruct(other, (3, 0)), reconstruct(other, (0, 0))) > 1e-4


# ---- an independent implementation


def padded(x, k, padding):
    """(B, C, H, W), by torch's own padding, one axis after the other."""
    r = k // 2
    x = F.pad(x, (r, r, 0, 0), "constant" if padding == "zeros" else "circular")
    return F.pad(x, (0, 0, r, r), "circular" if padding == "circular" else "constant")


def plane_conv(x, layer, padding):
    return F.conv2d(padded(x, layer.weight.shape[-1], padding), layer.weight, layer.bias)


def cine_conv(x, conv, padding):
    """(B, C, T, H, W): frame by frame in space; along time, with the last frame before the first."""
    x = torch.stack([plane_conv(frame, conv.spatial, padding) for frame in x.unbind(2)], dim=2).relu()
    r = conv.temporal.weight.shape[-2] // 2
    x = F.pad(x, (0, 0, 0, 0, r, r), "circular")
    return F.conv3d(x, conv.temporal.weight.unsqueeze(-1), conv.temporal.bias)


def residual(x, blocks, conv, padding):
    for block in blocks:
        x = x + conv(conv(x.relu(), block.conv1, padding).relu(), block.conv2, padding)
    return x


def cine_reference(network, image, padding):
    x = residual(cine_conv(image, network.initial, padding), network.blocks, cine_conv, padding)
    return cine_conv(x, network.final, padding) + image


def invertible_reference(network, image, padding):
    for block in network.blocks:
        x = cine_conv(cine_conv(image, block.conv1, padding).relu(), block.conv2, padding)
        image = image + block._scale() * x
    return image


def frequency_reference(network, image, padding):
    """Of one temporal frequency, by sums over the frames."""
    T = image.shape[2]
    angle = 2 * torch.pi * torch.arange(T) / T
    waves = [torch.full((T,), T**-0.5), (2 / T) ** 0.5 * angle.cos(), (2 / T) ** 0.5 * angle.sin()]

    def planes(factors):
        return [
            sum(f * w * frame for w, frame in zip(wave, image[:, c].unbind(1)))
            for c in range(image.shape[1])
            for f, wave in zip(factors, waves)
        ]

    x = plane_conv(torch.stack(planes([T**-0.5, 2, 2]), dim=1), network.initial, padding)
    x = plane_conv(residual(x, network.blocks, plane_conv, padding).relu(), network.final, padding)
    x = x.unflatten(1, (image.shape[1], 3))
    return image + torch.stack([sum(x[:, :, i] * wave[t] for i, wave in enumerate(waves)) for t in range(T)], dim=2)


def plane_reference(network, image, padding):
    x = image
    for block in network.res_blocks:
        shortcut = x if isinstance(block.resample, torch.nn.Identity) else plane_conv(x, block.resample, "zeros")
        for conv_block in block.layers:
            x = plane_conv(x.relu(), conv_block.layers[-1], padding)
        x = x + shortcut
    return plane_conv(x, network.final_layer, padding) + image


REFERENCES = {
    "SpatioTemporalResNet": cine_reference,
    "TemporalFrequencyResNet": frequency_reference,
    "InvertibleSpatioTemporalResNet": invertible_reference,
    "PaddedResNet": plane_reference,
}


@every_padding
@pytest.mark.parametrize("size", [(7, 6), (4, 5), (2, 3)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@every_network
def test_equals_torch_s_padding_and_convolutions(name, kernel_size, size, padding):
    network, image = make(name, padding, kernel_size), image_for(name, size)
    copy_of_image = image.clone().requires_grad_()
    found, expected = network(image.requires_grad_()), REFERENCES[name](network, copy_of_image, padding)
    assert found.shape == image.shape and relative(found, expected) < 1e-5
    weights = torch.randn_like(found)
    for output, x in ((found, image), (expected, copy_of_image)):
        (output * weights).sum().backward(inputs=[x, *network.parameters()])
    assert relative(image.grad, copy_of_image.grad) < 1e-5


def test_gradients_of_the_weights_are_those_of_the_reference():
    for name, reference in REFERENCES.items():
        network, image = make(name, "circular"), image_for(name)
        gradients = []
        for run in (network, lambda x: reference(network, x, "circular")):  # noqa: B023 (called at once)
            network.zero_grad()
            run(image).square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        assert relative(*gradients) < 1e-5, name


@pytest.mark.parametrize("size", [(3, 4, 6, 5), (1, 3, 2, 4, 7)])
def test_memory_order_is_kept(size):
    """A channels-last image stays one, or convolutions would become slow."""
    order = torch.channels_last if len(size) == 4 else torch.channels_last_3d
    x = torch.randn(size).contiguous(memory_format=order)
    for kind in ("circular", "phase_encode"):
        assert Padding(3, kind)(x).is_contiguous(memory_format=order)
    assert Padding(3)(x) is x and Padding(1, "circular")(x) is x


def test_backward_keeps_no_second_copy():
    """What the padding adds is its rim, and not another copy of what the convolutions take."""

    def held(padding):
        network = make("SpatioTemporalResNet", padding).train()
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = torch.randn(1, 2, 5, 40, 40).contiguous(memory_format=torch.channels_last_3d)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = network(x)
        assert out.requires_grad
        return sum(sizes.values())

    assert held("circular") < 1.15 * held("zeros")


def test_an_image_below_the_reach_of_a_kernel_is_refused():
    assert Padding(5, "circular")(torch.ones(1, 1, 2, 2)).shape == (1, 1, 6, 6)
    with pytest.raises(UserError, match="^MISC.GREEDY.PADDING: convolutions of size 5 .* has 1 along"):
        Padding(5, "circular")(torch.ones(1, 1, 2, 1))


# ---- without it, the same bits


def test_zeros_are_the_bits_of_zero_padding():
    """The networks as they were: convolutions that pad with zeros themselves, nothing before them."""
    image = image_for("SpatioTemporalResNet")
    network = make("SpatioTemporalResNet", "zeros")
    assert network.initial.spatial.padding == (1, 1)
    x = network.initial(image)
    for block in network.blocks:
        x = block.conv2(F.relu(block.conv1(F.relu(x)))) + x
    assert torch.equal(network(image), network.final(x) + image)

    invertible = make("InvertibleSpatioTemporalResNet", "zeros")
    x = image
    for block in invertible.blocks:
        x = x + block._scale() * block.conv2(F.relu(block.conv1(x)))
    assert torch.equal(invertible(image), x)


@pytest.mark.parametrize(
    "make_network",
    [
        functools.partial(SpatioTemporalResNet, 2, 4),
        functools.partial(TemporalFrequencyResNet, 2, 4),
        functools.partial(InvertibleSpatioTemporalResNet, 2, 4),
        functools.partial(PaddedResNet, 2, 2, 4),
    ],
    ids=NETWORKS,
)
def test_zeros_are_the_default_and_weights_have_the_same_names(make_network):
    states = []
    for options in ({}, {"padding": "zeros"}, {"padding": "circular"}):
        torch.manual_seed(0)
        states.append(make_network(**options).state_dict())
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(value, states[0][key]) for key, value in state.items())


PLANE_OPTIONS = [
    {},
    {"norm_type": "instance", "act_type": "leaky_relu"},
    {"norm_type": "batch", "norm_affine": True},
    {"order": ("conv", "norm", "act", "drop")},
    {"order": ("norm", "act", "drop", "conv+ws"), "dropout": 0.0},
    {"pre_conv": True, "post_conv": True},
    {"kernel_size": (5, 3)},
]


@pytest.mark.parametrize("options", PLANE_OPTIONS, ids=str)
def test_plane_network_is_meddlr_s(options):
    options = {"kernel_size": 3, **options}
    torch.manual_seed(0)
    ours = PaddedResNet(2, 2, 4, **options)
    torch.manual_seed(0)
    stock = ResNetModel(2, 2, 4, **options)
    image = torch.randn(2, 2, 9, 8)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert torch.equal(ours(image), stock(image))
    circular = PaddedResNet(2, 2, 4, **options, padding="circular")
    circular.load_state_dict(stock.state_dict())
    with torch.no_grad():
        moved = circular(image.roll((2, 3), (-2, -1))).roll((-2, -3), (-2, -1))
        assert relative(moved, circular(image)) < 1e-5
        assert relative(stock(image.roll((2, 3), (-2, -1))).roll((-2, -3), (-2, -1)), stock(image)) > 1e-3
        # Far from the edges both are the same: what differs is the padding alone. (A norm sees all pixels.)
        large = torch.randn(1, 2, 40, 40)
        if options.get("norm_type", "none") == "none":
            assert relative(circular(large)[..., 15:25, 15:25], stock(large)[..., 15:25, 15:25]) < 1e-5


# ---- networks that run backwards


def test_inverse():
    network, image = make("InvertibleSpatioTemporalResNet", "circular"), image_for("InvertibleSpatioTemporalResNet")
    with torch.no_grad():
        out = network(image)
        assert relative(out, image) > 0.01 and relative(network.inverse(out), image) < 1e-6


@pytest.mark.parametrize("padding", ["circular", "phase_encode"])
def test_residual_expands_by_no_more_than_half(padding):
    """The direction that the residual expands most, by power iteration, of kernels that all point the same way."""
    torch.manual_seed(0)
    block = InvertibleResBlock(2, 4, padding=padding)
    for parameter in block.parameters():
        parameter.data.abs_().add_(1.0)
    x, direction = torch.randn(1, 2, 5, 8, 8), torch.rand(1, 2, 5, 8, 8)
    for _ in range(20):
        _, along = torch.autograd.functional.jvp(lambda x: block(x) - x, x, direction)
        ratio = along.norm() / direction.norm()
        _, direction = torch.autograd.functional.vjp(lambda x: block(x) - x, x, along)
        direction = direction / direction.norm()
    assert 0.1 < ratio <= 0.5


# ---- config


def config(arch, padding=None, greedy=None, block=None, **unrolled):
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "GreedyUnrolled" if greedy else arch
    values = {"NUM_UNROLLED_STEPS": 2, "NUM_FEATURES": 4, "NUM_RESBLOCKS": 1, "KERNEL_SIZE": (3,), **unrolled}
    for key, value in {**values, **({"BLOCK_ARCHITECTURE": block} if block else {})}.items():
        cfg.MODEL.UNROLLED[key] = value
    greedy = {"META_ARCHITECTURE": arch, "NUM_MODULES": greedy} if greedy else {}
    cfg.MISC.GREEDY = CfgNode({**greedy, **({"PADDING": padding} if padding else {})})
    return cfg


def build(cfg):
    """A network whose regularizers are strong enough to show what they do at the edges."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if "resnets" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("greedy", [None, 2])
@pytest.mark.parametrize("arch, block", [("CineUnrolledCNN", None), ("GeneralizedUnrolledCNN", "PaddedResNet")])
def test_checkpoints_do_not_depend_on_the_padding(arch, block, greedy):
    """Also those of meddlr's own network."""
    stock, padded_network = build(config(arch, STEP_SIZES=(-1.0,))), build(config(arch, "circular", greedy, block))
    padded_network.load_state_dict(copy.deepcopy(stock.state_dict()))
    network = padded_network.model if isinstance(padded_network, GreedyUnrolled) else padded_network
    assert list(network.state_dict()) == list(stock.state_dict())
    cine = {"num_frames": 3} if arch.startswith("Cine") else {}
    scan = make_scan(np.random.default_rng(0), num_slices=1, height=12, width=9, num_coils=3, **cine)
    batch = {name: torch.from_numpy(array) for name, array in scan.items()}
    with torch.no_grad():
        images = [model(copy.deepcopy(batch))["pred"] for model in (stock, padded_network)]
    assert relative(*images) > 1e-3, "the padding does nothing"


@pytest.mark.parametrize(
    "arch, block",
    [
        ("CineUnrolledCNN", None),
        ("CGCineUnrolledCNN", "TemporalFrequencyResNet"),
        ("InvertibleCineUnrolledCNN", None),
        ("GeneralizedUnrolledCNN", "PaddedResNet"),
        ("CGUnrolledCNN", "PaddedResNet"),
    ],
)
@pytest.mark.parametrize("greedy", [None, 2])
def test_allowed(arch, block, greedy):
    check_keys_of_network(config(arch, "circular", greedy, block))


@pytest.mark.parametrize("greedy", [None, 2])
@pytest.mark.parametrize(
    "arch, block", [("GeneralizedUnrolledCNN", None), ("CGUnrolledCNN", "UnetModel"), ("CineUnrolledCNN", "UnetModel")]
)
def test_a_regularizer_that_would_ignore_it_is_refused(arch, block, greedy):
    name = block or "ResNet"
    with pytest.raises(UserError, match=f"MISC.GREEDY.PADDING: found 'circular', which the regularizer '{name}' ") as e:
        check_keys_of_network(config(arch, "circular", greedy, block))
    assert "PaddedResNet, SpatioTemporalResNet, TemporalFrequencyResNet" in str(e.value)
    if greedy:
        with pytest.raises(UserError, match="MISC.GREEDY.PADDING"):
            build_model(config(arch, "circular", greedy, block))
    check_keys_of_network(config(arch, "zeros", greedy, block))


def test_other_values_are_refused():
    with pytest.raises(UserError, match="MISC.GREEDY.PADDING: found 'reflect', allowed is 'zeros', 'circular' or"):
        build(config("CineUnrolledCNN", "reflect"))
    for arch, block in (("GeneralizedUnrolledCNN", "PaddedResNet"), ("CineUnrolledCNN", None)):
        with pytest.raises(UserError, match="MODEL.UNROLLED.PADDING: found 'circular', allowed is ''; MISC.GREEDY.PAD"):
            build(config(arch, block=block, PADDING="circular"))
