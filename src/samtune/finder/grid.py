"""The grid of clicks: what it finds, and its thresholds, chosen on annotated images.

Constants made for one model find nothing with another. Of the thresholds of predicted IoU and stability those of the
best F1 are taken; a mask is right at an IoU of 0.5 with an object, which can be found once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samtune.config import AutomaticConfig
from samtune.config.inference import LEAST_IOU_SCORE, LEAST_STABILITY
from samtune.data.table import Dataset
from samtune.errors import DataError
from samtune.finder.matching import OperatingPoint, best_f1, operating_points
from samtune.finder.measure import MOST, FoundImage, TrueImage, compress, read_true, right_finds
from samtune.inference.automatic import FoundMask, full_size, grid_candidates
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.inference.thresholds import GridThresholds, with_thresholds
from samtune.utils.results import Result

STABILITIES = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Thresholds of stability that are tried; of predicted IoU every value that occurs is."""
_RANKED_FROM = 0.1, 0.5
"""Predicted IoU and stability of masks that are ranked, where the thresholds are higher: AP is about the order."""


@dataclass(frozen=True)
class GridFinds:
    """What a grid of clicks finds in one image, ranked by predicted IoU.

    Attributes:
        ranked: all but the worst, for AP.
        kept: what the thresholds keep, those fitted for the model's run or the defaults: what a user gets.
    """

    ranked: FoundImage
    kept: FoundImage


@dataclass(frozen=True)
class GridFit(Result):
    """Thresholds and what they are worth on the images they were chosen on.

    Attributes:
        thresholds: chosen.
        images, objects: on how many.
        f1: with these thresholds, and with the constants that count where none are chosen.
    """

    thresholds: GridThresholds
    images: int
    objects: int
    f1: tuple[float, float]

    def lines(self) -> list[str]:
        """What to tell the user."""
        chosen = self.thresholds
        lines = [
            f"chosen on  {chosen.chosen_on}: {self.objects} objects in {self.images} images",
            f"keep       predicted IoU from {chosen.min_iou_score:.3f}, stability from {chosen.min_stability:.2f}",
            f"there      precision {chosen.precision:.2f}, recall {chosen.recall:.2f}, F1 {self.f1[0]:.2f}; with the "
            f"defaults F1 {self.f1[1]:.2f}",
        ]
        if self.f1[0] < 0.5:
            lines.append("weak       a grid of clicks is no way to find these objects; boxes or a finder are")
        return lines


def fit_grid(
    dataset: Dataset,
    split: Literal["train", "valid", "test"],
    predictor: Predictor,
    config: AutomaticConfig,
    most_images: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GridFit:
    """Choose thresholds for a model.

    Args:
        dataset: whole.
        split: annotated images that did not train the model.
        predictor: the model.
        config: grid; its thresholds play no part.
        most_images: of the split an even subset of at most so many is used.
        progress: told of images done and their total.

    Raises:
        DataError: the split has no objects.
    """
    images = dataset.split(split).images
    images = images[:: max(1, -(-len(images) // most_images))]
    truth: list[TrueImage] = []
    scores: dict[float, list[NDArray[Any]]] = {least: [] for least in STABILITIES}
    right: dict[float, list[NDArray[Any]]] = {least: [] for least in STABILITIES}
    for done, image in enumerate(images, start=1):
        embedded = predictor.embed(dataset.read_image(image))
        truth.append(read_true(dataset, image, ()))
        candidates = grid_candidates(predictor, embedded, config.points_per_side, config.chunk)
        chosen = {least: candidates.chosen(0.0, least, config.duplicate_iou) for least in STABILITIES}
        rows = np.unique(np.concatenate(list(chosen.values())))
        found = dict(full_size(predictor, embedded, candidates, rows, config.chunk))
        masks = {row: compress(one.mask) for row, one in found.items()}
        for least, numbers in chosen.items():
            kept = [row for row in numbers.tolist() if row in masks]
            ranked = candidates.iou_scores[kept].astype(np.float64)
            finds = FoundImage([masks[row] for row in kept], np.zeros(len(kept), np.int64), ranked)
            hits, counted = right_finds(truth[-1], finds, named=False)
            scores[least].append(ranked[counted])
            right[least].append(hits[counted])
        progress(done, len(images))
    objects = sum(len(one.masks) for one in truth)
    if not objects:
        raise DataError.of(
            expected=f"annotated objects in the {split} split", found="none", where=str(dataset.root),
            do="name another with --split",
        )  # fmt: skip
    pooled = {least: (np.concatenate(scores[least]), np.concatenate(right[least])) for least in STABILITIES}
    points = {least: best_f1(operating_points(*pooled[least], objects)) for least in STABILITIES}
    best = max(STABILITIES, key=lambda least: points[least].f1)
    point, usual = points[best], _at_defaults(*pooled[LEAST_STABILITY], objects)
    chosen = GridThresholds(
        min_iou_score=min(point.threshold, 1.0),
        min_stability=best,
        precision=point.precision,
        recall=point.recall,
        chosen_on=f"the {split} split of {dataset.root.name}",
    )
    return GridFit(chosen, len(images), objects, (point.f1, usual.f1))


def find_by_grid(predictor: Predictor, embedded: EmbeddedImage) -> GridFinds:
    """Find everything in an image by a grid of clicks as a user has it, and what stands below the thresholds.

    The thresholds are those that `samtune fit-grid` chose for the model's run, else the defaults.
    """
    config = with_thresholds(AutomaticConfig(), predictor.loaded)
    least = config.least_iou_score, config.least_stability
    lowest = min(least[0], _RANKED_FROM[0]), min(least[1], _RANKED_FROM[1])
    candidates = grid_candidates(predictor, embedded, config.points_per_side, config.chunk, lowest)
    ranked, kept = (candidates.chosen(*some, config.duplicate_iou)[:MOST] for some in (lowest, least))
    rows = np.unique(np.concatenate([ranked, kept]))
    found = dict(full_size(predictor, embedded, candidates, rows, config.chunk))
    found = {row: one for row, one in found.items() if one.region.area >= config.min_area}
    masks = {row: compress(one.mask) for row, one in found.items()}
    return GridFinds(_as_finds(ranked, found, masks), _as_finds(kept, found, masks))


def _as_finds(numbers: NDArray[Any], found: dict[int, FoundMask], masks: dict[int, dict[str, Any]]) -> FoundImage:
    rows = [row for row in numbers.tolist() if row in masks]
    scores = np.array([found[row].iou_score for row in rows], np.float64)
    return FoundImage([masks[row] for row in rows], np.zeros(len(rows), np.int64), scores)


def _at_defaults(scores: NDArray[Any], right: NDArray[Any], objects: int) -> OperatingPoint:
    """What comes of the constants that count where no thresholds are chosen."""
    kept = scores >= LEAST_IOU_SCORE
    hits, finds = int(right[kept].sum()), int(kept.sum())
    return OperatingPoint(LEAST_IOU_SCORE, hits / finds if finds else 1.0, hits / objects)
