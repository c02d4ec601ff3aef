"""What models find by a grid of clicks in the images of a split: COCO's AP and AR, and how far counts are off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from samtune.data.table import Dataset
from samtune.evaluation.automatic import AutomaticFigures
from samtune.evaluation.intervals import COUNT, summarize
from samtune.evaluation.protocol import encoder_of
from samtune.finder.coco import coco_precision
from samtune.finder.grid import GridFinds, find_by_grid
from samtune.finder.measure import TrueImage, read_true
from samtune.inference.predictor import EmbeddedImage, Predictor


@dataclass(frozen=True)
class GridsOfClicks:
    """What grids of clicks find in the images of a split.

    Attributes:
        truth: the annotated objects, all of one class.
        found: for each model what it finds in each image.
    """

    truth: tuple[TrueImage, ...]
    found: tuple[tuple[GridFinds, ...], ...]

    def figures(self) -> list[AutomaticFigures]:
        """The figures of each model: AP and AR of all masks ranked by predicted IoU, counts of those kept."""
        return [_figures(self.truth, of_model) for of_model in self.found]


def find_by_grids(
    dataset: Dataset,
    split: str,
    models: Sequence[Predictor],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GridsOfClicks:
    """Find everything in every image of a split.

    Args:
        dataset: whole.
        split: with at least one object.
        models: each image is encoded once for all that share an encoder.
        progress: called with images done and their total.

    Raises:
        DataError: an image or a mask cannot be read.
    """
    images = dataset.split(split).images
    truth: list[TrueImage] = []
    found: list[list[GridFinds]] = [[] for _ in models]
    encoders = [encoder_of(model) for model in models]
    for done, image in enumerate(images, start=1):
        pixels = dataset.read_image(image)
        embedded: dict[tuple[str, int, str], EmbeddedImage] = {}
        for model, encoder, of_model in zip(models, encoders, found, strict=True):
            if encoder not in embedded:
                embedded[encoder] = model.embed(pixels)
            of_model.append(find_by_grid(model, embedded[encoder]))
        truth.append(read_true(dataset, image, ()))
        progress(done, len(images))
    return GridsOfClicks(tuple(truth), tuple(tuple(of_model) for of_model in found))


def _figures(truth: Sequence[TrueImage], found: Sequence[GridFinds]) -> AutomaticFigures:
    precision = coco_precision(truth, [one.ranked for one in found], named=False)
    counts = [(len(these.kept.masks), len(one.masks)) for one, these in zip(truth, found, strict=True)]
    errors = [float(abs(masks - objects)) for masks, objects in counts]
    error = summarize(errors, [one.image.group for one in truth], bounds=COUNT)
    assert error is not None
    return AutomaticFigures(
        ap=precision.ap,
        ap50=precision.ap50,
        ap75=precision.ap75,
        ar=precision.ar,
        found=sum(masks for masks, _ in counts),
        annotated=sum(objects for _, objects in counts),
        count_error=error,
    )
