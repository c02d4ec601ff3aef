"""A prepared dataset as YOLO segmentation, which knows polygons only.

An object of several parts becomes one ring, joined by lines there and back, and holes are filled, because the format
cannot express them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from samtune.data.table import Dataset
from samtune.data.writers.common import copied, new_export, splits
from samtune.types import Split


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
    with new_export(out) as target:
        for split, images in splits(dataset):
            settings["val" if split is Split.VALID else split.value] = f"{split.value}/images"
            labels = target / split.value / "labels"
            labels.mkdir(parents=True)
            for image, name in copied(dataset, images, target / split.value / "images"):
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


def _yolo_line(mask: NDArray[np.bool_], number: int) -> str:
    height, width = mask.shape
    points = mask_to_ring(mask)
    return " ".join([str(number), *(f"{x / width:.7g} {y / height:.7g}" for x, y in points)])
