"""From annotations to a dataset: every object's mask as its own file, and the table that links images to masks.

    DATASET/table.parquet, table.csv   one row per object, one per image without objects (see `table.py`)
    DATASET/masks/IMAGE/NNN.png        one mask per object
    DATASET/images/...                 the images, with `copy_images`, from an archive, or where EXIF turns them
    DATASET/merged/...                 one mask per image or category, with `merge`
    DATASET/issues.json                everything that was found wrong, and what was done about it
    DATASET/dataset.json               where the dataset came from, and what it holds

The same source gives the same bytes. The folder appears whole or not at all. Images stream through: rows and findings
wait on disk for the end; what stays in memory of an image is what tells it from the others, about 1 KB.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samtune.data.archive import is_archive, unpack
from samtune.data.checks.dataset import KEPT_APART, Seen, find_leaks, never_learned, splits_without_objects
from samtune.data.checks.duplicates import same_images
from samtune.data.checks.image import errors_naming, naming_archive
from samtune.data.images import SUFFIXES
from samtune.data.intensity import limits_of_set
from samtune.data.prepare.image import NamedImage, PreparedImage, Writing, prepare_image, safe_name
from samtune.data.prepare.placement import new_shares, place_images, split_within_images
from samtune.data.prepare.split import group_of
from samtune.data.prepare.spool import TABLE, ImageSummary, IssueSpool, RowSpool, TableRow, read_issues, write_issues
from samtune.data.readers import ReadOptions, detect_format, read
from samtune.data.readers.common import unique
from samtune.data.reading import ABOUT, Reading, reading_of
from samtune.errors import DataError, SamtuneError
from samtune.types import ImageRecord, Issue, Severity, Split
from samtune.utils.files import new_folder, storage_errors, write_json
from samtune.utils.output_folders import check_output
from samtune.utils.results import Result
from samtune.utils.text import counted, html_lines, html_table
from samtune.utils.workers import mapped

if TYPE_CHECKING:
    from samtune.config import PrepareConfig
    from samtune.data.table import Dataset

ISSUES = "issues.json"
_ASKED_APART = "--group-by source keeps such images together; --group-by {} was asked for."


@dataclass(frozen=True)
class PrepareReport(Result):
    """What `prepare` made.

    Attributes:
        root: the dataset's folder.
        found: findings by severity and code.
        images: images by split.
        objects: objects by split.
        first: the first finding of each kind that is an error, by code.
    """

    root: Path
    found: Mapping[tuple[str, str], int]
    images: dict[str, int]
    objects: dict[str, int]
    first: Mapping[str, Issue] = field(default_factory=dict[str, Issue])

    @property
    def broken(self) -> int:
        """Objects and images that could not be used."""
        return sum(count for (severity, _), count in self.found.items() if severity == Severity.ERROR)

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset, opened."""
        from samtune.data.table import Dataset

        return Dataset.open(self.root)

    @cached_property
    def issues(self) -> tuple[Issue, ...]:
        """Everything found wrong."""
        return tuple(read_issues(self.root / ISSUES))

    def _repr_html_(self) -> str:
        splits = [(split, str(count), str(self.objects.get(split, 0))) for split, count in self.images.items()]
        found = [(code, severity, str(count)) for (severity, code), count in sorted(self.found.items())]
        tables = html_table(("split", "images", "objects"), splits)
        tables += html_table(("finding", "severity", "count"), found) if found else ""
        return tables + html_lines([f"table: {self.root / TABLE}"])

    def to_json(self) -> dict[str, Any]:
        """Where it stands, what it holds, what was found; `issues.json` has the single findings."""
        found = [{"severity": severity, "code": code, "count": count} for (severity, code), count in self.found.items()]
        return {"root": str(self.root), "images": self.images, "objects": self.objects, "found": found}

    def lines(self) -> list[str]:
        """What to tell the user."""
        counts = [
            f"{split:<10} {count} images, {self.objects.get(split, 0)} objects" for split, count in self.images.items()
        ]
        if crowds := self.found.get((Severity.INFO.value, "crowd"), 0):
            counts.append(f"{'crowds':<10} {crowds} of these objects are crowd regions, which are not trained")
        found: list[str] = []
        for (severity, code), count in sorted(self.found.items()):
            found.append(f"{severity:<10} {count} x {code}")
            if severity == Severity.ERROR and code in self.first:
                found += _explained(self.first[code])
        listed = [f"issues     {self.root / ISSUES}"] if self.found else []
        return [*counts, *found, *listed, f"table      {self.root / TABLE}"]


