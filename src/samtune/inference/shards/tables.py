"""What a job reads: a manifest of images, and detections whose boxes are prompts, from the files that people have.

A manifest is a Parquet file with a column of paths (`path`, `image_path`, `file_name`, `image` or `filename`) and, if
there is one, `image_id`; or a folder, whose images are listed. Detections are

- COCO annotations, or a list of COCO results (pycocotools, ultralytics' `save_json`, RF-DETR);
- rows as JSON, CSV or Parquet: `x_min, y_min, x_max, y_max` (supervision's sinks), `x1, y1, x2, y2`, `xmin, ...`,
  `x0, ...`, a list `xyxy`, or ultralytics' `box` with `x1` to `y2`, beside a column that names the image;
- JSON with a list of such rows for each image, by its name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from samtune.data.images import SUFFIXES
from samtune.errors import DataError
from samtune.utils.workers import cpu_count

PATHS = ("path", "image_path", "file_name", "image", "filename")
NAMES = (*PATHS, "image_name", "source", "image_id")
CORNERS = (
    ("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"),
    ("x0", "y0", "x1", "y1"), ("xyxy_0", "xyxy_1", "xyxy_2", "xyxy_3"),
)  # fmt: skip
CLASSES, SCORES = ("category_id", "class_id", "class"), ("score", "confidence", "conf")
PROMPTS = {
    "image": pl.UInt32, "x0": pl.Float32, "y0": pl.Float32, "x1": pl.Float32, "y1": pl.Float32,
    "category_id": pl.Int64, "detection_score": pl.Float32,
}  # fmt: skip
"""Columns of a job's prompts: number of the image in the manifest, xyxy in its pixels, class, the detector's score."""
_SHOWN = 5
_ERRORS = (OSError, ValueError, RecursionError, pl.exceptions.PolarsError)


def read_manifest(source: Path, root: Path | None) -> pl.DataFrame:
    """The images of a job: `number`, `path` (below the root), `image_id`.

    Args:
        source: a Parquet file, or a folder.
        root: what paths are relative to; left out, the manifest's own folder.

    Raises:
        DataError: no such file, no column of paths, a path twice or outside the root, an image that is not there.
    """
    if source.is_dir():
        root = source
        paths = sorted(entry.name for entry in os.scandir(source) if _is_image(entry.name))
        table = pl.DataFrame({"path": paths}, schema={"path": pl.String})
        ids = None
    else:
        root = root or source.parent
        try:
            read = pl.read_parquet(source)
        except _ERRORS as error:
            raise DataError.of(
                expected="a Parquet manifest of images, or a folder of them",
                found=str(error).splitlines()[0],
                where=str(source),
            ) from error
        column = _first(read, PATHS)
        if column is None or read[column].dtype != pl.String:
            raise DataError.of(
                expected=f"a column of paths, one of {', '.join(PATHS)}",
                found=", ".join(read.columns) or "no columns",
                where=str(source),
            )
        table = read.select(pl.col(column).alias("path"))
        ids = read["image_id"] if "image_id" in read.columns else None
    if not len(table):
        raise DataError.of(expected="images", found="none", where=str(source))
    number = pl.int_range(len(table), dtype=pl.UInt32).alias("number")
    table = table.select(
        number, "path", (pl.Series(range(1, len(table) + 1)) if ids is None else ids).alias("image_id")
    )
    _check_paths(table, source, root)
    return table


def read_prompts(source: Path, manifest: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, str]]:
    """Detections as prompts, in the order of the manifest, and the names of their classes as far as the file has them.

    Args:
        source: see the module.
        manifest: the images they are about.

    Raises:
        DataError: a file that is none of these, a box that is none, or one about an image that is not in the manifest.
    """
    table, names = _detections(source)
    column = _first(table, NAMES)
    if column is None:
        raise DataError.of(
            expected=f"detections that name their image, in one of {', '.join(NAMES)}",
            found=", ".join(table.columns) or "no rows",
            where=str(source),
            do="write the image's file name beside each box, such as custom data in supervision's sinks",
        )
    boxes = _boxes(table, source)
    category, score = _first(table, CLASSES), _first(table, SCORES)
    rows = boxes.with_columns(
        _numbers(table, category, pl.Int64, 1).alias("category_id"),
        _numbers(table, score, pl.Float32, None).alias("detection_score"),
        _numbered(table[column], manifest, source).alias("image"),
    )
    return rows.select(pl.col(name).cast(kind) for name, kind in PROMPTS.items()).sort(
        "image", maintain_order=True
    ), names


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _check_paths(table: pl.DataFrame, source: Path, root: Path) -> None:
    """Refuse what could not be predicted, before any work is done, with all that is wrong counted."""
    paths = table["path"]
    if paths.null_count() or paths.n_unique() < len(paths):
        twice = paths.filter(paths.is_duplicated() | paths.is_null()).head(1).to_list()
        raise DataError.of(
            expected="each image once", found=f"{twice[0]!r} more than once" if twice[0] else "a row without a path",
            where=str(source),
        )  # fmt: skip
    if table["image_id"].n_unique() < len(table) or table["image_id"].null_count():
        raise DataError.of(
            expected="an image_id of its own for each image", found="one twice, or none", where=str(source)
        )
    places = [str(path) for path in paths]
    outside = [path for path in places if not _is_below(root, path)]
    if outside:
        raise DataError.of(
            expected=f"images below {root}", found=_some(outside), where=str(source),
            do="name the folder that holds all images: --images-root FOLDER",
        )  # fmt: skip
    with ThreadPoolExecutor(4 * cpu_count()) as threads:  # on network file systems each look takes a while
        there = threads.map(lambda path: (root / path).is_file(), places, chunksize=64)
        missing = [path for path, found in zip(places, there, strict=True) if not found]
    if missing:
        raise DataError.of(
            expected=f"{len(places):,} images below {root}",
            found=f"{len(missing):,} that are not there: {_some(missing)}",
            where=str(source),
            do="take them out of the manifest, or name their folder: --images-root FOLDER",
        )


def _is_below(root: Path, path: str) -> bool:
    """Whether a path cannot leave the root, by its text alone: links inside the root are the owner's."""
    whole = os.path.normpath(root.absolute() / path)
    return Path(whole).is_relative_to(os.path.normpath(root.absolute()))


