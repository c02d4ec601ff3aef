"""Prompts as tensors, and prompts simulated from masks: boxes, jittered boxes, clicks, correction clicks, background.

Training, validation and evaluation all come here; they differ only in the values of their `PromptPolicy`. Everything
random takes an explicit `torch.Generator`.

A box is two points with the labels 2 and 3, as inside SAM's own prompt encoder, so that boxes, clicks and boxes with
clicks are one kind of value and fit into one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        labels = torch.tensor([BOX_UPPER_LEFT, BOX_LOWER_RIGHT], device=boxes.device)
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
        return replace(self, points=self.points * self.points.new_tensor([x, y]))

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


def simulate_prompts(masks: Tensor, boxes: Tensor, policy: PromptPolicy, generator: torch.Generator) -> PromptBatch:
    """First prompts for N objects: per object a box or a positive click, as the policy's weights say.

    Source: SAM 2's training recipe (`sam2/modeling/sam2_utils.py`: each box edge moves by a uniform share of the side).

    Args:
        masks: bool `[N, H, W]`, every one with at least one pixel.
        boxes: float `[N, 4]`, xyxy in pixels of `masks`; may be more precise than the masks.
        policy: what to make.
        generator: the source of randomness, on the device of `masks`.

    Returns:
        N prompts in pixels of `masks`. Where every object gets a box, P = 2, where every one a click, P = 1.
    """
    device = masks.device
    takes_box = torch.rand(len(masks), generator=generator, device=device) < policy.box / (policy.box + policy.point)
    as_boxes = PromptBatch.from_boxes(jitter_boxes(boxes, masks.shape[-2:], policy, generator))
    if takes_box.all():
        return as_boxes
    as_clicks = PromptBatch.from_clicks(pick_points(masks, policy, generator)[:, None])
    if not takes_box.any():
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


def correction_clicks(
    predicted: Tensor, masks: Tensor, policy: PromptPolicy, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One more click per object where the prediction is wrong: positive on what it misses, negative on its excess.

    Where a prediction has no error, a negative click on the background (or a positive one, where there is none) is
    drawn, as in SAM 2's recipe.

    Args:
        predicted, masks: bool `[N, H, W]`.
        policy: `point_at` "random" draws from the whole error region, "center" takes its deepest pixel.
        generator: on the device of `masks`.

    Returns:
        Points float32 `[N, 2]` (xy, in pixels of `masks`) and labels int64 `[N]`.
    """
    error = predicted ^ masks
    from_object = torch.rand(len(masks), generator=generator, device=masks.device) < policy.correction_from_object
    region = torch.where((from_object & masks.flatten(1).any(1))[:, None, None], masks, error)
    fallback = torch.where((~masks).flatten(1).any(1)[:, None, None], ~masks, masks)
    region = torch.where(region.flatten(1).any(1)[:, None, None], region, fallback)
    points = pick_points(region, policy, generator)
    column, row = points.long().unbind(1)
    return points, masks[torch.arange(len(masks), device=masks.device), row, column].long()


def jitter_boxes(
    boxes: Tensor, size: tuple[int, int] | torch.Size, policy: PromptPolicy, generator: torch.Generator
) -> Tensor:
    """Move every edge of `boxes` `[N, 4]` by up to `box_jitter` of the side, inside an image of `size` (H, W)."""
    if policy.box_jitter == 0:
        return boxes
    height, width = size
    sides = torch.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]] * 2, dim=1)
    most = boxes.new_tensor([width, height, width, height])
    reach = torch.minimum(sides * policy.box_jitter, most * policy.box_jitter_max)
    noise = 2 * torch.rand(boxes.shape, generator=generator, device=boxes.device) - 1
    return torch.minimum((boxes + noise * reach).clamp(min=0), most)


def pick_points(regions: Tensor, policy: PromptPolicy, generator: torch.Generator) -> Tensor:
    """One pixel of each region, `[N, H, W]` bool, none empty: float32 `[N, 2]`, xy."""
    return _deepest(regions) if policy.point_at == "center" else _uniform(regions, generator)


def _uniform(regions: Tensor, generator: torch.Generator) -> Tensor:
    """A pixel drawn uniformly: the k-th set pixel for a uniform k, found in the running count."""
    running = regions.flatten(1).cumsum(1, dtype=torch.int32)
    count = running[:, -1:]
    draw = torch.rand(len(regions), 1, generator=generator, device=regions.device)
    wanted = (draw * count).int().clamp(max=count - 1) + 1
    index = torch.searchsorted(running, wanted).squeeze(1)
    width = regions.shape[-1]
    return torch.stack([index % width, index // width], dim=1).float()


def _deepest(regions: Tensor) -> Tensor:
    """The pixel farthest from the region's edge; the image's border counts as an edge."""
    points = []
    for region in regions.cpu().numpy().astype(np.uint8):
        depth = cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        points.append((float(column), float(row)))
    return torch.tensor(points, device=regions.device).reshape(-1, 2)


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
