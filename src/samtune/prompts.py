"""Prompts as tensors, and prompts simulated from masks: boxes, jittered boxes, clicks, correction clicks, background.

Training, validation and evaluation all come here; they differ only in the values of their `PromptPolicy`. Everything
random takes an explicit `torch.Generator`, or `Draws` that a generator made beforehand. Simulating looks at no value on
the host, so that on a GPU nobody waits and a CUDA graph can record it; only `background_prompts` does.

A box is two points with the labels 2 and 3, as inside SAM's own prompt encoder, so that boxes, clicks and boxes with
clicks are one kind of value and fit into one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from samtune.config import PromptPolicy
from samtune.types import Prompt

NEGATIVE, POSITIVE, BOX_UPPER_LEFT, BOX_LOWER_RIGHT, PADDING = 0, 1, 2, 3, -10


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """N prompts. The frame of the coordinates is the caller's; the decoder wants pixels of the model's square input.

    Attributes:
        points: float32 `[N, P, 2]`, xy.
        labels: int64 `[N, P]`: 1 positive click, 0 negative click, 2 and 3 a box's upper left and lower right corner,
            -10 padding, which has no influence on the result.
        masks: float32 `[N, 1, h, w]`, low-res logits of an earlier prediction, or None.
        has_mask: bool `[N]`, which prompts have a mask; None when `masks` is None.
    """

    points: Tensor
    labels: Tensor
    masks: Tensor | None = None
    has_mask: Tensor | None = None

    def __len__(self) -> int:
        return self.points.shape[0]

    @classmethod
    def from_boxes(cls, boxes: Tensor) -> PromptBatch:
        """One box prompt per row of `boxes` (`[N, 4]`, xyxy)."""
        labels = torch.arange(BOX_UPPER_LEFT, BOX_LOWER_RIGHT + 1, device=boxes.device)
        return cls(boxes.float().reshape(-1, 2, 2), labels.expand(len(boxes), 2))

    @classmethod
    def from_clicks(cls, points: Tensor, labels: Tensor | None = None) -> PromptBatch:
        """Click prompts from `points` `[N, P, 2]`; all positive when `labels` `[N, P]` is left out."""
        labels = torch.full(points.shape[:2], POSITIVE, device=points.device) if labels is None else labels
        return cls(points.float(), labels.long())

    @classmethod
    def from_prompts(cls, prompts: Sequence[Prompt]) -> PromptBatch:
        """Collect users' prompts, padding the shorter ones. Coordinates stay in the frame the prompts are in."""
        return cls.cat([_one_prompt(prompt) for prompt in prompts])

    @classmethod
    def cat(cls, batches: Sequence[PromptBatch]) -> PromptBatch:
        """Join batches; shorter prompts are padded with label -10."""
        width = max(batch.points.shape[1] for batch in batches)
        padded = [batch.padded(width) for batch in batches]
        points = torch.cat([batch.points for batch in padded])
        labels = torch.cat([batch.labels for batch in padded])
        shapes = [batch.masks.shape[1:] for batch in padded if batch.masks is not None]
        if not shapes:
            return cls(points, labels)
        filled = [batch if batch.masks is not None else batch._with_blank_masks(shapes[0]) for batch in padded]
        masks = torch.cat([batch.masks for batch in filled if batch.masks is not None])
        has_mask = torch.cat([batch.has_mask for batch in filled if batch.has_mask is not None])
        return cls(points, labels, masks, has_mask)

    def padded(self, width: int) -> PromptBatch:
        """The same prompts with `width` points each."""
        missing = width - self.points.shape[1]
        if missing == 0:
            return self
        points = F.pad(self.points, (0, 0, 0, missing))
        return replace(self, points=points, labels=F.pad(self.labels, (0, missing), value=PADDING))

    def scaled(self, x: float, y: float) -> PromptBatch:
        """The same prompts in a frame that is `x` times as wide and `y` times as high."""
        return replace(self, points=torch.stack([self.points[..., 0] * x, self.points[..., 1] * y], dim=-1))

    def select(self, index: Tensor | slice) -> PromptBatch:
        """The prompts at `index`."""
        masks = None if self.masks is None else self.masks[index]
        has_mask = None if self.has_mask is None else self.has_mask[index]
        return PromptBatch(self.points[index], self.labels[index], masks, has_mask)

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same prompts on `device`."""
        masks = None if self.masks is None else self.masks.to(device)
        has_mask = None if self.has_mask is None else self.has_mask.to(device)
        return PromptBatch(self.points.to(device), self.labels.to(device), masks, has_mask)

    def with_clicks(self, points: Tensor, labels: Tensor) -> PromptBatch:
        """Append one more click to every prompt: `points` `[N, 2]`, `labels` `[N]`."""
        return replace(
            self,
            points=torch.cat([self.points, points[:, None]], dim=1),
            labels=torch.cat([self.labels, labels[:, None]], dim=1),
        )

    def with_masks(self, masks: Tensor) -> PromptBatch:
        """Give every prompt a mask: `masks` `[N, 1, h, w]` low-res logits."""
        return replace(self, masks=masks, has_mask=torch.ones(len(self), dtype=torch.bool, device=masks.device))

    def _with_blank_masks(self, shape: torch.Size) -> PromptBatch:
        masks = self.points.new_zeros(len(self), *shape)
        return replace(self, masks=masks, has_mask=torch.zeros(len(self), dtype=torch.bool, device=masks.device))


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


def _one_prompt(prompt: Prompt) -> PromptBatch:
    """A user's prompt as a batch of one; the box's corners come first, as the official predictor orders them."""
    points: list[Tensor] = []
    labels: list[Tensor] = []
    if prompt.input_box is not None:
        points.append(torch.as_tensor(prompt.input_box, dtype=torch.float32).reshape(2, 2))
        labels.append(torch.tensor([BOX_UPPER_LEFT, BOX_LOWER_RIGHT]))
    if prompt.input_points is not None and prompt.input_labels is not None:
        points.append(torch.as_tensor(prompt.input_points, dtype=torch.float32).reshape(-1, 2))
        labels.append(torch.as_tensor(prompt.input_labels, dtype=torch.int64).reshape(-1))
    if not points:
        points, labels = [torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.int64)]
    batch = PromptBatch(torch.cat(points)[None], torch.cat(labels)[None])
    if prompt.input_mask is None:
        return batch
    return batch.with_masks(torch.as_tensor(prompt.input_mask, dtype=torch.float32)[None])
