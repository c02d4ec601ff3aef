"""Same images are found in bytes and in looks, whatever was done to the copy; different ones are left apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from samtune.data.checks.duplicates import SIDE, Fingerprint, Pair, fingerprint, same_images
from tests.conftest import real_data


def scene(seed: int, height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    """An image of soft blobs on a gradient, RGB; different for each seed."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), rng.integers(60, 180), np.uint8)
    for _ in range(12):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        cv2.circle(canvas, centre, int(rng.integers(5, 30)), colour, -1)
    return cv2.GaussianBlur(canvas, (5, 5), 0).astype(np.uint8)


COPIES = {
    "recompressed": lambda image: image,
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "brighter": lambda image: np.clip(image * 0.8 + 40, 0, 255).astype(np.uint8),
    "noise": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8),
    "gray": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "mirrored": lambda image: image[:, ::-1],
    "quarter turn": lambda image: np.rot90(image),
    "flipped and turned": lambda image: np.rot90(image[::-1]),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copy_is_found_among_others(tmp_path: Path, copy: str) -> None:
    for seed in range(24):
        Image.fromarray(scene(seed)).save(tmp_path / f"{seed:02}.jpg", quality=92)
    Image.fromarray(np.ascontiguousarray(COPIES[copy](scene(5)))).save(tmp_path / "99.jpg", quality=60)
    assert same_images([fingerprint(path) for path in sorted(tmp_path.iterdir())]) == [Pair(5, 24, "looks")]


def test_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 0), ("d", 0)):
        Image.fromarray(scene(seed)).save(tmp_path / f"{name}.png")
    prints = [fingerprint(path) for path in sorted(tmp_path.iterdir())]
    assert same_images(prints) == [Pair(0, 2, "bytes"), Pair(0, 3, "bytes")]


def test_what_all_images_share_does_not_make_them_alike(tmp_path: Path) -> None:
    """Dishes on one bench: a strong common background, small differences, and one true copy."""
    bench = scene(100)
    for seed in range(20):
        variant = bench.copy()
        rng = np.random.default_rng(seed)
        for _ in range(6):
            centre = (int(rng.integers(20, 140)), int(rng.integers(20, 100)))
            cv2.circle(variant, centre, 6, (30, 200, 60), -1)
        Image.fromarray(variant).save(tmp_path / f"{seed:02}.png")
    copy = np.asarray(Image.open(tmp_path / "07.png"))
    Image.fromarray(copy).save(tmp_path / "99.jpg", quality=85)
    assert same_images([fingerprint(path) for path in sorted(tmp_path.iterdir())]) == [Pair(7, 20, "looks")]


def test_images_without_detail_are_compared_by_bytes_only() -> None:
    blank = [Fingerprint(bytes([number]), bytes([200 + number]) * SIDE * SIDE) for number in range(5)]
    assert same_images(blank) == []
    assert same_images([]) == same_images(blank[:1]) == []


def test_many_images_are_searched_as_well_as_few() -> None:
    """Above 2,048 images an index takes the place of comparing all pairs; it must find what comparing would."""
    rng = np.random.default_rng(1)
    count, copies = 5_000, 400
    looks = np.kron(rng.integers(0, 255, (count, 8, 8)), np.ones((1, 2, 2))) + rng.normal(0, 4, (count, SIDE, SIDE))
    looks[:copies] = np.rot90(looks[copies : 2 * copies], axes=(1, 2)) + rng.normal(0, 6, (copies, SIDE, SIDE))
    looks = np.clip(looks, 0, 255).astype(np.uint8)
    prints = [Fingerprint(number.to_bytes(32), look.tobytes()) for number, look in enumerate(looks)]
    found = same_images(prints)
    assert all(pair.second - pair.first == copies for pair in found)
    assert len(found) >= 0.99 * copies


def test_plants_leak() -> None:
    """The public plants set holds one scene in test and valid under two names, in another colour."""
    root = real_data("plants_coco")
    one = next((root / "test").glob("b6cflmlbmu7*"))
    other = next((root / "valid").glob("qtq2uhw87ow*"))
    files = [one, *sorted((root / "train").glob("*.jpg"))[:40], other]
    assert Pair(0, 41, "looks") in same_images([fingerprint(path) for path in files])
