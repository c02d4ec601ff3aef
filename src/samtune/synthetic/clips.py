"""Drawn clips with exact masks: shapes that move, turn, grow, and pass behind each other and behind a bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.masks.palette import write_label_image
from samtune.synthetic.backgrounds import new_canvas
from samtune.synthetic.canvas import Canvas
from samtune.synthetic.objects import random_style
from samtune.synthetic.outlines import COMPACT_SHAPES, Outline, pick_shape, random_turn
from samtune.synthetic.photograph import photograph
from samtune.synthetic.surfaces import Style
from samtune.utils.files import new_folder

SMALLEST = 60
"""Visible pixels on the first frame that an object has at least."""


@dataclass(frozen=True, slots=True)
class DrawnClip:
    """A clip and its truth.

    Attributes:
        frames: uint8 `[T, S, S, 3]`, RGB.
        labels: uint8 `[T, S, S]`, the number of the object that every pixel shows, 0 for none; objects are numbered
            from 1, and all of them are seen on the first frame.
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Mover:
    """A shape on its way; positions and radii in pixels, angles in radians, `seed` of its surface."""

    shape: Outline
    style: Style
    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    radius: tuple[float, float]
    angle: tuple[float, float]
    aspect: float
    seed: int

    def at(self, share: float) -> Outline:
        """The shape at a share, 0 to 1, of the clip."""
        x, y = (1 - share) * self.start + share * self.stop
        radius, angle = ((1 - share) * ends[0] + share * ends[1] for ends in (self.radius, self.angle))
        return self.shape.placed((float(x), float(y)), radius, angle, self.aspect)


def draw_clip(rng: np.random.Generator, length: int, size: int = 192) -> DrawnClip:
    """Draw a clip of two to four objects.

    Args:
        rng: the only source of randomness.
        length: frames, 1 or more.
        size: side of the square frames in pixels, 32 or more.
    """
    while True:
        scene = new_canvas(rng, size)
        movers = [_mover(rng, scene) for _ in range(int(rng.integers(2, 5)))]
        bar = _bar(rng, size) if rng.random() < 0.5 else None
        style, lens = random_style(rng, scene, shadow=False, opacity=1.0), int(rng.integers(2**31))
        shown = [_frame(scene, movers, (bar, style), t / max(1, length - 1), lens) for t in range(length)]
        clip = DrawnClip(np.stack([image for image, _ in shown]), np.stack([labels for _, labels in shown]))
        if (np.bincount(clip.labels[0].ravel(), minlength=len(movers) + 1) >= SMALLEST).all():
            return clip


def _mover(rng: np.random.Generator, scene: Canvas) -> _Mover:
    size = scene.size
    angle, aspect = random_turn(rng, flat=0.5)
    radius = size * rng.uniform(0.07, 0.2)
    return _Mover(
        shape=pick_shape(rng, COMPACT_SHAPES)(rng),
        style=random_style(rng, scene, shadow=False, opacity=1.0),
        start=size * rng.uniform(0.15, 0.85, 2),
        stop=size * rng.uniform(0.15, 0.85, 2),
        radius=(radius, radius * rng.uniform(0.8, 1.25)),
        angle=(angle, angle + rng.uniform(-1.2, 1.2)),
        aspect=aspect,
        seed=int(rng.integers(2**31)),
    )


def _bar(rng: np.random.Generator, size: int) -> Outline:
    """A bar across the image, in front of everything."""
    x, width = size * rng.uniform(0.25, 0.75), size * rng.uniform(0.04, 0.12)
    ring = np.array([[x, -1], [x + width, -1], [x + width, size], [x, size]], np.float32)
    return Outline((ring if rng.random() < 0.5 else ring[:, ::-1].copy(),))


def _frame(
    scene: Canvas, movers: list[_Mover], front: tuple[Outline | None, Style], share: float, lens: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One frame and its labels; the camera does the same to every frame."""
    canvas = Canvas(scene.image.copy(), scene.textures)
    for mover in movers:
        canvas.paint(np.random.default_rng(mover.seed), mover.at(share), mover.style, canvas.add("shape"))
    bar, style = front
    if bar is not None:
        canvas.paint(np.random.default_rng(lens), bar, replace(style, roundness=0.0), canvas.add("bar"))
        canvas.labels[canvas.labels == len(canvas.categories)] = 0
    return photograph(np.random.default_rng(lens), canvas.image), canvas.labels.astype(np.uint8)


def write_clips(
    out: Path,
    count: int,
    length: int,
    *,
    size: int = 192,
    seed: int = 0,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Draw clips into the folders of DAVIS: `JPEGImages/NAME/00000.png` and `Annotations/NAME/00000.png`.

    Args:
        out: folder to write, replaced when it exists.
        count: clips.
        length: frames of each.
        size: side of the frames in pixels.
        seed: of everything drawn; the same seed gives the same clips.
        advance: called with clips drawn and their total.

    Raises:
        StorageError: the disk refused.
    """
    with new_folder(out, sync=False) as folder:
        for number in range(count):
            clip = draw_clip(np.random.default_rng((seed, number)), length, size)
            for kind in ("JPEGImages", "Annotations"):
                (folder / kind / f"{number:03}").mkdir(parents=True)
            for frame, (image, labels) in enumerate(zip(clip.frames, clip.labels, strict=True)):
                Image.fromarray(image).save(folder / f"JPEGImages/{number:03}/{frame:05}.png")
                write_label_image(folder / f"Annotations/{number:03}/{frame:05}.png", labels)
            advance(number + 1, count)
    return out
