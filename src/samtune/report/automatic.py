"""Measuring the masks that models find by a grid of clicks: COCO's AP and AR, and how far counts are off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from samtune.config import AutomaticConfig
from samtune.data.table import Dataset
from samtune.evaluation.automatic import AutomaticFigures
from samtune.evaluation.intervals import summarize
from samtune.evaluation.protocol import encoder_of
from samtune.finder.measure import MOST, FoundImage, TrueImage, coco_precision, compress, read_true
from samtune.inference.automatic import automatic_masks
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.inference.thresholds import with_thresholds


def measure_automatic(
    dataset: Dataset,
    split: str,
    models: Sequence[Predictor],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[AutomaticFigures]:
    """Find everything in every image of a split, and compare with what is annotated.

    Args:
        dataset: whole.
        split: with at least one object.
        models: each image is encoded once for all that share an encoder; each keeps the masks above the thresholds that
            were chosen for it (`samtune fit-grid`), or the usual ones.
        progress: called with images done and their total.

    Returns:
        The figures of each model.

    Raises:
        DataError: an image or a mask cannot be read.
    """
    images = dataset.split(split).images
    truth: list[TrueImage] = []
    found: list[list[FoundImage]] = [[] for _ in models]
    encoders = [encoder_of(model) for model in models]
    grids = [with_thresholds(AutomaticConfig(), model.loaded) for model in models]
    for done, image in enumerate(images, start=1):
        pixels = dataset.read_image(image)
        embedded: dict[tuple[str, int, str], EmbeddedImage] = {}
        for model, encoder, grid, of_model in zip(models, encoders, grids, found, strict=True):
            if encoder not in embedded:
                embedded[encoder] = model.embed(pixels)
            of_model.append(_found(model, embedded[encoder], grid))
        truth.append(read_true(dataset, image, ()))
        progress(done, len(images))
    return [_figures(truth, of_model, grid) for of_model, grid in zip(found, grids, strict=True)]


def _found(model: Predictor, embedded: EmbeddedImage, grid: AutomaticConfig) -> FoundImage:
    masks = automatic_masks(model, embedded, grid)[:MOST]
    scores = np.array([one.iou_score for one in masks], np.float64)
    return FoundImage([compress(one.mask) for one in masks], np.zeros(len(masks), np.int64), scores)


def _figures(truth: Sequence[TrueImage], found: Sequence[FoundImage], grid: AutomaticConfig) -> AutomaticFigures:
    precision = coco_precision(truth, found, named=False)
    counts = [(len(these.masks), len(one.masks)) for one, these in zip(truth, found, strict=True)]
    errors = [float(abs(masks - objects)) for masks, objects in counts]
    error = summarize(errors, [one.image.group for one in truth], bounds=(0.0, 1e9))  # no upper end: a log scale
    assert error is not None
    return AutomaticFigures(
        ap=precision.ap,
        ap50=precision.ap50,
        ap75=precision.ap75,
        ar=precision.ar,
        found=sum(masks for masks, _ in counts),
        annotated=sum(objects for _, objects in counts),
        count_error=error,
        min_iou_score=grid.least_iou_score,
        min_stability=grid.least_stability,
    )
