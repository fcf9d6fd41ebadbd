"""Signal models that make coil images part by part, against matrices, and what they hold meanwhile."""

from functools import partial

import numpy as np
import pytest
import sigpy
import torch
from meddlr.forward import SenseModel

from meddlr_greedy.ops import cine_sense
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient, implicit_conjugate_gradient
from meddlr_greedy.ops.devices import standing_for
from meddlr_greedy.ops.fft import to_fft_layout
from meddlr_greedy.ops.parts import Part, parts_of
from meddlr_greedy.ops.plane_sense import PlaneSenseModel
from meddlr_greedy.planning.trace import traced
from tests.helpers.operators import MASKS, SHAPES, assert_adjoint, make_mask, randn, relative

DOUBLE = torch.complex128
#: Planes (a frame of a coil) of a part: a coil, some coils, a frame, some frames, all.
PLANES = [1, 2, 4, 7, 1000]


def model(shape, kind, planes=None, frames_of_mask=None):
    """A model in double precision whose parts have so many planes."""
    torch.manual_seed(0)
    B, H, W, T, C, M = shape
    mask = make_mask((B, H, W, frames_of_mask or T, C, M), kind)
    A = CineSenseModel(randn(B, H, W, 1, C, M, dtype=DOUBLE), None if mask is None else mask.double())
    A.largest_part = None if planes is None else planes * B * H * W * 16
    return A


def image_and_kspace(shape):
    torch.manual_seed(1)
    B, H, W, T, C, M = shape
    return randn(B, H, W, T, M, dtype=DOUBLE), randn(B, H, W, T, C, dtype=DOUBLE)


def by_sigpy(A, x, adjoint=False, masked=False):
    """A or A^H as sigpy's FFT, whose center is that of its own, and einsum in numpy give it."""
    maps, x = A.maps.numpy()[:, :, :, 0], x.detach().numpy()
    weights = 1 if A.weights is None else A.weights.numpy()
    if adjoint:
        coil_images = sigpy.ifft(weights * (weights if masked else 1) * x, axes=(1, 2))
        return torch.from_numpy(np.einsum("bhwcm,bhwtc->bhwtm", maps.conj(), coil_images))
    return torch.from_numpy(weights * sigpy.fft(np.einsum("bhwcm,bhwtm->bhwtc", maps, x), axes=(1, 2)))


# ---- parts


@pytest.mark.parametrize("num_frames", [1, 5, 6])
@pytest.mark.parametrize("num_coils", [1, 3, 8])
@pytest.mark.parametrize("planes", [0.5, 1, 2, 3, 7, 8, 20, 1000])
def test_parts_cover_coil_images_once_within_the_limit(num_frames, num_coils, planes):
    covered = np.zeros((num_frames, num_coils), int)
    for frames, coils in parts_of(num_frames, num_coils, 100, int(100 * planes)):
        assert 0 < covered[frames, coils].size <= max(planes, 1)
        assert covered[frames].shape[0] == 1 or covered[:, coils].shape[1] == num_coils
        covered[frames, coils] += 1
    assert (covered == 1).all()


def test_parts_are_few_and_as_equal_as_they_can_be():
    assert parts_of(4, 3, 100, None) == [Part()]
    sizes = [frames.stop - frames.start for frames, _ in parts_of(30, 16, 100, 7 * 16 * 100)]
    assert sizes == [6] * 5
    assert {coils.stop - coils.start for _, coils in parts_of(2, 16, 100, 15 * 100)} == {8}


# ---- operators


@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_operators_are_those_of_sigpy(shape, kind, planes):
    A, (x, y) = model(shape, kind, planes), image_and_kspace(shape)
    assert relative(A(x), by_sigpy(A, x)) < 1e-12
    assert relative(A(y, adjoint=True), by_sigpy(A, y, adjoint=True)) < 1e-12
    assert relative(A.zero_filled(y), by_sigpy(A, y, adjoint=True, masked=True)) < 1e-12
    assert relative(A.normal(x), by_sigpy(A, by_sigpy(A, x), adjoint=True)) < 1e-12


# ---- parts that fit into the cache of a CPU


