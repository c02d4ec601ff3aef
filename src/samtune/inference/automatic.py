"""Everything in an image: a grid of clicks, kept by predicted IoU and stability, duplicates removed.

Source: the official automatic mask generator (`sam2/automatic_mask_generator.py`), without its crops, and with
duplicates judged by the masks themselves and not by their boxes, so that a ring and the disc inside it both stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.config import AutomaticConfig
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.reference import MULTIMASK_TOKENS, DecoderOutput
from samtune.model.preprocess import MASK_THRESHOLD, upscale_masks
from samtune.prompts.batch import PromptBatch

STABILITY_OFFSET = 1.0
"""Distance of the two logit thresholds whose masks must agree, as in the official generator."""
BLOCK = 256
"""Masks compared at once, which bounds memory and changes no number."""


@dataclass(frozen=True, slots=True)
class FoundMask:
    """One thing found in an image.

    Attributes:
        mask: bool `[H, W]`, at the image's size.
        point: xy of the click that found it, in pixels of the image.
        iou_score: predicted IoU, 0 to 1.
        stability: IoU of the masks at logits 1 and -1, 0 to 1.
        object_score: logit of something being there at all, above 0.
    """

    mask: NDArray[np.bool_]
    point: tuple[float, float]
    iou_score: float
    stability: float
    object_score: float


@torch.no_grad()
def automatic_masks(predictor: Predictor, embedded: EmbeddedImage, config: AutomaticConfig) -> list[FoundMask]:
    """Find everything in an image.

    Of a candidate only its low-res mask is kept, one bit per pixel; what is left in the end is decoded a second time.

    Args:
        predictor: the model.
        embedded: the image.
        config: grid and thresholds.

    Returns:
        What was found, best predicted IoU first.
    """
    height, width = embedded.size
    steps = (torch.arange(config.points_per_side) + 0.5) / config.points_per_side
    grid = torch.cartesian_prod(steps, steps).flip(1)
    candidates = [
        _good(_candidates(predictor, embedded, grid[points]), points, config)
        for points in torch.arange(len(grid)).split(config.chunk)
    ]
    bits, table = np.concatenate([bits for bits, _ in candidates]), torch.cat([figures for _, figures in candidates])
    kept = without_duplicates(bits, table[:, 0], config.duplicate_iou)
    found: list[FoundMask] = []
    for rows in table[kept].split(config.chunk) if kept else ():
        points = grid[rows[:, 3].long()]
        logits = _candidates(predictor, embedded, points).masks[torch.arange(len(rows)), rows[:, 4].long()]
        for low_res, (x, y), (iou, stability, score, *_) in zip(logits, points.tolist(), rows.tolist(), strict=True):
            mask = (upscale_masks(low_res, (height, width)) > MASK_THRESHOLD).cpu().numpy()
            if mask.sum() >= config.min_area:
                found.append(FoundMask(mask, (x * width, y * height), iou, stability, score))
    return found


def _candidates(predictor: Predictor, embedded: EmbeddedImage, points: Tensor) -> DecoderOutput:
    """The three masks for a click at each of `points`, xy `[N, 2]` as shares of the image's sides."""
    return predictor.decode(
        embedded, PromptBatch.from_clicks((points * predictor.loaded.image_size)[:, None]), MULTIMASK_TOKENS
    )


def _good(output: DecoderOutput, points: Tensor, config: AutomaticConfig) -> tuple[NDArray[np.uint8], Tensor]:
    """Of the three masks of each point those above the thresholds.

    Returns:
        K low-res masks, uint8 `[K, h * w / 8]`, and their figures `[K, 5]`: predicted IoU, stability, object score,
        number of the point, number of the mask.
    """
    logits, scores = output.masks.flatten(0, 1), output.iou_scores[:, 1:].flatten().cpu()
    outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
    stability = ((logits > STABILITY_OFFSET).flatten(1).sum(1) / outer.clamp(min=1)).cpu()
    present = output.object_score_logits.cpu().repeat_interleave(3)
    good = (present > 0) & (scores >= config.min_iou_score) & (stability >= config.min_stability)
    number, token = points.repeat_interleave(3), torch.arange(3).repeat(len(points))
    figures = torch.stack([scores.float(), stability, present.float(), number, token], dim=1)
    masks = (logits[good.to(logits.device)] > MASK_THRESHOLD).flatten(1).cpu().numpy()
    return np.packbits(masks, axis=1), figures[good]


def without_duplicates(bits: NDArray[np.uint8], scores: Tensor, duplicate_iou: float) -> list[int]:
    """Greedy suppression: of two masks with an IoU above `duplicate_iou`, the better scored one stays.

    Args:
        bits: masks, uint8 `[K, h * w / 8]`.
        scores: `[K]`.
        duplicate_iou: 0 to 1.

    Returns:
        Numbers of the masks that stay, the best scored first.
    """
    kept: list[int] = []
    for block in scores.argsort(descending=True, stable=True).split(BLOCK):
        masks = _unpacked(bits[block.numpy()])
        free = torch.ones(len(block), dtype=torch.bool)
        for start in range(0, len(kept), BLOCK):
            free &= ~_duplicates(masks, _unpacked(bits[kept[start : start + BLOCK]]), duplicate_iou).any(1)
        similar, chosen = _duplicates(masks, masks, duplicate_iou), list[int]()
        for row in free.nonzero().flatten().tolist():
            if not similar[row, chosen].any():
                chosen.append(row)
        kept += block[chosen].tolist()
    return kept


def _unpacked(bits: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits, axis=1)).float()


def _duplicates(first: Tensor, second: Tensor, most: float) -> Tensor:
    """Whether the IoU of masks `[A, h * w]` and `[B, h * w]` is above `most`: bool `[A, B]`."""
    overlap = first @ second.T
    return overlap / (first.sum(1)[:, None] + second.sum(1)[None] - overlap).clamp(min=1) > most
