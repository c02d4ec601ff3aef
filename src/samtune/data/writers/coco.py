"""A prepared dataset as COCO annotations, which keep every mask exactly, as compressed run lengths.

With a tolerance, objects without holes become simplified polygons instead, which every tool edits; COCO's polygons have
no word for holes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import encode_rle, format_counts
from samtune.data.readers.detect import ROBOFLOW_NAME
from samtune.data.table import Dataset, ObjectEntry
from samtune.data.writers.common import copied, new_export, splits
from samtune.data.writers.yolo import mask_outlines


def write_coco(dataset: Dataset, out: Path, *, tolerance: float = 0.0) -> None:
    """Write `out/SPLIT/_annotations.coco.json` with the images beside it, as Roboflow lays exports out.

    Args:
        dataset: what to write.
        out: a folder that does not exist yet, or is empty.
        tolerance: how far outlines of objects without holes may be simplified, in pixels; 0 keeps all masks exactly.

    Raises:
        ConfigError: `out` holds something.
        DataError: a mask or image cannot be read.
        StorageError: the disk refused; nothing is left behind.
    """
    category_ids = {name: number for number, name in enumerate(dataset.categories, start=1)}
    with new_export(out) as target:
        for split, images in splits(dataset):
            content: dict[str, list[dict[str, Any]]] = {
                "images": [],
                "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
                "annotations": [],
            }
            for number, (image, name) in enumerate(copied(dataset, images, target / split.value), start=1):
                content["images"].append(
                    {"id": number, "file_name": name, "width": image.width, "height": image.height}
                )
                for found in image.objects:
                    identifier = len(content["annotations"]) + 1
                    entry = _coco_annotation(dataset, found, identifier, number, category_ids[found.category])
                    entry["segmentation"] = _segmentation(dataset.read_mask(found), tolerance)
                    content["annotations"].append(entry)
            (target / split.value / ROBOFLOW_NAME).write_text(json.dumps(content), encoding="utf-8")


def _coco_annotation(
    dataset: Dataset, found: ObjectEntry, identifier: int, image: int, category: int
) -> dict[str, Any]:
    x0, y0, x1, y1 = found.box
    return {
        "id": identifier,
        "image_id": image,
        "category_id": category,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": found.area,
        "iscrowd": int(found.iscrowd),
    }


def _segmentation(mask: NDArray[np.bool_], tolerance: float) -> Any:
    """Polygons where they are wanted and can say it, else run lengths."""
    if tolerance and len(rings := mask_outlines(mask, tolerance, holes=True)) == len(mask_outlines(mask)):
        return [ring.ravel().round(3).tolist() for ring in rings]
    return {"size": list(mask.shape), "counts": format_counts(encode_rle(mask))}
