"""Regions beside and inside masks that prompts are drawn from; all on the device, without reading a value back.

Masks are bool `[N, H, W]` on the low-res grid, where a pixel is four of the model's input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_BORDER = 1 / 48
"""How far from its edge a region's border reaches, and how far beside an object a near miss lies, as a share of H."""
_SMOOTH = (1 / 48, 1 / 16)
"""Radii over which rough masks are smoothed, as shares of H."""
_LEVELS = (0.15, 0.85)
"""Of the smoothed mask, what still counts as the object: low ones are too wide, high ones too narrow."""


def near_border(regions: Tensor) -> Tensor:
    """The pixels of each region that lie next to its edge; never empty where the region is not."""
    return regions & _widened(~regions, _reach(regions, _BORDER))


def beside(masks: Tensor) -> Tensor:
    """Pixels a little outside of each object, where a click misses it narrowly; the nearest pixels are left out.

    Where there are none, all of the background; where there is no background either, the object itself.
    """
    ring = _widened(masks, _reach(masks, _BORDER) + 1) & ~_widened(masks, 1)
    return first_filled(ring, ~masks, masks)


def rough(masks: Tensor, draws: Tensor) -> Tensor:
    """Each mask smoothed and cut at another level than its edge; where nothing would be left, the mask.

    Args:
        masks: none empty.
        draws: `[N, 2]`, in [0, 1): the level, and which of two radii.
    """
    covered = masks.float()[:, None]
    small, large = (_smoothed(covered, _reach(masks, radius)) for radius in _SMOOTH)
    smooth = torch.where((draws[:, 1] < 0.5)[:, None, None], small, large)
    level = _LEVELS[0] + (_LEVELS[1] - _LEVELS[0]) * draws[:, 0]
    return first_filled(smooth > level[:, None, None], masks)


def first_filled(*regions: Tensor) -> Tensor:
    """For each row the first of several regions `[N, H, W]` that has a pixel; the last one where none has."""
    *firsts, found = regions
    for region in reversed(firsts):
        found = torch.where(region.flatten(1).any(1)[:, None, None], region, found)
    return found


def on_some(wanted: Tensor, compute: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """`compute(*given)` for the rows that are `wanted`, bool `[N]`; the others have no meaning.

    On a CPU only those are computed. Elsewhere all are: to know which would make the device wait.
    """
    if wanted.device.type != "cpu":
        return compute(*given)
    rows = wanted.nonzero().squeeze(1)
    some = compute(*(one[rows] for one in given))
    return some.new_zeros(len(wanted), *some.shape[1:]).index_copy(0, rows, some)


def _reach(masks: Tensor, share: float) -> int:
    return max(1, round(share * masks.shape[-2]))


def _widened(masks: Tensor, reach: int) -> Tensor:
    """Masks and everything within `reach` pixels of them, along rows and columns; outside of the grid is nothing."""
    grid = masks.float()[:, None]
    grid = F.max_pool2d(grid, (2 * reach + 1, 1), 1, (reach, 0))
    return F.max_pool2d(grid, (1, 2 * reach + 1), 1, (0, reach))[:, 0] > 0


def _smoothed(covered: Tensor, reach: int) -> Tensor:
    """The mean over a square of `reach` pixels to each side, twice: `[N, H, W]` from `[N, 1, H, W]`."""
    for kernel, padding in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))) * 2:
        covered = F.avg_pool2d(covered, kernel, 1, padding)
    return covered[:, 0]
