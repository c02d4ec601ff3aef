"""Small text files of a source, whatever mark of their encoding they begin with, and YOLO's lines."""

from __future__ import annotations

from pathlib import Path

_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_text(path: Path, most: int) -> str:
    """At most so many bytes of a text file; bytes that are no text become U+FFFD. Empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(most)
    except OSError:
        return ""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    return data.decode(encoding, "replace")


def is_label_line(line: str) -> bool:
    """Whether a line is YOLO's: a class number, and at least four numbers."""
    words = line.split()
    if len(words) < 5 or not words[0].removesuffix(".0").isdigit():
        return False
    try:
        [float(word) for word in words[1:]]
    except ValueError:
        return False
    return True
