"""From annotations to a dataset: every object's mask as its own file, and the table that links images to masks.

    DATASET/table.parquet, table.csv   one row per object, one per image without objects (see `table.py`)
    DATASET/masks/IMAGE/NNN.png        one mask per object
    DATASET/images/...                 the images, with `copy_images`, from an archive, or where EXIF turns them
    DATASET/merged/...                 one mask per image or category, with `merge`
    DATASET/issues.json                everything that was found wrong, and what was done about it
    DATASET/dataset.json               where the dataset came from, and what it holds

The same source gives the same bytes. The folder appears whole or not at all. Images stream through: what is kept of
each is its rows for the table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from samtune.config import PrepareConfig
from samtune.data.archive import is_archive, unpack
from samtune.data.checks import told_of, told_of_archive
from samtune.data.hashing import same_images
from samtune.data.images import SUFFIXES
from samtune.data.prepare_image import NamedImage, PreparedImage, Writing, prepare_image, safe_name
from samtune.data.readers import detect_format, read
from samtune.data.readers.common import unique
from samtune.data.set_checks import KEPT_APART, Seen, find_leaks, never_learned
from samtune.data.split import SplitItem, assign_splits, group_of, join_groups
from samtune.data.table import SCHEMA, TABLE, Dataset, write_table
from samtune.data.workers import mapped
from samtune.errors import DataError
from samtune.files import new_folder, recover_folder, storage_errors, write_json
from samtune.types import ImageRecord, Issue, Severity, Split

_ISSUE_FIELDS = tuple(field.name for field in fields(Issue))
ISSUES, ABOUT = "issues.json", "dataset.json"
DEFAULT_SHARES = (0.8, 0.1, 0.1)
_ASKED_APART = "--group-by source keeps such images together; --group-by {} was asked for."
_ROWS = 20_000
"""Rows kept as Python objects before they become a part of the table."""


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What `prepare` made.

    Attributes:
        dataset: the dataset, opened.
        issues: everything found wrong.
        images: images by split.
        objects: objects by split.
        broken: objects and images that could not be used.
    """

    dataset: Dataset
    issues: tuple[Issue, ...]
    images: dict[str, int]
    objects: dict[str, int]
    broken: int

    def lines(self) -> list[str]:
        """What to tell the user."""
        counts = [
            f"{split:<10} {count} images, {self.objects.get(split, 0)} objects" for split, count in self.images.items()
        ]
        kinds = Counter((issue.severity.value, issue.code) for issue in self.issues)
        found = [f"{severity:<10} {count} x {code}" for (severity, code), count in sorted(kinds.items())]
        where = self.dataset.root
        listed = [f"issues     {where / ISSUES}"] if self.issues else []
        return [*counts, *found, *listed, f"table      {where / TABLE}"]


