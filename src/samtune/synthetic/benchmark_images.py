"""What a benchmark works on: a prepared dataset of drawn images, every one of them with enough objects for a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.masks import mask_box, write_mask_file
from samtune.data.table import Dataset
from samtune.synthetic.dataset import write_drawn
from samtune.synthetic.microscope import microscope_scene
from samtune.types import Split

SIDE = 1024
"""Side of the images in pixels."""
OBJECTS = 16
"""Objects of each image."""
_TILES = 2
_SMALLEST = 60


def write_work(
    out: Path, images: int, *, seed: int = 0, advance: Callable[[int, int], None] = lambda done, total: None
) -> Dataset:
    """Draw a dataset: JPEG images of 1024 x 1024 pixels with 16 objects each, all but one for training.

    Args:
        out: folder to write, replaced when it exists.
        images: images for training; one more is for validation.
        seed: of everything drawn; the same seed gives the same bytes.
        advance: called with images drawn and their total.

    Raises:
        StorageError: the disk refused.
    """

    def write_image(folder: Path, index: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        return _write_image(folder, Split.TRAIN if index < images else Split.VALID, index, rng)

    return write_drawn(out, images + 1, write_image, seed=seed, advance=advance)


def _write_image(folder: Path, split: Split, index: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One image, its masks, and its rows of the table."""
    pixels, masks = _draw_image(rng)
    image = {
        "image_path": f"images/{index:04}.jpg",
        "split": str(split),
        "image_id": f"{index:04}",
        "width": SIDE,
        "height": SIDE,
        "group": f"{index:04}",
    }
    Image.fromarray(pixels).save(folder / image["image_path"], quality=92)
    rows: list[dict[str, Any]] = []
    for number, mask in enumerate(masks):
        box = mask_box(mask)
        assert box is not None, "objects without pixels were left out"
        path = f"masks/{index:04}-{number:02}.png"
        write_mask_file(folder / path, mask)
        described = {"mask_path": path, "annotation_id": f"{index}-{number}", "category": "cell", "iscrowd": False}
        place = dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
        rows.append(image | place | described | {"area": int(mask.sum())})
    return rows


def _draw_image(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """A scene and its mirror images side by side: drawing a quarter of the image takes a quarter of the time."""
    masks: list[NDArray[np.bool_]] = []
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    while len(masks) < OBJECTS:
        scene = microscope_scene(rng, SIDE // _TILES)
        image = _mirrored(scene.image)
        masks = [mask for mask in _tiles(scene.labels) if mask.sum() >= _SMALLEST]
    return image, masks[:OBJECTS]


def _mirrored(tile: NDArray[Any]) -> NDArray[Any]:
    """A tile `[h, w, ...]`, and beside and below it its mirror images: `[2h, 2w, ...]`."""
    row = np.concatenate([tile, tile[:, ::-1]], axis=1)
    return np.concatenate([row, row[::-1]], axis=0)


def _tiles(labels: NDArray[np.int32]) -> list[NDArray[np.bool_]]:
    """Masks of the whole image, of every label of the tile in each of the four places; one tile's after another's."""
    count, side = int(labels.max()), labels.shape[0]
    whole = _mirrored(labels)
    masks: list[NDArray[np.bool_]] = []
    for place in range(_TILES * _TILES):
        y, x = divmod(place, _TILES)
        window = np.s_[y * side : (y + 1) * side, x * side : (x + 1) * side]
        for label in range(1, count + 1):
            mask = np.zeros(whole.shape, np.bool_)
            mask[window] = whole[window] == label
            masks.append(mask)
    return masks
