"""What to keep in mind where a finder is used: another decoder, images unlike those it learned from, other classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from samtune.data.table import ImageEntry
from samtune.finder.results import Finder
from samtune.model.io.loaded import LoadedModel

_WITHIN = 1.5
"""How many times larger than the largest training image, or smaller than the smallest, an image is still like them."""
_LEAST_TILE = 512
"""The smallest tile that the default halo goes with."""


def sides_of(images: Iterable[ImageEntry]) -> tuple[tuple[int, int], ...]:
    """The smallest and largest width, and the smallest and largest height, of some images; empty without any."""
    sizes = [(image.width, image.height) for image in images]
    return tuple((min(sides), max(sides)) for sides in zip(*sizes, strict=True))


def about_decoder(finder: Finder, loaded: LoadedModel) -> list[str]:
    """Whether the masks come from another decoder than that the finder's scores and threshold were made with."""
    if finder.decoder == loaded.fingerprint():
        return []
    return [
        f"the finder's scores and threshold were made with another decoder than that of {loaded.name}: they may be "
        "off; make them anew with samtune find-train"
    ]


def about_sizes(finder: Finder, sizes: Iterable[tuple[int, int]]) -> list[str]:
    """How many images are of a size far from all that it learned from.

    Args:
        finder: the finder.
        sizes: width and height of each image in pixels, or how many images are of which.
    """
    counts = Counter(sizes)
    unlike = [size for size in counts if not _is_like(finder, size)] if finder.sides else []
    if not unlike:
        return []
    width, height = max(unlike, key=lambda size: size[0] * size[1])
    (narrow, wide), (low, high) = finder.sides
    learned = f"{narrow} x {low}" if (narrow, low) == (wide, high) else f"{narrow} x {low} to {wide} x {high}"
    tiles = ""
    if width > _WITHIN * wide or height > _WITHIN * high:
        side = max(wide, high)
        halo = f" --halo {side // 8}" if side < _LEAST_TILE else ""
        tiles = f"; where objects have as many pixels as there, look in tiles (--tile {side}{halo})"
    return [
        f"the finder learned from images of {learned} pixels; {sum(counts[size] for size in unlike)} of these "
        f"{counts.total()} are unlike them, such as {width} x {height}{tiles}"
    ]


def about_classes(finder: Finder, images: Iterable[ImageEntry]) -> list[str]:
    """Classes of annotated objects that the finder does not know: it cannot find them with the right name."""
    if not finder.classes:
        return []
    counts = Counter(one.category for image in images for one in image.single_objects)
    unknown = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()) if name not in finder.classes)
    return [f"classes the finder never learned, whose objects count as not found: {unknown}"] if unknown else []


def _is_like(finder: Finder, size: tuple[int, int]) -> bool:
    return all(low / _WITHIN <= side <= high * _WITHIN for side, (low, high) in zip(size, finder.sides, strict=True))
