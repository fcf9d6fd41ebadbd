"""Losses against meddlr's; the cine networks against the same networks from stock parts."""

import copy
from urllib.error import URLError

import pytest
import torch
from meddlr.config import CfgNode, get_cfg
from meddlr.config.config import configurable
from meddlr.forward import SenseModel
from meddlr.modeling import build_loss_computer, build_model
from meddlr.modeling.loss_computer import IMAGE_LOSSES, KSPACE_LOSSES
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.generalized_unet import GeneralizedUNet
from meddlr.modeling.meta_arch.unrolled import CGUnrolledCNN
from meddlr.utils.events import EventStorage

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling import losses
from meddlr_greedy.modeling.contract import check_keys_of_network
from meddlr_greedy.modeling.losses import complex_l1, image_metrics, recon_loss
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalConv, SpatioTemporalResNet
from projects.cine.benchmarks.parts import StockCine, StockConv
from tests.helpers.networks import plain_network, small_config
from tests.helpers.operators import randn, relative

INVERTIBLE = ("InvertibleCineUnrolledCNN", "InvertibleCGCineUnrolledCNN")


@META_ARCH_REGISTRY.register()
class NarrowResNet(SpatioTemporalResNet):
    """Written before there was the argument channel_multiple."""

    @configurable
    def __init__(self, in_channels, channels, num_blocks, kernel_size, dropout, padding):
        super().__init__(in_channels, channels, num_blocks, kernel_size, dropout, padding)


def cine_cfg(*overrides):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "CineUnrolledCNN"),
            *("MODEL.UNROLLED.NUM_UNROLLED_STEPS", 2, "MODEL.UNROLLED.NUM_FEATURES", 4),
            *overrides,
        ]
    )
    return cfg


