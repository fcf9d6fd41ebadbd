"""Regularizers, and modules of one step, that run tile by tile: the image and the gradient of the whole."""

import copy
import functools

import pytest
import torch
from meddlr.modeling import build_model
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy import reach
from meddlr_greedy.modeling.greedy.reach import reach_of
from meddlr_greedy.modeling.greedy.tiled_regularizer import TiledRegularizer
from meddlr_greedy.modeling.regularizers.current_tile import on_tile, positional_dropout
from meddlr_greedy.modeling.regularizers.padding import Padding
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalResNet
from meddlr_greedy.modeling.regularizers.temporal_frequency import TemporalFrequencyResNet
from meddlr_greedy.modeling.tiles import Ends, Reach, Span, Tile, tiles_of
from tests.helpers.networks import held_bytes, small_config
from tests.helpers.steps import GENERAL_LOSSES, LOSSES, H, T, W, assert_same, batch, check_tiles, config, trained

CINE = "CineUnrolledCNN"


# ---- geometry

REACHES = [Reach((3, 2), wraps) for wraps in ((False, False), (True, False), (True, True))]


@pytest.mark.parametrize("reach", [*REACHES, Reach((30, 40), (True, True)), Reach((0, 0), (False, False))])
@pytest.mark.parametrize("size", [(5, 4), (7, 0), (0, 6), (40, 40), (21, 18), (1, 17)])
def test_cores_cover_an_image_once_and_halos_hold_what_is_around(size, reach):
    x = torch.arange(2.0 * H * W).reshape(2, H, W, 1)
    out = torch.zeros_like(x)
    for tile in tiles_of((H, W), size, reach):
        tile.core(out, 1).add_(tile.with_edges().core_left(tile.take(x, 1), 1))
        rows, columns = (
            torch.arange(span.begin - span.before, span.end + span.after) for span in (tile.rows, tile.columns)
        )
        assert torch.equal(tile.take(x, 1), x[:, rows % H][:, :, columns % W])
        for span, distance, wraps, length in zip((tile.rows, tile.columns), reach.distance, reach.wraps, (H, W)):
            if span.end - span.begin == length:
                assert span.before == span.after == 0
            elif wraps:
                assert span.before == span.after == distance
            else:
                assert span.before == min(distance, span.begin) and span.after == min(distance, length - span.end)
    assert torch.equal(out, x)


@pytest.mark.parametrize("reach", [*REACHES, Reach((30, 40), (True, True))])
def test_adding_is_the_adjoint_of_taking(reach):
    x = torch.randn(2, H, W, 3, dtype=torch.float64)
    for tile in tiles_of((H, W), (8, 5), reach):
        part, total = torch.randn_like(tile.take(x, 1)), torch.zeros_like(x)
        tile.add(total, part, 1)
        torch.testing.assert_close((tile.take(x, 1) * part).sum(), (x * total).sum())


# ---- reach


def resnet(**options):
    return SpatioTemporalResNet(2, 4, **options)


@pytest.mark.parametrize(
    ("regularizer", "distance"),
    [
        (resnet(num_blocks=2), 6),
        (resnet(num_blocks=0, kernel_size=5), 4),
        (resnet(num_blocks=1, kernel_size=5), 8),
        (TemporalFrequencyResNet(2, 4, num_frequencies=1), 6),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_reach_of_residual_networks(regularizer, distance, training):
    before = copy.deepcopy(regularizer.state_dict())
    assert reach_of(regularizer.train(training), 2, T) == Reach((distance, distance), (False, False))
    assert all(torch.equal(value, before[name]) for name, value in regularizer.state_dict().items())


@pytest.mark.parametrize("padding, wraps", [("circular", (True, True)), ("phase_encode", (False, True))])
def test_reach_goes_on_at_the_opposite_edge(padding, wraps):
    assert reach_of(resnet(num_blocks=1, padding=padding), 2, T) == Reach((4, 4), wraps)


def test_reach_along_two_axes():
    layers = nn.Sequential(nn.Conv2d(2, 3, (3, 5), padding=(1, 2)), nn.ReLU(), nn.Conv2d(3, 2, (1, 3), padding=(0, 1)))
    assert reach_of(layers, 2) == Reach((1, 3), (False, False))
    assert reach_of(nn.Identity(), 2) == Reach((0, 0), (False, False))


class Placed(nn.Module):
    def forward(self, x):
        return x * torch.linspace(-1, 1, x.shape[-2])[:, None]


class Gated(nn.Module):
    def forward(self, x):
        return x * (nn.functional.avg_pool2d(x, 3, 1, 1) > 0.4)


MIXED = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Conv2d(2, 2, 3, padding=1))


class Pooled(nn.Module):
    def forward(self, x):
        return nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2)


