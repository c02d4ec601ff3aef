"""Checksums of a folder's files, in the layout of `sha256sum`: what is read is what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHECKSUMS = "SHA256SUMS"
"""Name of the list; `sha256sum -c SHA256SUMS` checks it too."""


def write_checksums(folder: Path) -> None:
    """Write the list of the files that stand in a folder.

    Raises:
        OSError: the disk refused.
    """
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()) if path.is_file()]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def find_damage(folder: Path) -> str:
    """What is wrong with the first file that is not as it was written, in words; empty where all are.

    A folder without a list counts as whole: other programs write none.

    Raises:
        OSError: a file cannot be read.
    """
    if not (folder / CHECKSUMS).is_file():
        return ""
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not name or Path(name).name != name:
            return f"a {CHECKSUMS} that is damaged"
        if not path.is_file():
            return f"no {name}"
        if sha256(path) != digest:
            return f"{name} is not what was written: its checksum is another"
    return ""


def sha256(path: Path) -> str:
    """The checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
