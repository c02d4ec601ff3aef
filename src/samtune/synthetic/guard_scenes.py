"""A small prepared dataset of procedural scenes: images unlike a user's, to see what a tuned model has forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from samtune.data.masks import mask_box, write_mask_file
from samtune.data.table import Dataset
from samtune.synthetic.dataset import write_drawn
from samtune.synthetic.scenes import random_scene
from samtune.types import Split

SIDE = 384
"""Side of the scenes in pixels."""
MOST_OBJECTS = 8
"""Objects of a scene that are asked about, evenly spaced."""
_SMALLEST = 100
"""Visible pixels an object has at least."""


def write_guard_scenes(
    out: Path, count: int, *, seed: int = 0, advance: Callable[[int, int], None] = lambda done, total: None
) -> Dataset:
    """Draw `count` scenes with exact masks as the test split of a prepared dataset.

    Args:
        out: folder to write, replaced when it exists.
        count: scenes, each a group of its own.
        seed: of everything drawn; the same seed gives the same bytes.
        advance: called with scenes drawn and their total.

    Raises:
        StorageError: the disk refused.
    """
    return write_drawn(out, count, _write_scene, seed=seed, advance=advance)


def _write_scene(folder: Path, number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One scene, its masks, and its rows of the table."""
    name = f"{number:03}"
    scene = random_scene(rng, SIDE)
    while not (masks := [mask for mask in scene.masks if np.count_nonzero(mask) >= _SMALLEST]):
        scene = random_scene(rng, SIDE)
    chosen = np.unique(np.linspace(0, len(masks) - 1, MOST_OBJECTS).round().astype(int)).tolist()
    Image.fromarray(scene.image).save(folder / f"images/{name}.png")
    image = {
        "image_path": f"images/{name}.png",
        "split": str(Split.TEST),
        "image_id": name,
        "width": SIDE,
        "height": SIDE,
        "group": name,
    }
    rows: list[dict[str, Any]] = []
    for place in chosen:
        mask = masks[place]
        box = mask_box(mask)
        assert box is not None, "masks without pixels were left out"
        path = f"masks/{name}-{place:03}.png"
        write_mask_file(folder / path, mask)
        described = {"mask_path": path, "annotation_id": f"{name}-{place}", "category": "shape", "iscrowd": False}
        corners = dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
        rows.append(image | corners | described | {"area": int(np.count_nonzero(mask))})
    return rows
