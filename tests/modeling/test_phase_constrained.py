"""The reconstruction with a smooth phase, and the network that starts from it."""

import pytest
import torch
from meddlr.config import get_cfg
from meddlr.modeling import build_model

from meddlr_greedy.data.masks import VariableDensityKtMaskFunc
from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.networks import phase_constrained
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.phase_constrained import (
    phase_constrained_reconstruction,
    smooth_phase,
    static_reconstruction,
)

HEIGHT, WIDTH, FRAMES, COILS, MAPS = 16, 32, 12, 4, 2


@pytest.fixture(scope="module")
def batch():
    """A bright disk on a background, its radius swings, its phase is a ramp; two map sets, 32 lines."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
    radius = 0.5 + 0.15 * torch.cos(2 * torch.pi * torch.arange(FRAMES) / FRAMES)
    disk = (x[..., None] ** 2 + y[..., None] ** 2 < radius**2).float() + 0.5
    disk = torch.polar(disk, (0.2 * x - 0.1 * y + 1)[..., None].expand_as(disk))
    target = torch.stack([disk, 0.1 * disk], dim=-1)[None]
    maps = torch.randn(1, 1, 1, 1, COILS, MAPS, dtype=torch.complex64, generator=generator)
    angle = torch.pi * (x[..., None, None, None] * torch.arange(COILS)[:, None] / COILS)
    maps = torch.linalg.qr(maps * torch.polar(torch.ones_like(angle), angle)[None])[0]
    mask = VariableDensityKtMaskFunc(6, calibration_size=2)((1, HEIGHT, WIDTH, FRAMES, 1), seed=0)
    return {"kspace": CineSenseModel(maps, mask)(target), "maps": maps, "mask": mask, "target": target}


def problem(batch):
    A = CineSenseModel(batch["maps"], batch["mask"])  # noqa: N806
    return A, A(batch["kspace"], adjoint=True)


def objective(batch, image, phase, v=2e-3, s=0.05, q=0.15):
    residual = CineSenseModel(batch["maps"], batch["mask"])(image) - batch["kspace"]
    of_axis = ((3, 1), (1, s), (2, s))
    differences = sum(weight * (image - image.roll(1, axis)).norm(dim=-1).sum() for axis, weight in of_axis)
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


@pytest.fixture(scope="module")
def network():
    cfg = get_cfg()
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "PhaseConstrainedCineUnrolledCNN",
        "MODEL.UNROLLED.BLOCK_ARCHITECTURE": "TemporalFrequencyResNet",
        "MODEL.UNROLLED.NUM_EMAPS": 2,
        "MODEL.UNROLLED.NUM_UNROLLED_STEPS": 2,
        "MODEL.UNROLLED.NUM_FEATURES": 4,
        "MODEL.UNROLLED.STEP_SIZES": (0.05,),
        "MODEL.UNROLLED.DC.MAX_ITER": 2,
    }
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    torch.manual_seed(0)
    return build_model(cfg)


class TestNetwork:
    def test_untrained_it_is_data_consistency_alone(self, batch, network):
        image = phase_constrained_reconstruction(*problem(batch))
        pred = network.eval()(batch)["pred"].detach()
        assert (pred - batch["target"]).norm() < 1.1 * (image - batch["target"]).norm()

    @pytest.mark.parametrize("overlap", [0, 1])
    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_only_the_first_step_starts_anew(self, batch, network, monkeypatch, overlap, checkpoint):
        calls = []
        monkeypatch.setattr(
            phase_constrained, "phase_constrained_reconstruction", lambda A, zf_image: calls.append(1) or 1 * zf_image
        )
        network.eval()(batch)
        greedy = GreedyUnrolled(network, num_modules=2, overlap=overlap, checkpoint=checkpoint).train()
        with HeldForBackward(exclude=greedy.parameters()):  # as ModuleMonitor measures it
            greedy(batch)["pred"].abs().sum().backward()
        # Once more each time that the step is recomputed: for the loss of its module, and of the one that overlaps.
        assert len(calls) == 2 + checkpoint * (1 + overlap)

    def test_regularizer_sees_a_nearly_real_image(self, batch, network):
        seen = []
        network.reg(image=batch["target"], model=lambda x: seen.append(x) or x)
        real, imaginary = seen[0].unflatten(1, (MAPS, 2)).unbind(2)
        assert imaginary.norm() < 0.2 * real.norm() and (real > 0).all()

    def test_a_turned_image_is_regularized_alike(self, batch, network):
        block = torch.nn.Conv3d(2 * MAPS, 2 * MAPS, 3, padding=1)
        with torch.no_grad():
            image, turned = (network.reg(image=f * batch["target"], model=block) for f in (1, 1j))
        torch.testing.assert_close(turned, 1j * image)

    def test_greedy_trains_it(self, batch, network):
        greedy = GreedyUnrolled(network, num_modules=2)
        with torch.no_grad():
            assert torch.equal(greedy.eval()(batch)["pred"], network.eval()(batch)["pred"])
        optimizer = torch.optim.Adam(greedy.parameters(), lr=3e-3)
        losses = []
        for _ in range(20):
            loss = complex_l1(greedy.train()(batch)["pred"], batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.95 * losses[0]
