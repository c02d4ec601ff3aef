"""Which images are the same: byte for byte, or to the eye after another compression, size, brightness, turn or flip.

A look is a 16 x 16 gray image. What all looks of a dataset share - a bench, a dish, a vignette - is taken off, and
two images are alike when what remains correlates in one of the eight ways to turn and flip an image. How the threshold
was measured stands in docs/decisions/0020.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samtune.data.images import read_thumbnail
from samtune.data.reading import PLAIN, Reading

SIDE = 16
"""Side of a look, in pixels."""

_LEAST_CORRELATION = 0.97
_LEAST_DETAIL = 4.0
"""Standard deviation of a look, in gray levels, below which an image has too little to be recognised by."""
_ENOUGH_FOR_BACKGROUND = 16
"""Images below which their mean says nothing about what they share."""

_ALL_PAIRS = 2048
"""Images up to which every pair is compared; above, only those that share a key in one of the tables."""
_TABLES = 24
_MOST_PER_KEY = 32
_WORTH_A_LOOK = 0.9
"""Correlation at half the side below which the whole images are not compared."""
_PORTION = 1 << 15
_ROWS = 1 << 12


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an image is recognised by.

    Attributes:
        digest: SHA-256 of the file.
        look: uint8 `[SIDE, SIDE]` as bytes.
    """

    digest: bytes
    look: bytes


class Pair(NamedTuple):
    """Two images, by position with `first < second`, that are the same in bytes or in looks."""

    first: int
    second: int
    kind: Literal["bytes", "looks"]


def fingerprint(path: Path, reading: Reading = PLAIN) -> Fingerprint:
    """Fingerprint of an image file; decodes it, so that a damaged one is found out.

    Raises:
        DataError: see `samtune.data.images.probe_image`.
    """
    look = read_thumbnail(path, SIDE, reading)
    with path.open("rb") as file:
        return Fingerprint(hashlib.file_digest(file, "sha256").digest(), look.tobytes())


def same_images(prints: Sequence[Fingerprint]) -> list[Pair]:
    """Pairs of images that are the same, sorted.

    Of several files with the same bytes, each is paired with the first only, and only the first is compared by looks.
    Up to 2,048 images every pair is compared; above, locality-sensitive hashing (Charikar, "Similarity Estimation
    Techniques from Rounding Algorithms", 2002) keeps the cost near linear and finds more than 99 % of the pairs.

    Args:
        prints: one per image.
    """
    first_with: dict[bytes, int] = {}
    pairs: list[Pair] = []
    for position, found in enumerate(prints):
        first = first_with.setdefault(found.digest, position)
        if first != position:
            pairs.append(Pair(first, position, "bytes"))
    originals = list(first_with.values())
    looks = np.frombuffer(b"".join(prints[position].look for position in originals), np.uint8)
    looks = looks.reshape(-1, SIDE, SIDE)
    contrast = [part.astype(np.float32).std(axis=(1, 2)) for part in _portions(looks)]
    telling = np.flatnonzero(np.concatenate([*contrast, np.zeros(0, np.float32)]) >= _LEAST_DETAIL)
    if telling.size > 1:
        units = _units(looks[telling])
        alike = _alike_all(units) if telling.size <= _ALL_PAIRS else _alike_hashed(units)
        chosen = [originals[place] for place in telling.tolist()]
        pairs += [Pair(chosen[one], chosen[other], "looks") for one, other in alike]
    return sorted(pairs)


def _units(looks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Looks freed of brightness, contrast and what they share, as vectors of length 1: `[N, SIDE * SIDE]`.

    In place, a portion at a time: of a million images this is the largest thing in memory.
    """
    units = looks.astype(np.float32)
    for part in _portions(units):
        part -= part.mean(axis=(1, 2), keepdims=True)
        part /= part.std(axis=(1, 2), keepdims=True)
    background = units.mean(axis=0) if len(units) >= _ENOUGH_FOR_BACKGROUND else np.zeros(1, np.float32)
    for part in _portions(units):
        part -= background
        part -= part.mean(axis=(1, 2), keepdims=True)
        part /= np.maximum(np.linalg.norm(part, axis=(1, 2), keepdims=True), 1e-6)
    return units.reshape(len(units), -1)


def _portions(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of some rows each."""
    return (values[start : start + _ROWS] for start in range(0, len(values), _ROWS))


def _turns(side: int) -> NDArray[np.int64]:
    """The eight ways to turn and flip a flat square image, as orders of its pixels: `[8, side * side]`."""
    pixels = np.arange(side * side).reshape(side, side)
    ways = [np.rot90(flipped, quarters) for flipped in (pixels, pixels[:, ::-1]) for quarters in range(4)]
    return np.stack([way.ravel() for way in ways])


def _alike_all(units: NDArray[np.float32]) -> list[tuple[int, int]]:
    best = np.full((len(units), len(units)), -1.0, np.float32)
    for turn in _turns(SIDE):
        np.maximum(best, units[:, turn] @ units.T, out=best)
    found = np.argwhere(np.triu(best >= _LEAST_CORRELATION, 1))
    return [(int(one), int(other)) for one, other in found]


def _alike_hashed(units: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Compare images that fall on the same side of some random planes; several sets of planes, one table each."""
    half = SIDE // 2
    coarse = np.ascontiguousarray(units.reshape(-1, half, 2, half, 2).mean(axis=(2, 4)).reshape(len(units), -1))
    coarse /= np.maximum(np.linalg.norm(coarse, axis=1, keepdims=True), 1e-6)
    bits = 5 + math.ceil(math.log2(len(units)))
    weights = 1 << np.arange(bits)
    rng = np.random.default_rng(0)
    found: set[tuple[int, int]] = set()
    for _table in range(_TABLES):
        planes = rng.standard_normal((half * half, bits)).astype(np.float32)
        keys = (coarse @ planes > 0) @ weights
        order = np.argsort(keys, kind="stable")
        for turn, coarse_turn in zip(_turns(SIDE), _turns(half), strict=True):
            turned = coarse[:, coarse_turn]
            for ones, others in _sharing((turned @ planes > 0) @ weights, keys[order], order):
                worth = np.einsum("nd,nd->n", turned[ones], coarse[others]) >= _WORTH_A_LOOK
                ones, others = ones[worth], others[worth]
                alike = np.einsum("nd,nd->n", units[ones][:, turn], units[others]) >= _LEAST_CORRELATION
                pairs = zip(ones[alike].tolist(), others[alike].tolist(), strict=True)
                found.update((min(pair), max(pair)) for pair in pairs)
    return sorted(found)


def _sharing(
    keys: NDArray[np.int64], ordered: NDArray[np.int64], order: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Images one and other, in portions, where `keys[one]` is the key of `other`, and the two are not the same.

    Args:
        keys: one per image.
        ordered: the keys to look for, sorted.
        order: the images that these belong to.
    """
    first = np.searchsorted(ordered, keys, "left")
    counts = np.minimum(np.searchsorted(ordered, keys, "right") - first, _MOST_PER_KEY)
    ones = np.repeat(np.arange(len(keys)), counts)
    steps = np.arange(len(ones)) - np.repeat(np.cumsum(counts) - counts, counts)
    others = order[np.repeat(first, counts) + steps]
    ones, others = ones[ones != others], others[ones != others]
    for start in range(0, len(ones), _PORTION):
        yield ones[start : start + _PORTION], others[start : start + _PORTION]
