"""The network that starts from the reconstruction with a smooth phase."""

import pytest
import torch
from meddlr.config import get_cfg
from meddlr.modeling import build_model

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.networks import phase_constrained
from meddlr_greedy.ops.phase_constrained import phase_constrained_reconstruction
from tests.helpers.moving_disk import MAPS, moving_disk, problem


@pytest.fixture(scope="module")
def batch():
    return moving_disk()


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
