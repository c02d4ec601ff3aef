"""The table that links every image to its masks: `table.parquet`, `table.csv`, and `Dataset`, which reads them.

One row per object, and one row with nulls per image without objects. Rows stand image by image. The Parquet file is
what samtune reads; the CSV file holds the same rows for everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from samtune.data.images import read_image
from samtune.data.masks import read_mask_file
from samtune.data.prepare.spool import TABLE, TABLE_CSV, TableRow
from samtune.data.reading import PLAIN, Reading, read_reading
from samtune.errors import DataError
from samtune.types import Split, Window
from samtune.utils.files import new_file

SCHEMA: dict[str, pl.DataType] = {
    "image_path": pl.String(),
    "mask_path": pl.String(),
    "split": pl.String(),
    "image_id": pl.String(),
    "annotation_id": pl.String(),
    "category": pl.String(),
    "x0": pl.Int32(),
    "y0": pl.Int32(),
    "x1": pl.Int32(),
    "y1": pl.Int32(),
    "area": pl.Int64(),
    "width": pl.Int32(),
    "height": pl.Int32(),
    "group": pl.String(),
    "iscrowd": pl.Boolean(),
    "is_fragment": pl.Boolean(),
    "page": pl.Int32(),
    "window_x": pl.Int32(),
    "window_y": pl.Int32(),
}
"""Columns in order. Box xyxy in pixels with exclusive right and lower edge, computed from the mask; area in mask
pixels; paths relative to the dataset's folder with forward slashes. Null in a row of an image without objects:
`mask_path`, `annotation_id`, `category`, the box, `area`, `iscrowd`.

