"""Procedural scenes on disk, and views of them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.config import PretrainConfig
from samtune.nano.augment import TrainingView
from samtune.synthetic.scenes import random_scene
from samtune.utils.files import new_file
from samtune.utils.workers import cpu_count

_HELD_OUT_SEED = 1_000_003
_SMALLEST = 25
"""Smallest target, in visible input pixels."""


@dataclass(frozen=True, slots=True)
class SceneBank:
    """Scenes on disk: `count` to learn from, `NNNNNN.npz`, and some to measure with, `held-out-NNNNNN.npz`."""

    folder: Path
    count: int

    def scene(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.int16]]:
        """Image `[S, S, 3]`, labels `[S, S]` and parents `[N]` (-1: none) of a scene."""
        with np.load(self.folder / f"{name}.npz") as stored:
            return stored["image"], stored["labels"], stored["parents"]

    def view(self, rng: np.random.Generator, size: int, most: int) -> TrainingView:
        """A view of a random scene with at most `most` targets."""
        while True:
            image, labels, parents = self.scene(f"{rng.integers(self.count):06d}")
            image, labels = random_part(rng, image, labels, size)
            masks = object_masks(rng, labels, parents, most)
            if len(masks):
                return TrainingView(image, masks, labels > 0)


def draw_scenes(config: PretrainConfig) -> SceneBank:
    """Draw what is missing of the scenes under `out/scenes`.

    Raises:
        StorageError: the disk refused.
    """
    bank = SceneBank(config.out / "scenes", config.scenes)
    wanted = [(f"{i:06d}", (config.seed, i)) for i in range(config.scenes)]
    wanted += [(f"held-out-{i:06d}", (config.seed, _HELD_OUT_SEED, i)) for i in range(config.held_out)]
    missing = [
        (bank.folder / f"{name}.npz", seed) for name, seed in wanted if not (bank.folder / f"{name}.npz").exists()
    ]
    if missing:
        workers = config.workers or cpu_count()
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in pool.map(
                _draw_scene, *zip(*missing, strict=True), [config.scene_size] * len(missing), chunksize=8
            ):
                pass
    return bank


def _draw_scene(path: Path, seed: tuple[int, ...], size: int) -> None:
    cv2.setNumThreads(1)
    scene = random_scene(np.random.default_rng(seed), size)
    parents = np.array([-1 if parent is None else parent for parent in scene.parents], np.int16)
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, image=scene.image, labels=scene.labels.astype(np.uint16), parents=parents)


def random_part(
    rng: np.random.Generator, image: NDArray[np.uint8], labels: NDArray[np.uint16], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """A random part of the scene, a little stretched, at the size of the input."""
    whole = image.shape[0]
    side = whole * np.exp(rng.uniform(np.log(0.3), 0.15))
    stretch = np.exp(rng.uniform(-0.25, 0.25))
    width, height = (int(min(side * s, whole)) for s in (stretch, 1 / stretch))
    x, y = int(rng.integers(whole - width + 1)), int(rng.integers(whole - height + 1))
    window = np.s_[y : y + height, x : x + width]
    return resized(image[window], labels[window], size)


def resized(
    image: NDArray[np.uint8], labels: NDArray[np.uint16], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Both squashed to `size` by `size`."""
    how = cv2.INTER_AREA if min(labels.shape) > size else cv2.INTER_LINEAR
    small = cv2.resize(image, (size, size), interpolation=how)
    return np.asarray(small, np.uint8), np.asarray(
        cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint16
    )


def object_masks(
    rng: np.random.Generator, labels: NDArray[np.uint16], parents: NDArray[np.int16], most: int
) -> NDArray[np.bool_]:
    """Masks of at most `most` objects, large ones more often: bool `[K, S, S]`."""
    area = np.bincount(labels.ravel(), minlength=len(parents) + 1)[1:]
    for part in range(len(parents) - 1, -1, -1):
        if parents[part] >= 0:
            area[parents[part]] += area[part]
    candidates = np.flatnonzero((area >= _SMALLEST) & (area <= 0.9 * labels.size))
    if not len(candidates):
        return np.zeros((0, *labels.shape), bool)
    weight = np.sqrt(area[candidates])
    chosen = rng.choice(candidates, min(most, len(candidates)), replace=False, p=weight / weight.sum())
    families = [_family(int(index), parents) for index in chosen]
    member = np.zeros((len(families), len(parents) + 1), bool)
    for row, family in zip(member, families, strict=True):
        row[np.array(family) + 1] = True
    return member[:, labels]


def _family(index: int, parents: NDArray[np.int16]) -> list[int]:
    """An object and all its parts."""
    family = [index]
    for part in range(index + 1, len(parents)):
        if parents[part] in family:
            family.append(part)
    return family