class TestLosses:
    @pytest.mark.parametrize("renormalize", [True, False])
    @pytest.mark.parametrize("name", IMAGE_LOSSES + KSPACE_LOSSES)
    def test_value_and_gradient_are_meddlrs(self, name, renormalize):
        torch.manual_seed(0)
        cfg = cine_cfg("MODEL.RECON_LOSS.NAME", name, "MODEL.RECON_LOSS.RENORMALIZE_DATA", renormalize)
        maps = randn(2, 16, 14, 3, 1)
        inputs = {"mean": torch.zeros(2, 1), "std": torch.tensor([[2.0], [3.0]])}
        outputs = {"target": randn(2, 16, 14, 1), "signal_model": SenseModel(maps)}
        pred = randn(2, 16, 14, 1)
        results = []
        for computer in ("BasicLossComputer", "LeanLossComputer"):
            leaf = pred.clone().requires_grad_()
            loss = build_loss_computer(cfg, computer)(inputs, {**outputs, "pred": leaf})["loss"]
            loss.backward()
            results.append((loss, leaf.grad))
        (loss, gradient), (lean_loss, lean_gradient) = results
        assert torch.equal(loss, lean_loss) and torch.equal(gradient, lean_gradient)

    @pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (0, 2, 3, 1, 4)])
    def test_metrics_beside_it_are_the_losses_of_their_names(self, order):
        """The same bits, also for images whose axes are in another order in memory."""
        torch.manual_seed(0)
        pred, target = randn(2, 16, 14, 13, 2).permute(order), randn(2, 16, 14, 13, 2).permute(order)
        metrics = image_metrics(pred, target)
        assert list(metrics) == ["l1", "l2", "psnr", "nrmse"]
        for name, value in metrics.items():
            assert torch.equal(value, recon_loss(name, pred, target))

    @pytest.mark.parametrize("name", ["l1", "ssim_loss", "nrmse", "k_l1"])
    def test_cine(self, name):
        loss = build_loss_computer(cine_cfg("MODEL.RECON_LOSS.NAME", name), "LeanLossComputer")
        target = randn(2, 16, 14, 3, 2)
        inputs = {"mean": torch.zeros(2, 1), "std": torch.ones(2, 1)}
        assert abs(loss(inputs, {"pred": target, "target": target})["loss"].item()) < 1e-5
        assert loss(inputs, {"pred": randn(2, 16, 14, 3, 2), "target": target})["loss"] > 0.1

    @pytest.mark.parametrize("name", ["ssim_loss", "ssim_phase_loss", "ssim_mag_phase_loss"])
    @pytest.mark.parametrize("maps", [1, 2])
    def test_ssim_of_cine_is_the_mean_over_frames(self, name, maps):
        """Frames of the same scale, so that meddlr's loss of each one alone has the same data range."""
        cfg = cine_cfg("MODEL.RECON_LOSS.NAME", name, "MODEL.RECON_LOSS.RENORMALIZE_DATA", False)
        torch.manual_seed(0)
        target, error = randn(2, 17, 14, 3, maps), randn(2, 17, 14, 3, maps)
        target[:, 0, 0] = 5
        pred = (target + error * torch.tensor([0.1, 0.5, 2.0])[:, None]).requires_grad_()
        loss = build_loss_computer(cfg, "LeanLossComputer")({}, {"pred": pred, "target": target})["loss"]
        of_one_frame = build_loss_computer(cfg, "BasicLossComputer")
        outputs = [{"pred": pred[:, :, :, t], "target": target[:, :, :, t]} for t in range(3)]
        expected = [of_one_frame({}, frame)["loss"] for frame in outputs]
        assert max(expected) > 1.2 * min(expected), "the test shows nothing"
        torch.testing.assert_close(loss, sum(expected) / 3)
        gradients = [torch.autograd.grad(value, pred)[0] for value in (loss, sum(expected) / 3)]
        torch.testing.assert_close(*gradients)

    def test_metric_as_loss(self):
        cfg = cine_cfg("MODEL.RECON_LOSS.NAME", "mae", "MODEL.RECON_LOSS.RENORMALIZE_DATA", False)
        pred, target = randn(2, 8, 8, 1), randn(2, 8, 8, 1)
        loss = build_loss_computer(cfg, "LeanLossComputer")({}, {"pred": pred, "target": target})["loss"]
        assert torch.allclose(loss, (pred - target).abs().mean())

    @pytest.mark.parametrize("name", ["L1", "psnr_mag"])
    def test_unknown_or_unfit_name(self, name):
        with pytest.raises(UserError, match="MODEL.RECON_LOSS.NAME"):
            build_loss_computer(cine_cfg("MODEL.RECON_LOSS.NAME", name), "LeanLossComputer")

    def test_weights_that_cannot_be_downloaded(self, monkeypatch):
        def no_network(names):
            raise URLError("no network")

        monkeypatch.setattr(losses, "build_metrics", no_network)
        with pytest.raises(UserError, match=r"MODEL.RECON_LOSS.NAME: 'LPIPS' needs weights .* \(<.*no network>\)"):
            build_loss_computer(cine_cfg("MODEL.RECON_LOSS.NAME", "LPIPS"), "LeanLossComputer")


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 2, 4, 6, 5), (2, 3, 5, 7, 4), (1, 2, 2, 3, 3)])
def test_spatiotemporal_conv_is_two_conv3d(shape, kernel_size):
    torch.manual_seed(0)
    conv = SpatioTemporalConv(shape[1], 6, kernel_size)
    x = torch.randn(*shape)
    assert torch.allclose(conv(x), StockConv(conv)(x), atol=1e-5)


@pytest.mark.parametrize(("c_in", "c_out"), [(2, 64), (64, 64), (4, 16)])
def test_as_many_weights_as_a_3d_convolution(c_in, c_out):
    conv = SpatioTemporalConv(c_in, c_out)
    weights = conv.spatial.weight.numel() + conv.temporal.weight.numel()
    assert 0.93 < weights / (27 * c_in * c_out) <= 1


@pytest.mark.parametrize("multiple, expected", [(1, (8, 11, 5)), (3, (9, 12, 6)), (8, (8, 16, 8)), (11, (11, 11, 11))])
@pytest.mark.parametrize(
    "arch", ["CineUnrolledCNN", "CGCineUnrolledCNN", "PhaseConstrainedCineUnrolledCNN", *INVERTIBLE]
)
@pytest.mark.parametrize("is_greedy", [False, True])
def test_intermediate_channels_are_a_multiple(arch, multiple, expected, is_greedy):
    """Of the first, the inner and the last convolutions, of five features; invertible networks have no inner ones."""
    cfg = small_config(arch, CHANNEL_MULTIPLE=multiple)
    cfg.MODEL.UNROLLED.NUM_FEATURES = 5
    check_keys_of_network(cfg)
    network = build_model(cfg) if is_greedy else plain_network(cfg, arch)
    convolutions = [m for m in network.modules() if isinstance(m, SpatioTemporalConv)]
    found = [conv.spatial.out_channels for conv in convolutions]
    first, inner, last = expected
    assert found == ([first, last] if arch in INVERTIBLE else [first, inner, inner, last]) * 4
    assert [conv.temporal.in_channels for conv in convolutions] == found


