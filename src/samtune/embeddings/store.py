"""The folder of the embedding cache: where its files are, their sizes, eviction, what it holds, clearing it.

    CACHE/                          any folder
      SET/                          the embeddings of one encoder; SET is a hash of all that decides the numbers
        about.json                  the same in words
        3f/3f09...c2.safetensors    one view of one image; the name is a hash of the image file's bytes and the view
      locks/, usage                 locks between processes, and the bytes in use

The folder may be deleted at any time.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from samtune.utils.files import storage_errors
from samtune.utils.results import Result

SUFFIX = ".safetensors"
_SET, _ENTRY = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{64}\.safetensors")
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.[0-9]+")
_ABANDONED_AFTER_SECONDS = 3600
_AFTER_EVICTION = 0.9
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True)
class CacheSet:
    """The embeddings of one encoder: its folder's name, what is known of it, and how much there is."""

    set_id: str
    model: str
    stored: str
    image_size: int
    entries: int
    bytes: int
    last_used: float


@dataclass(frozen=True)
class CacheInfo(Result):
    """What a cache folder holds, the most recently used set first."""

    folder: Path
    sets: tuple[CacheSet, ...] = field(default=())

    @property
    def bytes(self) -> int:
        """Bytes of all entries."""
        return sum(found.bytes for found in self.sets)

    def lines(self) -> list[str]:
        """The contents as lines of text."""
        lines = [f"{self.folder}: {_words(self.bytes)} in {sum(found.entries for found in self.sets)} entries"]
        for found in self.sets:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.last_used)) if found.entries else "never"
            lines.append(
                f"  {found.set_id}  {found.model or 'unknown model'}, {found.image_size} px, {found.stored}: "
                f"{found.entries} entries, {_words(found.bytes)}, last used {used}"
            )
        return lines


def cache_info(folder: Path) -> CacheInfo:
    """Describe a cache folder. A folder that does not exist holds nothing."""
    with storage_errors(folder):
        sets = [_describe(path) for path in _set_folders(folder)]
    return CacheInfo(folder, tuple(sorted(sets, key=lambda found: found.last_used, reverse=True)))


def clear_cache(folder: Path) -> CacheInfo:
    """Remove all entries of a cache folder and whatever else the cache put there; other files stay.

    Returns:
        What was there.

    Raises:
        StorageError: something cannot be removed.
    """
    info = cache_info(folder)
    with storage_errors(folder):
        if not (folder / "locks").is_dir():
            return info
        for path in _set_folders(folder):
            for file in [*_files(path, _ENTRY), *_files(path, _UNFINISHED), path / "about.json"]:
                file.unlink(missing_ok=True)
            for inner in [*path.iterdir(), path]:
                _remove_if_empty(inner)
        (folder / "usage").unlink(missing_ok=True)
        for lock in (folder / "locks").glob("*.lock"):
            lock.unlink()
        _remove_if_empty(folder / "locks")
        _remove_if_empty(folder)
    return info


def make_room(folder: Path, size: int, limit: int | None) -> None:
    """Count `size` more bytes; beyond the limit, remove the least recently used entries of all sets.

    The count in `usage` is approximate, and corrected from the files whenever something has to be evicted. Call it
    while holding the lock "usage".
    """
    usage = folder / "usage"
    try:
        used = int(usage.read_text())
    except (FileNotFoundError, ValueError):
        used = sum(state.st_size for _, state in _entries(folder))
    if limit is not None and used + size > limit:
        entries = sorted(_entries(folder), key=lambda entry: entry[1].st_atime_ns)
        used = sum(state.st_size for _, state in entries)
        target = max(0, int(limit * _AFTER_EVICTION) - size)
        for path, state in entries if used + size > limit else ():
            if used <= target:
                break
            path.unlink(missing_ok=True)
            used -= state.st_size
        _remove_abandoned(folder)
    usage.write_text(str(used + size))


def _remove_abandoned(folder: Path) -> None:
    """Remove files that a killed process left half written."""
    for path in _set_folders(folder):
        for file in _files(path, _UNFINISHED):
            if time.time() - file.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                file.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in _set_folders(folder):
        for file in _files(path, _ENTRY):
            try:
                yield file, file.stat()
            except FileNotFoundError:  # another process was faster to evict it
                continue


def _set_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _SET.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def _files(set_folder: Path, name: re.Pattern[str]) -> Iterator[Path]:
    for inner in set_folder.iterdir():
        if len(inner.name) == 2 and inner.is_dir() and not inner.is_symlink():
            yield from (file for file in inner.iterdir() if name.fullmatch(file.name))


def _describe(path: Path) -> CacheSet:
    about = read_json(path / "about.json") or {}
    states = [file.stat() for file in _files(path, _ENTRY)]
    return CacheSet(
        set_id=path.name,
        model=str(about.get("model", "")),
        stored=str(about.get("stored", "unknown")),
        image_size=int(about.get("image_size", 0)),
        entries=len(states),
        bytes=sum(state.st_size for state in states),
        last_used=max((state.st_atime for state in states), default=0.0),
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def lock(folder: Path, name: str) -> FileLock:
    """One of the cache's locks between processes."""
    return FileLock(folder / "locks" / f"{name}.lock")


def _words(size: int) -> str:
    for unit in ("TB", "GB", "MB", "KB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f} {unit}"
    return f"{size} bytes"
