"""A large JSON object read part by part, so that memory does not grow with the file.

The file is decoded value by value with the standard library's parser. Where each value stands is given in bytes, so
that a reader can keep places instead of values and come back for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from samtune.errors import DataError
from samtune.utils.files import LFS_POINTER

MAX_FILE = 16 << 30
MAX_VALUE = 256 << 20
"""Largest single value: one annotation, one image entry, or one member that is not a list. In bytes."""

CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Part:
    """One value of the file.

    Attributes:
        key: the top-level key it stands under.
        index: its position where the key holds a list, else None.
        value: the parsed value; for an empty list `[]`, with `index` None.
        start, end: its place in the file, in bytes.
    """

    key: str
    index: int | None
    value: Any
    start: int
    end: int


def parts(path: Path, *, lists: bool = False) -> Iterator[Part]:
    """Yields the values of a JSON object in the file's order, the elements of top-level lists one by one.

    Args:
        path: the file.
        lists: also take a file that is a list; its elements come under the key "".

    Raises:
        DataError: missing, not JSON (names the line), not an object at the top, not UTF-8, too large.
    """
    with open_json(path) as file:
        yield from _Scanner(path, file).parts(lists=lists)


def load_json(path: Path, *, most: int = MAX_VALUE) -> Any:
    """A JSON file read whole, for formats with one file per image.

    Raises:
        DataError: missing, not JSON (names the line), not UTF-8, larger than `most` bytes.
    """
    with open_json(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DataError.of(expected=f"a JSON file of at most {most >> 20} MiB", found="a larger one", where=str(path))
    return decode(data, path)


def decode(data: bytes, path: Path) -> Any:
    """Parse a piece of a JSON file; half a surrogate pair becomes U+FFFD, because no file could hold it as text.

    Raises:
        DataError: it is not JSON or not UTF-8; names the line.
    """
    try:
        text = data.decode("utf-8-sig")
        return _whole(json.loads(text), text)
    except UnicodeDecodeError as error:
        raise _broken(path, "bytes that are not UTF-8", 1 + data.count(b"\n", 0, error.start)) from error
    except json.JSONDecodeError as error:
        raise _broken(path, error.msg.lower(), error.lineno) from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise _broken(
            path, "a value nested too deep" if isinstance(error, RecursionError) else str(error), 1
        ) from error


def open_json(path: Path) -> BinaryIO:
    """Open a JSON file for reading.

    Raises:
        DataError: missing, unreadable, empty, a Git LFS pointer, damaged UTF-16, or larger than `MAX_FILE`.

    UTF-16, as some shells of Windows write it, is given as UTF-8.
    """
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError.of(expected="an annotation file", found=found, where=str(path), do="check the path") from error
    head = file.read(64)
    problem = _problem(head, path.stat().st_size)
    if problem:
        file.close()
        raise DataError.of(expected="a JSON annotation file in UTF-8", found=problem, where=str(path))
    file.seek(0)
    return _in_utf8(path, file) if head.startswith(_UTF16_MARKS) else file


def _in_utf8(path: Path, file: BinaryIO) -> BinaryIO:
    """A UTF-16 file's text as UTF-8."""
    with file:
        data = file.read(MAX_VALUE + 1)
    found = f"UTF-16 of more than {MAX_VALUE >> 20} MiB"
    if len(data) <= MAX_VALUE:
        try:
            return BytesIO(data.decode("utf-16").encode())
        except UnicodeError:
            found = "damaged UTF-16"
    raise DataError.of(expected="a JSON annotation file in UTF-8", found=found, where=str(path))


def _problem(head: bytes, size: int) -> str:
    if not head.strip():
        return "an empty file"
    if head.startswith(LFS_POINTER):
        return "a Git LFS pointer; run `git lfs pull`"
    return f"more than {MAX_FILE >> 30} GiB" if size > MAX_FILE else ""


