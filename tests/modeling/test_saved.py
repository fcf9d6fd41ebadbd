"""Activations held as integers of 8 bits."""

import numpy as np
import pytest
import torch
from meddlr.modeling import build_model
from torch import nn

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy import saved_in_int8
from meddlr_greedy.modeling.greedy.saved_in_int8 import BLOCK, SavedInInt8
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalResNet
from meddlr_greedy.planning.trace import traced
from projects.cine.support.measuring import make_batch
from tests.helpers.networks import held_bytes, small_config


class Square(nn.Module):
    """Saves what it is given, arranged in some way in memory."""

    def __init__(self, arrange=lambda x: x):
        super().__init__()
        self.arrange = arrange

    def forward(self, x):
        return self.arrange(x).pow(2)


def rounded(numbers):
    """The definition, in numpy: blocks of numbers as multiples of their largest magnitude over 127, none of them 0."""
    flat = np.concatenate([numbers.ravel(), np.zeros(-numbers.size % BLOCK, numbers.dtype)]).reshape(-1, BLOCK)
    scales = np.abs(flat).max(axis=1, keepdims=True) / np.float32(127)
    whole = np.rint(flat / np.maximum(scales, np.finfo(np.float32).tiny))
    whole[whole == 0] = np.sign(flat[whole == 0])
    return (whole * scales).ravel()[: numbers.size].reshape(numbers.shape)


@pytest.mark.parametrize(
    ("arrange", "memory"),  # of what is saved: how it is made, and its axes in the order of memory
    [
        (lambda x: x, (0, 1, 2, 3)),
        (lambda x: x.permute(0, 2, 3, 1), (0, 3, 1, 2)),
        (lambda x: x.contiguous(memory_format=torch.channels_last), (0, 2, 3, 1)),
        (lambda x: x[..., 1:, ::2], (0, 1, 2, 3)),
        (lambda x: x[:, :1].expand(-1, 3, -1, -1), (0, 1, 2, 3)),
        (lambda x: x.to(torch.bfloat16), (0, 1, 2, 3)),
    ],
    ids=["as it is", "permuted", "channels last", "with gaps", "repeated", "bfloat16"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 0.0])
@pytest.mark.parametrize("blocks", [1, 3, 2**14])  # of four
def test_a_gradient_is_that_of_rounded_activations(arrange, memory, scale, blocks, monkeypatch):
    monkeypatch.setattr(saved_in_int8, "_BLOCKS_AT_A_TIME", blocks)
    torch.manual_seed(0)
    x = (scale * torch.randn(2, 3, 11, 13)).requires_grad_()
    SavedInInt8(Square(arrange), nn.Identity())(x).sum().backward()
    exact = arrange(x.detach())
    held = torch.from_numpy(rounded(exact.float().permute(memory).contiguous().numpy()))
    held = held.permute(*np.argsort(memory).tolist()).to(exact.dtype)
    expected = torch.zeros_like(x).requires_grad_()
    arrange(expected).backward(2 * held)  # the adjoint
    torch.testing.assert_close(x.grad, expected.grad, rtol=1e-6, atol=1e-37)
    assert scale != 1 or 0 < (held - exact).norm() < 0.01 * exact.norm()


def test_little_stands_beside_what_is_rounded(monkeypatch):
    monkeypatch.setattr(saved_in_int8, "_BLOCKS_AT_A_TIME", 16)
    with traced() as trace:
        x = torch.empty(1, 4, 160, 160).requires_grad_()
        held_after = x.numel() + 4 * x.numel() // BLOCK  # integers and scales
        trace.reset_peak()
        before = trace.alive
        SavedInInt8(Square(), nn.Identity())(x)
    of_output = 4 * x.numel()
    of_a_part = 4 * 16 * BLOCK
    assert trace.peak - before - of_output - held_after <= 8 * of_a_part < of_output / 3