@pytest.mark.parametrize("options", [{}, {"CHANNEL_MULTIPLE": 1}])
def test_a_multiple_of_one_leaves_the_bits_of_the_weights(options):
    cfg = small_config("CineUnrolledCNN", **options)
    cfg.MODEL.UNROLLED.NUM_FEATURES = 5
    torch.manual_seed(0)
    conv = build_model(cfg).model.resnets[0].initial
    torch.manual_seed(0)
    spatial, temporal = torch.nn.Conv2d(2, 8, 3), torch.nn.Conv2d(8, 5, (3, 1))
    for expected, found in ((spatial, conv.spatial), (temporal, conv.temporal)):
        torch.nn.init.kaiming_normal_(expected.weight, nonlinearity="relu")
        assert torch.equal(found.weight, expected.weight) and not found.bias.any()


@pytest.mark.parametrize("multiple", [1, 8])
def test_channels_of_a_subclass_that_takes_no_multiple(multiple):
    """It is built as ever where the key does nothing."""
    cfg = cine_cfg("MODEL.UNROLLED.BLOCK_ARCHITECTURE", "NarrowResNet")
    cfg.MISC.GREEDY = CfgNode({"CHANNEL_MULTIPLE": multiple})
    if multiple == 1:
        assert isinstance(build_model(cfg).resnets[0], NarrowResNet)
        return
    with pytest.raises(UserError, match="found 'NarrowResNet', .* unexpected keyword argument 'channel_multiple'"):
        build_model(cfg)


@pytest.mark.parametrize(
    "arch, block",
    [
        ("GeneralizedUnrolledCNN", "ResNet"),
        ("CGUnrolledCNN", "PaddedResNet"),
        ("CineUnrolledCNN", "TemporalFrequencyResNet"),
        ("CineUnrolledCNN", "UNet3d"),
    ],
)
@pytest.mark.parametrize("is_greedy", [False, True])
def test_networks_without_such_convolutions_refuse_a_multiple(arch, block, is_greedy):
    cfg = small_config(arch, CHANNEL_MULTIPLE=8)
    cfg.MODEL.META_ARCHITECTURE = "GreedyUnrolled" if is_greedy else arch
    cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = block
    with pytest.raises(
        UserError, match=f"^MISC.GREEDY.CHANNEL_MULTIPLE: found 8, .* '{block}' .*allowed is 1, or"
    ) as e:
        check_keys_of_network(cfg)
    assert str(e.value).endswith("regularizers InvertibleSpatioTemporalResNet, NarrowResNet, SpatioTemporalResNet")
    cfg.MISC.GREEDY.CHANNEL_MULTIPLE = 1
    check_keys_of_network(cfg)


def test_regularizer_commutes_with_a_shift_of_the_cardiac_cycle():
    torch.manual_seed(0)
    net = SpatioTemporalResNet(in_channels=2, channels=4)
    x = torch.randn(1, 2, 6, 8, 8)
    assert torch.allclose(net(x.roll(2, dims=2)), net(x).roll(2, dims=2), atol=1e-5)
    assert not torch.allclose(net(x.roll(2, dims=3)), net(x).roll(2, dims=3), atol=1e-3)


class StockCGCine(CGUnrolledCNN):
    """MoDL for cine from stock parts."""

    reg = StockCine.reg


def cine_batch(B=2, H=10, W=9, T=4, C=3, M=1, weighted=False):
    torch.manual_seed(1)
    maps = randn(B, H, W, 1, C, M)
    mask = (torch.rand(B, 1, W, T, 1) < 0.5).float().expand(B, H, W, T, 1).clone()
    if weighted:
        mask *= 0.5 + torch.rand(mask.shape)
    kspace = mask * randn(B, H, W, T, C)
    return {"kspace": kspace, "maps": maps, "mask": mask, "target": randn(B, H, W, T, M)}


