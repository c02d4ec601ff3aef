"""One very large image with thousands of objects, as scanned slides and aerial images are: for tests and benchmarks.

The image is drawn strip by strip into the file, so that it may be larger than memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.synthetic.outlines import blob
from samtune.utils.files import new_folder, write_json

IMAGE, ANNOTATIONS = "sheet.tif", "_annotations.coco.json"


@dataclass(frozen=True, slots=True)
class SheetObject:
    """One object: its outline as a polygon `[P, 2]` (xy, pixels), its box xyxy, and its gray value."""

    ring: NDArray[np.float32]
    box: tuple[float, float, float, float]
    gray: int


def write_sheet(out: Path, side: int, objects: int, seed: int = 0) -> list[SheetObject]:
    """Write a folder with a gray TIFF in tiles of 256 pixels and a COCO file about it.

    Objects are bright or dark blobs of 20 to 110 pixels, apart from each other, one in each cell of a grid.

    Args:
        out: folder to write, replaced when it exists.
        side: of the square image, in pixels; a multiple of 16.
        objects: how many.
        seed: of everything drawn.

    Raises:
        StorageError: the disk refused.
    """
    import tifffile

    rng = np.random.default_rng(seed)
    drawn = _objects(rng, side, objects)
    with new_folder(out, sync=False) as folder:
        with tifffile.TiffWriter(folder / IMAGE, bigtiff=side * side > 1 << 31) as file:
            file.write(
                _tiles(rng, drawn, side), shape=(side, side), dtype=np.uint8, tile=(256, 256), photometric="minisblack"
            )
        write_json(folder / ANNOTATIONS, _coco(drawn, side))
    return drawn


def _objects(rng: np.random.Generator, side: int, count: int) -> list[SheetObject]:
    across = math.ceil(math.sqrt(count))
    pitch = side / across
    largest = min(55.0, 0.4 * pitch)
    cells = rng.choice(across * across, count, replace=False)
    drawn: list[SheetObject] = []
    for cell in sorted(cells.tolist()):
        radius = rng.uniform(0.2, 1) * largest
        room = max(0.0, pitch / 2 - radius - 2)
        middle = (np.array([cell % across, cell // across]) + 0.5) * pitch + rng.uniform(-room, room, 2)
        placed = blob(rng).placed(
            (float(middle[0]), float(middle[1])), radius, rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1)
        )
        ring = np.round(np.clip(placed.fills[0], 0, side), 1)
        (x0, y0), (x1, y1) = ring.min(0).tolist(), ring.max(0).tolist()
        drawn.append(SheetObject(ring, (x0, y0, x1, y1), int(rng.choice([40, 60, 200, 220]))))
    return drawn


def _tiles(rng: np.random.Generator, drawn: list[SheetObject], side: int) -> Iterator[NDArray[np.uint8]]:
    """The file's tiles of 256 x 256 pixels, row by row."""
    ordered = sorted(drawn, key=lambda one: one.box[1])
    noise = rng.normal(0, 9, (1024, 1024)).astype(np.float32)
    for top in range(0, side, 256):
        height = 256
        ground = 125 + 18 * np.sin(np.arange(side, dtype=np.float32) / 900 + top / 700)
        strip = np.tile(ground, (height, 1))
        for one in ordered:
            if one.box[1] > top + height or one.box[3] < top:
                continue
            corners = np.round((one.ring - (0.5, top + 0.5)) * 16).astype(np.int32)
            cv2.fillPoly(strip, [corners], (float(one.gray),), lineType=cv2.LINE_AA, shift=4)
        for left in range(0, side, 256):
            x, y = (int(value) for value in rng.integers(0, 768, 2))
            part = strip[:, left : left + 256]
            tile = np.zeros((256, 256), np.uint8)
            grain = noise[y : y + 256, x : x + part.shape[1]]
            tile[:, : part.shape[1]] = (part + grain).clip(0, 255)
            yield tile


def _coco(drawn: list[SheetObject], side: int) -> dict[str, Any]:
    annotations = [
        {
            "id": number, "image_id": 1, "category_id": 1, "iscrowd": 0,
            "segmentation": [one.ring.ravel().round(1).tolist()],
            "bbox": [one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1]],
        }
        for number, one in enumerate(drawn, start=1)
    ]  # fmt: skip
    return {
        "images": [{"id": 1, "file_name": IMAGE, "width": side, "height": side}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": annotations,
    }