def prepare(
    source: Path,
    out: Path,
    config: PrepareConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Write a dataset.

    Args:
        source: folder, annotation file, or zip of an export.
        out: dataset folder; an earlier dataset there is replaced, anything else is refused.
        config: how.
        progress: told of images done and their total.

    Raises:
        DataError: the source cannot be read, holds no usable object, or more broken objects than allowed; or `out`
            holds something else.
        StorageError: the disk refused; nothing is left behind.
    """
    _check_out(source, out)
    with _unpacked(source, out) as (folder, is_temporary):
        read_issues: list[Issue] = []
        source_format = detect_format(folder) if config.source_format == "auto" else config.source_format
        images = _named(read(folder, source_format, config.images, on_issue=read_issues.append), folder, config)
        copy = config.copy_images or is_temporary
        expected = _count_images(config.images or folder)
        with new_folder(out, sync=False) as target:
            gathered = _Gathered()
            how = Writing(target, out, copy, config.min_area, config.mask_format, config.merge)
            work = partial(prepare_image, how=how)
            done = 0
            for done, prepared in enumerate(mapped(work, images, config.workers), start=1):
                gathered.add(prepared)
                progress(done, max(expected, done))
            progress(done, done)
            issues = [*read_issues, *gathered.issues]
            table = gathered.table()
            _judge(table, issues, done, source, config)
            table, set_issues = _settled(table, gathered, source, config)
            issues += set_issues
            if is_temporary:
                issues = [told_of_archive(issue, source, folder) for issue in issues]
            write_table(target, table)
            write_json(target / ISSUES, {"format": 1, "issues": [_plain(issue) for issue in issues]})
            write_json(target / ABOUT, _about(table, source_format, config))
    return _report(Dataset.open(out), issues)


class _Gathered:
    """What is kept of all images. Rows of the table stay small: every so often they become columns.

    Attributes:
        issues: findings about single images and their objects.
        seen: the usable images, to compare them.
        keys: their `image_path` in the table.
    """

    def __init__(self) -> None:
        self.issues: list[Issue] = []
        self.seen: list[Seen] = []
        self.keys: list[str] = []
        self._parts: list[pl.DataFrame] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, prepared: PreparedImage) -> None:
        """Take what became of the next image."""
        self.issues += prepared.issues
        if prepared.seen is not None:
            self.seen.append(prepared.seen)
            self.keys.append(prepared.rows[0]["image_path"])
        self._rows += prepared.rows
        if len(self._rows) >= _ROWS:
            self._parts.append(pl.DataFrame(self._rows, schema=SCHEMA))
            self._rows = []

    def table(self) -> pl.DataFrame:
        """All rows."""
        return pl.concat([*self._parts, pl.DataFrame(self._rows, schema=SCHEMA)])


def _named(records: Iterable[ImageRecord], root: Path, config: PrepareConfig) -> Iterator[NamedImage]:
    """The records with their groups and the names of their files."""
    base = (config.images or (root if root.is_dir() else root.parent)).resolve()
    names: set[str] = set()
    for record in records:
        path = record.path.resolve()
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        # Names are told apart in lower case, because some file systems do.
        yield NamedImage(
            unique(safe_name(record.path.stem).lower(), names),
            replace(record, group=group_of(name, config.group_by)),
        )


def _count_images(root: Path) -> int:
    """About how many images there are, for the progress."""
    folder = root if root.is_dir() else root.parent
    names = (name.lower() for _, _, files in os.walk(folder) for name in files)
    return sum(Path(name).suffix in SUFFIXES and "_mask." not in name for name in names)


def _settled(
    table: pl.DataFrame, gathered: _Gathered, source: Path, config: PrepareConfig
) -> tuple[pl.DataFrame, list[Issue]]:
    """The table in its final splits, and what only the whole set shows of them."""
    seen, keys, repair = gathered.seen, gathered.keys, KEPT_APART
    pairs = same_images([image.print for image in seen])
    shares = _shares(table, config)
    if shares is not None:
        table = _with_splits(table, shares, [(keys[pair.first], keys[pair.second]) for pair in pairs], config)
        split_of = dict(table.select("image_path", "split").iter_rows())
        seen = [replace(image, split=Split(split_of[key])) for image, key in zip(seen, keys, strict=True)]
        repair = _ASKED_APART.format(config.group_by)
    leaks = find_leaks(seen, pairs, repair)
    return table, [leak.issue for leak in leaks] + never_learned(_objects(table), source)


def _shares(table: pl.DataFrame, config: PrepareConfig) -> tuple[float, float, float] | None:
    """The shares of new splits where these are asked for or the source has only one."""
    if config.shares is None and table["split"].unique().to_list() == [Split.TRAIN.value]:
        return DEFAULT_SHARES
    return config.shares


def _with_splits(
    table: pl.DataFrame, shares: tuple[float, float, float], same: Iterable[tuple[str, str]], config: PrepareConfig
) -> pl.DataFrame:
    """The table with new splits.

    Images with the same bytes, or that look the same, stay together, so that no split leaks into another.
    """
    images = table.unique("image_path", keep="first", maintain_order=True)
    keys: list[str] = images["image_path"].to_list()
    groups = join_groups(dict(zip(keys, images["group"].to_list(), strict=True)), same)
    objects: dict[str, Counter[str]] = {key: Counter() for key in keys}
    for key, category in table.select("image_path", "category").iter_rows():
        if category is not None:
            objects[key][category] += 1
    splits = assign_splits([SplitItem(key, groups[key], objects[key]) for key in keys], shares, config.seed)
    ids = images.select("split", "image_id")
    if ids["image_id"].n_unique() < ids.height:  # ids that were unique within the source's splits only
        table = table.with_columns(image_id=pl.col("split") + "-" + pl.col("image_id"))
    return table.with_columns(
        split=pl.col("image_path").replace_strict(
            {key: split.value for key, split in splits.items()}, return_dtype=pl.String
        ),
        group=pl.col("image_path").replace_strict(groups, return_dtype=pl.String),
    ).select(list(SCHEMA))


def _objects(table: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Objects by split and category; a split without objects is there too."""
    objects: dict[str, dict[str, int]] = {split: {} for split in table["split"].unique()}
    for split, category, count in table.drop_nulls("category").group_by("split", "category").len().iter_rows():
        objects[split][category] = count
    return objects


def _judge(table: pl.DataFrame, issues: Sequence[Issue], images: int, source: Path, config: PrepareConfig) -> None:
    """Refuse a dataset without objects, or one with more broken objects than the settings allow."""
    objects = table["mask_path"].count()
    broken = [issue for issue in issues if issue.severity is Severity.ERROR]
    share = len(broken) / max(len(broken) + objects, 1)
    allowed = {"fail": 0.0, "skip": 1.0, "auto": config.max_broken}[config.on_error]
    if broken and share > allowed:
        first = broken[0]
        raise DataError.of(
            expected=f"at most {allowed:.0%} unusable objects",
            found=f"{len(broken)} of {len(broken) + objects} ({share:.0%}); the first: {first.message}",
            where=f"{first.file} {first.where}".strip(),
            do="repair the source, or accept the loss with --on-error skip, which lists all of them",
        )
    if objects == 0:
        raise DataError.of(
            expected="at least one object",
            found=f"{images} images without any usable one",
            where=str(source),
            do="check what the export holds",
        )


@contextmanager
def _unpacked(source: Path, out: Path) -> Generator[tuple[Path, bool]]:
    """The source as a folder, and whether that folder will vanish: an archive's is temporary, and beside `out`."""
    if not is_archive(source):
        yield source, False
        return
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=f".{out.name}.unpacked-", dir=out.parent)
    with folder as place:
        unpacked = unpack(source, Path(place) / "export")
        with told_of(source, unpacked):
            yield unpacked, True