def without_zeros(network):
    """With zeros in a last layer, the layers before it would have no gradient."""
    for p in network.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return network


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("arch", ["CineUnrolledCNN", "CGCineUnrolledCNN"])
def test_cine_networks_equal_stock_parts(arch, maps, weighted):
    """Images and all gradients, those of the step sizes among them; in float64, where no ReLU depends on rounding."""
    # One CG iteration count that neither stops early: meddlr's stop looks at the whole batch.
    overrides = ["MODEL.META_ARCHITECTURE", arch, "MODEL.UNROLLED.NUM_EMAPS", maps]
    if arch.startswith("CG"):
        overrides += ["MODEL.UNROLLED.STEP_SIZES", (0.1,), "MODEL.UNROLLED.DC.MAX_ITER", 4]
        overrides += ["MODEL.UNROLLED.DC.EPS", 1e-9]
    network = without_zeros(build_model(cine_cfg(*overrides))).double()
    kwargs = {"num_emaps": maps, "step_sizes": [s.item() for s in network.step_sizes]}
    blocks = copy.deepcopy(network.resnets)
    if arch.startswith("CG"):
        stock = StockCGCine(blocks, cg_max_iter=4, cg_eps=1e-9, **kwargs)
    else:
        stock = StockCine(blocks, **kwargs)
    stock.double()
    batch = {
        name: x.to(torch.complex128 if x.is_complex() else torch.float64)
        for name, x in cine_batch(H=11, M=maps, weighted=weighted).items()
    }
    outputs = [net({k: v.clone() for k, v in batch.items()}) for net in (network, stock)]
    for key in ("zf_image", "pred"):
        a, b = (out[key] for out in outputs)
        assert a.shape == batch["target"].shape
        assert relative(a, b) < 1e-10, key
    for out in outputs:
        complex_l1(out["pred"], batch["target"]).backward()
    found, expected = (dict(net.named_parameters()) for net in (network, stock))
    assert found.keys() == expected.keys() and any("step_sizes" in name for name in found)
    for name, p in expected.items():
        assert p.grad.norm() > 0 and relative(found[name].grad, p.grad) < 1e-10, name


@pytest.mark.parametrize("arch", ["CGCineUnrolledCNN", "PhaseConstrainedCineUnrolledCNN"])
@pytest.mark.parametrize("modules", [None, 1, 2])
def test_implicit_gradient_is_that_of_converged_iterations(arch, modules):
    batch, gradients = cine_batch(), []
    for backward in ("unrolled", "implicit"):
        cfg = cine_cfg("MODEL.UNROLLED.STEP_SIZES", (0.3,), "MODEL.UNROLLED.DC.MAX_ITER", 30)
        cfg.MODEL.RECON_LOSS.RENORMALIZE_DATA = False
        cfg.MODEL.UNROLLED.DC.EPS, cfg.MODEL.META_ARCHITECTURE = 1e-5, "GreedyUnrolled" if modules else arch
        cfg.MISC.GREEDY = CfgNode(
            {"META_ARCHITECTURE": arch, "NUM_MODULES": modules or 1, "CG_BACKWARD": backward}, new_allowed=True
        )
        torch.manual_seed(0)
        network = without_zeros(build_model(cfg).train())
        complex_l1(network(batch)["pred"], batch["target"]).backward()
        gradients.append([p.grad for p in network.parameters()])
    for unrolled, implicit in zip(*gradients):
        assert (implicit - unrolled).norm() < 1e-4 * unrolled.norm()


def test_visualization(datasets):
    network = build_model(cine_cfg("VIS_PERIOD", 1, "MODEL.UNROLLED.NUM_EMAPS", 2)).train()
    with EventStorage() as storage:
        network(cine_batch(M=2))
        images = {name: image for name, image, *_ in storage.vis_data}
    assert set(images) == {f"train/{x}" for x in ("phases", "images", "errors", "masks")}
    assert images["train/images"].shape[-2:] == (10, 3 * 9)


