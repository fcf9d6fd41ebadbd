"""ESPIRiT against sigpy (one map set), BART (two) and true sensitivities; a field of view smaller than the body."""

import numpy as np
import pytest
import torch
from sigpy.mri.app import EspiritCalib

from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.acquisition import acquire, coil_sensitivities
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient
from meddlr_greedy.ops.espirit import eigenvalue_weights, espirit_eigenmaps, espirit_maps
from meddlr_greedy.readers.simulation.beating_heart import beating_heart
from tests.ops import make_bart_reference as bart


@pytest.fixture(scope="module")
def reference():
    with np.load(bart.PATH, allow_pickle=False) as file:
        return dict(file)


def heart(shape, num_coils, noise=0.003, seed=0):
    """Fully sampled k-space (C, H, W) of the phantom, noise-free where ``noise`` is 0."""
    rng = np.random.default_rng(seed)
    fine = (2 * shape[0], 2 * shape[1])
    image = beating_heart(fine, 1, 0.5, rng)
    return acquire(image, coil_sensitivities(fine, num_coils, rng), shape, noise, rng)[:, 0]


def sine_of_largest_angle(maps, others):
    """Between the spaces that two orthonormal sets (H, W, C, M) span, at every pixel (H, W)."""
    others, maps = others.astype(np.complex128), maps.astype(np.complex128)
    outside = maps - others @ (others.conj().swapaxes(-1, -2) @ maps)
    return np.linalg.svd(outside, compute_uv=False)[..., 0]


def eigenvalue_gap(kspace, num_maps, **settings):
    """Between the last set kept and the next, (H, W)."""
    eigenvalues, _ = espirit_eigenmaps(torch.from_numpy(kspace), num_maps=num_maps + 1, **settings)
    return (eigenvalues[..., -2] - eigenvalues[..., -1]).numpy()


def assert_same_spaces(maps, others, gap):
    clear = gap > 0.05
    assert clear.mean() > 0.5
    sine = sine_of_largest_angle(maps, others)[clear]
    assert np.median(sine) < 1e-3 and np.percentile(sine, 95) < 1e-2


# --- Other programs ---


@pytest.mark.parametrize(
    ("shape", "num_coils", "settings"),
    [
        ((48, 40), 4, {}),
        ((33, 28), 6, {"calib_width": 24, "kernel_width": 5}),
        ((40, 40), 8, {"calib_width": 16, "kernel_width": 4, "thresh": 0.05}),
    ],
)
def test_one_set_agrees_with_sigpy(shape, num_coils, settings):
    kspace = heart(shape, num_coils)
    settings = {"calib_width": 20, "kernel_width": 6, "thresh": 0.02, **settings}
    theirs, their_eigenvalues = EspiritCalib(kspace, crop=0, show_pbar=False, output_eigenvalue=True, **settings).run()
    theirs = theirs.transpose(1, 2, 0)[..., None]
    gap = eigenvalue_gap(kspace, 1, **settings)
    assert_same_spaces(espirit_maps(kspace, crop=0, **settings), theirs, gap)
    eigenvalues, _ = espirit_eigenmaps(torch.from_numpy(kspace), **settings)
    difference = np.abs(eigenvalues[..., 0].numpy() - their_eigenvalues.squeeze())[gap > 0.05]
    assert np.median(difference) < 1e-5


def test_two_sets_agree_with_bart(reference):
    kspace, theirs = reference["kspace"], reference["maps"]
    maps = espirit_maps(kspace, crop=0, num_maps=2, **bart.SETTINGS)
    gap = eigenvalue_gap(kspace, 2, **bart.SETTINGS)
    assert_same_spaces(maps, theirs, gap)
    eigenvalues, _ = espirit_eigenmaps(torch.from_numpy(kspace), num_maps=2, **bart.SETTINGS)
    np.testing.assert_allclose(eigenvalues, reference["eigenvalues"], atol=1e-4)
    # The same phase too, up to one for the whole image.
    rotation = (theirs.conj() * maps).sum(axis=2)[gap > 0.05]
    assert np.abs(rotation.mean()) > 0.999


def test_soft_weights_are_those_of_bart(reference):
    soft = espirit_maps(reference["kspace"], crop=bart.SOFT_CROP, num_maps=2, soft=True, **bart.SETTINGS)
    weights = np.linalg.norm(soft, axis=2)
    assert 0.1 < ((weights > 0.01) & (weights < 0.99)).mean()  # neither all nor nothing
    np.testing.assert_allclose(weights, reference["soft_weights"], atol=1e-3)


