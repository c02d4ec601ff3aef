"""Which format a source is in, told from names of files and the first members of JSON files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

from samtune.data.readers.common import require_source, split_folders
from samtune.data.readers.stream import parts
from samtune.errors import DataError

FORMATS = ("coco", "yolo", "mask-folder", "labelme", "via", "sa1b")
ROBOFLOW_NAME = "_annotations.coco.json"
_TRIED = 20
"""JSON files looked into per folder; the formats with a file per image fill a folder with one kind."""


def detect_format(source: Path) -> str:
    """The format of a source, as `--source-format` names it.

    Raises:
        DataError: nothing there, or nothing recognised.
    """
    require_source(source)
    found = _of_file(source) if source.is_file() else _of_folder(source)
    if found is None:
        raise DataError.of(
            expected=f"annotations in one of the formats {', '.join(FORMATS)}",
            found="an unknown file" if source.is_file() else "a folder without any that are recognised",
            where=str(source),
            do="check the path, or name the format with --source-format",
        )
    return found


def json_kind(file: Path) -> str | None:
    """The format of one JSON file; None if it is none of them or cannot be read."""
    try:
        for part in islice(parts(file), 200):
            kind = _kind_of_member(part.key, part.index, part.value)
            if kind:
                return kind
    except DataError:
        return None
    return None


def _kind_of_member(key: str, index: int | None, value: Any) -> str | None:
    entry = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if key in ("shapes", "imagePath", "imageData"):
        return "labelme"
    if key.startswith("_via_") or ("regions" in entry and "filename" in entry):
        return "via"
    if key == "image" and index is None and entry:
        return "sa1b"
    telling = {"images": "file_name", "annotations": "image_id", "categories": "name"}.get(key)
    if telling and ((index is not None and telling in entry) or value == []):
        return "coco"
    return None


def json_files(folder: Path) -> list[Path]:
    """JSON files directly in a folder, by name, hidden ones left out."""
    return sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))


def _of_file(file: Path) -> str | None:
    if file.suffix.lower() in (".yaml", ".yml"):
        return "yolo"
    return json_kind(file)


def _of_folder(root: Path) -> str | None:
    folders = [root, *(folder for _, folder in split_folders(root))]
    if any((folder / ROBOFLOW_NAME).is_file() for folder in folders):
        return "coco"
    if any(root.glob("*.yaml")) or any(root.glob("*.yml")):
        return "yolo"
    if any((folder / "_classes.csv").is_file() or any(folder.glob("*_mask.png")) for folder in folders):
        return "mask-folder"
    for folder in (*folders, root / "annotations"):
        if folder.is_dir():
            for file in json_files(folder)[:_TRIED]:
                if kind := json_kind(file):
                    return kind
    if any(any(folder.glob("*.txt")) for folder in _below(root, {"labels"})):
        return "yolo"
    return "mask-folder" if any(True for _ in _below(root, MASK_FOLDERS)) else None


MASK_FOLDERS = {
    "masks",
    "mask",
    "segmentationclass",
    "segmentationobject",
    "segmentation",
    "gt",
    "labels",
    "annotations",
}
"""Names, in lower case, of the folders that mask images are put in."""


def _below(root: Path, names: set[str]) -> Iterator[Path]:
    """Folders of these names in the source or one level below, and the split folders inside them."""
    above = [root, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    for parent in above:
        for folder in sorted(parent.iterdir()):
            if folder.is_dir() and folder.name.lower() in names:
                yield folder
                yield from (inner for _, inner in split_folders(folder))
