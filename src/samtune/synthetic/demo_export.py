"""The demo's source: cells under a microscope, laid out like a Roboflow COCO export, with that export's habits.

`train|valid|test/_annotations.coco.json` beside the images, a placeholder category 0 that no annotation uses, names
with `.rf.` and a hash, mirrored copies of training images under the same stem, `area` as width times height of the
box, and a few images without any object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.synthetic.canvas import Scene
from samtune.synthetic.microscope import microscope_scene
from samtune.utils.files import new_folder, write_json

IMAGE_SIDE = 448
SCENES = {"train": 40, "valid": 12, "test": 24}
"""Microscope images per split; each training image also comes mirrored."""
EMPTY_EVERY = 12
"""Every so many images, one shows no cell."""
CATEGORIES = ("cells", "round", "spread")
"""Category 0 is Roboflow's placeholder."""


@dataclass(frozen=True, slots=True)
class _DrawnImage:
    stem: str
    scene: Scene
    mirrored: bool = False


def write_demo_export(out: Path, seed: int, advance: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Draw the images and write the export.

    Args:
        out: folder to write, replaced when it exists.
        seed: of everything drawn; the same seed gives the same bytes.
        advance: called with images drawn and their total.

    Raises:
        StorageError: the disk refused.
    """
    total = sum(SCENES.values())
    with new_folder(out) as folder:
        drawn = 0
        for number, (split, count) in enumerate(SCENES.items()):
            drawn_images: list[_DrawnImage] = []
            for index in range(count):
                rng = np.random.default_rng((seed, number, index))
                scene = _empty(rng) if index % EMPTY_EVERY == EMPTY_EVERY - 1 else microscope_scene(rng, IMAGE_SIDE)
                stem = f"well-{'ABC'[number]}{index + 1:02}_jpg"
                drawn_images.append(_DrawnImage(stem, scene))
                if split == "train":
                    drawn_images.append(_DrawnImage(stem, scene, mirrored=True))
                drawn += 1
                advance(drawn, total)
            _write_split(folder / split, drawn_images)


def _empty(rng: np.random.Generator) -> Scene:
    """An image of the medium and its debris: the cells of a scene are painted over."""
    scene = microscope_scene(rng, IMAGE_SIDE)
    covered = cv2.dilate((scene.labels > 0).astype(np.uint8), np.ones((25, 25), np.uint8))
    image = cv2.inpaint(scene.image, covered, 9, cv2.INPAINT_TELEA)
    noise = rng.normal(0, 4, (IMAGE_SIDE, IMAGE_SIDE, 1)) * covered[..., None]
    painted = np.clip(image + noise, 0, 255).astype(np.uint8)
    return Scene(painted, np.zeros_like(scene.labels), (), ())


def _write_split(folder: Path, drawn_images: Sequence[_DrawnImage]) -> None:
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for drawn_image in drawn_images:
        image, labels = drawn_image.scene.image, drawn_image.scene.labels
        if drawn_image.mirrored:
            image, labels = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
        digest = hashlib.sha256(image.tobytes()).hexdigest()[:32]
        name = f"{drawn_image.stem}.rf.{digest}.jpg"
        Image.fromarray(image).save(folder / name, quality=92)
        images.append({"id": len(images), "license": 1, "file_name": name, "height": IMAGE_SIDE, "width": IMAGE_SIDE})
        for index, category in enumerate(drawn_image.scene.categories):
            found = _annotation(labels == index + 1)
            if found is not None:
                named = {"category_id": CATEGORIES.index(category), "image_id": images[-1]["id"]}
                annotations.append({"id": len(annotations), **named, **found})
    write_json(
        folder / "_annotations.coco.json",
        {
            "info": {"description": "Drawn by samtune demo, laid out like a Roboflow export", "version": "1"},
            "licenses": [{"id": 1, "url": "https://creativecommons.org/publicdomain/zero/1.0/", "name": "CC0 1.0"}],
            "categories": [
                {"id": number, "name": name, "supercategory": "none" if number == 0 else CATEGORIES[0]}
                for number, name in enumerate(CATEGORIES)
            ],
            "images": images,
            "annotations": annotations,
        },
    )


def _annotation(mask: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Outline of a cell as an annotator would draw it; None where nearly nothing of the cell is visible."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rings = [cv2.approxPolyDP(contour, 0.6, closed=True).reshape(-1, 2) for contour in contours]
    rings = [ring for ring in rings if len(ring) >= 3 and cv2.contourArea(ring) >= 20]
    if not rings:
        return None
    points = np.concatenate(rings)
    x, y = (int(value) for value in points.min(0))
    width, height = (int(value) for value in points.max(0) - points.min(0))
    return {
        "bbox": [x, y, width, height],
        "area": width * height,
        "segmentation": [[float(value) for value in ring.ravel()] for ring in rings],
        "iscrowd": 0,
    }
