"""Names that come out of annotation files and archives, turned into paths that cannot leave their folder."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from samtune.errors import DataError

_DRIVE = re.compile(r"^[A-Za-z]:")
_MAX_NAME = 4096


def relative_name(name: object, *, where: str = "") -> PurePosixPath:
    r"""A file name from an untrusted source as a relative path with forward slashes.

    Backslashes count as separators, because Windows exporters write them. Nothing is looked up on disk.

    Args:
        name: the name as the source has it.
        where: place of the name, for the message.

    Raises:
        DataError: not a string, empty, too long, absolute, with a drive letter, a control character or a `..` part.
    """
    problem = _problem(name)
    if problem:
        raise DataError.of(
            expected="a file name inside the dataset's folder",
            found=f"{_short(name)}, {problem}",
            where=where or None,
            do="correct the name in the annotation file",
        )
    assert isinstance(name, str)
    return PurePosixPath(*(part for part in name.replace("\\", "/").split("/") if part not in ("", ".")))


def confine(root: Path, name: object, *, where: str = "") -> Path:
    """The path of `name` below `root`, wherever links may point.

    Args:
        root: folder that must not be left.
        name: relative file name from an untrusted source.
        where: place of the name, for the message.

    Returns:
        `root / name`; the file need not exist.

    Raises:
        DataError: the name is not relative (see `relative_name`), or following links leads out of `root`.
    """
    path = root / relative_name(name, where=where)
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a name longer than the system takes, or links in a circle
        inside = False
    if not inside:
        raise DataError.of(
            expected="a file inside the dataset's folder",
            found=f"{_short(name)}, which leads out of {root}",
            where=where or None,
            do="put the file itself where the link stands",
        )
    return path


def relative_to(path: Path, root: Path) -> str:
    """`path` as seen from the folder `root`, with forward slashes; may start with `..`."""
    return Path(os.path.relpath(path.resolve(), root.resolve())).as_posix()


def _problem(name: object) -> str:
    if not isinstance(name, str):
        return "which is not text"
    if not name or len(name) > _MAX_NAME:
        return "which is empty" if not name else f"longer than {_MAX_NAME} characters"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "with a control character"
    slashed = name.replace("\\", "/")
    if slashed.startswith("/") or _DRIVE.match(slashed):
        return "which is absolute"
    parts = slashed.split("/")
    if ".." in parts:
        return "with a '..' in it"
    if all(part in ("", ".") for part in parts):
        return "which names no file"
    return ""


def _short(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:117]}..."
