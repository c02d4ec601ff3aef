"""A prepared dataset as YOLO segmentation, which knows polygons only.

An object of several parts becomes one ring, joined by lines there and back. Holes are filled, because the format has no
word for them, or joined to the ring in the same way: most programs then leave them out, some fill them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from samtune.data.table import Dataset, ImageEntry
from samtune.data.writers.common import copied, new_export, splits
from samtune.types import Split


def write_yolo(dataset: Dataset, out: Path, *, tolerance: float = 0.0, holes: bool = False) -> None:
    """Write `out/data.yaml`, `out/SPLIT/images` and `out/SPLIT/labels`, a line of text per object.

    Args:
        dataset: what to write.
        out: a folder that does not exist yet, or is empty.
        tolerance: how far outlines may be simplified, in pixels; 0 keeps every corner.
        holes: keep holes, joined to the ring.

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
                lines = [
                    _yolo_line(
                        mask_to_ring(dataset.read_mask(found), tolerance, holes=holes), image, numbers[found.category]
                    )
                    for found in image.objects
                ]
                (labels / f"{Path(name).stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (target / "data.yaml").write_text(
            yaml.safe_dump(settings, sort_keys=True, allow_unicode=True), encoding="utf-8"
        )


def mask_to_ring(mask: NDArray[np.bool_], tolerance: float = 0.0, *, holes: bool = False) -> list[tuple[float, float]]:
    """The outline of a mask bool `[H, W]` as one ring of points xy in pixels, parts joined by bridges.

    Without tolerance the ring covers the same pixels when it is rasterised again.

    Args:
        mask: with at least one pixel.
        tolerance: how far the outline may be simplified, in pixels.
        holes: join holes to the ring as well; otherwise they are filled.
    """
    rings = mask_outlines(mask, tolerance, holes=holes)
    joined = [tuple(map(float, point)) for point in rings[0]]
    start = joined[0]
    for ring in rings[1:]:
        points = [tuple(map(float, point)) for point in ring]
        joined += [start, *points, points[0]]
    if len(rings) > 1:
        joined.append(start)
    return [(point[0], point[1]) for point in joined]


def mask_outlines(mask: NDArray[np.bool_], tolerance: float = 0.0, *, holes: bool = False) -> list[NDArray[np.float64]]:
    """The outlines of a mask as rings `[P, 2]`, xy in pixels, the longest outer one first. Arguments: `mask_to_ring`.

    Only without holes is every ring an outer one.
    """
    # At four times the size contours run through the outermost quarter pixels, which the rasteriser keeps.
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = np.repeat(np.repeat(mask[y0 : y0 + height, x0 : x0 + width], 4, axis=0), 4, axis=1).astype(np.uint8)
    kind = cv2.RETR_CCOMP if holes else cv2.RETR_EXTERNAL
    contours, hierarchy = cv2.findContours(part, kind, cv2.CHAIN_APPROX_SIMPLE)
    is_hole = [int(parent) >= 0 for *_, parent in hierarchy[0]]
    order = sorted(range(len(contours)), key=lambda number: (is_hole[number], -len(contours[number])))
    rings = (_simplified(contours[number], 4 * tolerance) for number in order)
    return [(ring.reshape(-1, 2) + 0.5) / 4 + (x0, y0) for ring in rings]


def _simplified(contour: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """A contour with fewer corners; as it is where fewer than three would be left."""
    simple = cv2.approxPolyDP(contour, tolerance, closed=True) if tolerance else contour
    return simple if len(simple) >= 3 else contour


def _yolo_line(ring: list[tuple[float, float]], image: ImageEntry, number: int) -> str:
    return " ".join([str(number), *(f"{x / image.width:.7g} {y / image.height:.7g}" for x, y in ring)])