def test_forward_is_the_same_and_the_gradient_is_near():
    torch.manual_seed(0)
    network = SpatioTemporalResNet(2, 8, num_blocks=2)
    x = torch.randn(2, 2, 5, 12, 14)
    results = []
    for run in (network, SavedInInt8(network, network)):
        network.zero_grad()
        given = x.clone().requires_grad_()
        out = run(given)
        out.square().sum().backward()
        results.append((out.detach(), [given.grad, *(p.grad.clone() for p in network.parameters())]))
    (expected, exact), (found, near) = results
    assert torch.equal(found, expected)
    assert torch.equal(near[0], exact[0])  # of the image
    for a, b in zip(near[1:], exact[1:]):
        assert (a - b).norm() < 0.02 * b.norm()
    assert any(not torch.equal(a, b) for a, b in zip(near, exact))


@pytest.mark.parametrize("name", ["CineUnrolledCNN", "GeneralizedUnrolledCNN", "CGCineUnrolledCNN"])
@pytest.mark.parametrize("greedy", [{"NUM_MODULES": 4}, {"NUM_MODULES": 1}, {"NUM_MODULES": 2, "OVERLAP": 1}], ids=str)
@pytest.mark.parametrize("more", [{}, {"AMP": "bf16"}, {"TILE": [9, 8]}], ids=str)
def test_networks(name, greedy, more):
    batch = make_batch("cpu", (20, 18, 5) if "Cine" in name else (20, 18), num_coils=3)
    found = {}
    for saved in ("", "int8"):
        torch.manual_seed(0)
        model = build_model(small_config(name, SAVED=saved, **greedy, **more)).train()
        loss = complex_l1(model(batch)["pred"], batch["target"])
        loss.backward()
        found[saved] = loss.detach(), {n: p.grad for n, p in model.named_parameters()}
    assert torch.equal(found[""][0], found["int8"][0])
    differs = [not torch.equal(g, found["int8"][1][n]) for n, g in found[""][1].items()]
    assert any(differs)
    for n, g in found[""][1].items():
        assert (g - found["int8"][1][n]).norm() <= 0.05 * g.norm() + 1e-6, n


def test_a_quarter_is_held():
    batch = make_batch("cpu", (64, 48, 4), num_coils=2)
    sizes = {}
    for saved in ("", "int8"):
        cfg = small_config("CineUnrolledCNN", NUM_MODULES=4, SAVED=saved)
        cfg.MODEL.UNROLLED.NUM_FEATURES, cfg.MODEL.UNROLLED.NUM_RESBLOCKS = 16, 2
        torch.manual_seed(0)
        sizes[saved] = held_bytes(build_model(cfg).train(), batch)
    assert 0.24 < sizes["int8"] / sizes[""] < 0.30


def test_what_two_layers_save_is_held_once():
    class Twice(nn.Module):
        def forward(self, x):
            y = x.exp()  # saves y
            return y.permute(1, 0) * y.sum().detach() + y.pow(2).sum()  # and again

    x = torch.randn(64, 64, requires_grad=True)
    with HeldForBackward() as held:
        out = SavedInInt8(Twice(), nn.Identity())(x)
    assert held.peak_bytes < 1.5 * x.numel()
    out.sum().backward()


def test_what_was_overwritten_is_not_taken_for_the_same():
    class Overwriting(nn.Module):
        def forward(self, x):
            y = x.clone()
            first = y.detach().mul(x)  # saves y as it is
            y.detach().neg_()
            return first + y.detach().mul(x)

    x = torch.randn(32, 32, requires_grad=True)
    SavedInInt8(Overwriting(), nn.Identity())(x).sum().backward()
    assert x.grad.abs().max() < 1e-6


def test_it_is_refused_with_checkpoints():
    with pytest.raises(UserError, match="MISC.GREEDY.SAVED: found 'int8', which MISC.GREEDY.CHECKPOINT 'step'"):
        build_model(small_config("CineUnrolledCNN", SAVED="int8", CHECKPOINT=True))


def test_outside_of_training_a_gradient_is_exact():
    batch = make_batch("cpu", (20, 18, 5), num_coils=3)
    found = []
    for saved in ("", "int8"):
        torch.manual_seed(0)
        model = build_model(small_config("CineUnrolledCNN", SAVED=saved)).eval()
        complex_l1(model(batch)["pred"], batch["target"]).backward()
        found.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *found))
