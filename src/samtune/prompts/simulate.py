"""Prompts simulated from masks: boxes, jittered boxes, clicks, correction clicks, background clicks.

Training, validation and evaluation all come here; they differ only in the values of their `PromptPolicy`. Random
numbers are drawn beforehand, on the host, into the named slots of `PromptDraws` and `CorrectionDraws`: every device
then gets the same numbers, and what one slot holds does not depend on whether another is used. Simulating reads no
value back to the host, so that a GPU is never waited for and a CUDA graph can record it; `background_prompts` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from samtune.config import PromptPolicy
from samtune.prompts.batch import PromptBatch

_COLUMNS = 16
"""Columns compared at once when distances are searched for: what bounds the memory that takes."""


@dataclass(frozen=True, slots=True)
class CorrectionDraws:
    """Random numbers of one correction click for each of N prompts, float32, uniform in [0, 1).

    Attributes:
        from_object: `[N]`, whether to click on the object instead of the error.
        place: `[N]`, where in the region to click.
    """

    from_object: Tensor
    place: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> CorrectionDraws:
        """Fresh numbers for `count` prompts, on the generator's device."""
        return cls(*torch.rand(2, count, generator=generator, device=generator.device))


@dataclass(frozen=True, slots=True)
class PromptDraws:
    """Random numbers of N prompts and their correction clicks, float32, uniform in [0, 1).

    Attributes:
        kind: `[N]`, box or click.
        edges: `[N, 4]`, how far each edge of the box moves, xyxy.
        place: `[N]`, where in the object to click.
        corrections: one for each correction click, in order.
    """

    kind: Tensor
    edges: Tensor
    place: Tensor
    corrections: tuple[CorrectionDraws, ...] = ()

    @classmethod
    def of(cls, numbers: Tensor) -> PromptDraws:
        """Name the columns of `numbers` `[N, K]`, K as `count` says."""
        kind, *edges, place = numbers[:, :_FIRST].unbind(1)
        corrections = (numbers[:, at : at + _EACH].unbind(1) for at in range(_FIRST, numbers.shape[1], _EACH))
        return cls(kind, torch.stack(edges, dim=1), place, tuple(CorrectionDraws(*pair) for pair in corrections))

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, *, corrections: int = 0) -> PromptDraws:
        """Fresh numbers for `count` prompts, on the generator's device."""
        columns = _FIRST + _EACH * corrections
        return cls.of(torch.rand(count, columns, generator=generator, device=generator.device))

    @staticmethod
    def count(policy: PromptPolicy) -> int:
        """K, how many numbers each prompt of a policy takes with its correction clicks."""
        return _FIRST + _EACH * policy.correction_clicks


_FIRST, _EACH = 6, 2
"""Columns of a first prompt and of each correction click."""


def simulate_prompts(masks: Tensor, boxes: Tensor, policy: PromptPolicy, draws: PromptDraws) -> PromptBatch:
    """First prompts for N objects: per object a box or a positive click, as the policy's weights say.

    Source: SAM 2's training recipe (`sam2/modeling/sam2_utils.py`: each box edge moves by a uniform share of the side).

    Args:
        masks: bool `[N, H, W]`, every one with at least one pixel.
        boxes: float `[N, 4]`, xyxy in pixels of `masks`; may be more precise than the masks.
        policy: what to make.
        draws: random numbers, on the device of `masks`.

    Returns:
        N prompts in pixels of `masks`. Where the policy has only boxes, P = 2, where it has only clicks, P = 1.
    """
    takes_box = draws.kind < policy.box / (policy.box + policy.point)
    as_boxes = PromptBatch.from_boxes(jitter_boxes(boxes, masks.shape[-2:], policy, draws.edges))
    if policy.point == 0:
        return as_boxes
    as_clicks = PromptBatch.from_clicks(pick_points(masks, policy, draws.place)[:, None])
    if policy.box == 0:
        return as_clicks
    as_clicks = as_clicks.padded(2)
    return PromptBatch(
        torch.where(takes_box[:, None, None], as_boxes.points, as_clicks.points),
        torch.where(takes_box[:, None], as_boxes.labels, as_clicks.labels),
    )


def background_prompts(occupied: Tensor, count: int, generator: torch.Generator) -> PromptBatch | None:
    """Prompts whose right answer is "nothing here": clicks on pixels no object covers.

    Only clicks: a box always holds something that could have been meant.

    Args:
        occupied: bool `[H, W]`, pixels any object covers.
        count: how many prompts.
        generator: on the device of `occupied`.

    Returns:
        The prompts in pixels of `occupied`, or None where no pixel is free.
    """
    free = ~occupied
    if count == 0 or not free.any():
        return None
    place = torch.rand(count, generator=generator, device=occupied.device)
    return PromptBatch.from_clicks(random_points(free.expand(count, *free.shape), place)[:, None])


