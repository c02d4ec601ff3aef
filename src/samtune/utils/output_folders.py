"""The rules of `--out`: what may be written where, so that nobody loses anything, and that one process writes there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from samtune.errors import ConfigError
from samtune.utils.files import recover_folder, storage_errors


def check_output(
    out: Path, *, mark: str = "", earlier: str = "", inputs: Iterable[Path] = (), do: str = "choose another --out"
) -> None:
    """Refuse an output folder in which anybody could lose something. Call it before any work is done.

    What may be there: nothing, an empty folder or, with `mark`, an earlier result of the same command.

    Args:
        out: folder, or file, that the command will write.
        mark: name of a file that every result of this command has; empty where earlier results are never replaced.
        earlier: what such a result is called in the message, such as "an earlier dataset".
        inputs: what the command reads; none of it may lie inside a folder that will be replaced.
        do: what to do about it, for the message.

    Raises:
        ConfigError: something else is there.
        StorageError: the folder cannot be looked at.
    """
    expected = f"a new folder, or one with {earlier}" if mark else "a new or empty folder"
    with storage_errors(out):
        for path in inputs:
            if path.exists() and path.resolve().is_relative_to(out.resolve()):
                raise ConfigError.of(
                    expected=f"an output folder apart from the input {path}",
                    found="the input inside it, which would be replaced",
                    where=str(out),
                    do="choose another --out",
                )
        if mark:
            recover_folder(out)
        found = _what_is_there(out, mark)
    if found:
        raise ConfigError.of(expected=expected, found=found, where=str(out), do=do)


def _what_is_there(out: Path, mark: str) -> str:
    """What would be lost, in words; empty where nothing would be."""
    if not out.exists():
        return ""
    if not out.is_dir():
        return "a file"
    if any(out.iterdir()) and not (mark and (out / mark).is_file()):
        return "a folder with something else in it" if mark else "a folder with something in it"
    return ""


@contextmanager
def alone_in(folder: Path, work: str) -> Iterator[None]:
    """Work in an existing folder that no other process may work in; where there is no such folder, nothing is held.

    The system gives the lock back when the process dies, however it does. Nothing of it stays in the folder.

    Args:
        folder: where the work is done.
        work: what it is called in the message, such as "a run".

    Raises:
        ConfigError: another process works there.
        StorageError: the folder cannot be written.
    """
    if not folder.is_dir():
        yield
        return
    lock = FileLock(folder / ".lock", thread_local=False)
    with storage_errors(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError.of(
                expected=f"{work} that nobody else works on",
                found="another process that does",
                where=str(folder),
                do="wait for it, or choose another --out",
            ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