def _check_out(source: Path, out: Path) -> None:
    if source.exists() and source.resolve().is_relative_to(out.resolve()):
        raise DataError.of(
            expected="a dataset folder apart from the source, which it would replace",
            found="the source inside it",
            where=str(out),
            do="choose another --out",
        )
    recover_folder(out)
    if out.exists() and not (out / TABLE).exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError.of(
            expected="a new folder, or an earlier dataset to replace",
            found="something else",
            where=str(out),
            do="choose another --out",
        )


def _plain(issue: Issue) -> dict[str, Any]:
    """A finding for JSON; `asdict` would take many times as long to find out that there is nothing inside to copy."""
    return {name: getattr(issue, name) for name in _ISSUE_FIELDS}


def _about(table: pl.DataFrame, source_format: str, config: PrepareConfig) -> dict[str, Any]:
    objects = table.filter(pl.col("mask_path").is_not_null())
    return {
        "format": 1,
        "source_format": source_format,
        "categories": sorted(objects["category"].unique().to_list()),
        "config": config.model_dump(mode="json", exclude={"workers"}),
    }


def _report(dataset: Dataset, issues: Sequence[Issue]) -> PrepareReport:
    by_split = {str(part["split"][0]): part for part in dataset.table.partition_by("split")}
    images = {name: part["image_id"].n_unique() for name, part in by_split.items()}
    objects = {name: part["mask_path"].count() for name, part in by_split.items()}
    images, objects = ({split.value: counts.get(split.value, 0) for split in Split} for counts in (images, objects))
    broken = sum(issue.severity is Severity.ERROR for issue in issues)
    return PrepareReport(dataset, tuple(issues), images, objects, broken)
