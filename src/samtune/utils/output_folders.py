"""The one rule of `--out`: what may be written where, so that no command removes what it did not make itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

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