def _explained(issue: Issue) -> list[str]:
    """A finding as errors are shown: what was expected, what was found, where, what to do."""
    message = SamtuneError(issue.message, expected=issue.expected, where=issue.place, do=issue.do or issue.repair)
    return [f"           {line}" for line in str(message).splitlines()]


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
        progress: called with images done and their total.

    Raises:
        ConfigError: `out` holds something else, or the source.
        DataError: the source cannot be read, holds no usable object, or more broken objects than allowed.
        StorageError: the disk refused; nothing is left behind.
    """
    check_output(out, mark=TABLE, earlier="an earlier dataset", inputs=[source])
    with _unpacked(source, out) as (folder, is_temporary):
        expected = _count_images(config.images or folder)
        copy = config.copy_images or is_temporary
        with new_folder(out, sync=False) as target, closing(_Gathered(target, source, folder)) as gathered:
            source_format = config.source_format
            if source_format == "auto":
                source_format = detect_format(folder, gathered.from_reader)
            options = ReadOptions.of(config.crowd, config.mask_pattern, config.page)
            records = read(folder, source_format, config.images, on_issue=gathered.from_reader, options=options)
            images = _named(records, folder, config)
            reading = reading_of(config)
            how = Writing(
                target, out, copy, config.min_area, config.mask_format, config.merge,
                reading, config.stretch == "set", config.tile, config.halo,
            )  # fmt: skip
            work = partial(prepare_image, how=how)
            done = 0
            results = mapped(work, images, config.workers, expected=expected, meanwhile=_load_table)
            for done, prepared in enumerate(results, start=1):
                gathered.add(prepared)
                progress(done, max(expected, done))
            progress(done, done)
            _check_share(gathered, done, config)
            if gathered.quantiles:
                reading = replace(reading, limits=limits_of_set(gathered.quantiles, reading.percentiles))
            _write(target, _final_rows(gathered, config), gathered, source_format, reading, config)
    return gathered.report(out)


class _Gathered:
    """What is kept of all images: rows and findings on disk, and a little of each image to compare it with the others.

    Attributes:
        source: what is prepared.
        rows: the table, in the splits of the source.
        read: findings of the reader.
        found: findings about images, objects and the whole set.
        images: the usable images, tile by tile where they are cut.
        seen: what the files of the usable images are compared by.
        first: for each of these files, the position of its (first) image among `images`.
        quantiles: of deep values, by file, where all are stretched alike.
    """

    def __init__(self, target: Path, source: Path, folder: Path) -> None:
        self.source = source
        self.rows = RowSpool(target)
        self.read, self.found = IssueSpool(target), IssueSpool(target)
        self.images: list[ImageSummary] = []
        self.seen: list[Seen] = []
        self.first: list[int] = []
        self.quantiles: list[NDArray[np.float32]] = []
        self._folder = folder

    def from_reader(self, issue: Issue) -> None:
        """Take a finding of the reader."""
        self.read.add(self._named(issue))

    def add_issues(self, issues: Iterable[Issue]) -> None:
        """Take other findings."""
        for issue in issues:
            self.found.add(self._named(issue))

    def add(self, prepared: PreparedImage) -> None:
        """Take what became of the next image."""
        self.add_issues(prepared.issues)
        if prepared.seen is None or not prepared.images:
            return
        self.seen.append(prepared.seen)
        self.first.append(len(self.images))
        for rows in prepared.images:
            self.rows.add(rows)
            self.images.append(ImageSummary.of(rows))
        if prepared.quantiles is not None:
            self.quantiles.append(prepared.quantiles)

    def objects(self) -> dict[str, Counter[str]]:
        """Objects by split and category; a split without objects is there too."""
        objects: dict[str, Counter[str]] = {}
        for image in self.images:
            objects.setdefault(image.split, Counter()).update(image.categories)
        return objects

    def first_errors(self) -> dict[str, Issue]:
        """The first finding of each kind that is an error, by code."""
        return self.read.first | self.found.first

    def report(self, root: Path) -> PrepareReport:
        """What was made, once it stands in `root`."""
        images = Counter(split for split, _ in {(image.split, image.image_id) for image in self.images})
        objects = self.objects()
        return PrepareReport(
            root,
            self.read.counts + self.found.counts,
            {split.value: images[split.value] for split in Split},
            {split.value: objects.get(split.value, Counter[str]()).total() for split in Split},
            self.first_errors(),
        )

    def close(self) -> None:
        """Give the disk space back."""
        for spool in (self.rows, self.read, self.found):
            spool.close()

    def _named(self, issue: Issue) -> Issue:
        return issue if self._folder == self.source else naming_archive(issue, self.source, self._folder)


def _named(records: Iterable[ImageRecord], root: Path, config: PrepareConfig) -> Iterator[NamedImage]:
    """The records with their groups and the names of their files."""
    base = (config.images or (root if root.is_dir() else root.parent)).resolve()
    names: set[str] = set()
    for record in records:
        path = record.path.resolve()
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        # Names differ in lower case, because some file systems do.
        yield NamedImage(
            unique(safe_name(record.path.stem).lower(), names),
            replace(record, group=group_of(name, config.group_by)),
        )


def _count_images(root: Path) -> int:
    """About how many images there are, for the progress."""
    folder = root if root.is_dir() else root.parent
    names = (name.lower() for _, _, files in os.walk(folder) for name in files)
    return sum(Path(name).suffix in SUFFIXES and "_mask." not in name for name in names)


def _final_rows(gathered: _Gathered, config: PrepareConfig) -> Iterator[TableRow]:
    """The rows in their final splits; `gathered` gets these splits, and what only the whole set shows."""
    pairs = same_images([image.print for image in gathered.seen])
    shares = new_shares(gathered.images, config.shares)
    rows, repair, seen = iter(gathered.rows), KEPT_APART, gathered.seen
    if shares is not None:
        files = [gathered.images[position] for position in gathered.first]
        same = [(files[pair.first].image_path, files[pair.second].image_path) for pair in pairs]
        placement = place_images(gathered.images, shares, same, config.seed)
        rows = placement.moved(rows)
        repair = _ASKED_APART.format(config.group_by)
        seen = [replace(one, split=Split(image.split)) for one, image in zip(seen, files, strict=True)]
        if placement.blocks:
            gathered.add_issues([split_within_images(placement.blocks, config.halo, gathered.source)])
    gathered.add_issues(leak.issue for leak in find_leaks(seen, pairs, repair))
    gathered.add_issues(splits_without_objects(gathered.objects(), gathered.source))
    gathered.add_issues(never_learned(gathered.objects(), gathered.source))
    return rows


def _check_share(gathered: _Gathered, images: int, config: PrepareConfig) -> None:
    """Refuse a dataset without objects, or one with more broken objects than the settings allow."""
    objects = sum(sum(image.categories.values()) for image in gathered.images)
    broken = gathered.read.errors + gathered.found.errors
    share = broken / max(broken + objects, 1)
    allowed = {"fail": 0.0, "skip": 1.0, "auto": config.max_broken}[config.on_error]
    first = next(iter(gathered.first_errors().values()), None)
    why = "" if first is None else first.message + (f" Expected was {first.expected}." if first.expected else "")
    if objects == 0:
        raise DataError.of(
            expected="at least one object",
            found=(f"{counted(images, 'image')} without any usable one" if images else "no usable image")
            + (f"; the first error: {why}" if why else ""),
            where=str(gathered.source) if first is None else first.place,
            do=(first and first.do) or "check what the export holds",
        )
    if first is not None and share > allowed:
        lost = gathered.read.lost_objects + gathered.found.lost_objects
        others = broken - lost
        unusable = f"{lost} of {lost + objects} objects" * bool(lost) + " and " * bool(lost and others)
        unusable += f"{counted(others, 'image')} or file{'s' * (others != 1)}" * bool(others)
        raise DataError.of(
            expected=f"at most {allowed:.0%} unusable",
            found=f"{unusable} ({share:.0%}); the first: {why}",
            where=first.place,
            do=f"{first.do or 'repair the source'}, or accept the loss with --on-error skip, which lists all of them",
        )


def _load_table() -> ModuleType:
    """The module that writes the table; it loads polars, which takes as long as preparing hundreds of objects."""
    return import_module("samtune.data.table")


def _write(
    target: Path,
    rows: Iterator[TableRow],
    gathered: _Gathered,
    source_format: str,
    reading: Reading,
    config: PrepareConfig,
) -> None:
    """Write all but the masks and images."""
    _load_table().write_rows(target, rows)
    write_issues(target / ISSUES, (gathered.read, gathered.found))
    about = {
        "format": 1,
        "source_format": source_format,
        "categories": sorted(set[str]().union(*gathered.objects().values())),
        "reading": replace(reading, in_tiles=False).to_json(),
        "config": config.model_dump(mode="json", exclude={"workers"}),
    }
    write_json(target / ABOUT, about)


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
        with errors_naming(source, unpacked):
            yield unpacked, True