def correction_clicks(
    predicted: Tensor, masks: Tensor, policy: PromptPolicy, draws: CorrectionDraws
) -> tuple[Tensor, Tensor]:
    """One more click per object where the prediction is wrong: positive on what it misses, negative on its excess.

    Where a prediction has no error, a negative click on the background (or a positive one, where there is none) is
    drawn, as in SAM 2's recipe.

    Args:
        predicted, masks: bool `[N, H, W]`.
        policy: `point_at` "random" draws from the whole error region, "center" takes its deepest pixel.
        draws: random numbers, on the device of `masks`.

    Returns:
        Points float32 `[N, 2]` (xy, in pixels of `masks`) and labels int64 `[N]`.
    """
    error = predicted ^ masks
    from_object = draws.from_object < policy.correction_from_object
    region = torch.where((from_object & masks.flatten(1).any(1))[:, None, None], masks, error)
    fallback = torch.where((~masks).flatten(1).any(1)[:, None, None], ~masks, masks)
    region = torch.where(region.flatten(1).any(1)[:, None, None], region, fallback)
    points = pick_points(region, policy, draws.place)
    column, row = points.long().unbind(1)
    return points, masks[torch.arange(len(masks), device=masks.device), row, column].long()


def jitter_boxes(boxes: Tensor, size: tuple[int, int] | torch.Size, policy: PromptPolicy, edges: Tensor) -> Tensor:
    """Move every edge of `boxes` `[N, 4]` by up to `box_jitter` of the side, inside an image of `size` (H, W).

    `edges` `[N, 4]` are random numbers: 0 moves an edge all the way towards 0, 1 all the way from it.
    """
    if policy.box_jitter == 0:
        return boxes
    noise = 2 * edges - 1
    moved = torch.empty_like(boxes)
    for axis, side in enumerate(reversed(size)):
        near, far = boxes[:, axis], boxes[:, axis + 2]
        reach = ((far - near) * policy.box_jitter).clamp(max=side * policy.box_jitter_max)
        for edge in (axis, axis + 2):
            moved[:, edge] = (boxes[:, edge] + noise[:, edge] * reach).clamp(0, side)
    return moved


def pick_points(regions: Tensor, policy: PromptPolicy, place: Tensor) -> Tensor:
    """One pixel of each region: the deepest, or one drawn by `place` `[N]`, as the policy says.

    `regions` is bool `[N, H, W]`, none empty; returns float32 `[N, 2]`, xy.
    """
    return deepest_points(regions) if policy.point_at == "center" else random_points(regions, place)


def random_points(regions: Tensor, place: Tensor) -> Tensor:
    """A pixel of each region by a uniform number: the k-th set pixel for a uniform k, found in the running count.

    Args:
        regions: bool `[N, H, W]`, none empty.
        place: float `[N]` in [0, 1), which pixel, in the order of rows.

    Returns:
        float32 `[N, 2]`, xy.
    """
    running = regions.flatten(1).cumsum(1, dtype=torch.int32)
    count = running[:, -1:]
    wanted = (place[:, None] * count).int().clamp(max=count - 1) + 1
    index = torch.searchsorted(running, wanted).squeeze(1)
    width = regions.shape[-1]
    return torch.stack([index % width, index // width], dim=1).float()


def deepest_points(regions: Tensor) -> Tensor:
    """The pixel of each region farthest from its edge; the image's border counts as an edge.

    Args:
        regions: bool `[N, H, W]`, none empty.

    Returns:
        float32 `[N, 2]`, xy.
    """
    return _deepest_on_cpu(regions) if regions.device.type == "cpu" else deepest_points_by_minima(regions)


def deepest_points_by_minima(regions: Tensor) -> Tensor:
    """The same for a GPU, by exact squared distances instead of OpenCV's approximate ones.

    A pixel's squared distance is the least, over the pixels of its row, of their squared distance to it plus that of
    the nearest edge pixel in their columns (Felzenszwalb and Huttenlocher 2012, by brute force).
    """
    H, W = regions.shape[1:]
    inside = F.pad(regions, (1, 1, 1, 1))
    row = torch.arange(H + 2, device=regions.device, dtype=torch.int32)[:, None].expand_as(inside)
    above = row.masked_fill(inside, -1).cummax(1).values
    below = row.masked_fill(inside, H + 2).flip(1).cummin(1).values.flip(1)
    vertical = torch.minimum(row - above, below - row).float().square()
    column = torch.arange(W + 2, device=regions.device, dtype=torch.float32)
    squared = torch.full_like(vertical, torch.inf)
    for others, depths in zip(column.split(_COLUMNS), vertical.split(_COLUMNS, dim=2), strict=True):
        along = (column[:, None] - others).square()
        squared = torch.minimum(squared, (depths[:, :, None] + along).amin(-1))
    deepest = squared[:, 1:-1, 1:-1].flatten(1).argmax(1)
    return torch.stack([deepest % W, deepest // W], dim=1).float()


def _deepest_on_cpu(regions: Tensor) -> Tensor:
    points = []
    for region in regions.numpy().astype(np.uint8):
        depth = cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        points.append((float(column), float(row)))
    return torch.tensor(points).reshape(-1, 2)
