"""The reconstruction with a smooth phase."""

import pytest
import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.phase_constrained import phase_constrained_reconstruction, smooth_phase, static_reconstruction
from tests.helpers.moving_disk import moving_disk, problem


@pytest.fixture(scope="module")
def batch():
    return moving_disk()


def objective(batch, image, phase, v=2e-3, s=0.05, q=0.15):
    residual = CineSenseModel(batch["maps"], batch["mask"])(image) - batch["kspace"]
    axis_weights = ((3, 1), (1, s), (2, s))
    differences = sum(weight * (image - image.roll(1, axis)).norm(dim=-1).sum() for axis, weight in axis_weights)
    out_of_phase = (phase.conj() * image).imag.square().sum()
    return (residual.abs().square().sum() / 2 + v * differences + q / 2 * out_of_phase).item()


class TestSmoothPhase:
    def test_is_the_phase_of_a_smooth_image(self, batch):
        image = batch["target"]
        phase = smooth_phase(image, sigma=1.0)
        assert phase.shape == image.shape
        torch.testing.assert_close(phase.abs(), torch.ones_like(phase.abs()))
        inner = (slice(None), slice(4, -4), slice(4, -4))  # at the edges the image counts as zero beyond
        out_of_phase = (phase.conj() * image).imag[inner]
        assert out_of_phase.norm() < 0.05 * image[inner].norm()

    def test_turns_with_the_image_and_forgets_its_size(self, batch):
        image = batch["target"]
        turned = smooth_phase(2j * image)
        torch.testing.assert_close(turned, 1j * smooth_phase(image))

    def test_of_nothing_is_zero(self):
        assert not smooth_phase(torch.zeros(1, 4, 5, 3, 1, dtype=torch.complex64)).any()


class TestReconstruction:
    def test_static_image_fits_all_frames(self, batch):
        static = batch["target"][..., :1, :].expand_as(batch["target"])
        A, _ = problem(batch)  # noqa: N806
        image = static_reconstruction(A, A(A(static), adjoint=True), iterations=60)
        assert torch.equal(image, image[..., :1, :].expand_as(image))
        assert (A(image) - A(static)).norm() < 1e-3 * A(static).norm()

    def test_every_reweighting_lowers_the_objective(self, batch):
        images = [
            phase_constrained_reconstruction(*problem(batch), floor=1e-3, phase_weight=0.0, reweightings=n)
            for n in range(6)
        ]
        values = [objective(batch, image, torch.ones_like(image), q=0.0) for image in images]
        assert values == sorted(values, reverse=True) and values[-1] < 0.7 * values[0]

    def test_nothing_near_it_is_better(self, batch):
        image = phase_constrained_reconstruction(*problem(batch), floor=1e-4, reweightings=40, cg_iterations=40)
        phase = smooth_phase(image)
        lowest = objective(batch, image, phase)
        generator = torch.Generator().manual_seed(1)
        for size in (1e-1, 1e-2):
            other = torch.randn(image.shape, dtype=image.dtype, generator=generator)
            assert objective(batch, image + size * other, phase) > lowest
        for factor in (0.999, 1.001, torch.exp(torch.tensor(1e-3j)), torch.exp(torch.tensor(-1e-3j))):
            assert objective(batch, factor * image, phase) > lowest * (1 - 1e-5)

    def test_smooth_phase_helps(self, batch):
        A, zf_image = problem(batch)  # noqa: N806
        images = [phase_constrained_reconstruction(A, zf_image, phase_weight=q) for q in (0.15, 0.0)]
        with_phase, without, zero_filled = ((image - batch["target"]).norm().item() for image in (*images, zf_image))
        assert with_phase < without < zero_filled / 2

    def test_without_weights_it_solves_for_the_data(self, batch):
        A = CineSenseModel(batch["maps"], torch.ones_like(batch["mask"]))  # noqa: N806
        zf_image = A(A(batch["target"]), adjoint=True)
        image = phase_constrained_reconstruction(A, zf_image, variation_weight=0.0, phase_weight=0.0)
        torch.testing.assert_close(image, batch["target"], rtol=0, atol=1e-5)

    def test_no_reweighting_is_the_static_image(self, batch):
        A, zf_image = problem(batch)  # noqa: N806
        image = phase_constrained_reconstruction(A, zf_image, reweightings=0)
        assert torch.equal(image, static_reconstruction(A, zf_image))
