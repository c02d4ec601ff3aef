"""Prompts simulated from masks: boxes, jittered boxes, clicks, correction clicks, background clicks.

Training, validation and evaluation all come here; they differ only in the values of their `PromptPolicy`. Everything
random takes an explicit `torch.Generator`, or `Draws` that a generator made beforehand. Simulating looks at no value on
the host, so that on a GPU nobody waits and a CUDA graph can record it; only `background_prompts` does.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from samtune.config import PromptPolicy
from samtune.prompts.batch import PromptBatch


class Draws:
    """Numbers drawn beforehand, uniform in [0, 1), that are handed out in turn: what serves in place of a generator.

    A device then needs no generator of its own: whatever it is, it gets the numbers that the host has drawn.

    Args:
        numbers: float32 `[N, K]`, K for each of N prompts.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._used = 0

    def take(self, count: int) -> Tensor:
        """The next `count` numbers of every prompt, `[N, count]`."""
        self._used += count
        assert self._used <= self._numbers.shape[1], "more numbers are asked for than were drawn"
        return self._numbers[:, self._used - count : self._used]

    @staticmethod
    def needed(policy: PromptPolicy) -> int:
        """How many numbers a prompt takes, with its correction clicks."""
        return _FIRST_DRAWS + _CORRECTION_DRAWS * policy.correction_clicks


_FIRST_DRAWS = 6
"""Box or click, four edges, where to click."""
_CORRECTION_DRAWS = 2
"""Object or error, where to click."""

_COLUMNS = 16
"""Columns compared at once when distances are searched for: what bounds the memory that takes."""

Random: TypeAlias = torch.Generator | Draws
"""Where random numbers come from; a generator is on the device of the tensors it serves."""


def _uniforms(random: Random, n: int, count: int, device: torch.device) -> Tensor:
    """`count` numbers for each of n prompts, `[n, count]`, uniform in [0, 1)."""
    if isinstance(random, Draws):
        return random.take(count)
    return torch.rand(n, count, generator=random, device=device)


def simulate_prompts(masks: Tensor, boxes: Tensor, policy: PromptPolicy, random: Random) -> PromptBatch:
    """First prompts for N objects: per object a box or a positive click, as the policy's weights say.

    Source: SAM 2's training recipe (`sam2/modeling/sam2_utils.py`: each box edge moves by a uniform share of the side).

    Args:
        masks: bool `[N, H, W]`, every one with at least one pixel.
        boxes: float `[N, 4]`, xyxy in pixels of `masks`; may be more precise than the masks.
        policy: what to make.
        random: the source of randomness.

    Returns:
        N prompts in pixels of `masks`. Where the policy has only boxes, P = 2, where it has only clicks, P = 1.
    """
    wanted = _uniforms(random, len(masks), 1, masks.device)[:, 0]
    takes_box = wanted < policy.box / (policy.box + policy.point)
    as_boxes = PromptBatch.from_boxes(jitter_boxes(boxes, masks.shape[-2:], policy, random))
    if policy.point == 0:
        return as_boxes
    as_clicks = PromptBatch.from_clicks(pick_points(masks, policy, random)[:, None])
    if policy.box == 0:
        return as_clicks
    as_clicks = as_clicks.padded(2)
    return PromptBatch(
        torch.where(takes_box[:, None, None], as_boxes.points, as_clicks.points),
        torch.where(takes_box[:, None], as_boxes.labels, as_clicks.labels),
    )


def background_prompts(
    occupied: Tensor, count: int, policy: PromptPolicy, generator: torch.Generator
) -> PromptBatch | None:
    """Prompts whose right answer is "nothing here": clicks on pixels no object covers.

    Only clicks: a box always holds something that could have been meant.

    Args:
        occupied: bool `[H, W]`, pixels any object covers.
        count: how many prompts.
        policy: `point_at` is used.
        generator: on the device of `occupied`.

    Returns:
        The prompts in pixels of `occupied`, or None where no pixel is free.
    """
    free = ~occupied
    if count == 0 or not free.any():
        return None
    points = pick_points(free.expand(count, *free.shape), policy.model_copy(update={"point_at": "random"}), generator)
    return PromptBatch.from_clicks(points[:, None])


def correction_clicks(predicted: Tensor, masks: Tensor, policy: PromptPolicy, random: Random) -> tuple[Tensor, Tensor]:
    """One more click per object where the prediction is wrong: positive on what it misses, negative on its excess.

    Where a prediction has no error, a negative click on the background (or a positive one, where there is none) is
    drawn, as in SAM 2's recipe.

    Args:
        predicted, masks: bool `[N, H, W]`.
        policy: `point_at` "random" draws from the whole error region, "center" takes its deepest pixel.
        random: the source of randomness.

    Returns:
        Points float32 `[N, 2]` (xy, in pixels of `masks`) and labels int64 `[N]`.
    """
    error = predicted ^ masks
    from_object = _uniforms(random, len(masks), 1, masks.device)[:, 0] < policy.correction_from_object
    region = torch.where((from_object & masks.flatten(1).any(1))[:, None, None], masks, error)
    fallback = torch.where((~masks).flatten(1).any(1)[:, None, None], ~masks, masks)
    region = torch.where(region.flatten(1).any(1)[:, None, None], region, fallback)
    points = pick_points(region, policy, random)
    column, row = points.long().unbind(1)
    return points, masks[torch.arange(len(masks), device=masks.device), row, column].long()


def jitter_boxes(boxes: Tensor, size: tuple[int, int] | torch.Size, policy: PromptPolicy, random: Random) -> Tensor:
    """Move every edge of `boxes` `[N, 4]` by up to `box_jitter` of the side, inside an image of `size` (H, W)."""
    if policy.box_jitter == 0:
        return boxes
    noise = 2 * _uniforms(random, len(boxes), 4, boxes.device) - 1
    moved = torch.empty_like(boxes)
    for axis, side in enumerate(reversed(size)):
        near, far = boxes[:, axis], boxes[:, axis + 2]
        reach = ((far - near) * policy.box_jitter).clamp(max=side * policy.box_jitter_max)
        for edge in (axis, axis + 2):
            moved[:, edge] = (boxes[:, edge] + noise[:, edge] * reach).clamp(0, side)
    return moved


def pick_points(regions: Tensor, policy: PromptPolicy, random: Random) -> Tensor:
    """One pixel of each region, `[N, H, W]` bool, none empty: float32 `[N, 2]`, xy."""
    return _deepest(regions) if policy.point_at == "center" else _uniform(regions, random)


def _uniform(regions: Tensor, random: Random) -> Tensor:
    """A pixel drawn uniformly: the k-th set pixel for a uniform k, found in the running count."""
    running = regions.flatten(1).cumsum(1, dtype=torch.int32)
    count = running[:, -1:]
    draw = _uniforms(random, len(regions), 1, regions.device)
    wanted = (draw * count).int().clamp(max=count - 1) + 1
    index = torch.searchsorted(running, wanted).squeeze(1)
    width = regions.shape[-1]
    return torch.stack([index % width, index // width], dim=1).float()


def _deepest(regions: Tensor) -> Tensor:
    """The pixel farthest from the region's edge; the image's border counts as an edge."""
    return _deepest_on_cpu(regions) if regions.device.type == "cpu" else _deepest_by_minima(regions)


def _deepest_by_minima(regions: Tensor) -> Tensor:
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
