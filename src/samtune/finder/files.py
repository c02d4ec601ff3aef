"""Finding in image files: COCO results with names and calibrated scores, masks, overlays, and a table of counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.config import FindConfig, PredictConfig
from samtune.data.images import read_image
from samtune.data.masks import decode_rle
from samtune.data.reading import PLAIN, Reading
from samtune.drawing import draw_overlay
from samtune.finder.caveats import about_decoder, about_sizes
from samtune.finder.finding import Looks, check_fits, find, find_in_tiles, full_masks
from samtune.finder.results import Finder
from samtune.finder.verdict import judge
from samtune.inference.files import (
    MASKS,
    OVERLAYS,
    RESULTS,
    ImageView,
    MaskResult,
    coco_result,
    image_files,
    image_views,
    write_mask,
)
from samtune.inference.predictor import Predictor
from samtune.inference.tiles import draw_overview
from samtune.utils.files import new_folder, write_json, write_text
from samtune.utils.output_folders import check_output
from samtune.utils.results import Result
from samtune.utils.text import csv_text, text_table

COUNTS = "counts.csv"
_PLAINLY = PredictConfig()
_SHOWN = 20
"""Images whose counts are shown; the file has all of them."""


@dataclass(frozen=True, slots=True)
class FindReport(Result):
    """What was found and written.

    Attributes:
        out: the folder: `predictions.json`, `counts.csv`, `masks/` and `overlays/`.
        classes: names.
        counts: for each image, its file's name and how many of each class were found.
        threshold: least calibrated score that was kept.
        chosen_on: what the scores were calibrated on, in words.
        warning: what to keep in mind about the finder, in words.
    """

    out: Path
    classes: tuple[str, ...]
    counts: tuple[tuple[str, tuple[int, ...]], ...]
    threshold: float
    chosen_on: str
    warning: tuple[str, ...] = ()

    @property
    def objects(self) -> int:
        """How many were found in all images."""
        return sum(sum(found) for _, found in self.counts)

    def lines(self) -> list[str]:
        """What to tell the user."""
        rows = [(name, *(f"{count:,}" for count in found)) for name, found in self.counts[:_SHOWN]]
        total = np.array([found for _, found in self.counts], np.int64).sum(0)
        rows.append(("all images", *(f"{count:,}" for count in total)))
        hidden = len(self.counts) - _SHOWN
        return [
            *text_table(("image", *self.classes), rows),
            *([f"and {hidden} more images, see {COUNTS}"] if hidden > 0 else []),
            f"score      {self.threshold:.2f} or more; calibrated on {self.chosen_on}",
            *self.warning,
            f"results    {self.out / RESULTS}",
        ]


def find_in_files(
    images: Path,
    predictor: Predictor,
    finder: Finder,
    out: Path,
    config: FindConfig,
    *,
    look: PredictConfig = _PLAINLY,
    reading: Reading = PLAIN,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FindReport:
    """Find everything in images and write it.

    Args:
        images: one image, or a folder whose images are taken in the order of their names.
        predictor: the model whose decoder draws the masks.
        finder: the finder.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: which finds to keep.
        look: tiles, pages, and prompts per decoder call.
        reading: bands, page and stretch, see `samtune.inference.reading`.
        progress: told of images done and their total.

    Raises:
        DataError: no images, or one that cannot be decoded.
        ModelError: the finder was made for another encoder.
        ConfigError: no threshold gives the wanted precision or recall, or `out` holds something else.
        StorageError: the disk refused.
    """
    check_fits(finder, predictor)
    threshold = finder.chosen_threshold(config)
    files = image_files(images)
    check_output(out, mark=RESULTS, earlier="earlier predictions", inputs=[images])
    results: list[dict[str, Any]] = []
    counts: list[tuple[str, tuple[int, ...]]] = []
    with new_folder(out) as folder:
        (folder / MASKS).mkdir()
        (folder / OVERLAYS).mkdir()
        views = [view for file in files for view in image_views(file, look, reading)]
        sizes = [(look.tile, look.tile) if view.is_large(look) else view.info.upright_size for view in views]
        for done, view in enumerate(views, start=1):
            found, overlay = _found_in(view, predictor, finder, threshold, look)
            for number, one in enumerate(found):
                write_mask(folder / MASKS, f"{view.name}-{number:03}", one)
                name = {"category": finder.names[one.category_id - 1]}
                results.append(coco_result(one, view.file) | view.page | name)
            Image.fromarray(overlay).save(folder / OVERLAYS / f"{view.name}.png")
            classes = [one.category_id - 1 for one in found]
            counts.append((view.name, tuple(np.bincount(classes, minlength=len(finder.names)).tolist())))
            progress(done, len(views))
        write_json(folder / RESULTS, results)
        write_text(folder / COUNTS, _table(finder.names, counts))
    word = judge(finder)
    caveats = [*about_decoder(finder, predictor.loaded), *about_sizes(finder, sizes)]
    warning = (*(f"{'warning':<10} {one}" for one in caveats), *(() if word.is_usable else word.lines()))
    return FindReport(out, finder.names, tuple(counts), threshold, finder.chosen_on, warning)


def _found_in(
    view: ImageView, predictor: Predictor, finder: Finder, threshold: float, look: PredictConfig
) -> tuple[list[MaskResult], NDArray[np.uint8]]:
    """What is found in an image, surest first where it is looked at whole, and the image with it drawn on."""
    name = view.file.name
    if view.is_large(look):
        large = view.in_tiles(look)
        answers = find_in_tiles(predictor, large, finder, threshold, chunk=look.chunk)
        size = (large.height, large.width)
        found = [MaskResult(one.region, size, one.score, one.object_score, name, one.category + 1) for one in answers]
        return found, draw_overview(large, [one.region for one in found if one.region])
    image = read_image(view.file, reading=view.reading)
    finds = find(predictor, Looks.by(predictor, image, finder.looks), finder, chunk=look.chunk).above(threshold)
    masks = [decode_rle(runs) for runs in full_masks(finds)]
    rows = zip(masks, finds.scores.tolist(), finds.object_scores.tolist(), finds.classes.tolist(), strict=True)
    found = [MaskResult.of_mask(mask, score, seen, name, number + 1) for mask, score, seen, number in rows]
    return found, draw_overlay(image, masks)


def _table(names: tuple[str, ...], counts: list[tuple[str, tuple[int, ...]]]) -> str:
    """Counts as CSV."""
    return csv_text([("image", *names), *((name, *found) for name, found in counts)])
