"""One image of a source becomes its part of a dataset: mask files, rows for the table, findings.

Runs in worker processes, so it loads neither dataframes nor configuration.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.checks.dataset import Seen
from samtune.data.checks.image import Frame
from samtune.data.checks.record import UsableImage, check_record
from samtune.data.images import ImageInfo, read_image, turn_upright
from samtune.data.masks import Region, region_of, write_region_file
from samtune.data.paths import relative_to
from samtune.data.prepare.spool import TableRow
from samtune.data.prepare.tiling import TileContent, TileObject, cut_objects, tiles_of
from samtune.data.readers.common import unique
from samtune.data.reading import PLAIN, Reading
from samtune.data.tiles import TileGrid
from samtune.types import ImageRecord, Issue

_MOST_BYTES = 120
"""Longest part of a file name; systems take 255, and a number and an ending follow."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How and where files are written.

    Attributes:
        target: the dataset's folder while it is written.
        final: where it will stand.
        copy: whether all images are copied.
        min_area: objects of fewer mask pixels are left out.
        mask_format: ending of mask files.
        merge: which masks are written merged, too.
        reading: which bands and page of the images are read.
        stretch_set: whether deep values are stretched alike in all images, so that their quantiles are needed.
        tile, halo: in pixels; larger images are cut into tiles of this side; 0 for none.
    """

    target: Path
    final: Path
    copy: bool
    min_area: int
    mask_format: str
    merge: Literal["none", "image", "category"]
    reading: Reading = PLAIN
    stretch_set: bool = False
    tile: int = 0
    halo: int = 0


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """What became of one image of the source.

    Attributes:
        images: the rows of each image of the dataset: one, or one for each tile; none when it cannot be used.
        issues: findings.
        seen: what it is compared with the other images by.
        quantiles: of its deep values, where they are asked for.
    """

    images: Sequence[list[TableRow]]
    issues: Sequence[Issue]
    seen: Seen | None = None
    quantiles: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image with the name, unique in the dataset, that its files go by."""

    name: str
    record: ImageRecord


def prepare_image(image: NamedImage, how: Writing) -> PreparedImage:
    """Write one image's masks; the rows and issues are all that comes back."""
    checked = check_record(image.record, how.min_area, how.reading, quantiles=how.stretch_set)
    if checked.usable is None:
        return PreparedImage([], checked.issues)
    usable = checked.usable
    width, height = usable.info.upright_size
    objects = tuple(replace(found, region=_upright(found.region, usable.frame)) for found in usable.objects)
    usable = replace(usable, objects=objects)
    path = _placed_image(image, usable.info, how)
    issues = list(checked.issues)
    if how.tile and max(width, height) > how.tile:
        contents = list(tiles_of(TileGrid(width, height, how.tile, how.halo), usable, image.record))
        issues += cut_objects(contents, image.record)
        images = [_tile(image, path, content, how) for content in contents]
    else:
        images = [_whole(image, path, usable, how)]
    return PreparedImage(images, issues, usable.seen, usable.quantiles)


def _whole(image: NamedImage, path: str, usable: UsableImage, how: Writing) -> list[TableRow]:
    """The masks of an image that is one image of the dataset, and its rows."""
    width, height = usable.info.upright_size
    named = [(f"{found.number:03}", TileObject(found, found.region, is_fragment=False)) for found in usable.objects]
    regions = [(found.annotation.category, found.region) for found in usable.objects]
    _write_merged(regions, image.name, height, width, how)
    about = TableRow.of_image(path, image.record, image.record.image_id, width, height)
    about = about._replace(page=_page(image.record, how))
    return _rows(about, _write_masks(image, named, height, width, how))


def _tile(image: NamedImage, path: str, content: TileContent, how: Writing) -> list[TableRow]:
    """The masks of a tile, and its rows."""
    x0, y0, x1, y1 = content.tile.window
    width, height, name = x1 - x0, y1 - y0, content.tile.name
    about = TableRow.of_image(path, image.record, f"{image.record.image_id}@{name}", width, height)
    about = about._replace(page=_page(image.record, how), window_x=x0, window_y=y0)
    named = [(f"{name}-{one.found.number:03}{'f' * one.is_fragment}", one) for one in content.objects]
    return _rows(about, _write_masks(image, named, height, width, how))


