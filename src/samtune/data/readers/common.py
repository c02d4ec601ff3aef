"""What every reader needs: names of splits, images on disk, numbers from files that may hold anything, findings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from samtune.data.readers.files import visible_folders
from samtune.errors import DataError
from samtune.types import Box, Issue, Severity, Split

OnIssue: TypeAlias = Callable[[Issue], None]
"""Where a reader reports what it finds. An issue of severity ERROR about an annotation means: it was left out."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the user says about a source where it has two readings; fields are those of `PrepareConfig`.

    Attributes:
        crowd: whether COCO's `iscrowd` marks `objects` or `regions` of many; `auto` tells by their number.
        mask_pattern: path of an image's masks with `{stem}` for the image's name; empty tells by their names.
        all_pages: whether every page of an image is an image of its own.
        page: the page that is read of files with several, counted from 1, where not all are.
    """

    crowd: str = "auto"
    mask_pattern: str = ""
    all_pages: bool = False
    page: int = 1

    @classmethod
    def of(cls, crowd: str, mask_pattern: str, page: int | str) -> ReadOptions:
        """The options as settings have them, `page` a number or `all`."""
        return cls(crowd, mask_pattern, page == "all", page if isinstance(page, int) else 1)


AUTO = ReadOptions()

DEFAULT_CATEGORY = "object"
"""Category of objects in formats that name none."""

_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "valid": Split.VALID,
    "val": Split.VALID,
    "validation": Split.VALID,
    "test": Split.TEST,
    "testing": Split.TEST,
}
_WORD = re.compile(r"[a-z]+")


def raise_errors(issue: Issue) -> None:
    """The default for findings: errors are raised, the rest may pass.

    Raises:
        DataError: the issue is an error.
    """
    if issue.severity is Severity.ERROR:
        raise DataError.of(expected="usable annotations", found=issue.message, where=issue.place)


def lost(
    code: str,
    message: str,
    file: Path,
    where: str = "",
    image: str | None = None,
    annotation: str | None = None,
    repair: str = "The object is left out.",
    error: DataError | None = None,
) -> Issue:
    """The finding about what a reader has to leave out.

    Args:
        code, message: see `Issue`.
        file: the annotation file.
        where: place in it.
        image: the image's name, where one is lost or loses objects.
        annotation: what of it is lost.
        repair: what is done.
        error: why; tells what was expected and what can be done.
    """
    issue = Issue(code, Severity.ERROR, message, repair, str(file), image, annotation, where)
    return issue.caused_by(error) if error else issue


def split_named(name: str) -> Split | None:
    """The split that a folder's or file's name tells: `val`, `train2017`, `instances_val`; None for `trainval`."""
    found = {_SPLITS[word] for word in _WORD.findall(name.lower()) if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def split_folders(root: Path) -> list[tuple[Split, Path]]:
    """Folders below `root` that are named after a split, in the order train, valid, test, then by name."""
    folders = [
        (_SPLITS[folder.name.lower()], folder) for folder in visible_folders(root) if folder.name.lower() in _SPLITS
    ]
    order = list(Split)
    return sorted(folders, key=lambda item: (order.index(item[0]), item[1].name))


def number(value: Any) -> float | None:
    """A finite number, also from text such as `"3.5"`; None for anything else, booleans included."""
    if type(value) is bool or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def whole_number(value: Any) -> int | None:
    """A whole number, also from `"3"` and `3.0`; None for anything else."""
    result = number(value)
    return int(result) if result is not None and result == int(result) else None


def numbers(values: Any) -> tuple[float, ...] | None:
    """A list of finite numbers, texts among them read as numbers; None if any value is something else."""
    if not isinstance(values, list | tuple):
        return None
    plain = cast("list[Any]", values)
    if set(map(type, plain)) <= {float, int}:  # what most files hold, found fast
        try:
            found = tuple(map(float, plain))
        except OverflowError:
            return None
        return found if all(map(math.isfinite, found)) else None
    found = [number(value) for value in plain]
    return None if None in found else tuple(value for value in found if value is not None)


def holds_text(values: Any) -> bool:
    """Whether any value of a list is text."""
    return isinstance(values, list) and str in set(map(type, cast("list[Any]", values)))


def xywh_to_box(values: Any) -> Box | None:
    """COCO's `[x, y, width, height]` as xyxy; None if it is not four finite numbers."""
    found = numbers(values)
    if found is None or len(found) != 4:
        return None
    x, y, width, height = found
    return x, y, x + width, y + height


def rectangle(box: Box) -> tuple[float, ...]:
    """A box xyxy as a ring."""
    x0, y0, x1, y1 = box
    return x0, y0, x1, y0, x1, y1, x0, y1


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, points: int = 128) -> tuple[float, ...]:
    """An ellipse as a ring; the angle in radians turns x towards y."""
    cosine, sine = math.cos(angle), math.sin(angle)
    ring: list[float] = []
    for step in range(points):
        turn = 2 * math.pi * step / points
        x, y = rx * math.cos(turn), ry * math.sin(turn)
        ring += (cx + x * cosine - y * sine, cy + x * sine + y * cosine)
    return tuple(ring)


def category_name(value: Any) -> str | None:
    """A category's name as text without space around it; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def unique(identifier: str, seen: set[str]) -> str:
    """The identifier, or the first of `identifier-2`, `identifier-3`... that `seen` lacks; `seen` learns it."""
    candidate, count = identifier, 1
    while candidate in seen:
        count += 1
        candidate = f"{identifier}-{count}"
    seen.add(candidate)
    return candidate


def subfolders(root: Path) -> Iterator[tuple[Split, Path]]:
    """The folders to look for images in: those named after splits, or the root itself as train where there are none."""
    folders = split_folders(root)
    yield from folders or [(Split.TRAIN, root)]


def require_source(path: Path) -> None:
    """Refuse a source that is not there.

    Raises:
        DataError: no file or folder at `path`.
    """
    if not path.exists():
        raise DataError.of(
            expected="a dataset: a folder, an annotation file or a zip",
            found="nothing",
            where=str(path),
            do="check the path",
        )