@pytest.mark.parametrize("crop", [0.0, 0.5, 0.95])
def test_eigenvalue_weights(crop):
    eigenvalues = torch.tensor([0.0, crop, crop + 1e-3, 1.0])
    assert eigenvalue_weights(eigenvalues, crop).tolist() == [0, 0, 1, 1]
    soft = eigenvalue_weights(torch.linspace(0, 1, 200), crop, soft=True)
    assert soft[-1] == 1 and soft.min() >= 0 and (soft.diff() >= 0).all()
    assert eigenvalue_weights(torch.tensor(crop**2), crop, soft=True).item() == pytest.approx(0.5)


# --- The truth ---


@pytest.mark.parametrize(("num_coils", "shape"), [(1, (32, 32)), (4, (33, 28)), (8, (40, 48))])
def test_finds_the_sensitivities_up_to_a_phase(num_coils, shape):
    rng = np.random.default_rng(2)
    truth = coil_sensitivities(shape, num_coils, rng)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    # Band-limited, so that k-space holds the whole of it.
    image = np.exp(-3 * (x**2 + y**2)) * (1 + 0.2 * np.cos(5 * x) * np.sin(4 * y))
    kspace = acquire(image[None], truth, shape, noise_std=0, rng=rng)[:, 0]
    maps = espirit_maps(kspace, calib_width=16)
    assert maps.shape == (*shape, num_coils, 1) and maps.dtype == np.complex64
    truth = np.moveaxis(truth, 0, -1) / np.linalg.norm(truth, axis=0)[..., None]
    body = image > 0.1
    agreement = np.abs((truth.conj() * maps[..., 0]).sum(-1))  # 1 where maps are the truth times a phase
    assert agreement[body].min() > 0.99
    missed = np.sqrt(np.maximum(0, 1 - agreement**2)) * image
    assert np.linalg.norm(missed) < 0.02 * np.linalg.norm(image)
    np.testing.assert_allclose(np.linalg.norm(maps[..., 0], axis=-1)[body], 1, rtol=1e-4)


