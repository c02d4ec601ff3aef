"""What was accepted, as a prepared dataset, and from there in the formats of other tools."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
from PIL import Image

from samtune.data.images import probe_image
from samtune.data.masks import write_region_file
from samtune.data.paths import relative_to
from samtune.data.prepare.image import safe_name
from samtune.data.prepare.spool import TableRow
from samtune.data.readers.common import unique
from samtune.data.reading import ABOUT
from samtune.data.table import SCHEMA, Dataset, ImageEntry, write_table
from samtune.data.writers.coco import write_coco
from samtune.data.writers.yolo import write_yolo
from samtune.errors import DataError
from samtune.studio.masks import region_from
from samtune.studio.state import StudioImage, StudioObject
from samtune.studio.studio import Studio
from samtune.types import ImageRecord, Split
from samtune.utils.files import new_folder, storage_errors, write_json

EXPORTS = "exports"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    path: Path
    files: int
    objects: int


def export(studio: Studio, form: str, tolerance: float) -> Exported:
    """Write everything accepted, and images that are done without objects, into a new folder of the studio.

    Args:
        studio: what to export.
        form: `coco`, `yolo`, or `masks`: a prepared dataset with a PNG file per object and a copy of each image.
        tolerance: how far outlines may be simplified, in pixels; 0 keeps every pixel. Masks are never simplified.

    Raises:
        DataError: nothing is accepted, or an image cannot be read.
        StorageError: the disk refused; nothing is left behind.
    """
    chosen = accepted(studio)
    folder = _numbered(studio.store.folder / EXPORTS, form)
    splits = {image.id: _split_in(studio, image) for image in chosen}
    if form == "masks":
        dataset = write_dataset(studio, chosen, splits, folder, copy=True)
    else:
        with storage_errors(studio.store.folder):
            folder.parent.mkdir(exist_ok=True)
            place = tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent)
        with place as temporary:
            dataset = write_dataset(studio, chosen, splits, Path(temporary) / "dataset", copy=False)
            writers: dict[str, Callable[[Dataset, Path], None]] = {
                "coco": partial(write_coco, tolerance=tolerance),
                "yolo": partial(write_yolo, tolerance=tolerance, holes=True),
            }
            writers[form](dataset, folder)
    objects = sum(len(image.objects) for image in dataset.images)
    return Exported(folder, sum(path.is_file() for path in folder.rglob("*")), objects)


def accepted(studio: Studio) -> list[StudioImage]:
    """Images that say something: with objects, or done without.

    Raises:
        DataError: there is none.
    """
    with studio.store.lock:
        found = [
            image
            for image in studio.store.state.images.values()
            if image.key in studio.source.entries and (image.kept or image.status == "done")
        ]
    if not any(image.kept for image in found):
        raise DataError.of(
            expected="at least one accepted object", found="none", where=studio.name, do="annotate something first"
        )
    return found


def write_dataset(
    studio: Studio, images: list[StudioImage], splits: Mapping[str, Split], folder: Path, *, copy: bool
) -> Dataset:
    """Write images and what is accepted of them as `prepare` would.

    Args:
        studio: whose images.
        images: which of them.
        splits: by id of the image.
        folder: to write, as a whole or not at all.
        copy: whether to copy the images; otherwise the table points at them.

    Raises:
        DataError: an image cannot be read.
        StorageError: the disk refused.
    """
    dataset, rows, names = studio.source.dataset, list[TableRow](), set[str]()
    with studio.store.lock:
        objects = {image.id: image.kept for image in images}
        categories = {one.id: one.name for one in studio.store.state.categories.values()}
    with new_folder(folder, sync=False) as target:
        for image in images:
            entry = studio.entry(image)
            name = unique(safe_name(Path(entry.image_path).stem).lower(), names)
            path = _placed(dataset, entry, name, target, folder, copy=copy)
            record = ImageRecord(
                image.id, dataset.root, image.width, image.height, splits[image.id], (), entry.group, dataset.root
            )
            row = TableRow.of_image(path, record, image.id, image.width, image.height)._replace(
                page=entry.page if entry.page != 1 else None,
                window_x=entry.window and entry.window[0],
                window_y=entry.window and entry.window[1],
            )
            rows += _rows(image, objects[image.id], categories, row, name, target) or [row]
        write_table(target, pl.DataFrame(rows, schema=SCHEMA, orient="row"))
        reading = dataset.reading.to_json() | {"in_tiles": False}
        write_json(target / ABOUT, {"format": 1, "source_format": "studio", "reading": reading})
    return Dataset.open(folder)


def _rows(
    image: StudioImage,
    objects: list[StudioObject],
    categories: Mapping[int, str],
    about: TableRow,
    name: str,
    target: Path,
) -> list[TableRow]:
    """Write the masks of an image; its rows."""
    if objects:
        (target / "masks" / name).mkdir(parents=True)
    rows: list[TableRow] = []
    for one in objects:
        path = f"masks/{name}/{one.id}.png"
        write_region_file(target / path, region_from(one.counts, image.height, image.width), image.height, image.width)
        x0, y0, x1, y1 = one.box
        rows.append(
            about._replace(
                mask_path=path, annotation_id=one.id, category=categories[one.category_id], x0=x0, y0=y0, x1=x1, y1=y1,
                area=one.area, iscrowd=one.is_crowd, is_fragment=False,
            )
        )  # fmt: skip
    return rows


def _placed(dataset: Dataset, entry: ImageEntry, name: str, target: Path, final: Path, *, copy: bool) -> str:
    """Where the table finds an image; those that EXIF turns are written upright, as the masks are."""
    path = dataset.root / entry.image_path
    is_turned = entry.window is None and probe_image(path).orientation != 1
    if not is_turned and (entry.window is not None or not copy):  # a tile is a view of a file too large to copy often
        return relative_to(path, final)
    place = f"images/{name}{'.png' if is_turned else path.suffix.lower()}"
    (target / "images").mkdir(exist_ok=True)
    if is_turned:
        Image.fromarray(dataset.read_image(entry)).save(target / place, compress_level=1)
    else:
        shutil.copyfile(path, target / place)
    return place


def _split_in(studio: Studio, image: StudioImage) -> Split:
    """The split of the source, or that of tuning; training where neither says."""
    if studio.source.has_splits:
        return studio.entry(image).split
    return Split(image.split) if image.split else Split.TRAIN


def _numbered(folder: Path, name: str) -> Path:
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"
