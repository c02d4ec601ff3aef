"""What each predicted mask costs by itself: focal loss and dice loss, and kinds of cross-entropy beside them.

Focal and dice loss are what every tuning step minimises, on all masks of all its prompts. Composed of tensor operations
they write and read some thirty arrays as large as all these masks, which takes longer than the arithmetic in them. So
they are one autograd function, `_FocalAndDice`, with its derivative written out. On a CPU it works on one prompt at a
time, whose masks stay in the cache, and leaves out masks whose derivative is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_SMALLEST_AREA = 8.0
"""In low-res pixels; smaller objects weigh less where the cross-entropy is divided by the area."""
_EDGE = 2
"""How far the edge reaches to each side, in low-res pixels."""


def focal_and_dice(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Sigmoid focal loss (Lin et al. 2017, eq. 5), mean over the pixels, and dice loss (Milletari et al. 2016).

    The dice loss is 1 - Dice of soft masks, smoothed by one pixel.

    Args:
        logits: `[N, M, h, w]`, of any floating type; at least fp32 is computed in.
        targets: `[N, h, w]`, 0 to 1; no derivative flows to them.
        alpha: weight of the object's pixels against the background's in the focal loss; negative turns it off.
        gamma: how much easy pixels count less in the focal loss; at least 0.

    Returns:
        Focal and dice loss of each mask, `[N, M]` both.
    """
    return _FocalAndDice.apply(logits, targets, alpha, gamma)


def balanced_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in which object and background weigh half each, whatever their areas: `[N, M]` from `[N, M, h, w]`.

    Gets a decoder going from random weights, where focal loss collapses to empty masks.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none").flatten(2)
    inside, outside = targets.flatten(2), 1 - targets.flatten(2)
    return (loss * inside).sum(2) / inside.sum(2).clamp(min=1) / 2 + (loss * outside).sum(2) / (
        outside.sum(2).clamp(min=1)
    ) / 2


def area_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the image and divided by an area: `[N, M]` from `[N, M, h, w]`.

    A pixel on either side of the edge weighs the same, so that masks come out neither too small nor too large, and a
    small object weighs as much as a large one. The area is the object's or the predicted mask's, whichever is larger:
    divided by the object's alone, a few masks that are far too large would dominate the loss.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
    predicted = logits.detach().sigmoid().flatten(2).sum(2)
    return loss.flatten(2).sum(2) / torch.maximum(predicted, targets.flatten(2).sum(2)).clamp(min=_SMALLEST_AREA)


def edge_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy near the object's edge alone, mean over these pixels: `[N, M]` from `[N, M, h, w]`.

    Thin and intricate objects are mostly edge; elsewhere the other losses have little left to say.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
    inside = (targets >= 0.5).to(loss)
    side = 2 * _EDGE + 1
    widened = F.max_pool2d(inside, side, 1, _EDGE)
    narrowed = 1 - F.max_pool2d(1 - inside, side, 1, _EDGE)
    edge = widened - narrowed
    return (loss * edge).flatten(2).sum(2) / edge.flatten(2).sum(2).clamp(min=1)


class _FocalAndDice(torch.autograd.Function):
    """Focal and dice loss, and their derivative by the logits.

    Let p be the sigmoid of a logit z, t the target, m = p + t - 2 p t the share missed, c the cross-entropy, a the
    pixel's weight. Then focal = mean(a c m^gamma), and dice = 1 - O / S with O = 2 sum(p t) + 1 and
    S = sum(p) + sum(t) + 1. Derivatives by z: c' = p - t, p' = p (1 - p), m' = (1 - 2 t) p'.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        focal, overlap, total = torch.empty(3, *logits.shape[:2], dtype=dtype, device=logits.device)
        for prompts in _blocks(logits):
            z, t = logits[prompts].to(dtype), targets[prompts, None].to(dtype)
            p = z.sigmoid()
            missed = torch.addcmul(t, p, 1 - 2 * t)
            loss = _entropy(z, t).mul_(missed.pow_(gamma)).mul_(_weight(t, alpha))
            focal[prompts] = loss.mean((2, 3))
            total[prompts] = p.sum((2, 3)) + t.sum((2, 3)) + 1
            overlap[prompts] = 2 * p.mul_(t).sum((2, 3)) + 1
        ctx.save_for_backward(logits, targets, overlap, total)
        ctx.alpha, ctx.gamma = alpha, gamma
        return focal, 1 - overlap / total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_focal: Tensor, by_dice: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, targets, overlap, total = ctx.saved_tensors
        by_pixel = by_focal / logits[0, 0].numel()
        by_probability, by_object = by_dice * overlap / total.square(), -2 * by_dice / total
        gradient = torch.zeros_like(logits)
        for prompts in _blocks(logits):
            masks = _wanted(by_focal[prompts], by_dice[prompts])
            z, t = logits[prompts][:, masks].to(total.dtype), targets[prompts, None].to(total.dtype)
            of_pixel, of_probability, of_object = (
                each[prompts][:, masks, None, None] for each in (by_pixel, by_probability, by_object)
            )
            p, sign = z.sigmoid(), 1 - 2 * t
            slope, missed = torch.addcmul(p, p, p, value=-1), torch.addcmul(t, p, sign)
            by_logit = p.sub_(t)
            if ctx.gamma > 0:
                by_missed = _entropy(z, t).mul_(slope)
                by_logit.mul_(missed).addcmul_(by_missed, sign, value=ctx.gamma)
                if ctx.gamma < 1:  # an infinite slope where nothing is missed, times nothing
                    missed.clamp_(min=torch.finfo(missed.dtype).tiny)
                by_logit.mul_(missed.pow_(ctx.gamma - 1))
            by_logit.mul_(_weight(t, ctx.alpha)).mul_(of_pixel)
            by_logit.addcmul_(torch.addcmul(of_probability, of_object, t), slope)
            gradient[prompts][:, masks] = by_logit.to(gradient.dtype)
        return gradient, None, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    """The prompts to work on together: one after the other on a CPU, elsewhere all."""
    if logits.device.type != "cpu":
        yield slice(None)
        return
    for prompt in range(len(logits)):
        yield slice(prompt, prompt + 1)


def _wanted(*gradients: Tensor) -> Tensor | slice:
    """Which masks of some prompts get any gradient; all of them on a GPU, which would otherwise be waited for."""
    if gradients[0].device.type != "cpu":
        return slice(None)
    return torch.stack(gradients).ne(0).flatten(0, 1).any(0).nonzero().squeeze(1)


def _entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Each pixel's cross-entropy, in memory of its own."""
    return F.softplus(logits).addcmul_(logits, targets, value=-1)


def _weight(targets: Tensor, alpha: float) -> Tensor:
    """Each pixel's weight in the focal loss."""
    return (2 * alpha - 1) * targets + (1 - alpha) if alpha >= 0 else torch.ones_like(targets)
