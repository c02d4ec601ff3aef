"""What the finder's network should say of an image: a Gaussian on every object's middle, whose box each cell proposes.

Everything is in cells of the stride-4 grid, and every object is drawn in its own window, so that 500 small objects cost
what their windows cost and not 500 whole grids. Source: CenterNet (Zhou et al. 2019), with a spread for each axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samtune.data.low_res import LowResTargets
from samtune.data.table import ImageEntry, ObjectEntry
from samtune.data.views import AS_IS, Change

SPREAD, LEAST_SPREAD = 0.15, 0.45
"""Standard deviation of the Gaussian: this share of the box's side, and at least so many cells."""
REACH = 3.0
"""Standard deviations beyond which a Gaussian is left out; it is below 0.012 there."""
NEAR = 0.3
"""Cells whose Gaussian is above this propose the box."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The objects of one image, in cells of the low-res grid.

    Attributes:
        objects: the table's entries of the N objects, whose masks are read when they are needed.
        boxes: float32 `[N, 4]`, xyxy.
        classes: int64 `[N]`, number of the class.
        ignored: bool `[h, w]`, cells of crowd regions and of objects that another tile has, of which nothing is asked.
    """

    objects: tuple[ObjectEntry, ...]
    boxes: Tensor
    classes: Tensor
    ignored: Tensor

    def __len__(self) -> int:
        return len(self.objects)


@dataclass(frozen=True, slots=True)
class Target:
    """What the network should say of one image.

    Attributes:
        heat: float32 `[h, w]`, the highest of the objects' Gaussians, 0 to 1; 1 at each object's own cell.
        owner: int64 `[h, w]`, the object whose box the cell proposes, -1 where none is near; of several the smallest.
        weight: float32 `[h, w]`, the owner's Gaussian, 0 where there is none.
    """

    heat: Tensor
    owner: Tensor
    weight: Tensor


def read_truth(image: ImageEntry, low_res: LowResTargets, numbers: Mapping[str, int], change: Change = AS_IS) -> Truth:
    """The objects of an image as the finder learns them.

    Args:
        image: the table's entry.
        low_res: where its masks come from.
        numbers: of the classes by name; an object of another name counts as class 0.
        change: how the image is seen. Of an object that is hardly seen nothing is asked.
    """
    seen = [one for one in image.single_objects if change.shows(one.box)]
    boxes = low_res.boxes(seen, image, change)
    has_size = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)  # a mask may lie in the half of its box that is not seen
    objects = tuple(one for one, is_there in zip(seen, has_size, strict=True) if is_there)
    others = [one for one in image.objects if not one.is_single or not change.shows(one.box)]
    return Truth(
        objects=objects,
        boxes=torch.from_numpy(boxes[has_size]),
        classes=torch.tensor([numbers.get(one.category, 0) for one in objects], dtype=torch.int64),
        ignored=torch.from_numpy(np.any(low_res.of(others, change) > 0, axis=0)),
    )


def draw(boxes: Tensor, centres: Tensor, size: tuple[int, int]) -> Target:
    """Draw the objects of one image.

    Args:
        boxes: `[N, 4]`, xyxy in cells.
        centres: `[N, 2]`, xy in cells: where each object's Gaussian stands; it is moved to the middle of its cell.
        size: (h, w) of the grid.
    """
    height, width = size
    limits = torch.tensor([width, height])
    spread = ((boxes[:, 2:] - boxes[:, :2]) * SPREAD).clamp(min=LEAST_SPREAD)
    cell = torch.minimum(centres.floor().long().clamp(min=0), limits - 1)
    reach = (REACH * spread).ceil().long()
    low = (cell - reach).clamp(min=0)
    sides = torch.minimum(cell + reach + 1, limits) - low
    count = sides.prod(1)
    # Every cell of every window in one list: which object, and where in its window.
    one = torch.repeat_interleave(torch.arange(len(boxes)), count)
    place = torch.arange(len(one)) - (count.cumsum(0) - count)[one]
    x, y = low[one, 0] + place % sides[one, 0], low[one, 1] + place // sides[one, 0]
    away = (torch.stack([x, y], 1) - cell[one]) / spread[one]
    value = (away.square().sum(1) / -2).exp()
    flat = y * width + x
    heat = torch.zeros(height * width).scatter_reduce_(0, flat, value, "amax")
    owner, weight = _owners(boxes, one, flat, value, height * width)
    return Target(heat.view(size), owner.view(size), weight.view(size))


def _owners(boxes: Tensor, one: Tensor, flat: Tensor, value: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Of the objects whose Gaussian is above `NEAR` in a cell the smallest, and its Gaussian there."""
    order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    near = value > NEAR
    one, flat, value = one[near], flat[near], value[near]
    first = torch.full((cells,), len(boxes)).scatter_reduce_(0, flat, rank[one], "amin")
    wins = rank[one] == first[flat]
    owner, weight = torch.full((cells,), -1), torch.zeros(cells)
    owner[flat[wins]] = one[wins]
    weight[flat[wins]] = value[wins]
    return owner, weight
