"""What `prepare` keeps while images stream through: rows and findings on disk, a little of each image in memory.

Knows nothing of dataframes, which take longer to load than a small set to prepare.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from samtune.types import ImageRecord, Issue, Severity
from samtune.utils.files import new_file

TABLE, TABLE_CSV = "table.parquet", "table.csv"

_ISSUE_FIELDS = tuple(name.name for name in fields(Issue))
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class TableRow(NamedTuple):
    """A row of the table, see `table.SCHEMA`; `annotation_id` to `area` and `iscrowd` are None without an object."""

    image_path: str
    mask_path: str | None
    split: str
    image_id: str
    annotation_id: str | None
    category: str | None
    x0: int | None
    y0: int | None
    x1: int | None
    y1: int | None
    area: int | None
    width: int
    height: int
    group: str
    iscrowd: bool | None
    is_fragment: bool | None = None
    page: int | None = None
    window_x: int | None = None
    window_y: int | None = None

    @classmethod
    def of_image(cls, image_path: str, record: ImageRecord, image_id: str, width: int, height: int) -> TableRow:
        """The row of an image without objects."""
        nothing = (None, None, None, None, None, None, None)
        split, group = record.split.value, record.group
        return cls(image_path, None, split, image_id, *nothing, width, height, group, None)


def place_of(row: TableRow) -> tuple[int, int] | None:
    """Where in its file the tile lies that a row is about, x and y of its window, or a later page; None for neither."""
    if row.window_x is None or row.window_y is None:
        return None if row.page is None else (0, row.page)
    return row.window_x, row.window_y


@lru_cache(maxsize=1 << 12)
def _shared(counts: tuple[tuple[str, int], ...]) -> Mapping[str, int]:
    """Counts by name, one and the same for all images with the same counts."""
    return MappingProxyType(dict(counts))


@dataclass(slots=True)
class ImageSummary:
    """What is kept in memory of an image.

    Attributes:
        image_path, split, image_id, group: as in its rows.
        place: x and y of a tile's window; None for whole images.
        categories: its objects by category.
    """

    image_path: str
    split: str
    image_id: str
    group: str
    categories: Mapping[str, int]
    place: tuple[int, int] | None = None

    @classmethod
    def of(cls, rows: Sequence[TableRow]) -> ImageSummary:
        """What is kept of the image that these rows are about."""
        first = rows[0]
        counted = Counter(row.category for row in rows if row.category is not None and not row.is_fragment)
        categories = _shared(tuple(sorted(counted.items())))
        return cls(first.image_path, sys.intern(first.split), first.image_id, first.group, categories, place_of(first))


class RowSpool:
    """Rows on disk, image by image, to be read back in order."""

    def __init__(self, folder: Path) -> None:
        # Without a name, so that nothing is left behind.
        self._file: IO[str] = TemporaryFile("w+", dir=folder, encoding="ascii", newline="\n")  # noqa: SIM115

    def add(self, rows: Sequence[TableRow]) -> None:
        """Keep the rows of one image."""
        self._file.write(json.dumps(rows) + "\n")

    def __iter__(self) -> Iterator[TableRow]:
        self._file.seek(0)
        for line in self._file:
            yield from map(TableRow._make, json.loads(line))

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


class IssueSpool:
    """Findings on disk, as text that `issues.json` is put together from, and how many there are of which kind.

    Attributes:
        counts: findings by severity and code.
        lost_objects: how many of the errors are about an object.
        first: the first finding of each kind that is an error, by code.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[str] = TemporaryFile("w+", dir=folder, encoding="utf-8", newline="\n")  # noqa: SIM115
        self.counts: Counter[tuple[str, str]] = Counter()
        self.lost_objects = 0
        self.first: dict[str, Issue] = {}

    def add(self, issue: Issue) -> None:
        """Keep a finding."""
        self.counts[issue.severity.value, issue.code] += 1
        if issue.severity is Severity.ERROR:
            self.lost_objects += issue.annotation is not None
            self.first.setdefault(issue.code, issue)
        members = ",\n".join(f'      "{name}": {_encode(getattr(issue, name))}' for name in _ISSUE_FIELDS)
        self._file.write(f",\n    {{\n{members}\n    }}")

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(count for (severity, _), count in self.counts.items() if severity == Severity.ERROR)

    def copy_to(self, file: IO[str], *, comma: bool) -> None:
        """Append the findings, with a comma between them and, if asked for, before the first."""
        self._file.seek(0 if comma else 1)
        shutil.copyfileobj(self._file, file)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def write_issues(path: Path, spools: Sequence[IssueSpool]) -> None:
    """Write `issues.json`: `{"format": 1, "issues": [...]}`, the findings of one spool after those of another.

    Raises:
        StorageError: the disk refused.
    """
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{\n  "format": 1,\n  "issues": [')
        filled = [spool for spool in spools if spool.counts]
        for spool in filled:
            spool.copy_to(file, comma=spool is not filled[0])
        file.write("\n  ]\n}\n" if filled else "]\n}\n")


def read_issues(path: Path) -> list[Issue]:
    """The findings in an `issues.json`."""
    listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["issues"]
    return [Issue(**entry | {"severity": Severity(entry["severity"])}) for entry in listed]