A tile of a large image is an image like any other, of `width` x `height` pixels; `window_x` and `window_y` say where in
the file its upper left pixel is, null for whole images. `page` counts from 1 in files of several pages, null for the
first. `is_fragment` marks objects that belong to a neighbouring tile: their pixels are known, and are no background."""

_PIECE = 5_000
_ROW_GROUP = 20_000
_ADDED = ("is_fragment", "page", "window_x", "window_y")
"""Columns that tables of earlier versions lack; null there."""
_OF_IMAGE = ("image_path", "split", "image_id", "width", "height", "group")
_OF_OBJECT = ("mask_path", "annotation_id", "category", "x0", "y0", "x1", "y1", "area", "iscrowd")
_LEAVES_ROOT = r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:|[\x00-\x1f]"
_UPWARDS = re.compile(r"^(\.\./)*")


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of the table.

    Attributes:
        annotation_id, category: as in the source.
        mask_path: mask file, relative to the dataset's folder.
        box: xyxy in pixels, right and lower exclusive, tight around the mask.
        area: mask pixels.
        iscrowd: the mask covers a group of objects.
        is_fragment: the object belongs to a neighbouring tile, and may be cut off here.
    """

    annotation_id: str
    category: str
    mask_path: str
    box: tuple[int, int, int, int]
    area: int
    iscrowd: bool
    is_fragment: bool = False

    @property
    def is_single(self) -> bool:
        """One object, all that there is of it: neither a crowd region nor a part that another tile has."""
        return not self.iscrowd and not self.is_fragment


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of the table and its objects, in the table's order; `objects` is empty for a negative image.

    `window` is the part of the file that a tile shows, None for whole images; `page` counts from 1.
    """

    image_path: str
    image_id: str
    split: Split
    width: int
    height: int
    group: str
    objects: tuple[ObjectEntry, ...]
    window: Window | None = None
    page: int = 1

    @property
    def single_objects(self) -> tuple[ObjectEntry, ...]:
        """The objects to learn and to measure: crowd regions and fragments of a neighbouring tile's objects are not."""
        return tuple(found for found in self.objects if found.is_single)

    @property
    def part(self) -> str:
        """What of the file the image is, as a text; empty for all of its first page."""
        page = f"page {self.page}" if self.page != 1 else ""
        window = "window " + ",".join(map(str, self.window)) if self.window else ""
        return " ".join(filter(None, (page, window)))


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset: its folder and its table.

    Attributes:
        root: the folder that `table.parquet` stands in.
        table: the rows, see `SCHEMA`; may be a part of the file's, after `split`.
        reading: which bands of the images are read, and how deep values become 8 bits.
    """

    root: Path
    table: pl.DataFrame
    reading: Reading = PLAIN

    @classmethod
    def open(cls, root: Path | str) -> Dataset:
        """Read the dataset in a folder.

        Raises:
            DataError: no dataset there, a table of other columns or types, a path that leaves the folder, a broken row.
        """
        root = Path(root)
        path = root / TABLE
        if not path.is_file():
            raise DataError.of(
                expected=f"a prepared dataset, a folder with {TABLE}",
                found="a folder without it" if root.is_dir() else "no such folder",
                where=str(root),
                do=f"make one of it: samtune prepare {root} --out DATASET"
                if root.is_dir()
                else f"make one: samtune prepare SOURCE --out {root}",
            )
        try:
            table = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError.of(
                expected="a Parquet table",
                found=str(error).splitlines()[0],
                where=str(path),
                do="run samtune prepare again",
            ) from error
        missing = [pl.lit(None, SCHEMA[name]).alias(name) for name in _ADDED if name not in table.columns]
        table = table.with_columns(missing)
        _check(table, path)
        return cls(root, table, read_reading(root))

    def split(self, split: Split | str) -> Dataset:
        """The part of the dataset in one split; may be empty.

        Raises:
            DataError: not one of train, valid, test.
        """
        if split not in set(Split):
            raise DataError.of(expected="train, valid or test", found=str(split))
        return replace(self, table=self.table.filter(pl.col("split") == str(split)))

    @cached_property
    def images(self) -> tuple[ImageEntry, ...]:
        """Every image with its objects, in the table's order."""
        return tuple(_entries(self.table))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories that objects have, sorted."""
        return tuple(sorted(self.table["category"].drop_nulls().unique().to_list()))

    def read_image(self, entry: ImageEntry) -> NDArray[np.uint8]:
        """An image in the frame that the table's boxes and masks are in, uint8 `[H, W, 3]` RGB.

        Raises:
            DataError: the file is missing, damaged, or not of the size it had when the dataset was prepared.
        """
        path = self.root / entry.image_path
        if not path.exists():
            raise DataError.of(
                expected="an image that was there when the dataset was prepared",
                found="no such file",
                where=str(path),
                do="put it back, or run samtune prepare again",
            )
        reading = replace(self.reading, page=entry.page, in_tiles=entry.window is not None)
        pixels = read_image(path, reading=reading, window=entry.window)
        if pixels.shape[:2] != (entry.height, entry.width):
            raise DataError.of(
                expected=f"an image of {entry.width} x {entry.height} pixels, as when the dataset was prepared",
                found=f"{pixels.shape[1]} x {pixels.shape[0]}",
                where=str(path),
                do="run samtune prepare again",
            )
        return pixels

    def view_of(self, entry: ImageEntry) -> str:
        """What of its file an image is and how it is read, as a text; empty for a whole image read in the usual way."""
        return " ".join(filter(None, (entry.part, self.reading.key)))

    def read_mask(self, entry: ObjectEntry) -> NDArray[np.bool_]:
        """An object's mask, bool `[H, W]`.

        Raises:
            DataError: the file is missing or no mask.
        """
        return read_mask_file(self.root / entry.mask_path)


def empty_table() -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema=SCHEMA)


def write_table(folder: Path, frame: pl.DataFrame) -> None:
    """Write `table.parquet` and `table.csv`; the same rows give the same bytes.

    Args:
        folder: the dataset's folder, which must exist.
        frame: rows in the columns and types of `SCHEMA`.

    Raises:
        DataError: the frame is not such a table.
        StorageError: the disk refused.
    """
    _write(folder, iter([frame]))


def write_rows(folder: Path, rows: Iterable[TableRow]) -> None:
    """As `write_table`, but with rows that need not all be in memory: they are taken once, some thousand at a time.

    Raises:
        DataError: a path that leaves the dataset's folder.
        StorageError: the disk refused.
    """
    left = iter(rows)
    portions = iter(lambda: list(islice(left, _PIECE)), [])
    _write(folder, (pl.DataFrame(portion, schema=SCHEMA, orient="row") for portion in portions))


def _write(folder: Path, pieces: Iterator[pl.DataFrame]) -> None:
    failures: list[Exception] = []
    with new_file(folder / TABLE) as parquet, new_file(folder / TABLE_CSV) as path, path.open("wb") as csv:
        empty_table().write_csv(csv, line_terminator="\n")

        def checked(*_: object) -> Iterator[pl.DataFrame]:
            """What polars asks for; it names the columns and rows it wants, which are all."""
            try:
                for piece in pieces:
                    _check(piece, folder / TABLE)
                    piece.write_csv(csv, include_header=False, line_terminator="\n")
                    yield piece
            except Exception as error:
                failures.append(error)
                raise

        lazy = register_io_source(checked, schema=SCHEMA)
        try:
            lazy.sink_parquet(parquet, compression="zstd", statistics=False, row_group_size=_ROW_GROUP)
        except pl.exceptions.PolarsError:
            if failures:  # polars tells of it in its own words
                raise failures[0] from None
            raise


def _check(table: pl.DataFrame, path: Path) -> None:
    found = dict(table.schema)
    if list(found.items()) != list(SCHEMA.items()):
        raise _broken(path, _difference(found))
    required = table.select(pl.col(*_OF_IMAGE).is_null().any())
    if any(required.row(0)):
        raise _broken(path, f"nulls in {', '.join(name for name in _OF_IMAGE if required[name][0])}")
    halves = table.filter(
        pl.any_horizontal(pl.col(*_OF_OBJECT).is_null()) & ~pl.all_horizontal(pl.col(*_OF_OBJECT).is_null())
    )
    if halves.height:
        raise _broken(path, f"an object with some columns null, image {halves['image_path'][0]!r}")
    splits = set(table["split"].unique().to_list()) - {str(split) for split in Split}
    if splits:
        raise _broken(path, f"the split {sorted(splits)[0]!r}")
    outside = _first_outside(table)
    if outside is not None:
        raise _broken(path, f"the path {outside!r}, which leaves the dataset's folder")


def _first_outside(table: pl.DataFrame) -> str | None:
    """A path that must not be followed: masks stand in the folder, referenced images may stand beside it (`../`)."""
    masks = table["mask_path"].drop_nulls()
    images = table["image_path"].unique(maintain_order=True).str.replace(_UPWARDS.pattern, "")
    for paths in (masks, images):
        bad = paths.filter(paths.str.contains(_LEAVES_ROOT))
        if bad.len():
            return str(bad[0])
    return None


def _difference(found: dict[str, Any]) -> str:
    missing = [name for name in SCHEMA if name not in found]
    extra = [name for name in found if name not in SCHEMA]
    if missing:
        return f"no column {missing[0]!r}"
    if extra:
        return f"an unknown column {extra[0]!r}"
    other = [name for name in SCHEMA if found[name] != SCHEMA[name]]
    return (
        f"column {other[0]!r} of type {found[other[0]]}, not {SCHEMA[other[0]]}"
        if other
        else "columns in another order"
    )


def _broken(path: Path, found: str) -> DataError:
    return DataError.of(
        expected="a table that samtune prepare wrote", found=found, where=str(path), do="run samtune prepare again"
    )


def _entries(table: pl.DataFrame) -> Iterator[ImageEntry]:
    """Images in order; rows of one image (split and id) that stand apart, as after a shuffle, are brought together."""
    for part in table.partition_by("split", "image_id", maintain_order=True):
        rows = part.rows(named=True)
        first = rows[0]
        yield ImageEntry(
            image_path=first["image_path"],
            image_id=first["image_id"],
            split=Split(first["split"]),
            width=first["width"],
            height=first["height"],
            group=first["group"],
            objects=tuple(_object(row) for row in rows if row["mask_path"] is not None),
            window=_window(first),
            page=first["page"] or 1,
        )


def _window(row: dict[str, Any]) -> Window | None:
    x, y = row["window_x"], row["window_y"]
    return None if x is None or y is None else (x, y, x + row["width"], y + row["height"])


def _object(row: dict[str, Any]) -> ObjectEntry:
    return ObjectEntry(
        annotation_id=row["annotation_id"],
        category=row["category"],
        mask_path=row["mask_path"],
        box=(row["x0"], row["y0"], row["x1"], row["y1"]),
        area=row["area"],
        iscrowd=row["iscrowd"],
        is_fragment=bool(row["is_fragment"]),
    )