def _page(record: ImageRecord, how: Writing) -> int | None:
    """The page as the table has it: None for the first."""
    page = record.page or how.reading.page
    return page if page != 1 else None


def _write_masks(
    image: NamedImage, named: Sequence[tuple[str, TileObject]], height: int, width: int, how: Writing
) -> list[tuple[str, TileObject]]:
    """Write one mask file for each object; their paths, relative to the dataset."""
    if named:
        (how.target / "masks" / image.name).mkdir(parents=True, exist_ok=True)
    written: list[tuple[str, TileObject]] = []
    for name, one in named:
        mask_path = f"masks/{image.name}/{name}.{how.mask_format}"
        write_region_file(how.target / mask_path, one.region, height, width)
        written.append((mask_path, one))
    return written


def _upright(region: Region, frame: Frame) -> Region:
    """A region of the frame that the annotations are in, as it lies in the upright image."""
    if frame.orientation == 1:
        return region
    turned = region_of(turn_upright(region.paste(frame.height, frame.width), frame.orientation))
    assert turned is not None, "turning loses no pixel"
    return turned


def _rows(about: TableRow, objects: Sequence[tuple[str, TileObject]]) -> list[TableRow]:
    """The rows of an image, of which `about` says what all have in common: one for each object, or that one alone."""
    rows: list[TableRow] = []
    for mask_path, one in objects:
        annotation, (x0, y0, x1, y1) = one.found.annotation, one.region.box
        number = f"{annotation.annotation_id}#fragment" if one.is_fragment else annotation.annotation_id
        rows.append(
            about._replace(
                mask_path=mask_path, annotation_id=number, category=annotation.category, x0=x0, y0=y0, x1=x1, y1=y1,
                area=one.region.area, iscrowd=annotation.iscrowd, is_fragment=one.is_fragment,
            )
        )  # fmt: skip
    return rows or [about]


def _placed_image(image: NamedImage, info: ImageInfo, how: Writing) -> str:
    """Where the table finds the image.

    An image with an EXIF orientation is written into the dataset upright and without the tag, so that every program
    downstream sees the pixels that the masks are drawn on.
    """
    path = image.record.path
    if info.orientation == 1 and not (how.copy or image.record.embedded):
        return relative_to(path, how.final)
    suffix = path.suffix.lower() if info.orientation == 1 else ".png"
    place = f"images/{image.name}{suffix}"
    _parent(how.target / place)
    if info.orientation == 1:
        shutil.copyfile(path, how.target / place)
    else:
        Image.fromarray(read_image(path, reading=how.reading)).save(how.target / place, compress_level=1)
    return place


def _write_merged(regions: Sequence[tuple[str, Region]], image: str, height: int, width: int, how: Writing) -> None:
    """One mask per image, or per image and category, with `--merge`."""
    if how.merge == "none":
        return
    merged: dict[str, NDArray[np.bool_]] = {}
    for category, region in regions:
        name = category if how.merge == "category" else ""
        x0, y0, x1, y1 = region.box
        merged.setdefault(name, np.zeros((height, width), bool))[y0:y1, x0:x1] |= region.mask
    used: set[str] = set()
    for name, mask in merged.items():
        suffix = "/" + unique(safe_name(name).lower(), used) if name else ""
        path = how.target / f"merged/{image}{suffix}.{how.mask_format}"
        _parent(path)
        write_region_file(path, Region(mask, 0, 0), height, width)


def safe_name(name: str) -> str:
    """A name from a source as part of a file name that every system takes: no separators, at most 120 bytes."""
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name).lstrip(".")
    return plain.encode()[:_MOST_BYTES].decode(errors="ignore") or "_"


def _parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