class _Scanner:
    """Reads values off a file through a window of text.

    The window holds the bytes as Latin-1, one character a byte, so that places in it are places in the file; a value
    with bytes beyond ASCII is parsed again as the UTF-8 it is.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._decoder = json.JSONDecoder()
        self._window, self._at, self._base, self._ended = "", 0, 0, False
        if file.read(3) == _UTF8_MARK:
            self._base = 3
        file.seek(self._base)

    def parts(self, *, lists: bool) -> Iterator[Part]:
        if lists and self._next() == "[":
            yield from self._elements("")
            return
        self._expect("{", "an object, { ... }")
        if self._next() == "}":
            return
        while True:
            key = self._value()[0] if self._next() == '"' else self._fail("a key in quotes")
            self._expect(":", "a colon")
            if self._next() == "[":
                yield from self._elements(key)
            else:
                value, start, end = self._value()
                yield Part(key, None, value, start, end)
            if self._next() != ",":
                break
            self._at += 1
        self._expect("}", "a comma or }")

    def _elements(self, key: str) -> Iterator[Part]:
        start = self._base + self._at
        self._expect("[", "[")
        if self._next() == "]":
            self._at += 1
            yield Part(key, None, [], start, self._base + self._at)
            return
        index = 0
        while True:
            yield Part(key, index, *self._value())
            if self._next() != ",":
                break
            self._at += 1
            index += 1
        self._expect("]", "a comma or ]")

    def _next(self) -> str:
        """The next character that is no space; empty at the file's end."""
        while True:
            match = _SPACE.match(self._window, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def _expect(self, letter: str, what: str) -> None:
        if self._next() != letter:
            self._fail(what)
        self._at += 1

    def _value(self) -> tuple[Any, int, int]:
        """The value that begins at the next character, with its place."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
                value = _whole(value, self._window[self._at : end])
            except json.JSONDecodeError as error:
                if not self._more():
                    self._fail("a value", at=error.pos, found=error.msg.lower())
                continue
            except (RecursionError, ValueError) as error:
                found = "one nested too deep" if isinstance(error, RecursionError) else str(error)
                self._fail("a value", found=found)
            # A number may go on behind the window's edge.
            if end < len(self._window) or not self._more():
                break
        text, start = self._window[self._at : end], self._base + self._at
        self._at = end
        if not text.isascii():
            value = decode(text.encode("latin-1"), self._path)
        return value, start, start + len(text)

    def _more(self) -> bool:
        """Drop what was read, append the next piece of the file; False at its end."""
        if self._ended:
            return False
        rest = self._window[self._at :]
        if len(rest) > MAX_VALUE:
            self._fail(f"values of at most {MAX_VALUE >> 20} MiB", found="a larger one, or an error in the JSON")
        data = self._file.read(max(CHUNK, len(rest)))
        self._ended = not data
        self._base += self._at
        self._window, self._at = rest + data.decode("latin-1"), 0
        return not self._ended

    def _fail(self, expected: str, *, at: int | None = None, found: str = "") -> NoReturn:
        place = self._base + (self._at if at is None else at)
        self._file.seek(0)
        line = 1
        left = place
        while left > 0 and (data := self._file.read(min(CHUNK, left))):
            line += data.count(b"\n")
            left -= len(data)
        found = found or (repr(self._window[self._at]) if self._at < len(self._window) else "the end of the file")
        raise _broken(self._path, found, line, expected)


def _whole(value: Any, text: str) -> Any:
    """A value parsed from `text` without halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    return _mended(value) if "\\ud" in text or "\\uD" in text else value


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF_PAIR.sub("\ufffd", value)
    if isinstance(value, list):
        return [_mended(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


def _broken(path: Path, found: str, line: int, expected: str = "valid JSON") -> DataError:
    return DataError.of(
        expected=expected, found=found, where=f"{path}, line {line}", do="export or download the annotations again"
    )
