"""One image of a source becomes its part of a dataset: mask files, rows for the table, findings.

Runs in worker processes, so it loads neither dataframes nor configuration.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.checks.dataset import Seen
from samtune.data.checks.image import Frame
from samtune.data.checks.record import check_record
from samtune.data.images import ImageInfo, read_image, turn_upright
from samtune.data.masks import Region, region_of, write_region_file
from samtune.data.paths import relative_to
from samtune.data.prepare.spool import Row
from samtune.data.readers.common import unique
from samtune.types import Annotation, ImageRecord, Issue

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
    """

    target: Path
    final: Path
    copy: bool
    min_area: int
    mask_format: str
    merge: Literal["none", "image", "category"]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """What became of one image: its rows for the table (none when it cannot be used), findings, how to know it."""

    rows: list[Row]
    issues: Sequence[Issue]
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image with the name, unique in the dataset, that its files go by."""

    name: str
    record: ImageRecord


def prepare_image(image: NamedImage, how: Writing) -> PreparedImage:
    """Write one image's masks; the rows and issues are all that comes back."""
    checked = check_record(image.record, how.min_area)
    if checked.usable is None:
        return PreparedImage([], checked.issues)
    usable, record = checked.usable, image.record
    width, height = usable.info.upright_size
    if usable.objects:
        (how.target / "masks" / image.name).mkdir(parents=True)
    written: list[tuple[str, Annotation, Region]] = []
    for found in usable.objects:
        region = _upright(found.region, usable.frame)
        mask_path = f"masks/{image.name}/{found.number:03}.{how.mask_format}"
        write_region_file(how.target / mask_path, region, height, width)
        written.append((mask_path, found.annotation, region))
    _write_merged([(found.category, region) for _, found, region in written], image.name, height, width, how)
    rows = _rows(_placed_image(image, usable.info, how), record, width, height, written)
    return PreparedImage(rows, checked.issues, usable.seen)


def _upright(region: Region, frame: Frame) -> Region:
    """A region of the frame that the annotations are in, as it lies in the upright image."""
    if frame.orientation == 1:
        return region
    turned = region_of(turn_upright(region.paste(frame.height, frame.width), frame.orientation))
    assert turned is not None, "turning loses no pixel"
    return turned


def _rows(
    image_path: str, record: ImageRecord, width: int, height: int, objects: Sequence[tuple[str, Annotation, Region]]
) -> list[Row]:
    """The image's rows of the table: one for each object, or one for an image that shows none."""
    group, split = record.group, record.split.value
    if not objects:
        nothing = (None, None, None, None, None, None, None)
        return [Row(image_path, None, split, record.image_id, *nothing, width, height, group, None)]
    return [
        Row(image_path, mask_path, split, record.image_id, found.annotation_id, found.category, *region.box,
            region.area, width, height, group, found.iscrowd)
        for mask_path, found, region in objects
    ]  # fmt: skip


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
        Image.fromarray(read_image(path)).save(how.target / place, compress_level=1)
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