@pytest.fixture
def cache_of_one_frame(monkeypatch):
    monkeypatch.setattr(cine_sense, "_IN_CACHE", 1)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_operators_on_a_cpu_run_frame_by_frame(shape, kind, cache_of_one_frame):
    A, (x, y) = model(shape, kind), image_and_kspace(shape)
    leaf = x.clone().requires_grad_()
    expected = by_sigpy(A, by_sigpy(A, x), adjoint=True)
    out = A.normal(leaf)
    assert relative(out, expected) < 1e-12
    assert relative(torch.autograd.grad(out, leaf, x)[0], expected) < 1e-12  # self-adjoint
    with torch.no_grad():
        assert len(A._parts(to_fft_layout(x))) == shape[3]
        assert relative(A(x), by_sigpy(A, x)) < 1e-12
        assert relative(A(y, adjoint=True), by_sigpy(A, y, adjoint=True)) < 1e-12
        assert relative(A.zero_filled(y), by_sigpy(A, y, adjoint=True, masked=True)) < 1e-12


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_the_same_with_a_graph_and_without(shape, kind):
    A, images = model(shape, kind), [x.to(torch.complex64) for x in image_and_kspace(shape)]
    A = CineSenseModel(A.maps.to(torch.complex64), None if A.weights is None else A.weights.float())

    def run():
        x, y = images
        return [A(x), A(y, adjoint=True), A.zero_filled(y), A.normal(x)]

    expected = run()
    with torch.no_grad():
        assert all(map(torch.equal, run(), expected))