def _some(values: Iterable[object]) -> str:
    shown = list(islice(values, _SHOWN + 1))
    return ", ".join(map(str, shown[:_SHOWN])) + (", ..." if len(shown) > _SHOWN else "")


def _first(table: pl.DataFrame, names: Iterable[str]) -> str | None:
    return next((name for name in names if name in table.columns), None)


def _detections(source: Path) -> tuple[pl.DataFrame, dict[int, str]]:
    """Rows of detections as the file has them, and names of classes."""
    try:
        if source.suffix.lower() == ".parquet":
            return pl.read_parquet(source), {}
        if source.suffix.lower() == ".csv":
            return pl.read_csv(source, infer_schema_length=None), {}
        content = json.loads(source.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            return _coco(content)
        rows = list(_json_rows(content))
        return pl.DataFrame(rows, infer_schema_length=None), {}
    except _ERRORS as error:
        raise _no_detections(source, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    except (TypeError, AttributeError, KeyError) as error:
        raise _no_detections(source, "another kind of JSON") from error


def _no_detections(source: Path, found: str) -> DataError:
    return DataError.of(
        expected="detections: COCO annotations or results, or rows of boxes as JSON, CSV or Parquet",
        found=found,
        where=str(source),
    )


def _coco(content: dict[str, Any]) -> tuple[pl.DataFrame, dict[int, str]]:
    files = {image["id"]: str(image["file_name"]) for image in content.get("images", [])}
    rows = [
        {"file_name": files[one["image_id"]], "bbox": _floats(one["bbox"]), "category_id": one.get("category_id", 1)}
        | {"score": one.get("score")}
        for one in content["annotations"]
    ]
    names = {int(one["id"]): str(one["name"]) for one in content.get("categories", [])}
    return pl.DataFrame(rows, infer_schema_length=None), names


def _json_rows(content: Any) -> Iterator[dict[str, Any]]:
    """Rows of a list, or of lists by image name; masks and key points beside the boxes are left out."""
    lists = content.items() if isinstance(content, dict) else [(None, content)]
    for image, entries in lists:
        for entry in entries:
            row = {name: entry[name] for name in _wanted() if name in entry}
            for name in ("bbox", "xyxy"):
                if name in row:
                    row[name] = _floats(row[name])
            if image is not None:
                row["file_name"] = image
            if "image_id" in row and "file_name" not in row:
                row["image_id"] = str(row["image_id"])
            yield row


def _wanted() -> tuple[str, ...]:
    return (*NAMES, *CLASSES, *SCORES, "bbox", "xyxy", "box", *(name for corners in CORNERS for name in corners))


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _boxes(table: pl.DataFrame, source: Path) -> pl.DataFrame:
    """Xyxy of every row."""
    if "box" in table.columns and isinstance(table.schema["box"], pl.Struct):
        table = table.unnest("box")
    corners = next((names for names in CORNERS if set(names) <= set(table.columns)), None)
    try:
        if corners is not None:
            columns = [table[name].cast(pl.Float64) for name in corners]
        elif (lists := _first(table, ("bbox", "xyxy"))) is not None:
            if (table[lists].list.len() != 4).any():
                raise _no_detections(source, f"a {lists} of another length than 4")
            columns = [table[lists].list.get(place).cast(pl.Float64) for place in range(4)]
            if lists == "bbox":
                columns = [columns[0], columns[1], columns[0] + columns[2], columns[1] + columns[3]]
        else:
            raise _no_detections(source, f"no boxes, but {', '.join(table.columns)}")
    except pl.exceptions.PolarsError as error:
        raise _no_detections(source, str(error).splitlines()[0]) from error
    boxes = pl.DataFrame(dict(zip(("x0", "y0", "x1", "y1"), columns, strict=True)))
    good = boxes.select(
        pl.all_horizontal(pl.all().is_finite()) & (pl.col("x1") > pl.col("x0")) & (pl.col("y1") > pl.col("y0"))
    ).to_series()
    bad = good.fill_null(False).not_()
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError.of(
            expected="boxes of finite numbers with a positive size", found=f"{list(boxes.row(row))}",
            where=f"{source}, row {row}",
        )  # fmt: skip
    return boxes


def _numbers(table: pl.DataFrame, column: str | None, kind: Any, default: int | None) -> pl.Series:
    if column is None:
        return pl.Series([default]).cast(kind).new_from_index(0, len(table))
    return (
        table[column].cast(kind, strict=False).fill_null(default) if default else table[column].cast(kind, strict=False)
    )


def _numbered(names: pl.Series, manifest: pl.DataFrame, source: Path) -> pl.Series:
    """The image each row is about: by its path, else by its file name, else by its stem, else by its image_id."""
    text = names.cast(pl.String)
    normal = pl.col("path").str.replace_all("\\", "/", literal=True)
    file = normal.str.split("/").list.last()
    stem = file.str.replace(r"\.[^.]*$", "")
    keys = (normal, file, stem, stem.str.strip_chars_start("0"), pl.col("image_id").cast(pl.String))
    given = pl.DataFrame({"key": text}).with_columns(pl.col("key").str.replace_all("\\", "/", literal=True))
    given = given.with_columns(pl.col("key").str.split("/").list.last().alias("file"))
    found = pl.Series([None], dtype=pl.UInt32).new_from_index(0, len(given))
    for key, own in zip(keys, ("key", "file", "file", "key", "key"), strict=True):
        known = manifest.select(key.alias(own), "number").unique(own, keep="none")
        found = found.fill_null(given.join(known, on=own, how="left", maintain_order="left")["number"])
    lost = text.filter(found.is_null())
    if len(lost):
        raise DataError.of(
            expected="detections about images of the manifest",
            found=f"{len(lost):,} about others: {_some(lost.unique(maintain_order=True))}",
            where=str(source),
            do="give the manifest with all images, or take them out of the detections",
        )
    return found