@pytest.mark.parametrize(
    ("regularizer", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.InstanceNorm2d(2)), "the whole image"),
        (nn.BatchNorm2d(2), "the whole image"),
        (nn.Conv2d(2, 2, 3, padding=(1, 64), dilation=(1, 64)), "more than 61 pixels"),
        (nn.Conv2d(2, 2, 3, padding=100, dilation=100), "more than 61 pixels"),
        (nn.Conv2d(2, 2, 3, padding=(150, 1), dilation=(150, 1)), "more than 61 pixels"),
        (nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=60, dilation=60) for _ in range(3))), "more than 61 pixels"),
        (Pooled(), "depends on the position"),
        (Placed(), "another image"),
        (Gated(), "another image"),
        (MIXED, "another image"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Dropout2d(0.5)), "random numbers"),
    ],
)
def test_what_cannot_be_put_together_of_tiles_is_refused(regularizer, message):
    with pytest.raises(UserError, match=f"^MISC.GREEDY.TILE: .*{message}"):
        reach_of(regularizer, 2)


@pytest.mark.parametrize("rows, columns", [(8, 8), (20, 1), (1, 40)])
def test_dilated_convolutions_leave_out_what_is_near(rows, columns):
    regularizer = nn.Conv2d(2, 2, 3, padding=(rows, columns), dilation=(rows, columns))
    assert reach_of(regularizer, 2) == Reach((rows, columns), (False, False))


def test_a_normalization_is_refused_in_training_alone():
    layers = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
    with pytest.raises(UserError):
        reach_of(layers, 2)
    assert reach_of(layers.eval(), 2) == Reach((1, 1), (False, False))


# ---- gradients


@pytest.mark.parametrize("num_maps", [1, 2])
@pytest.mark.parametrize("name", [CINE, "GeneralizedUnrolledCNN"])
@pytest.mark.parametrize("loss", [*LOSSES, *GENERAL_LOSSES])
def test_losses(loss, name, num_maps, passes):
    """Two examples, each with a scale and (but for means over pixels) a factor of its own."""
    cfg = config(name, loss, num_maps, NUM_MODULES=4, LOSS_WEIGHTS=[1.0, 2.0, 0.5, 3.0])
    inputs = batch(name == CINE, 2, num_maps)
    check_tiles(cfg, inputs, (8, 7))
    assert passes == [False] * 4 + [loss in LOSSES] * 4


@pytest.mark.parametrize("tile", [(8, 7), (6, 0), (0, 5), (1, 18), (20, 17)])
@pytest.mark.parametrize("padding", ["zeros", "circular", "phase_encode"])
def test_tiles_and_paddings(padding, tile, passes):
    check_tiles(config(CINE, NUM_MODULES=4, PADDING=padding), batch(), tile)
    assert passes[4:] == [True] * 4


@pytest.mark.parametrize("name", [CINE, "CGCineUnrolledCNN"])
def test_tiles_and_channels_that_are_a_multiple(name):
    """On a CPU the first convolution tells of its origin where it is narrow; of 4 features it is no longer so."""
    check_tiles(config(name, NUM_MODULES=4, CHANNEL_MULTIPLE=8, PADDING="circular"), batch(), (8, 7))


@pytest.mark.parametrize("block", ["TemporalFrequencyResNet", "PaddedResNet"])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_regularizers(block, padding):
    is_cine = block == "TemporalFrequencyResNet"
    cfg = config(CINE if is_cine else "GeneralizedUnrolledCNN", NUM_MODULES=4, PADDING=padding)
    cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = block
    inputs = {k: v.to(torch.complex64 if v.is_complex() else torch.float32) for k, v in batch(is_cine).items()}
    if is_cine:  # more frames than it has coefficients, and weights that are not zero
        inputs = {k: v.repeat_interleave(3, dim=3) if v.ndim == 5 else v for k, v in inputs.items()}
    check_tiles(
        cfg,
        inputs,
        (8, 7),
        2e-4,
        dtype=torch.float32,
        change=lambda m: [nn.init.normal_(p, std=0.1) for p in m.parameters()],
    )


