"""The k-t sparse reconstruction, and the network that starts from it."""

import pytest
import torch
from meddlr.config import get_cfg
from meddlr.modeling import build_model

from meddlr_greedy.data.masks import VariableDensityKtMaskFunc
from meddlr_greedy.modeling import kt_sparse
from meddlr_greedy.modeling.greedy import GreedyUnrolled
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.kt_sparse import kt_sparse_reconstruction

HEIGHT, WIDTH, FRAMES, COILS, MAPS = 16, 32, 8, 4, 2


@pytest.fixture(scope="module")
def batch():
    """A bright disk on a background, its radius swings; two map sets, four lines of 32 per frame."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
    radius = 0.5 + 0.15 * torch.cos(2 * torch.pi * torch.arange(FRAMES) / FRAMES)
    disk = (x[..., None] ** 2 + y[..., None] ** 2 < radius**2).float() + 0.5
    target = torch.stack([disk, 0.1 * disk], dim=-1).to(torch.complex64)[None]
    maps = torch.randn(1, 1, 1, 1, COILS, MAPS, dtype=torch.complex64, generator=generator)
    angle = torch.pi * (x[..., None, None, None] * torch.arange(COILS)[:, None] / COILS)
    maps = torch.linalg.qr(maps * torch.polar(torch.ones_like(angle), angle)[None])[0]
    mask = VariableDensityKtMaskFunc(6, calibration_size=2)((1, HEIGHT, WIDTH, FRAMES, 1), seed=0)
    return {"kspace": CineSenseModel(maps, mask)(target), "maps": maps, "mask": mask, "target": target}


def objective(batch, image, w=7e-3, v=3e-3, s=0.1):
    def norm(x):
        return x.norm(dim=-1).sum()  # over map sets together

    residual = CineSenseModel(batch["maps"], batch["mask"])(image) - batch["kspace"]
    differences = sum(weight * norm(image - image.roll(1, axis)) for axis, weight in ((3, 1), (1, s), (2, s)))
    frequencies = norm(torch.fft.fft(image, dim=3, norm="ortho"))
    return (residual.abs().square().sum() / 2 + w * frequencies + v * differences).item()


def problem(batch):
    A = CineSenseModel(batch["maps"], batch["mask"])  # noqa: N806
    return A, A(batch["kspace"], adjoint=True)


class TestReconstruction:
    def test_every_reweighting_lowers_the_objective(self, batch):
        values = [
            objective(batch, kt_sparse_reconstruction(*problem(batch), floor=1e-3, reweightings=n)) for n in range(6)
        ]
        assert values == sorted(values, reverse=True) and values[-1] < 0.7 * values[0]

    def test_nothing_near_it_is_better(self, batch):
        image = kt_sparse_reconstruction(*problem(batch), floor=1e-4, reweightings=40, cg_iterations=40)
        lowest = objective(batch, image)
        generator = torch.Generator().manual_seed(1)
        for size in (1e-1, 1e-2):
            other = torch.randn(image.shape, dtype=image.dtype, generator=generator)
            assert objective(batch, image + size * other) > lowest
        assert objective(batch, 0.999 * image) > lowest * (1 - 1e-5)
        assert objective(batch, 1.001 * image) > lowest * (1 - 1e-5)

    def test_removes_aliasing(self, batch):
        A, zf_image = problem(batch)  # noqa: N806
        error = [(x - batch["target"]).norm().item() for x in (zf_image, kt_sparse_reconstruction(A, zf_image))]
        assert error[1] < error[0] / 2

    def test_without_weights_it_solves_for_the_data(self, batch):
        full = {**batch, "mask": torch.ones_like(batch["mask"])}
        A = CineSenseModel(full["maps"], full["mask"])  # noqa: N806
        zf_image = A(A(full["target"]), adjoint=True)
        image = kt_sparse_reconstruction(A, zf_image, frequency_weight=0.0, variation_weight=0.0)
        torch.testing.assert_close(image, full["target"], rtol=0, atol=1e-5)

    def test_no_reweighting_is_the_zero_filled_image(self, batch):
        A, zf_image = problem(batch)  # noqa: N806
        assert kt_sparse_reconstruction(A, zf_image, reweightings=0) is zf_image


@pytest.fixture(scope="module")
def network():
    cfg = get_cfg()
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "KtSparseCineUnrolledCNN",
        "MODEL.UNROLLED.NUM_EMAPS": 2,
    }
    options.update({"MODEL.UNROLLED.NUM_UNROLLED_STEPS": 2, "MODEL.UNROLLED.NUM_FEATURES": 4})
    options.update({"MODEL.UNROLLED.STEP_SIZES": (0.05,), "MODEL.UNROLLED.DC.MAX_ITER": 2})
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    torch.manual_seed(0)
    return build_model(cfg)


class TestNetwork:
    def test_untrained_it_is_data_consistency_alone(self, batch, network):
        image = kt_sparse_reconstruction(*problem(batch))
        pred = network.eval()(batch)["pred"].detach()
        assert (pred - batch["target"]).norm() < 1.1 * (image - batch["target"]).norm()

    def test_only_the_first_step_starts_anew(self, batch, network, monkeypatch):
        calls = []
        monkeypatch.setattr(
            kt_sparse, "kt_sparse_reconstruction", lambda A, zf_image: calls.append(1) or zf_image.clone()
        )
        network.eval()(batch)
        GreedyUnrolled(network, num_modules=2).train()(batch)
        assert len(calls) == 2

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
        assert losses[-1] < 0.98 * losses[0]
