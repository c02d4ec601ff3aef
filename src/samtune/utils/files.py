"""Writing files so that nobody ever sees half of one: into a temporary sibling first, then moved into place.

An `OSError` while writing becomes a `StorageError` that names the place and what the system said.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samtune.errors import StorageError

LFS_POINTER = b"version https://git-lfs"
"""First bytes of a file that Git LFS has put a pointer in place of."""
_TEMPORARY = re.compile(r"old|[a-z0-9_]{8}")
"""How names end that `_aside` and `tempfile` make."""


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn an `OSError` raised inside into a `StorageError` about `where`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, where) from error


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; what is written there becomes `target` if the block succeeds."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
    temporary = Path(name)
    try:
        with storage_errors(target):
            yield temporary
            _sync_file(temporary)
            share(temporary)
            temporary.replace(target)
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path, *, sync: bool = True, keep: Path | None = None) -> Iterator[Path]:
    """Yields a temporary folder beside `target`; it takes the place of `target` if the block succeeds.

    `sync=False` is for folders of very many small files that can be made again: waiting for the disk at each of them
    would take longer than making them.

    A folder that stands at `target` is moved aside, replaced and removed. If the process dies between these moves,
    `recover_folder` finds what is whole. With `keep`, it becomes the folder `keep`, in the place of an earlier one.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with storage_errors(target):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if sync:
                _sync_tree(temporary)
            aside = keep or _aside(target)
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
                target.rename(aside)
            temporary.rename(target)
            if sync:
                _sync_folder(target.parent)
            if keep is None:
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Bring back what `new_folder` had moved aside when the process died before the successor was in place."""
    aside = _aside(target)
    if aside.exists() and not target.exists():
        aside.rename(target)


def unfinished(target: Path) -> list[Path]:
    """What `new_file` or `new_folder` left beside `target` when the process died while they wrote."""
    siblings = target.parent.glob(f".{target.name}.*") if target.parent.is_dir() else ()
    return [path for path in siblings if _TEMPORARY.fullmatch(path.name.removeprefix(f".{target.name}."))]


def remove_unfinished(target: Path) -> None:
    """Remove that."""
    for path in unfinished(target):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a whole UTF-8 text file with Unix line ends."""
    with new_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: Path, value: Any) -> None:
    """Write a whole JSON file, indented; NaN and infinity are bugs."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def share(file: Path) -> None:
    """Give a file the permissions of any new file; tempfile and safetensors make files for their owner alone."""
    file.chmod(0o666 & ~_umask())


def is_full(error: OSError) -> bool:
    """Whether a disk without space, or a quota, is the reason."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def storage_error(error: OSError, where: Path) -> StorageError:
    """The error for users about what the system said of `where`."""
    return StorageError.of(
        expected="to be able to write",
        found=(error.strerror or str(error)).lower(),
        where=str(where),
        do="free some space, or choose another folder"
        if is_full(error)
        else "check the folder's permissions, or choose another",
    )


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _sync_tree(folder: Path) -> None:
    """Bring everything in a folder to the disk: the contents of the files, and their names in the folders."""
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        elif path.is_file():
            _sync_file(path)
    _sync_folder(folder)


def _sync_file(path: Path) -> None:
    """Bring a file's contents to the disk. Windows flushes only through a handle that may write."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, without which a rename may be lost when the power goes.

    Windows has no handles of folders, and some network file systems do not synchronise them; both write names at once.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
