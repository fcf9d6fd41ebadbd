"""A training step of a small greedy network on a random batch: its gradients, losses and image."""

import torch
from meddlr.modeling import build_model

from meddlr_greedy.modeling.losses import LeanLossComputer
from tests.helpers.networks import small_config

H, W, T, C = 21, 18, 5, 3
#: Losses that are sums over pixels, and such that are not.
LOSSES = ["l1", "mag_l1", "perp_loss", "l2", "psnr", "nrmse"]
GENERAL_LOSSES = ["ssim_loss", "k_l1_sum", "k_l1_l2_sum_normalized", "signal_model_corr_k_l1_normalized"]


def batch(is_cine=True, num_examples=1, num_maps=1, dtype=torch.complex128):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=dtype, generator=generator)

    frames, one = ((T,), (1,)) if is_cine else ((), ())
    maps = random(num_examples, H, W, *one, C, num_maps)
    mask = torch.rand(num_examples, 1, W, *frames, 1, generator=generator, dtype=maps.real.dtype)
    return {
        "kspace": random(num_examples, H, W, *frames, C),
        "maps": maps / maps.norm(dim=-2, keepdim=True),
        "mask": (mask * (mask > 0.4)).expand(num_examples, H, W, *frames, 1).contiguous(),  # weights, not only 0 and 1
        "target": random(num_examples, H, W, *frames, num_maps),
        "mean": 0.5 + torch.arange(num_examples, dtype=maps.real.dtype),
        "std": torch.arange(2.0, 2.0 + num_examples, dtype=maps.real.dtype),
    }


def config(name, loss="l1", num_maps=1, **greedy):
    cfg = small_config(name, **greedy)
    cfg.MODEL.UNROLLED.NUM_EMAPS = num_maps
    cfg.MODEL.RECON_LOSS.NAME, cfg.MODEL.RECON_LOSS.RENORMALIZE_DATA = loss, True
    cfg.MODEL.UNROLLED.DC.EPS = 1e-14  # conjugate gradients that stop do so at a rounding error
    return cfg


def trained(cfg, inputs, takes_last_loss=True, dtype=torch.float64, change=None, seed=None):
    """Gradients, losses and last image of a step on a batch."""
    torch.manual_seed(1)
    model = build_model(cfg.clone().freeze()).to(dtype)
    if change is not None:
        change(model)
    outputs = model.train()(inputs, takes_last_loss=takes_last_loss, seed=seed)
    loss = LeanLossComputer(cfg)(inputs, {**outputs, "mean": inputs["mean"], "std": inputs["std"]})["loss"]
    loss.backward()
    last = f"loss_module_{model.unrolled.own.stop}"  # there where it was taken tile by tile
    scalars = {last: loss.detach(), **{name: value for name, value in outputs.items() if "loss" in name}}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {**gradients, **scalars, "loss": loss.detach(), "pred": outputs["pred"].detach()}


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert (found[name] - value).abs().max() <= tolerance * value.abs().max(), name


def check_tiles(cfg, inputs, tile, tolerance=1e-12, **options):
    """The training step in tiles gives what that of the whole image gives."""
    expected = trained(cfg, inputs, **options)
    cfg = cfg.clone()
    cfg.MISC.GREEDY.TILE = list(tile)
    assert_same(trained(cfg, inputs, **options), expected, tolerance)
