"""Prompts as tensors: boxes, clicks and masks in one kind of value.

A box is two points with the labels 2 and 3, as inside SAM's own prompt encoder, so that boxes, clicks and boxes with
clicks fit into one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from samtune.types import Prompt

NEGATIVE, POSITIVE, BOX_UPPER_LEFT, BOX_LOWER_RIGHT, PADDING = 0, 1, 2, 3, -10
LOW_RES_STRIDE = 4
"""Input pixels along the side of one low-res pixel."""


def low_res_to_input(points: Tensor) -> Tensor:
    """Indices of low-res pixels as input pixels: index `i` covers input pixels `4 i` to `4 i + 3`, centre `4 i + 1.5`.

    Args:
        points: float `[..., 2]`, xy, indices of low-res pixels (0 is the centre of the first one).

    Returns:
        float `[..., 2]`, xy, in the same convention: 0 is the centre of the first input pixel. The prompt encoder adds
        the half pixel between centre and edge by itself.
    """
    return points * LOW_RES_STRIDE + (LOW_RES_STRIDE - 1) / 2


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

    def low_res_to_input(self) -> PromptBatch:
        """The same prompts, given on the low-res grid, in input pixels.

        Clicks are indices of low-res pixels. Box corners are edges between pixels, which scaling alone converts.
        """
        is_corner = (self.labels == BOX_UPPER_LEFT) | (self.labels == BOX_LOWER_RIGHT)
        points = torch.where(is_corner[..., None], self.points * LOW_RES_STRIDE, low_res_to_input(self.points))
        return replace(self, points=points)

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


def _one_prompt(prompt: Prompt) -> PromptBatch:
    """A user's prompt as a batch of one; the box's corners come first, as the official predictor orders them."""
    points: list[Tensor] = []
    labels: list[Tensor] = []
    if prompt.input_box is not None:
        points.append(torch.as_tensor(prompt.input_box, dtype=torch.float32).reshape(2, 2))
        labels.append(torch.tensor([BOX_UPPER_LEFT, BOX_LOWER_RIGHT]))
    if prompt.input_points is not None:
        assert prompt.input_labels is not None  # Prompt fills them in
        points.append(torch.as_tensor(prompt.input_points, dtype=torch.float32).reshape(-1, 2))
        labels.append(torch.as_tensor(prompt.input_labels, dtype=torch.int64).reshape(-1))
    if not points:
        points, labels = [torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.int64)]
    batch = PromptBatch(torch.cat(points)[None], torch.cat(labels)[None])
    if prompt.input_mask is None:
        return batch
    return batch.with_masks(torch.as_tensor(prompt.input_mask, dtype=torch.float32)[None])