def test_visualization_of_a_greedy_network_every_few_iterations(datasets):
    cfg = cine_cfg("VIS_PERIOD", 2, "MODEL.META_ARCHITECTURE", "GreedyUnrolled")
    cfg.MISC.GREEDY = CfgNode({"META_ARCHITECTURE": "CineUnrolledCNN", "NUM_MODULES": 2}, new_allowed=True)
    cfg.MODEL.RECON_LOSS.RENORMALIZE_DATA = False
    network, shown = build_model(cfg).train(), []
    with EventStorage(start_iter=1) as storage:
        for _ in range(6):
            network(cine_batch())
            shown.append((storage.iter, bool(storage.vis_data)))
            storage.clear_images()
            storage.step()
    assert shown == [(1, False), (2, True), (3, False), (4, True), (5, False), (6, True)]


@pytest.mark.parametrize(
    ("key", "value", "arch"),
    [
        ("STEP_SIZES", (-2.0,), "CGCineUnrolledCNN"),
        ("KERNEL_SIZE", (2,), "CineUnrolledCNN"),
        ("BLOCK_ARCHITECTURE", "UnetModel", "CineUnrolledCNN"),
        ("BLOCK_ARCHITECTURE", "GeneralizedUNet", "CGCineUnrolledCNN"),
        ("BLOCK_ARCHITECTURE", "CineUnrolledCNN", "CineUnrolledCNN"),
        ("BLOCK_ARCHITECTURE", "GeneralizedUnrolledCNN", "CineUnrolledCNN"),
        ("BLOCK_ARCHITECTURE", "HalvingNet", "CineUnrolledCNN"),
        ("BLOCK_ARCHITECTURE", "monai/UNet", "CineUnrolledCNN"),
        ("BLOCK_ARCHITECTURE", "ResNett", "CineUnrolledCNN"),
        ("CONV_BLOCK.NORM", "instance", "CineUnrolledCNN"),
    ],
)
def test_config_of_cine_networks(key, value, arch):
    with pytest.raises(UserError, match=f"MODEL.UNROLLED.{key}"):
        build_model(cine_cfg("MODEL.META_ARCHITECTURE", arch, f"MODEL.UNROLLED.{key}", value))


@META_ARCH_REGISTRY.register()
class UNet3d(GeneralizedUNet):
    """meddlr's U-Net with three spatial dimensions, which its registry does not offer."""

    @classmethod
    def from_config(cls, cfg):
        return super().from_config(cfg, dimensions=3)


@META_ARCH_REGISTRY.register()
class HalvingNet(torch.nn.Conv3d):
    def __init__(self, cfg):
        super().__init__(2, 2, 3, stride=2, padding=1)


@pytest.mark.parametrize("arch, step", [("CineUnrolledCNN", -2.0), ("CGCineUnrolledCNN", 0.1)])
@pytest.mark.parametrize("maps", [1, 2])
def test_other_regularizers(arch, step, maps):
    channels = ["MODEL.UNET.IN_CHANNELS", 2 * maps, "MODEL.UNET.OUT_CHANNELS", 2 * maps]
    unet = [*channels, "MODEL.UNET.CHANNELS", 2, "MODEL.UNET.NUM_POOL_LAYERS", 1]
    cfg = cine_cfg("MODEL.META_ARCHITECTURE", arch, "MODEL.UNROLLED.NUM_EMAPS", maps, *unet)
    cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE, cfg.MODEL.UNROLLED.STEP_SIZES = "UNet3d", (step,)
    network = build_model(cfg)
    assert [type(block) for block in network.resnets] == [UNet3d, UNet3d]
    batch = cine_batch(H=10, W=8, M=maps)
    pred = network(batch)["pred"]
    assert pred.shape == batch["target"].shape
    pred.abs().sum().backward()
    assert all(p.grad is not None for p in network.resnets.parameters())
    cfg.MODEL.UNROLLED.NUM_EMAPS = 3 - maps
    with pytest.raises(UserError, match="^MODEL.UNROLLED.BLOCK_ARCHITECTURE: found 'UNet3d', which does not map"):
        build_model(cfg)


def test_trying_a_regularizer_draws_nothing():
    cfg = cine_cfg("MODEL.UNET.CHANNELS", 2, "MODEL.UNET.NUM_POOL_LAYERS", 1)
    cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = "UNet3d"
    torch.manual_seed(1)
    first = build_model(cfg).resnets[0].state_dict()
    torch.manual_seed(1)
    alone = UNet3d(cfg).state_dict()
    assert all(torch.equal(first[key], alone[key]) for key in alone)
