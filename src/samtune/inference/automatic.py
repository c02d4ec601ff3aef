"""Everything in a picture: a grid of clicks, kept by predicted IoU and stability, duplicates removed.

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
from samtune.model.decoder import DecoderOutput
from samtune.model.preprocess import upscale_masks
from samtune.prompts import PromptBatch

STABILITY_OFFSET = 1.0
"""Distance of the two logit thresholds whose masks must agree, as in the official generator."""


@dataclass(frozen=True, slots=True)
class FoundMask:
    """One thing found in a picture.

    Attributes:
        mask: bool `[H, W]`, at the picture's size.
        point: xy of the click that found it, in pixels of the picture.
        iou_score: predicted IoU, 0 to 1.
        stability: IoU of the masks at logits 1 and -1, 0 to 1.
    """

    mask: NDArray[np.bool_]
    point: tuple[float, float]
    iou_score: float
    stability: float


@torch.no_grad()
def automatic_masks(predictor: Predictor, embedded: EmbeddedImage, config: AutomaticConfig) -> list[FoundMask]:
    """Find everything in a picture.

    Args:
        predictor: the model.
        embedded: the picture.
        config: grid and thresholds.

    Returns:
        What was found, best predicted IoU first.
    """
    height, width = embedded.size
    size = predictor.loaded.image_size
    steps = (torch.arange(config.points_per_side) + 0.5) / config.points_per_side
    grid = torch.cartesian_prod(steps, steps).flip(1)
    masks: list[Tensor] = []
    rows: list[Tensor] = []
    for chunk in grid.split(config.chunk):
        output = predictor.decode(embedded, PromptBatch.from_clicks((chunk * size)[:, None]))
        kept, figures = _good(output, chunk, config)
        masks.append(kept)
        rows.append(figures)
    low_res, table = torch.cat(masks), torch.cat(rows)
    low_res, table = _without_duplicates(low_res, table, config.duplicate_iou)
    found: list[FoundMask] = []
    for logits, (iou, stability, x, y) in zip(low_res, table.tolist(), strict=True):
        mask = (upscale_masks(logits, (height, width)) > 0).cpu().numpy()
        if mask.sum() >= config.min_area:
            found.append(FoundMask(mask, (x * width, y * height), iou, stability))
    return found


def _good(output: DecoderOutput, points: Tensor, config: AutomaticConfig) -> tuple[Tensor, Tensor]:
    """Masks `[K, h, w]` worth keeping of the three guesses at each point, and their figures: IoU, stability, x, y."""
    logits, scores = output.masks[:, 1:].flatten(0, 1).cpu(), output.iou_scores[:, 1:].flatten().cpu()
    present = (output.object_score_logits > 0).repeat_interleave(3).cpu()
    outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
    stability = (logits > STABILITY_OFFSET).flatten(1).sum(1) / outer.clamp(min=1)
    good = present & (scores >= config.min_iou_score) & (stability >= config.min_stability)
    figures = torch.cat([scores[:, None], stability[:, None], points.repeat_interleave(3, dim=0)], dim=1)
    return logits[good], figures[good]


def _without_duplicates(logits: Tensor, figures: Tensor, most_alike: float) -> tuple[Tensor, Tensor]:
    """Greedy suppression by mask IoU: of two masks more alike than `most_alike`, the better scored one stays."""
    order = figures[:, 0].argsort(descending=True, stable=True)
    logits, figures = logits[order], figures[order]
    flat = (logits > 0).flatten(1).float()
    overlap = flat @ flat.T
    area = flat.sum(1)
    alike = overlap / (area[:, None] + area[None] - overlap).clamp(min=1) > most_alike
    kept: list[int] = []
    for index in range(len(flat)):
        if not alike[index, kept].any():
            kept.append(index)
    return logits[kept], figures[kept]
