"""Unpacking archives nobody has vouched for: every entry is checked before it is written, and a refusal leaves nothing.

Zip and tar (plain, gzip, bzip2, xz) are read. What makes an archive unsafe - a link, a device, a path that leads out, a
size out of all proportion - ends in a `DataError` that names the entry.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, cast

from samtune.errors import DataError
from samtune.utils.files import new_folder
from samtune.utils.output_folders import check_output

_CHUNK = 1 << 20
_SPLIT_FOLDERS = frozenset({"train", "valid", "val", "validation", "test", "images", "labels", "annotations", "masks"})
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,  # zipfile: an unknown compression, or a password
    ValueError,
)
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may hold.

    Attributes:
        entries: most entries; the default is the most a classic zip can hold.
        total_bytes: most bytes unpacked, all entries together.
        ratio: most unpacked bytes per byte of the archive, above `free_bytes`.
        free_bytes: unpacked bytes up to which the ratio is not looked at.
        header_bytes: largest piece of metadata read at once.
        depth: most folders inside each other.
    """

    entries: int = 65_535
    total_bytes: int = 64 << 30
    ratio: float = 200.0
    free_bytes: int = 16 << 20
    header_bytes: int = 16 << 20
    depth: int = 32


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry: its name as stored, its claimed size in bytes, what it is, and how to read it."""

    name: str
    size: int
    kind: Literal["file", "folder", "link", "special", "encrypted"]
    open: Callable[[], AbstractContextManager[IO[bytes]]]


class _Reader(Protocol):
    """Yields the entries of one archive; each must be read before the next is asked for."""

    def __call__(self, archive: Path, limits: ArchiveLimits) -> Iterator[_Entry]: ...


def is_archive(path: Path) -> bool:
    """Whether `path` is a file that begins like a zip or a tar, whatever its name."""
    return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))


def unpack(
    archive: Path, out: Path, *, limits: ArchiveLimits | None = None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Unpack a zip or tar archive into a new folder, all of it or nothing.

    Args:
        archive: the file.
        out: folder to make; it may exist if it is empty.
        limits: caps on what the archive may hold.
        progress: called with (bytes unpacked, 0) after every megabyte.

    Returns:
        The folder with the data: `out`, or the single folder inside it that everything in the archive stands in.

    Raises:
        ConfigError: `out` holds something.
        DataError: the file is no archive, is damaged, or holds an entry that is refused; `out` is as it was before.
        StorageError: the disk refused.
    """
    limits = limits or ArchiveLimits()
    check_output(out)
    read = _reader_of(archive)
    for _entry in _checked_entries(read, archive, limits):
        pass  # once without writing, so that a refusal costs nothing
    with new_folder(out) as target:
        _write_all(_checked_entries(read, archive, limits), archive, target, progress or (lambda _done, _total: None))
    return _content_root(out)


def _reader_of(archive: Path) -> _Reader:
    if not archive.is_file():
        raise DataError.of(expected="an archive", found="no such file", where=str(archive), do="check the path")
    if zipfile.is_zipfile(archive):
        return _zip_entries
    if _is_tar(archive):
        return _tar_entries
    raise DataError.of(
        expected="a zip or tar archive",
        found=_first_bytes(archive),
        where=str(archive),
        do="download it again; a web page saved under this name is the usual reason",
    )


def _is_tar(path: Path) -> bool:
    """By its first bytes: asking `tarfile` would already read what a hostile header claims to hold."""
    with path.open("rb") as file:
        start = file.read(512)
    return start.startswith(tuple(_COMPRESSED)) or start[257:262] == b"ustar"


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    return f"a file that begins with {start!r}" if start else "an empty file"


