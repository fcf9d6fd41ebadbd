"""What operations give is remembered: the same tensors and storages as torch works out anew."""

import pytest
import torch
from torch import nn

from meddlr_greedy.planning import trace as trace_module
from meddlr_greedy.planning.trace import traced

pytestmark = pytest.mark.short


def view_of_complex():
    x = torch.empty(3, 4, dtype=torch.complex64)
    y = torch.view_as_real(x.conj().resolve_conj())
    return [x, x.conj(), x.real, y, y[..., 0], y.transpose(0, 1), torch.view_as_complex(y)]


def in_place():
    x, y = torch.zeros(4, 2), torch.ones(2)
    x.add_(y).mul_(2)
    x[:, 0] = 3
    return [x, x.t(), x.expand(3, 4, 2), y]


def several_outputs():
    x = torch.empty(6, 4)
    values, indices = x.max(dim=1)
    return [values, indices, *x.split(2), *torch.linalg.qr(x), *torch.unbind(x, 1)]


def fourier():
    x = torch.fft.fft2(torch.empty(2, 5, 6, dtype=torch.complex64), dim=(1, 2), norm="ortho")
    return [x, torch.fft.ifftshift(x, dim=(1, 2)), torch.fft.rfft(torch.empty(3, 8))]


def numbers():
    """Equal numbers of other types give other tensors."""
    x = torch.ones(3, dtype=torch.int64)
    return [x * 2, x * 2.0, x * True, torch.full((2,), 1), torch.full((2,), 1.0), torch.full((2,), True)]


def new_form():
    """Operations that give an argument another form."""
    x = torch.zeros(2, 3)
    x.t_()
    y = torch.zeros(1, 3)
    y.squeeze_(0)
    return [x, x + 1, y, y + 1]


def lists():
    x = [torch.zeros(2), torch.zeros(3)]
    torch._foreach_add_(x, 1.0)
    return [*x, *torch._foreach_mul(x, 2.0), torch.cat(x), torch.stack([x[0], x[0]])]


def trained():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 3))
    optimizer = torch.optim.Adam(layers.parameters(), foreach=True)
    x = torch.zeros(2, 2, 8, 8, requires_grad=True)
    for _ in range(2):
        optimizer.zero_grad()
        layers(x).abs().mean().backward()
        optimizer.step()
    return [x.grad, *(p.grad for p in layers.parameters()), *(p for p in layers.parameters())]


def described(make, monkeypatch, remembered):
    """Form of each tensor, which of them share storage, memory and operations; the second time that ``make`` runs."""
    monkeypatch.setattr(trace_module, "_known", {})
    if not remembered:
        monkeypatch.setattr(trace_module, "learn", lambda *args: None)
    with traced(block=512) as trace:
        make()
        before = trace.alive, trace.operations
        trace.reset_peak()
        tensors = make()
        storages = [x.untyped_storage()._cdata for x in tensors]
        forms = [(x.shape, x.stride(), x.storage_offset(), x.dtype, x.device, x.is_conj(), x.is_neg()) for x in tensors]
        sizes = [x.untyped_storage().nbytes() for x in tensors]
        found = trace.alive - before[0], trace.peak - before[0], trace.operations - before[1]
        shared = [storages.index(storage) for storage in storages]
        del tensors
        assert trace.alive == before[0], "nothing is left"
    return forms, shared, sizes, found


@pytest.mark.parametrize(
    "make", [view_of_complex, in_place, several_outputs, fourier, numbers, new_form, lists, trained]
)
def test_remembered_is_as_worked_out(monkeypatch, make):
    with monkeypatch.context() as patch:
        expected = described(make, patch, remembered=False)
    with monkeypatch.context() as patch:
        calls = []
        recall = trace_module.recall
        patch.setattr(trace_module, "recall", lambda *args: calls.append("") or recall(*args))
        assert described(make, patch, remembered=True) == expected
    assert calls, "nothing was remembered"