def sense(kspace, mask, maps):
    """Coil images (H, W, C) of the SENSE reconstruction: CG on the normal equations, hardly regularized."""
    maps = torch.from_numpy(maps)[None, :, :, None]
    model = CineSenseModel(maps, torch.from_numpy(mask)[None, :, :, None, None])
    zero_filled = model(torch.from_numpy(kspace.transpose(1, 2, 0))[None, :, :, None], adjoint=True)
    x = conjugate_gradient(model.normal, zero_filled, torch.zeros_like(zero_filled), mu=1e-3, max_iter=40, eps=1e-7)
    return (maps * x[..., None, :]).sum(-1)[0, :, :, 0].numpy()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folded_field_of_view_needs_two_sets(seed, soft):
    """Two-fold undersampled, of a field of view of two thirds of the body: two points in a pixel before, up to four."""
    height, width = shape = (60, 48)
    kspace = bart.folded_kspace(shape, num_coils=8, seed=seed)
    mask = np.zeros(shape, np.float32)
    mask[:, ::2] = mask[:, width // 2 - 10 : width // 2 + 10] = 1
    axes = (-2, -1)
    truth = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    decibels = []
    for num_maps in (1, 2):
        coil_images = sense(kspace, mask, espirit_maps(kspace, num_maps=num_maps, soft=soft))
        error = np.linalg.norm(coil_images - truth.transpose(1, 2, 0))
        decibels.append(20 * np.log10(np.linalg.norm(truth) / error))
    assert decibels[1] > decibels[0] + 6


# --- Properties ---


def test_sets_are_orthonormal_or_cropped_each_by_its_own_eigenvalue():
    kspace = bart.folded_kspace((40, 36), num_coils=6)
    maps = espirit_maps(kspace, num_maps=3)
    gram = np.einsum("hwcm,hwcn->hwmn", maps.conj(), maps)
    kept = np.einsum("hwmm->hwm", gram).real
    assert np.all(np.isclose(kept, 1, atol=1e-5) | (kept == 0))
    np.testing.assert_allclose(gram, kept[..., None] * np.eye(3), atol=1e-5)
    shares = kept.mean(axis=(0, 1))
    assert 0.5 < shares[0] and 0.05 < shares[1] < shares[0] and shares[2] <= shares[1]


@pytest.mark.parametrize("num_maps", [1, 2])
def test_maps_are_smooth_in_phase(num_maps):
    """The sum over coils of neighbors' products is near one, hence real: no phase jumps inside the body."""
    kspace = heart((64, 64), 6, noise=0)
    maps = espirit_maps(kspace, crop=0.9, num_maps=num_maps)[..., 0]
    both = (np.abs(maps[1:]).any(-1)) & (np.abs(maps[:-1]).any(-1))
    product = (maps[1:].conj() * maps[:-1]).sum(-1)[both]
    assert both.mean() > 0.2 and product.real.min() > 0.8


def test_slices_in_a_batch_are_those_one_by_one():
    kspace = np.stack([heart((32, 28), 4, seed=seed) for seed in range(3)])
    together = espirit_maps(kspace, calib_width=16, num_maps=2)
    assert together.shape == (3, 32, 28, 4, 2)
    for one, maps in zip(kspace, together):
        np.testing.assert_allclose(maps, espirit_maps(one, calib_width=16, num_maps=2), atol=1e-3)


def test_blocks_of_rows_change_nothing(monkeypatch):
    kspace = heart((30, 28), 4)
    whole = espirit_maps(kspace)
    monkeypatch.setattr("meddlr_greedy.ops.espirit._BLOCK_ELEMENTS", 7 * 28 * 16)
    np.testing.assert_allclose(espirit_maps(kspace), whole, atol=1e-5)


@pytest.mark.parametrize(
    "convert", [np.asfortranarray, lambda k: k[:, ::-1][:, ::-1], lambda k: k.astype(np.complex128)]
)
def test_takes_any_complex_array_and_gives_its_kind_back(convert):
    kspace = heart((28, 24), 3)
    kspace.setflags(write=False)
    maps, tensor_maps = espirit_maps(convert(kspace)), espirit_maps(torch.from_numpy(kspace.copy()))
    assert isinstance(maps, np.ndarray) and isinstance(tensor_maps, torch.Tensor)
    assert maps.dtype == np.complex64 and tensor_maps.dtype == torch.complex64
    np.testing.assert_allclose(maps, tensor_maps, atol=1e-5)


def test_dead_coil_has_no_nan(capfd):
    kspace = np.concatenate([heart((24, 24), 2), np.zeros((1, 24, 24), np.complex64)])
    maps = espirit_maps(kspace, num_maps=3, crop=0)
    assert np.isfinite(maps).all() and np.abs(maps[:, :, 2, 0]).max() < 1e-3 < np.abs(maps[:, :, 0, 0]).max()
    assert capfd.readouterr() == ("", "")


def unsampled(lines):
    """k-space of which only the central ``lines`` phase encodes were sampled."""
    kspace = np.zeros((2, 24, 24), np.complex64)
    kspace[:, :, 12 - lines // 2 : 12 - lines // 2 + lines] = 1 + 1j
    return kspace


@pytest.mark.parametrize(
    ("kspace", "arguments", "message"),
    [
        (np.ones((2, 16, 12)), {"calib_width": 13}, "found 13, allowed 6 .* to 12"),
        (np.ones((2, 16, 12)), {"calib_width": 5}, "found 5, allowed 6"),
        (np.ones((2, 16)), {}, r"\(C, H, W\) expected"),
        (np.zeros((2, 24, 24)), {}, "nothing but zeros"),
        (np.stack([np.ones((2, 24, 24)), np.zeros((2, 24, 24))]), {}, "nothing but zeros"),
        (np.full((2, 24, 24), np.nan), {}, "NaN"),
        (unsampled(13), {}, "20 x 20 .* not all were sampled .* up to 13"),
        (unsampled(8), {"calib_width": 10}, "up to 8"),
        (np.ones((2, 24, 24)), {"num_maps": 3}, r"found 3, allowed 1 to 2 \(coils\)"),
        (np.ones((2, 24, 24)), {"num_maps": 0}, "found 0, allowed 1 to 2"),
        (np.ones((2, 24, 24)), {"crop": 1.0}, "crop: found 1.0"),
        (np.ones((2, 24, 24)), {"thresh": 0.0}, "threshold .* found 0.0"),
    ],
)
def test_refuses(kspace, arguments, message):
    with pytest.raises(UserError, match=message):
        espirit_maps(kspace.astype(np.complex64), **arguments)


def test_refuses_real_numbers():
    with pytest.raises(UserError, match="complex k-space .* found .*float32"):
        espirit_maps(np.ones((2, 24, 24), np.float32))