def _checked_entries(read: _Reader, archive: Path, limits: ArchiveLimits) -> Iterator[tuple[_Entry, tuple[str, ...]]]:
    """Yields the entries worth writing with their safe path below the target; the first bad one raises."""
    names: dict[str, bool] = {}  # normalised path -> is a folder
    size = archive.stat().st_size
    claimed = count = 0
    entries = read(archive, limits)
    while (entry := _next(entries, archive)) is not None:
        count += 1
        claimed += entry.size
        _check_caps(count, claimed, size, entry, archive, limits)
        parts = _safe_parts(entry, archive, limits)
        if not parts or parts[0] == "__MACOSX" or parts[-1] == ".DS_Store":
            continue  # what macOS adds to every zip is no data
        _claim_name(parts, entry, names, archive)
        yield entry, parts


def _write_all(
    entries: Iterator[tuple[_Entry, tuple[str, ...]]],
    archive: Path,
    target: Path,
    progress: Callable[[int, int], None],
) -> None:
    written = 0
    for entry, parts in entries:
        destination = target.joinpath(*parts)
        if entry.kind == "folder":
            destination.mkdir(parents=True, exist_ok=True)
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        for number in _copy(entry, destination, archive):
            written += number
            progress(written, 0)


def _next(entries: Iterator[_Entry], archive: Path) -> _Entry | None:
    with _damage(archive, "the list of entries"):
        return next(entries, None)


def _copy(entry: _Entry, destination: Path, archive: Path) -> Iterator[int]:
    """Write one entry; yields bytes as they are written. Never writes more than the entry claimed."""
    left = entry.size
    with _damage(archive, _show(entry.name)), entry.open() as source, destination.open("xb") as file:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise _refusal("entries no longer than they claim to be", "more data than that", archive, entry.name)
            file.write(chunk)
            yield len(chunk)
    if left:
        raise _refusal("an entry as long as it claims to be", f"{left} bytes too few", archive, entry.name)


def _check_caps(count: int, claimed: int, size: int, entry: _Entry, archive: Path, limits: ArchiveLimits) -> None:
    unpack_yourself = "if you trust this archive, unpack it yourself and give samtune the folder"
    if count > limits.entries:
        raise _refusal(f"at most {limits.entries:,} entries", "more", archive, entry.name, unpack_yourself)
    if entry.size < 0 or claimed > limits.total_bytes:
        found = f"{claimed / 2**30:,.1f} GiB up to here"
        raise _refusal(f"at most {limits.total_bytes / 2**30:,.0f} GiB", found, archive, entry.name, unpack_yourself)
    if claimed > limits.free_bytes and claimed > limits.ratio * size:
        raise _refusal(
            f"at most {limits.ratio:,.0f} bytes unpacked per byte of the archive",
            f"{claimed / max(size, 1):,.0f} up to here, as decompression bombs have",
            archive,
            entry.name,
            unpack_yourself,
        )


def _safe_parts(entry: _Entry, archive: Path, limits: ArchiveLimits) -> tuple[str, ...]:
    """The entry's path as parts below the target; backslashes are separators, as some Windows programs write them."""
    if entry.kind not in ("file", "folder"):
        found = {"link": "a link", "special": "a device or pipe", "encrypted": "an encrypted entry"}[entry.kind]
        raise _refusal("plain files and folders", found, archive, entry.name)
    name = entry.name.replace("\\", "/")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    problem = None
    if "\0" in name:
        problem = "a name with a NUL character"
    elif name.startswith("/"):
        problem = "an absolute path"
    elif ".." in parts:
        problem = "a path that leads out of the folder"
    elif any(":" in part for part in parts):
        problem = "a drive letter or a stream name"
    elif len(parts) > limits.depth or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts):
        problem = "a path too deep or a name too long"
    elif not name.isprintable():
        problem = "a name with control characters"
    if problem:
        raise _refusal("paths inside the archive's own folder", problem, archive, entry.name)
    return parts


