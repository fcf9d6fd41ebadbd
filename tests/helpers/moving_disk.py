"""A moving image of smooth phase, undersampled."""

import torch

from meddlr_greedy.data.masks import VariableDensityKtMaskFunc
from meddlr_greedy.ops.cine_sense import CineSenseModel

HEIGHT, WIDTH, FRAMES, COILS, MAPS = 16, 32, 12, 4, 2


def moving_disk():
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
    A = CineSenseModel(batch["maps"], batch["mask"])
    return A, A(batch["kspace"], adjoint=True)