@pytest.mark.parametrize("threads", [1, 2])
def test_frames_at_a_time_fit_into_the_caches_of_all_threads(threads, monkeypatch):
    B, H, W, T, C, M = shape = (2, 4, 5, 12, 3, 1)
    A, (x, _) = model(shape, "lines"), image_and_kspace(shape)
    monkeypatch.setattr(cine_sense, "_IN_CACHE", 3 * B * C * H * W * 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    sizes = []
    for A.largest_part, grad in ((None, False), (B * H * W * 16, False), (None, True)):
        with torch.set_grad_enabled(grad):
            sizes.append([(part.frames, part.coils) for part in A._parts(to_fft_layout(x))])
    in_cache, by_planes, whole = sizes
    assert [frames.stop - frames.start for frames, _ in in_cache] == [3 * threads] * (4 // threads)
    assert len(by_planes) == T * C and whole == [(slice(None), slice(None))]
    A.largest_part = None
    with torch.no_grad(), standing_for(torch.device("cuda")):
        assert len(A._parts(to_fft_layout(x))) == 1


def test_maps_may_want_a_gradient_on_a_cpu(cache_of_one_frame):
    A, (x, _) = model(SHAPES[1], "lines"), image_and_kspace(SHAPES[1])
    maps = A.maps.clone().requires_grad_()
    A = CineSenseModel(maps, A.weights)
    y = A(x)
    y -= 1  # as of any result
    A(y, adjoint=True).abs().sum().backward()
    assert maps.grad.norm() > 0


@pytest.mark.parametrize("part", [1, 2**40])
def test_types_and_batches_are_those_of_the_whole(part, monkeypatch):
    monkeypatch.setattr(cine_sense, "_IN_CACHE", part)
    maps, mask = randn(2, 6, 5, 1, 3, 2), torch.ones(2, 6, 5, 4, 1, dtype=torch.float64)
    A, image = CineSenseModel(maps, mask), randn(1, 6, 5, 4, 2, dtype=DOUBLE)
    both = image.expand(2, -1, -1, -1, -1).contiguous()
    with torch.no_grad():
        assert A(image).dtype == A.normal(image).dtype == DOUBLE
        assert torch.equal(A.normal(image), A.normal(both)) and torch.equal(A(image), A(both))


@pytest.mark.parametrize("part", [1, 2**40])
def test_an_image_is_as_precise_as_the_maps(part, monkeypatch):
    monkeypatch.setattr(cine_sense, "_IN_CACHE", part)
    A, kspace = model(SHAPES[1], "lines"), image_and_kspace(SHAPES[1])[1].to(torch.complex64)
    with torch.no_grad():
        found = A(kspace, adjoint=True)
    assert found.dtype == DOUBLE and relative(found, A(kspace, adjoint=True)) < 1e-6


@pytest.mark.parametrize("mask_type", [torch.float16, torch.float32, torch.bool, torch.int64])
def test_masks_of_other_types_cost_no_precision(mask_type):
    shape = SHAPES[1]
    A, (x, _) = model(shape, "lines"), image_and_kspace(shape)
    same = CineSenseModel(A.maps, A.weights.to(mask_type))
    assert relative(same.normal(x), A.normal(x)) < 1e-14


@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("kind", ["lines", "weighted points"])
def test_one_mask_for_all_frames(kind, planes):
    shape = SHAPES[1]
    A, (x, y) = model(shape, kind, planes, frames_of_mask=1), image_and_kspace(shape)
    assert A.weights.shape[3] == 1
    assert relative(A(x), by_sigpy(A, x)) < 1e-12
    assert relative(A.zero_filled(y), by_sigpy(A, y, adjoint=True, masked=True)) < 1e-12
    assert relative(A.normal(x), by_sigpy(A, by_sigpy(A, x), adjoint=True)) < 1e-12


@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("kind", MASKS)
def test_adjointness(kind, planes):
    A, (x, y) = model(SHAPES[1], kind, planes), image_and_kspace(SHAPES[1])
    assert_adjoint(A, lambda y: A(y, adjoint=True), x, y, 1e-13)
    assert_adjoint(A.normal, A.normal, x, randn(*x.shape, dtype=DOUBLE), 1e-13)


@pytest.mark.parametrize("planes", [1, 4])
def test_gradients_are_those_of_differences(planes):
    shape = (2, 3, 4, 3, 2, 2)
    A, (x, y) = model(shape, "weighted points", planes), image_and_kspace(shape)
    x, y = x.requires_grad_(), y.requires_grad_()
    # Along random directions: along each axis it takes minutes.
    assert torch.autograd.gradcheck(A, x, fast_mode=True)
    assert torch.autograd.gradcheck(lambda y: A(y, adjoint=True), y, fast_mode=True)
    assert torch.autograd.gradcheck(A.normal, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: A(x).abs().square(), x, fast_mode=True)


@pytest.mark.parametrize("solve", [conjugate_gradient, implicit_conjugate_gradient])
@pytest.mark.parametrize("planes", [1, 2, 4, 7])
def test_conjugate_gradients(solve, planes):
    shape = SHAPES[1]
    found = []
    for A in (model(shape, "weighted points"), model(shape, "weighted points", planes)):
        b, _ = image_and_kspace(shape)
        b, mu = b.requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        x = solve(A.normal, b, torch.zeros_like(b), mu, 6, 1e-14)
        (x * randn(*x.shape, dtype=DOUBLE)).sum().abs().backward()
        found.append((x, b.grad, mu.grad))
        torch.manual_seed(1)
    # the weights of the sum are drawn after the same seed
    for a, b in zip(*found):
        assert relative(a, b) < 1e-12


@pytest.mark.parametrize("name", ["maps", "weights"])
def test_gradients_that_parts_do_not_give_are_refused(name):
    A, (x, y) = model(SHAPES[0], "lines", 1), image_and_kspace(SHAPES[0])
    getattr(A, name).requires_grad_()
    for run in (lambda: A(x), lambda: A(y, adjoint=True), lambda: A.normal(x)):
        with pytest.raises(ValueError, match="requires a gradient"):
            run()


def test_frames_have_to_be_those_of_the_mask():
    A, (x, _) = model(SHAPES[1], "lines", 1), image_and_kspace(SHAPES[1])
    with pytest.raises(ValueError, match="1 frames: as many as the mask's are needed, found 3"):
        A(x[:, :, :, :1])


@pytest.mark.parametrize("planes", [1, 2, 1000])
@pytest.mark.parametrize("mask_of_coils", [False, True])
@pytest.mark.parametrize("sets", [1, 2])
def test_2d_is_meddlrs(sets, mask_of_coils, planes):
    torch.manual_seed(0)
    maps = randn(2, 9, 8, 3, sets, dtype=DOUBLE)
    weights = torch.rand(2, 9, 8, 3 if mask_of_coils else 1, dtype=torch.float64)
    A, sense = PlaneSenseModel(maps, weights), SenseModel(maps, weights=weights)
    A.largest_part = planes * 2 * 9 * 8 * 16
    x, y = randn(2, 9, 8, sets, dtype=DOUBLE).requires_grad_(), randn(2, 9, 8, 3, dtype=DOUBLE)
    assert relative(A(x), sense(x)) < 1e-12
    assert relative(A(y, adjoint=True), sense(y, adjoint=True)) < 1e-12
    assert relative(A.zero_filled(y), sense(weights * y, adjoint=True)) < 1e-12
    assert relative(A.normal(x), sense(sense(x), adjoint=True)) < 1e-12
    found, expected = (
        torch.autograd.grad(normal(x).abs().sum(), x)[0] for normal in (A.normal, lambda x: sense(sense(x), True))
    )
    assert relative(found, expected) < 1e-12


def test_the_zero_filled_image_needs_no_more_than_the_normal_operator():
    """Though k-space is copied more often on its way."""
    with torch.no_grad(), traced() as trace:
        A = CineSenseModel(torch.empty(1, 24, 20, 1, 4, 1, dtype=torch.complex64), torch.empty(1, 24, 20, 12, 1), True)
        A.largest_part = 8 * 24 * 20 * 4 * 4  # four frames
        image, kspace = (torch.empty(1, 24, 20, 12, n, dtype=torch.complex64) for n in (1, 4))
        A.normal(image)  # which orders the mask
        there, peaks = trace.alive, []
        for run in (partial(A.zero_filled, kspace), partial(A.normal, image)):
            trace.reset_peak()
            run()
            peaks.append(trace.peak - there)
    assert peaks[0] <= peaks[1] <= 3.1 * A.largest_part
