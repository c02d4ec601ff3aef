"""What the values of masks mean: files that name classes, and the values and colours that a mask holds."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.images import probe_image, read_image
from samtune.data.opening import opened
from samtune.data.readers.text import read_text
from samtune.errors import DataError

Value: TypeAlias = int | tuple[int, int, int]
"""A gray value or palette index, or a colour whose channels differ."""

BACKGROUND = frozenset({"background", "_background_", "unlabeled", "unlabelled", "void", "ignore", "__ignore__"})
VOID = 255
VOID_COLOR = (224, 224, 192)
"""What Pascal VOC draws around objects: value 255, and its colour in VOC's palette."""
_MOST_COLORS = 1024
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, IndexError, struct.error, MemoryError,
               Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises on damaged files."""
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Classes:
    """Categories by pixel value.

    Attributes:
        file: where they are written; None where no classes are known.
        names: by value or colour.
        by_color: whether the file gives colours, so that a palette's indices mean nothing.
    """

    file: Path | None = None
    names: Mapping[Value, str] = field(default_factory=lambda: dict[Value, str]())
    by_color: bool = False


def find_classes(folders: Iterable[Path]) -> Classes:
    """The first class file in these folders.

    Raises:
        DataError: a class file that cannot be read, or that gives two classes one colour.
    """
    for folder in folders:
        for name, read in _FILES.items():
            file = folder / name
            if file.is_file():
                if file.stat().st_size > _MOST_BYTES:
                    raise DataError.of(expected="a class file of at most 1 MiB", found="a larger one", where=str(file))
                return read(file)
    return Classes()


def _from_csv(file: Path) -> Classes:
    """Roboflow's `Pixel Value, Class`; three columns of a colour before the name, or behind it in `class_dict.csv`."""
    names: dict[Value, str] = {}
    by_color = False
    for line, row in enumerate(csv.reader(read_text(file, _MOST_BYTES).splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (line == 1 and not any(cell.isdigit() for cell in cells)):
            continue
        if file.name == "class_dict.csv":
            cells = [*cells[1:4], cells[0]]
        plain, name = (cells[:1], cells[1:2]) if len(cells) == 2 else (cells[:3], cells[3:4])
        if not name or not all(cell.isdigit() for cell in plain):
            raise DataError.of(
                expected="a pixel value and a class", found=",".join(row)[:60], where=f"{file}, line {line}"
            )
        by_color = by_color or len(plain) == 3
        _add(names, as_value([int(cell) for cell in plain]), name[0], file, line)
    return Classes(file, names, by_color)


def _from_labelmap(file: Path) -> Classes:
    """CVAT's lines `name:red,green,blue:parts:actions`."""
    names: dict[Value, str] = {}
    for line, text in enumerate(read_text(file, _MOST_BYTES).splitlines(), start=1):
        if not text.strip() or text.startswith("#"):
            continue
        name, _, rest = text.partition(":")
        color = rest.split(":")[0].split(",")
        if len(color) != 3 or not all(part.strip().isdigit() for part in color):
            raise DataError.of(expected="name:red,green,blue::", found=text[:60], where=f"{file}, line {line}")
        _add(names, as_value([int(part) for part in color]), name.strip(), file, line)
    return Classes(file, names, by_color=True)


def _listed(file: Path) -> Classes:
    """A name a line, the first for value 0, as labelme2voc writes them; `__ignore__` in front is not counted."""
    lines = [line.strip() for line in read_text(file, _MOST_BYTES).splitlines() if line.strip()]
    lines = lines[1:] if lines and lines[0] == "__ignore__" else lines
    return Classes(file, dict[Value, str](enumerate(lines)))


_FILES = {
    "_classes.csv": _from_csv,
    "labelmap.txt": _from_labelmap,
    "class_names.txt": _listed,
    "label_names.txt": _listed,
    "class_dict.csv": _from_csv,
}


def _add(names: dict[Value, str], value: Value, name: str, file: Path, line: int) -> None:
    if names.setdefault(value, name) != name:
        raise DataError.of(
            expected="one class for each value",
            found=f"{names[value]!r} and {name!r} for {value}",
            where=f"{file}, line {line}",
            do="give the classes different colours before exporting",
        )


def as_value(numbers: list[int]) -> Value:
    """A gray value, or a colour; equal channels are gray, as `read_labels` has them."""
    if len(numbers) == 1 or len(set(numbers)) == 1:
        return numbers[0]
    red, green, blue = numbers
    return red, green, blue


def values_of(labels: NDArray[Any]) -> list[Value]:
    """The values of a mask `[H, W]`, or the colours of one `[H, W, 3]`, sorted.

    Raises:
        DataError: so many colours that it is a photograph.
    """
    if labels.ndim == 2:
        found = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
        return [int(value) for value in found]
    packed = pack(labels)
    found = np.unique(packed)
    if found.size > _MOST_COLORS:
        raise DataError.of(expected=f"a mask of at most {_MOST_COLORS} colours", found=f"{found.size} colours")
    return [unpack(int(value)) for value in found]


def pack(colors: NDArray[Any]) -> NDArray[np.uint32]:
    """Colours `[H, W, 3]` as one number each, uint32 `[H, W]`."""
    return colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)


def unpack(color: int) -> Value:
    """A colour from `pack`."""
    return as_value([color >> 16, color >> 8 & 255, color & 255])


def has_palette(file: Path) -> bool:
    """Whether a mask's pixels are numbers of colours in a palette.

    Raises:
        DataError: the file cannot be read.
    """
    return file.suffix.lower() != ".npy" and probe_image(file).mode == "P"


def count_pages(file: Path) -> int:
    """How many images a mask file holds; 1 for what cannot be read, which is reported when it is."""
    if file.suffix.lower() not in (".tif", ".tiff", ".gif"):
        return 1
    try:
        with opened(file) as image:
            return int(getattr(image, "n_frames", 1))
    except DataError:
        return 1


def palette_colors(file: Path, labels: NDArray[Any]) -> dict[Value, Value]:
    """The colour of every index that a palette mask uses.

    Raises:
        DataError: the file cannot be read.
    """
    colors = read_image(file, upright=False).reshape(-1, 3)
    indices, first = np.unique(labels.ravel(), return_index=True)
    return {
        int(index): as_value([int(channel) for channel in colors[place]])
        for index, place in zip(indices.tolist(), first.tolist(), strict=True)
    }