@pytest.mark.parametrize(
    ("name", "greedy"),
    [
        (CINE, {"NUM_MODULES": 1}),
        (CINE, {"NUM_MODULES": 2}),
        (CINE, {"NUM_MODULES": [1, 3]}),
        (CINE, {"NUM_MODULES": 2, "CHECKPOINT": True}),
        (CINE, {"NUM_MODULES": 4, "CHECKPOINT": True}),
        (CINE, {"NUM_MODULES": 4, "OVERLAP": 1}),
        (CINE, {"NUM_MODULES": 2, "OVERLAP": 1, "LOSS_WEIGHTS": [1.0, 2.0]}),
        ("CGCineUnrolledCNN", {"NUM_MODULES": 4}),
        ("CGCineUnrolledCNN", {"NUM_MODULES": 1}),
        ("CGCineUnrolledCNN", {"NUM_MODULES": 2, "CG_BACKWARD": "implicit"}),
        ("GeneralizedUnrolledCNN", {"NUM_MODULES": 2}),
        ("CGUnrolledCNN", {"NUM_MODULES": 2}),
    ],
    ids=str,
)
def test_networks_and_knobs(name, greedy):
    check_tiles(
        config(name, num_maps=2, **greedy), batch("Cine" in name, 2, 2), (8, 7), 1e-10 if "CG" in name else 1e-12
    )


@pytest.mark.parametrize("num_modules", [1, 2, 4])
def test_shared_weights(num_modules):
    cfg = config(CINE, NUM_MODULES=num_modules)
    cfg.MODEL.UNROLLED.SHARE_WEIGHTS = True
    check_tiles(cfg, batch(), (8, 7))


@pytest.mark.parametrize("fixed", ["step_sizes", "resnets", "resnets.1", "step_sizes.1", ""])
def test_frozen_parameters(fixed):
    def freeze(model):
        for name, p in model.model.named_parameters():
            p.requires_grad_(not (name.startswith(fixed) if fixed else name.split(".")[1] == "1"))

    check_tiles(config(CINE, NUM_MODULES=4), batch(), (8, 7), change=freeze)


def test_step_sizes_that_are_not_trained():
    cfg = config(CINE, NUM_MODULES=4)
    cfg.MODEL.UNROLLED.FIX_STEP_SIZE = True
    check_tiles(cfg, batch(), (8, 7))


@pytest.mark.parametrize("name", [CINE, "GeneralizedUnrolledCNN"])
def test_under_meddlrs_trainer_the_last_module_takes_the_general_form(name, passes):
    check_tiles(config(name, NUM_MODULES=4), batch(name == CINE), (8, 7), takes_last_loss=False)
    assert passes == [False] * 3 + [True] * 3


def test_a_step_or_regularization_of_ones_own_takes_the_general_form(passes):
    def change(model):
        class Own(type(model.model)):
            def reg(self, *, image, model, dims=None):
                return image / 2 + super().reg(image=image, model=model, dims=dims) + image.abs().mean()

        model.model.__class__ = Own

    check_tiles(config(CINE, NUM_MODULES=4), batch(), (8, 7), change=change)
    assert not any(passes)


def test_in_float32_the_error_is_that_of_the_whole_image():
    cfg = config(CINE, NUM_MODULES=4, num_maps=2)
    exact = batch(num_maps=2)
    inputs = {k: v.to(torch.complex64 if v.is_complex() else torch.float32) for k, v in exact.items()}
    expected = trained(cfg, exact)
    whole = trained(cfg, inputs, dtype=torch.float32)
    cfg.MISC.GREEDY.TILE = [8, 7]
    tiled = trained(cfg, inputs, dtype=torch.float32)
    for name, value in expected.items():
        errors = [(found[name] - value).norm() for found in (tiled, whole)]
        assert errors[0] <= 2 * errors[1] + 1e-6 * value.norm(), name


def test_in_bfloat16_within_its_rounding():
    inputs = {k: v.to(torch.complex64 if v.is_complex() else torch.float32) for k, v in batch().items()}
    cfg = config(CINE, NUM_MODULES=4)
    exact = trained(cfg, inputs, dtype=torch.float32)
    cfg.MISC.GREEDY.AMP = "bf16"
    whole = trained(cfg, inputs, dtype=torch.float32)
    cfg.MISC.GREEDY.TILE = [8, 7]
    tiled = trained(cfg, inputs, dtype=torch.float32)
    for name, value in exact.items():
        if name.startswith("model.resnets") and value.numel() > 50:
            errors = [(found[name] - value).norm() for found in (tiled, whole)]
            assert 0 < errors[0] <= 2 * errors[1], name


