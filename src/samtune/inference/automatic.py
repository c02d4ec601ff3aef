"""Everything in an image: a grid of clicks, kept by predicted IoU and stability, duplicates removed.

Source: the official automatic mask generator (`sam2/automatic_mask_generator.py`), its crops included, with duplicates
judged by the masks themselves and not by their boxes, so that a ring and the disc inside it both stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.config import AutomaticConfig
from samtune.data.masks import Region, region_of
from samtune.inference.overlaps import Integers, MaskRuns, without_duplicates
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.reference import MULTIMASK_TOKENS, DecoderOutput
from samtune.model.preprocess import MASK_THRESHOLD, upscale_masks
from samtune.prompts.batch import PromptBatch
from samtune.types import Window

STABILITY_OFFSET = 1.0
"""Distance of the two logit thresholds whose masks must agree, as in the official generator."""
CROP_OVERLAP = 512 / 1500
"""Share of the image's shorter side that crops share, as in the official generator."""
_CROP_EDGE = 0.02
"""Masks that come this near to a crop's edge, as a share of its side, are cut off there and do not count."""


@dataclass(frozen=True, slots=True)
class FoundMask:
    """One thing found in an image.

    Attributes:
        region: its pixels.
        size: (H, W) of the image.
        point: xy of the click that found it, in pixels of the image.
        iou_score: predicted IoU, 0 to 1.
        stability: IoU of the masks at logits 1 and -1, 0 to 1.
        object_score: logit of something being there at all, above 0.
    """

    region: Region
    size: tuple[int, int]
    point: tuple[float, float]
    iou_score: float
    stability: float
    object_score: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The whole mask, bool `[H, W]`."""
        return self.region.paste(*self.size)


@dataclass(frozen=True)
class Candidates:
    """The masks that a grid of clicks gives, three for each click, but for those of nothing.

    Attributes:
        points: xy `[P, 2]`, the clicks as shares of the image's sides.
        masks: K of them, on the low-res grid.
        iou_scores, stability, object_scores: `[K]`.
        point, token: int64 `[K]`, number of the click, and which of its three masks it is.
    """

    points: Tensor
    masks: MaskRuns
    iou_scores: NDArray[np.float32]
    stability: NDArray[np.float32]
    object_scores: NDArray[np.float32]
    point: Integers
    token: Integers

    def chosen(self, min_iou_score: float, min_stability: float, duplicate_iou: float) -> Integers:
        """Numbers of those above both thresholds without duplicates, best predicted IoU first."""
        good = np.flatnonzero((self.iou_scores >= min_iou_score) & (self.stability >= min_stability))
        return good[without_duplicates(self.masks[good], self.iou_scores[good], duplicate_iou)]


def everything(
    predictor: Predictor, image: NDArray[np.uint8], config: AutomaticConfig, embedded: EmbeddedImage | None = None
) -> list[FoundMask]:
    """Find everything in an image, in the whole of it and in crops of it at each scale.

    Args:
        predictor: the model.
        image: uint8 `[H, W, 3]` RGB.
        config: grid, crops and thresholds.
        embedded: the image after the encoder, where that is known already.

    Returns:
        What was found, best predicted IoU first.
    """
    found = automatic_masks(predictor, embedded or predictor.embed(image), config)
    if not config.crop_layers:
        return found
    size = (image.shape[0], image.shape[1])
    for layer in range(1, config.crop_layers + 1):
        windows = list(crops(*size, layer))
        for start in range(0, len(windows), config.crop_batch):
            some = windows[start : start + config.crop_batch]
            parts = predictor.embed_many([image[y0:y1, x0:x1] for x0, y0, x1, y1 in some])
            for window, part in zip(some, parts, strict=True):
                inside = automatic_masks(predictor, part, config)
                found += [_in_image(one, window, size) for one in inside if not _is_cut(one.region, window, size)]
    masks = MaskRuns.of_regions([one.region for one in found], size[0])
    scores = np.array([one.iou_score for one in found], np.float32)
    return [found[row] for row in without_duplicates(masks, scores, config.duplicate_iou)]


@torch.no_grad()
def automatic_masks(predictor: Predictor, embedded: EmbeddedImage, config: AutomaticConfig) -> list[FoundMask]:
    """Find everything in an image in one look at the whole of it.

    Of a candidate only its low-res mask is kept, as runs; what is left in the end is decoded a second time.

    Args:
        predictor: the model.
        embedded: the image.
        config: grid and thresholds.

    Returns:
        What was found, best predicted IoU first.
    """
    least = config.least_iou_score, config.least_stability
    candidates = grid_candidates(predictor, embedded, config.points_per_side, config.chunk, least)
    rows = candidates.chosen(*least, config.duplicate_iou)
    found = full_size(predictor, embedded, candidates, rows, config.chunk)
    return [one for _, one in found if one.region.area >= config.min_area]


@torch.no_grad()
def grid_candidates(
    predictor: Predictor,
    embedded: EmbeddedImage,
    points_per_side: int,
    chunk: int,
    least: tuple[float, float] = (0.0, 0.0),
) -> Candidates:
    """The masks of a grid of clicks, but for those where the model says nothing is.

    Args:
        predictor: the model.
        embedded: the image.
        points_per_side: clicks per side of the grid.
        chunk: clicks per decoder call.
        least: predicted IoU and stability of the masks that are kept.
    """
    steps = (torch.arange(points_per_side) + 0.5) / points_per_side
    grid = torch.cartesian_prod(steps, steps).flip(1)
    masks: list[MaskRuns] = []
    tables: list[Tensor] = []
    for numbers in torch.arange(len(grid)).split(chunk):
        output = _answers(predictor, embedded, grid[numbers])
        part, table = _good(output, numbers, *least)
        masks.append(part)
        tables.append(table)
    columns = torch.cat(tables).T.numpy()
    point, token = columns[3:].astype(np.int64)
    return Candidates(grid, MaskRuns.cat(masks), columns[0], columns[1], columns[2], point, token)


@torch.no_grad()
def full_size(
    predictor: Predictor, embedded: EmbeddedImage, candidates: Candidates, rows: Integers, chunk: int
) -> Iterator[tuple[int, FoundMask]]:
    """Candidates by number at the image's own size, in the order of `rows`; those without pixels there are left out."""
    height, width = embedded.size
    for some in np.array_split(rows, max(1, math.ceil(len(rows) / chunk))):
        if not some.size:
            return
        points = candidates.points[torch.from_numpy(candidates.point[some])]
        logits = _answers(predictor, embedded, points).masks[np.arange(len(some)), candidates.token[some]]
        for row, low_res, (x, y) in zip(some.tolist(), logits, points.tolist(), strict=True):
            region = region_of((upscale_masks(low_res, (height, width)) > MASK_THRESHOLD).cpu().numpy())
            if region is not None:
                columns = (candidates.iou_scores, candidates.stability, candidates.object_scores)
                figures = (float(column[row]) for column in columns)
                region = replace(region, mask=region.mask.copy())  # a view would keep the whole mask
                yield row, FoundMask(region, (height, width), (x * width, y * height), *figures)


