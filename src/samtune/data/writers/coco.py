"""A prepared dataset as COCO annotations, which keep every mask exactly, as compressed run lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from samtune.data.masks import encode_rle, format_counts
from samtune.data.readers.detect import ROBOFLOW_NAME
from samtune.data.table import Dataset, ObjectEntry
from samtune.data.writers.common import copied, new_export, splits


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
                    content["annotations"].append(entry)
            (target / split.value / ROBOFLOW_NAME).write_text(json.dumps(content), encoding="utf-8")


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
