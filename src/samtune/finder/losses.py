"""What the finder's network is punished for: wrong middles, wrong boxes, wrong names."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHA, BETA = 2, 4
"""Exponents of the focal loss: how little sure answers count, and how little cells near a middle do."""


def objectness_loss(logits: Tensor, heat: Tensor, counted: Tensor) -> Tensor:
    """Penalty-reduced focal loss, summed over cells and divided by the number of objects' own cells (at least 1).

    Source: CornerNet (Law and Deng 2018), equation 1.

    Args:
        logits: `[..., h, w]`.
        heat: the same shape, 0 to 1; 1 at the objects' own cells.
        counted: bool, the same shape; false where nothing is asked.
    """
    present = heat == 1
    p, yes, no = logits.sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)
    wrong = torch.where(present, -((1 - p) ** ALPHA) * yes, -((1 - heat) ** BETA) * p**ALPHA * no)
    return wrong.masked_fill(~counted, 0.0).sum() / (present & counted).sum().clamp(min=1)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Generalized IoU (Rezatofighi et al. 2019) of boxes `[N, 4]`, xyxy, pair by pair: `[N]`, -1 to 1."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    joined = _area(first) + _area(second) - shared
    hull = (torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])).prod(1)
    return shared / joined - (hull - joined) / hull


def box_loss(predicted: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of 1 - generalized IoU over N cells.

    Args:
        predicted, truth: `[N, 4]`, xyxy; truth has a positive area.
        weight: `[N]`, above 0.
    """
    if not len(weight):
        return predicted.sum() * 0.0
    return ((1 - generalized_iou(predicted, truth)) * weight).sum() / weight.sum()


def pooled(maps: Tensor, covered: Tensor) -> Tensor:
    """Mean of class maps over masks.

    Args:
        maps: `[K, h, w]`.
        covered: `[N, h, w]`, share of each cell the mask covers, 0 to 1; all zero gives zeros.

    Returns:
        `[N, K]`.
    """
    share = covered.flatten(1)
    return (share @ maps.flatten(1).T) / share.sum(1, keepdim=True).clamp(min=1e-6)


def class_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of N objects' names; `weights` `[K]` are `class_weights`."""
    if not len(classes):
        return logits.sum() * 0.0
    return F.cross_entropy(logits, classes, weight=weights)


def class_weights(counts: Tensor) -> Tensor:
    """1 / sqrt of how often each of K classes occurs, `[K]`, scaled to a mean of 1 over objects; 0 for none."""
    counts = counts.float()
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    return weights * counts.sum() / (weights * counts).sum().clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