@pytest.mark.parametrize("name", [CINE, "CGCineUnrolledCNN", "GeneralizedUnrolledCNN"])
def test_evaluation(name):
    cfg, inputs = config(name), batch("Cine" in name)
    torch.manual_seed(1)
    model = build_model(cfg.clone().freeze()).double().eval()
    with torch.no_grad():
        expected = model(inputs)["pred"]
        model.unrolled.tile = (8, 7)
        torch.testing.assert_close(model(inputs)["pred"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, greedy", [(CINE, {}), ("CGCineUnrolledCNN", {"CG_BACKWARD": "implicit"})])
def test_every_module_gives_the_same_bits_last_or_not(name, greedy):
    """As in a chain of processes, where each is the last of its own."""
    cfg, inputs = config(name, NUM_MODULES=4, TILE=[8, 7], **greedy), batch()
    whole = trained(cfg, inputs)
    for last in range(4):
        cut = trained(cfg, inputs, change=lambda m, last=last: setattr(m.unrolled, "own", range(last + 1)))
        parts = (f"model.resnets.{last}.", f"model.step_sizes.{last}")
        own = [name for name in cut if name.startswith(parts)]
        assert len(own) > 5 and all(torch.equal(cut[name], whole[name]) for name in own)


def test_what_is_held_for_backward_does_not_grow_with_the_image():
    cfg = config(CINE, NUM_MODULES=4, TILE=[8, 0])
    held = []
    for repeats in (2, 4):
        inputs = batch(dtype=torch.complex64)
        inputs = {k: v.repeat(1, repeats, *[1] * (v.ndim - 2)) if v.ndim > 2 else v for k, v in inputs.items()}
        model = build_model(cfg.clone().freeze()).train()
        images = 8 * inputs["target"].numel()
        taken = functools.partial(model, takes_last_loss=True)
        taken.parameters = model.parameters
        held.append(held_bytes(taken, inputs) - 3 * images)
    assert held[1] <= 1.05 * held[0]


# ---- paddings of tiles


@pytest.mark.parametrize("kind", ["zeros", "circular", "phase_encode"])
def test_outside_of_a_tile_nothing_is_padded_twice(kind):
    pad, x = Padding(3, kind), torch.rand(1, 2, 6, 5)

    def tile(rows, columns):
        return on_tile(Tile(Span(3, 5, 2, 2, 20, rows), Span(2, 3, 2, 2, 5, columns)), lambda: 0)

    with tile(Ends(False, False), Ends(False, False)):
        assert pad(x) is x and pad.zeros == (0, 0)
    with tile(Ends(True, False), Ends()):
        rows = 1 if kind == "zeros" or kind == "phase_encode" else 0
        assert pad(x).shape == (1, 2, 6 + rows, 5 + (2 if kind != "zeros" else 0))
        assert pad.zeros == (0, 1 if kind == "zeros" else 0)
        assert not rows or not pad(x)[:, :, 0].any()
    assert pad.zeros == Padding(3, kind).zeros


@pytest.mark.parametrize("value", [[4], [4, -1], "4", 4, [4, 4, 4], [True, 4], [1.5, 2]])
def test_values_that_are_no_size_are_refused(value):
    with pytest.raises(UserError, match="MISC.GREEDY.TILE: found .* allowed is a list of two non-negative integers"):
        build_model(small_config(CINE, TILE=value).freeze())


def test_training_backwards_is_refused():
    cfg = small_config("InvertibleCineUnrolledCNN", NUM_MODULES=1, TRAINING="invertible", TILE=[4, 4])
    with pytest.raises(UserError, match="MISC.GREEDY.TILE"):
        build_model(cfg.freeze())


def test_a_frozen_regularizer_keeps_nothing():
    block = resnet(num_blocks=1)
    for p in block.parameters():
        p.requires_grad_(False)
    tiled, v = TiledRegularizer(block, block, (6, 5)), torch.randn(1, 2, T, H, W)
    assert not tiled(v).requires_grad
    torch.testing.assert_close(tiled(v), block(v), rtol=0, atol=1e-5)


def test_regularizers_of_one_structure_are_tried_once(monkeypatch):
    tried = []
    original = reach._tried
    monkeypatch.setattr(reach, "_found", {})
    monkeypatch.setattr(reach, "_tried", lambda block, *args: tried.append(block) or original(block, *args))
    blocks = [
        resnet(num_blocks=1),
        resnet(num_blocks=1),
        resnet(num_blocks=2),
        resnet(num_blocks=1, padding="circular"),
    ]
    odd = [nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)]
    for layer in odd:
        layer.register_forward_pre_hook(lambda *_: None)  # a function: it may do anything
    for _ in range(2):
        for block in blocks:
            reach_of(block, 2, T)
        for layer in odd:
            reach_of(layer, 2)
    assert list(map(id, tried)) == list(map(id, [blocks[0], *blocks[2:], *odd]))


@pytest.mark.parametrize(
    "name, block, padding, loss, num_modules",
    [
        (CINE, "ResNet", "zeros", "l1", 1),
        (CINE, "ResNet", "circular", "l1", 4),
        (CINE, "ResNet", "zeros", "l2", 4),
        (CINE, "TemporalFrequencyResNet", "zeros", "l1", 4),
        (CINE, "TemporalFrequencyResNet", "circular", "l2", 4),
        ("CGCineUnrolledCNN", "ResNet", "circular", "l1", 1),
        ("CGCineUnrolledCNN", "ResNet", "zeros", "l2", 4),
    ],
)
def test_dropout_is_a_function_of_the_position(name, block, padding, loss, num_modules):
    """Tiles against one tile as large as the image."""
    cfg = config(name, loss, NUM_MODULES=num_modules, PADDING=padding, TILE=[H, W])
    cfg.MODEL.UNROLLED.DROPOUT, cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = 0.3, block
    inputs = {k: v.to(torch.complex64 if v.is_complex() else torch.float32) for k, v in batch(num_examples=2).items()}
    inputs = {k: v.repeat_interleave(3, dim=3) if v.ndim == 5 else v for k, v in inputs.items()}  # many frames
    change = lambda m: [nn.init.normal_(p, std=0.1) for n, p in m.named_parameters() if "resnets" in n]  # noqa: E731
    options = {"dtype": torch.float32, "change": change, "seed": 5}
    expected = trained(cfg, inputs, **options)
    assert_same(trained(cfg, inputs, **options), expected, 0)
    other = trained(cfg, inputs, **{**options, "seed": 6})
    assert not torch.equal(other["pred"], expected["pred"])
    cfg.MISC.GREEDY.TILE = [8, 7]
    assert_same(trained(cfg, inputs, **options), expected, 1e-3)
    # Under meddlr's trainer the last module takes the general form, of the whole batch.
    assert_same(trained(cfg, inputs, takes_last_loss=False, **options), expected, 1e-3)


def test_dropout_drops_as_many_as_it_says_anew_in_each_layer_row_and_frame():
    block, x = resnet(num_blocks=1, dropout=0.25).train(), torch.ones(2, 4, T, 60, 50)
    (tile,) = tiles_of((60, 50), (0, 0), Reach((4, 4), (False, False)))
    with on_tile(tile, lambda: 1):
        drawn = [positional_dropout(x, 0.25) for _ in range(2)]
    kept = torch.stack(drawn) > 0
    assert 0.74 < kept.float().mean() < 0.76 and torch.all(drawn[0][kept[0]] == 1 / 0.75)
    kept = kept.flatten().float()
    for shift in (1, 50, 60 * 50, T * 60 * 50, 4 * T * 60 * 50, len(kept) // 2):  # next column, row, frame, ... layer
        assert abs(torch.corrcoef(torch.stack([kept, kept.roll(shift)]))[0, 1]) < 0.02
    assert block.blocks[0].dropout == 0.25


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(nn.functional.relu_(x)) + 1


def test_a_regularizer_may_change_its_input_in_place():
    torch.manual_seed(0)
    block, v = InPlace().double(), torch.randn(1, 2, T, H, W, dtype=torch.float64, requires_grad=True)
    given = v.detach().clone()
    expected = torch.autograd.grad(block(v.clone()).square().sum(), [v, *block.parameters()])
    found = torch.autograd.grad(TiledRegularizer(block, block, (8, 7))(v).square().sum(), [v, *block.parameters()])
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert torch.equal(v.detach(), given)


class Smoothed(SpatioTemporalResNet):
    """Pads where the class that it is made of would not: it does not say that it shrinks."""

    def forward(self, x):
        return nn.functional.avg_pool3d(super().forward(x), (1, 3, 3), 1, (0, 1, 1), count_include_pad=True)


def test_a_subclass_has_to_say_itself_that_it_shrinks():
    torch.manual_seed(0)
    block, v = Smoothed(2, 4, num_blocks=1).double(), torch.randn(1, 2, T, 33, 30, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(TiledRegularizer(block, block, (9, 8))(v), block(v), rtol=0, atol=1e-12)


class Shifted(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = torch.tensor(shift)

    def forward(self, x):
        return x + nn.functional.pad(x, (0, 0, int(self.shift), 0))[..., : x.shape[-2], :]


def test_tensors_that_are_no_weights_tell_regularizers_apart():
    assert [reach_of(Shifted(shift), 2).distance for shift in (1, 4)] == [(1, 0), (4, 0)]
