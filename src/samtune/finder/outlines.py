"""What a mask's outline looks like in a few numbers, whatever its place, its turn and nearly whatever its size.

A ray goes out from the middle of the mask in each of `RAYS` directions, and the mask is summed along it: that is the
radius there. Only tensor operations, so that it runs in batches on any device and in ONNX. Source of the Fourier
magnitudes: Zahn and Roskies (1972); of the widths: support functions of convex sets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RAYS, STEPS = 64, 48
HARMONICS = 12
COLUMNS = HARMONICS + 7
"""Numbers for each mask."""
_SMALL = 1e-3


def outlines(logits: Tensor) -> Tensor:
    """Describe masks.

    Args:
        logits: low-res mask logits `[N, h, h]`; masks are where they are above 0.

    Returns:
        `[N, COLUMNS]`: logs of the radius' Fourier magnitudes 1 to `HARMONICS` relative to its mean; log area; shares
        of the mask in its enclosing circle, its convex hull, its narrowest rectangle; smallest by largest width;
        roundness; log of the area that the rays see by that of the mask. All zero for an empty mask.
    """
    side = logits.shape[-1]
    mask = (logits > 0).float()
    area = mask.sum((1, 2))
    there = area > 0
    grid = torch.arange(side, device=logits.device, dtype=torch.float32) + 0.5
    whole = area.clamp(min=1.0)
    x, y = (mask.sum(1) @ grid) / whole, (mask.sum(2) @ grid) / whole
    reach = _reach(mask, x, y, grid)
    radius = _radii(logits, x, y, reach)
    mean = radius.mean(1, keepdim=True).clamp(min=_SMALL)
    waves = _waves(logits.device)
    size = ((radius / mean) @ waves).unflatten(1, (2, HARMONICS)).square().sum(1).sqrt()
    seen = radius.square().sum(1) * (math.pi / RAYS)
    columns = [*_widths(radius, seen.clamp(min=_SMALL)), (seen.clamp(min=_SMALL) / whole).log()]
    found = torch.cat([(size + _SMALL).log(), whole.log()[:, None], torch.stack(columns, 1)], 1)
    return torch.where(there[:, None], found, 0.0)


def _reach(mask: Tensor, x: Tensor, y: Tensor, grid: Tensor) -> Tensor:
    """How far from its middle a mask goes, in cells: `[N]`, an upper bound."""
    far = ((grid[None] - x[:, None]).abs() * mask.amax(1)).amax(1) + 1
    high = ((grid[None] - y[:, None]).abs() * mask.amax(2)).amax(1) + 1
    return (far.square() + high.square()).sqrt()


def _radii(logits: Tensor, x: Tensor, y: Tensor, reach: Tensor) -> Tensor:
    """How much of each ray lies in the mask, in cells: `[N, RAYS]`."""
    side = logits.shape[-1]
    angle = torch.arange(RAYS, device=logits.device) * (2 * math.pi / RAYS)
    away = (torch.arange(STEPS, device=logits.device) + 0.5) / STEPS * reach[:, None]
    at_x = x[:, None, None] + away[:, None] * angle.cos()[:, None]
    at_y = y[:, None, None] + away[:, None] * angle.sin()[:, None]
    places = torch.stack([at_x, at_y], -1) * (2 / side) - 1
    along = F.grid_sample(logits[:, None].float(), places, mode="bicubic", padding_mode="border", align_corners=False)
    step = (reach / STEPS)[:, None, None]
    slope = (along[:, 0, :, :-1] - along[:, 0, :, 1:]).abs().amax(2, keepdim=True).clamp(min=_SMALL)
    return ((along[:, 0] / slope + 0.5).clamp(0, 1) * step).sum(2)


def _waves(device: torch.device) -> Tensor:
    """`[RAYS, 2 * HARMONICS]`: cosines, then sines, that give Fourier coefficients of the radius."""
    angle = torch.arange(RAYS, device=device, dtype=torch.float32)[:, None] * (2 * math.pi / RAYS)
    times = torch.arange(1, HARMONICS + 1, device=device)
    return torch.cat([(angle * times).cos(), (angle * times).sin()], 1) / RAYS


def _widths(radius: Tensor, area: Tensor) -> tuple[Tensor, ...]:
    """Five ratios of the area, the widths and the outline of what the rays see, `[N]` each, 0 to about 1."""
    angle = torch.arange(RAYS, device=radius.device) * (2 * math.pi / RAYS)
    towards = (angle[:, None] - angle[None]).cos()
    support = (radius[:, None] * towards).amax(2)
    width = support + support.roll(RAYS // 2, 1)
    rectangle = (width * width.roll(RAYS // 4, 1)).amin(1)
    around = support.sum(1) * (2 * math.pi / RAYS)
    change = (support.roll(-1, 1) - support) * (RAYS / (2 * math.pi))
    hull = (support.square() - change.square()).sum(1) * (math.pi / RAYS)
    return (
        area / (math.pi * radius.amax(1).square()).clamp(min=_SMALL),
        area / hull.clamp(min=_SMALL),
        area / rectangle.clamp(min=_SMALL),
        width.amin(1) / width.amax(1).clamp(min=_SMALL),
        4 * math.pi * area / around.square().clamp(min=_SMALL),
    )