def crops(height: int, width: int, layer: int) -> Iterator[Window]:
    """The crops of a layer: twice as many a side as in the layer before, each sharing a margin with its neighbours."""
    count = 2**layer
    shared = int(CROP_OVERLAP * min(height, width) * 2 / count)
    sides = [math.ceil((shared * (count - 1) + length) / count) for length in (width, height)]
    for row in range(count):
        for column in range(count):
            x0, y0 = column * (sides[0] - shared), row * (sides[1] - shared)
            if x0 < width and y0 < height:
                yield x0, y0, min(x0 + sides[0], width), min(y0 + sides[1], height)


def _is_cut(region: Region, window: Window, size: tuple[int, int]) -> bool:
    """Whether a mask ends at an edge of its crop where the image goes on."""
    x0, y0, x1, y1 = window
    left, top, right, bottom = region.box
    near_x, near_y = _CROP_EDGE * (x1 - x0), _CROP_EDGE * (y1 - y0)
    return (
        (x0 > 0 and left <= near_x) or (y0 > 0 and top <= near_y)
        or (x1 < size[1] and right >= x1 - x0 - near_x) or (y1 < size[0] and bottom >= y1 - y0 - near_y)
    )  # fmt: skip


def _in_image(one: FoundMask, window: Window, size: tuple[int, int]) -> FoundMask:
    x0, y0 = window[:2]
    return replace(one, region=one.region.moved(x0, y0), size=size, point=(one.point[0] + x0, one.point[1] + y0))


def _answers(predictor: Predictor, embedded: EmbeddedImage, points: Tensor) -> DecoderOutput:
    """The three masks for a click at each of `points`, xy `[N, 2]` as shares of the image's sides."""
    return predictor.decode(
        embedded, PromptBatch.from_clicks((points * predictor.loaded.image_size)[:, None]), MULTIMASK_TOKENS
    )


def _good(output: DecoderOutput, points: Tensor, min_iou_score: float, min_stability: float) -> tuple[MaskRuns, Tensor]:
    """Of the three masks of each point those above the thresholds.

    Returns:
        K low-res masks, and their figures `[K, 5]`: predicted IoU, stability, object score, number of the point, number
        of the mask.
    """
    logits, scores = output.masks.flatten(0, 1), output.iou_scores[:, 1:].flatten().cpu()
    outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
    stability = ((logits > STABILITY_OFFSET).flatten(1).sum(1) / outer.clamp(min=1)).cpu()
    present = output.object_score_logits.cpu().repeat_interleave(3)
    good = (present > 0) & (scores >= min_iou_score) & (stability >= min_stability)
    number, token = points.repeat_interleave(3), torch.arange(3).repeat(len(points))
    figures = torch.stack([scores.float(), stability, present.float(), number, token], dim=1)
    masks = (logits[good.to(logits.device)] > MASK_THRESHOLD).cpu().numpy()
    return MaskRuns.of_masks(masks), figures[good]
