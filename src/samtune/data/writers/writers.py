"""A prepared dataset back in the formats that annotation tools read: COCO and YOLO segmentation.

COCO keeps every mask exactly, as compressed run lengths. YOLO knows polygons only: an object of several parts becomes
one ring, joined by lines there and back, and holes are filled, because the format cannot say them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from samtune.data.masks import encode_rle, format_counts
from samtune.data.readers.common import unique
from samtune.data.readers.detect import ROBOFLOW_NAME
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.errors import DataError
from samtune.types import Split
from samtune.utils.files import new_folder
from samtune.utils.output_folders import check_output


def write_coco(dataset: Dataset, out: Path) -> None:
    """Write `out/SPLIT/_annotations.coco.json` with the images beside it, as Roboflow lays exports out.

    Args:
        dataset: what to write.
        out: a folder that does not exist yet, or is empty.

    Raises:
        ConfigError: `out` holds something.
        DataError: a mask or image cannot be read.
        StorageError: the disk refused; nothing is left behind.
    """
    category_ids = {name: number for number, name in enumerate(dataset.categories, start=1)}
    with _new_export(out) as target:
        for split, images in _splits(dataset):
            content: dict[str, list[dict[str, Any]]] = {
                "images": [],
                "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
                "annotations": [],
            }
            for number, (image, name) in enumerate(_copied(dataset, images, target / split.value), start=1):
                content["images"].append(
                    {"id": number, "file_name": name, "width": image.width, "height": image.height}
                )
                for found in image.objects:
                    identifier = len(content["annotations"]) + 1
                    entry = _coco_annotation(dataset, found, identifier, number, category_ids[found.category])
                    content["annotations"].append(entry)
            (target / split.value / ROBOFLOW_NAME).write_text(json.dumps(content), encoding="utf-8")


def write_yolo(dataset: Dataset, out: Path) -> None:
    """Write `out/data.yaml`, `out/SPLIT/images` and `out/SPLIT/labels`, a line of text per object.

    Args:
        dataset: what to write.
        out: a folder that does not exist yet, or is empty.

    Raises:
        ConfigError: `out` holds something.
        DataError: a mask or image cannot be read.
        StorageError: the disk refused; nothing is left behind.
    """
    numbers = {name: number for number, name in enumerate(dataset.categories)}
    settings: dict[str, Any] = {"names": list(dataset.categories), "nc": len(numbers)}
    with _new_export(out) as target:
        for split, images in _splits(dataset):
            settings["val" if split is Split.VALID else split.value] = f"{split.value}/images"
            labels = target / split.value / "labels"
            labels.mkdir(parents=True)
            for image, name in _copied(dataset, images, target / split.value / "images"):
                lines = [_yolo_line(dataset.read_mask(found), numbers[found.category]) for found in image.objects]
                (labels / f"{Path(name).stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (target / "data.yaml").write_text(
            yaml.safe_dump(settings, sort_keys=True, allow_unicode=True), encoding="utf-8"
        )


def mask_to_ring(mask: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """The outline of a mask bool `[H, W]` as one ring of points xy in pixels, holes filled, parts joined by bridges.

    The points are corners of pixels, so that the ring covers the same pixels when it is rasterised again.
    """
    # At four times the size contours run through the outermost quarter pixels, which the rasteriser keeps.
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = np.repeat(np.repeat(mask[y0 : y0 + height, x0 : x0 + width], 4, axis=0), 4, axis=1).astype(np.uint8)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = [(contour.reshape(-1, 2) + 0.5) / 4 + (x0, y0) for contour in sorted(contours, key=len, reverse=True)]
    joined = [tuple(map(float, point)) for point in rings[0]]
    start = joined[0]
    for ring in rings[1:]:
        points = [tuple(map(float, point)) for point in ring]
        joined += [start, *points, points[0]]
    if len(rings) > 1:
        joined.append(start)
    return [(point[0], point[1]) for point in joined]


def _coco_annotation(
    dataset: Dataset, found: ObjectEntry, identifier: int, image: int, category: int
) -> dict[str, Any]:
    mask = dataset.read_mask(found)
    x0, y0, x1, y1 = found.box
    return {
        "id": identifier,
        "image_id": image,
        "category_id": category,
        "segmentation": {"size": list(mask.shape), "counts": format_counts(encode_rle(mask))},
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": found.area,
        "iscrowd": int(found.iscrowd),
    }


def _yolo_line(mask: NDArray[np.bool_], number: int) -> str:
    height, width = mask.shape
    points = mask_to_ring(mask)
    return " ".join([str(number), *(f"{x / width:.7g} {y / height:.7g}" for x, y in points)])


@contextmanager
def _new_export(out: Path) -> Generator[Path]:
    """A folder to write an export into, which becomes `out` when it is whole; `out` must not hold anything yet."""
    check_output(out)
    with new_folder(out, sync=False) as target:
        yield target


def _splits(dataset: Dataset) -> Iterator[tuple[Split, tuple[ImageEntry, ...]]]:
    """Every split that has images."""
    for split in Split:
        if images := dataset.split(split).images:
            yield split, images


def _copied(dataset: Dataset, images: tuple[ImageEntry, ...], folder: Path) -> Iterator[tuple[ImageEntry, str]]:
    """Copy images one by one; gives each with its new name, no two of which differ in the ending only."""
    folder.mkdir(parents=True)
    stems: set[str] = set()
    for image in images:
        source = dataset.root / image.image_path
        if not source.is_file():
            raise DataError.of(
                expected="the dataset's images", found="no such file", where=str(source), do="run samtune prepare again"
            )
        name = unique(source.stem, stems) + source.suffix
        shutil.copyfile(source, folder / name)
        yield image, name
