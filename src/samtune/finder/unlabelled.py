"""Learning from images that nobody labelled: a finder's sure finds in them, and nothing where it is unsure.

Self-training with pseudo-labels (Lee 2013). What is sure is chosen on held-out images, by precision. Where a find is
neither sure nor surely wrong nothing is asked, as in crowd regions; all else teaches what background looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from samtune.data.images import read_image
from samtune.data.masks import decode_rle, mask_box, write_mask_file
from samtune.data.table import SCHEMA, Dataset, ImageEntry
from samtune.embeddings.dataset import DatasetEmbeddings
from samtune.errors import DataError
from samtune.finder.finding import find, full_masks
from samtune.finder.matching import with_precision
from samtune.finder.name_training import seen_from
from samtune.finder.results import Finder
from samtune.inference.predictor import Predictor

SURE = 0.7
"""Precision on held-out images of the finds that are learned from."""
UNSURE = 0.05
"""Score below which a find is taken for background."""


@dataclass(frozen=True)
class SelfLabelled:
    """Images with what a finder found in them.

    Attributes:
        embeddings: of the finder's dataset with these images in its training split.
        images: these images.
        sure: finds that are learned from.
        unsure: finds of which nothing is asked.
    """

    embeddings: DatasetEmbeddings
    images: tuple[ImageEntry, ...]
    sure: int
    unsure: int


def not_in(dataset: Dataset, files: Sequence[Path]) -> list[Path]:
    """Files that are no images of a dataset.

    Raises:
        DataError: all of them are.
    """
    known = {(dataset.root / image.image_path).resolve() for image in dataset.images}
    others = [file for file in files if file.resolve() not in known]
    if not others:
        raise DataError.of(
            expected="images that are not in the dataset",
            found=f"{len(files)}, all of which are",
            where=str(files[0].parent),
            do="images without objects in the dataset teach that nothing is there; leave out of it what is unlabelled",
        )
    return others


def label_by_itself(
    predictor: Predictor,
    embeddings: DatasetEmbeddings,
    finder: Finder,
    files: Sequence[Path],
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SelfLabelled:
    """Find in images that are not in the dataset, and add them to it.

    Args:
        predictor: the tuned model.
        embeddings: of the dataset's images.
        finder: with scores and thresholds.
        files: the images.
        folder: where masks are written, which must outlast the use of the result.
        progress: told of images done and their total.

    Raises:
        DataError: an image cannot be read.
    """
    dataset = embeddings.dataset
    point = with_precision(finder.points, SURE)
    sure_from = 1.0 if point is None else max(point.threshold, UNSURE)
    bare = [_row(dataset, file, number) for number, file in enumerate(files)]
    added = replace(embeddings, dataset=_with(dataset, bare))
    rows, sure, unsure = list[dict[str, Any]](), 0, 0
    for done, (row, image) in enumerate(zip(bare, added.dataset.images[-len(bare) :], strict=True), start=1):
        finds = find(predictor, seen_from(added, image, finder.looks), finder).above(UNSURE)
        before = len(rows)
        for number, runs in enumerate(full_masks(finds)):
            mask, is_sure = decode_rle(runs), bool(finds.scores[number] >= sure_from)
            box = mask_box(mask)
            if box is None:
                continue
            file = folder / f"{image.image_id}-{number}.png"
            write_mask_file(file, mask)
            category = finder.names[finds.classes[number]]
            rows.append(
                row
                | dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
                | {"mask_path": str(file), "annotation_id": file.stem, "category": category}
                | {"area": int(mask.sum()), "iscrowd": not is_sure}
            )
            sure, unsure = sure + is_sure, unsure + (not is_sure)
        if len(rows) == before:
            rows.append(row)
        progress(done, len(files))
    labelled = _with(dataset, rows)
    return SelfLabelled(replace(embeddings, dataset=labelled), labelled.images[-len(files) :], sure, unsure)


def _row(dataset: Dataset, file: Path, number: int) -> dict[str, Any]:
    """The table's row of an image without objects."""
    height, width = read_image(file, reading=dataset.reading).shape[:2]
    name = f"unlabelled-{number}"
    return dict.fromkeys(SCHEMA) | {
        "image_path": str(file.resolve()),
        "split": "train",
        "image_id": name,
        "width": width,
        "height": height,
        "group": name,
    }


def _with(dataset: Dataset, rows: Sequence[dict[str, Any]]) -> Dataset:
    """A dataset with more rows."""
    return replace(dataset, table=pl.concat([dataset.table, pl.DataFrame(rows, schema=SCHEMA)]))