def _claim_name(parts: tuple[str, ...], entry: _Entry, names: dict[str, bool], archive: Path) -> None:
    """Refuse a second entry at one path, also on file systems that do not tell upper from lower case."""
    keys = ["/".join(parts[: end + 1]).casefold() for end in range(len(parts))]
    for key in keys[:-1]:
        if not names.setdefault(key, True):
            raise _refusal("one entry per path", "a file that is also a folder", archive, entry.name)
    folder = entry.kind == "folder"
    if keys[-1] in names and not (folder and names[keys[-1]]):
        raise _refusal("one entry per path", "the same path twice", archive, entry.name)
    names[keys[-1]] = folder


def _content_root(out: Path) -> Path:
    """Step into the one folder many archives wrap everything in, unless its name says it is part of the data."""
    inside = list(out.iterdir())
    wrapped = len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() not in _SPLIT_FOLDERS
    return inside[0] if wrapped else out


def _zip_entries(archive: Path, limits: ArchiveLimits) -> Iterator[_Entry]:
    del limits  # the central directory is as long as the file at most, and is read before any entry is known
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            name = info.orig_filename  # `filename` is cut at the first NUL

            def opener(info: zipfile.ZipInfo = info) -> IO[bytes]:
                return file.open(info)

            yield _Entry(name, info.file_size, _zip_kind(info), opener)


def _zip_kind(info: zipfile.ZipInfo) -> Literal["file", "folder", "link", "special", "encrypted"]:
    mode = info.external_attr >> 16 if info.create_system == 3 else 0  # 3: made on Unix, the mode stands above
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        return "link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special"
    if info.flag_bits & 0x1:
        return "encrypted"
    return "folder" if info.orig_filename.endswith(("/", "\\")) or kind == stat.S_IFDIR else "file"


def _tar_entries(archive: Path, limits: ArchiveLimits) -> Iterator[_Entry]:
    with archive.open("rb") as raw, _decompressed(raw) as stream:
        bounded = cast("IO[bytes]", _BoundedReads(stream, max(limits.header_bytes, _CHUNK)))
        with tarfile.open(fileobj=bounded, mode="r:") as file:
            while (member := file.next()) is not None:

                def opener(member: tarfile.TarInfo = member) -> IO[bytes]:
                    source = file.extractfile(member)
                    assert source is not None, "only regular files are opened"
                    return source

                yield _Entry(member.name, member.size, _tar_kind(member), opener)


def _tar_kind(member: tarfile.TarInfo) -> Literal["file", "folder", "link", "special"]:
    if member.issym() or member.islnk():
        return "link"
    if member.isdir():
        return "folder"
    return "file" if member.isreg() and not member.issparse() else "special"


@contextmanager
def _decompressed(raw: IO[bytes]) -> Generator[IO[bytes]]:
    """The tar inside a compressed file, or the file itself."""
    start = raw.read(6)
    raw.seek(0)
    opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
    if opener is None:
        yield raw
        return
    with opener(raw) as stream:
        yield cast("IO[bytes]", stream)


class _BoundedReads:
    """A file that refuses to be read in large pieces: tar headers may claim any length and are read at once."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise tarfile.ReadError(f"metadata of {size:,} bytes")
        return self._stream.read(size if size >= 0 else self._most)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def _damage(archive: Path, place: str) -> Generator[None]:
    """Turn what the archive libraries raise on damaged files into a `DataError` about `place`."""
    try:
        yield
    except _DAMAGED as error:
        raise _refusal("a whole archive", f"damage: {error or type(error).__name__}", archive, place) from error
    except OSError as error:
        if error.errno is None:  # what gzip and bz2 raise on damage; a real system error has a number
            raise _refusal("a whole archive", f"damage: {error}", archive, place) from error
        raise


def _refusal(expected: str, found: str, archive: Path, name: str, do: str | None = None) -> DataError:
    do = do or "get the archive again from where it was made; nothing of this one was kept"
    return DataError.of(expected=expected, found=found, where=f"{archive}, {_show(name)}", do=do)


def _show(name: str) -> str:
    """A name from an archive, safe to print: control characters escaped, at most 120 characters."""
    shown = name if name.isprintable() else ascii(name)
    return shown if len(shown) <= 120 else shown[:117] + "..."
