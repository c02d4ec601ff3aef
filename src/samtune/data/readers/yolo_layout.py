"""Where a YOLO set keeps things: class names, the images of each split, and the label file of an image.

The paths in `data.yaml` are those of the machine that wrote it; what of them leads somewhere below the set counts,
else the folders' names do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from samtune.data.images import SUFFIXES
from samtune.data.paths import confine
from samtune.data.readers.common import category_name, number, split_named
from samtune.data.readers.detect import NO_LABELS, is_yolo_yaml
from samtune.data.readers.files import files_below, is_hidden, visible
from samtune.data.readers.folders import context_of
from samtune.data.readers.text import read_text
from samtune.errors import DataError
from samtune.types import Split

_MOST_YAML = 1 << 20
_MOST_LIST = 64 << 20
_KEYS = {"train": Split.TRAIN, "val": Split.VALID, "valid": Split.VALID, "validation": Split.VALID, "test": Split.TEST}
_NAME_FILES = ("classes.txt", "obj.names", "class_names.txt", "labels.txt", "_darknet.labels", "predefined_classes.txt")


@dataclass(frozen=True)
class YoloSettings:
    """What `data.yaml`, or a list of classes, says.

    Attributes:
        file: where the names stand; None where classes have none.
        names: class names by number.
        paths: the paths of the splits as written.
        keypoints: how many numbers the keypoints of a pose file take; 0 for other files.
    """

    file: Path | None = None
    names: dict[int, str] = field(default_factory=lambda: dict[int, str]())
    paths: dict[Split, list[str]] = field(default_factory=lambda: dict[Split, list[str]]())
    keypoints: int = 0


def find_settings(root: Path) -> YoloSettings:
    """The settings of a set: its YAML file, one above that names folders in it, or a list of classes.

    Raises:
        DataError: a YAML file that cannot be read.
    """
    for folder in (root, *sorted({file.parent for file in files_below(root, (".yaml", ".yml"))})):
        files = [file for file in visible(folder) if file.suffix.lower() in (".yaml", ".yml")]
        files = [file for file in files if file.is_file() and is_yolo_yaml(file)]
        if files:
            return read_settings(next((file for file in files if file.stem == "data"), files[0]))
    above = root.parent / "data.yaml"
    if above.is_file() and is_yolo_yaml(above):
        settings = read_settings(above)
        texts = [text for paths in settings.paths.values() for text in paths]
        if any(root.name in PurePosixPath(text.replace("\\", "/")).parts for text in texts):
            return settings
    return _listed_names(root)


def read_settings(file: Path) -> YoloSettings:
    """A `data.yaml`.

    Raises:
        DataError: it cannot be read, or names no classes by number.
    """
    import yaml  # other formats have no such file

    try:
        data = file.read_bytes()
        raw: Any = yaml.safe_load(data.decode("utf-8-sig")) if len(data) <= _MOST_YAML else "more than 1 MiB"
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise DataError.of(expected="a YAML file", found=found, where=str(file), do="export the data again") from error
    if not isinstance(raw, dict):
        raise DataError.of(expected="a YAML file with names, train and val", found=str(raw)[:60], where=str(file))
    entries = cast("dict[Any, Any]", raw)
    base = entries.get("path")
    paths: dict[Split, list[str]] = {}
    for key, value in entries.items():
        if key in _KEYS and value:
            texts = _texts(value)
            paths[_KEYS[key]] = [f"{base}/{text}" for text in texts] if isinstance(base, str) and base else texts
    shape = entries.get("kpt_shape")
    counts = [number(side) for side in cast("list[Any]", shape)] if isinstance(shape, list) else []
    keypoints = int(counts[0] * counts[1]) if len(counts) == 2 and counts[0] and counts[1] else 0
    return YoloSettings(file, _names(entries.get("names"), file), paths, keypoints)


def _names(value: Any, file: Path) -> dict[int, str]:
    items: list[tuple[Any, Any]]
    if isinstance(value, dict):
        items = list(cast("dict[Any, Any]", value).items())
    elif isinstance(value, list):
        items = list(enumerate(cast("list[Any]", value)))
    elif value is None:
        return {}
    else:
        raise DataError.of(expected="names as a list, or by number", found=str(value)[:60], where=f"{file}, names")
    names: dict[int, str] = {}
    for key, name in items:
        index, text = number(key), category_name(name)
        if index is None or text is None:
            raise DataError.of(expected="a class number and a name", found=f"{key!r}: {name!r}", where=f"{file}, names")
        names[int(index)] = text
    return names


def _texts(value: Any) -> list[str]:
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _listed_names(root: Path) -> YoloSettings:
    """Names from a file with one a line, or from Label Studio's `notes.json`."""
    for file in (root / name for name in (*_NAME_FILES, *(f"labels/{name}" for name in _NAME_FILES))):
        if file.is_file():
            return YoloSettings(file, _lines(file))
    for file in files_below(root, (".txt", ".names", ".labels")):
        if file.name.lower() in _NAME_FILES:
            return YoloSettings(file, _lines(file))
    notes = root / "notes.json"
    if notes.is_file():
        try:
            content: Any = json.loads(read_text(notes, _MOST_YAML))
            entries = cast("list[dict[str, Any]]", content["categories"])
            return YoloSettings(notes, {int(entry["id"]): str(entry["name"]) for entry in entries})
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # a file of another kind; the classes have no names then
    return YoloSettings()


def _lines(file: Path) -> dict[int, str]:
    lines = (line.strip() for line in read_text(file, _MOST_YAML).splitlines())
    return dict(enumerate(line for line in lines if line))


def images_by_split(root: Path, settings: YoloSettings) -> dict[Split, list[Path]]:
    """The images of each split, each image once."""
    found: dict[Split, list[Path]] = {}
    seen: set[Path] = set()
    below: list[Path] | None = None
    for split in Split:
        files = _written(root, settings.paths.get(split, []))
        if not files:
            below = _all_images(root) if below is None else below
            files = [file for file in below if _split_of(file, root) is split]
        found[split] = [file for file in dict.fromkeys(files) if file not in seen]
        seen.update(files)
    if not any(found.values()):
        found[Split.TRAIN] = _all_images(root)
    return found


def _all_images(root: Path) -> list[Path]:
    return list(files_below(root, SUFFIXES))


def _split_of(file: Path, root: Path) -> Split | None:
    folders = file.parent.relative_to(root).parts
    return next((split for folder in folders if (split := split_named(folder))), None)


def _written(root: Path, paths: list[str]) -> list[Path]:
    """Images that the paths of `data.yaml` lead to; only those inside the set's folder."""
    files: list[Path] = []
    for text in paths:
        place = _inside(root, text)
        if place is None:
            continue
        if place.is_dir():
            files += files_below(place / "images" if (place / "images").is_dir() else place, SUFFIXES)
        elif place.suffix.lower() == ".txt":
            lines = read_text(place, _MOST_LIST).splitlines()
            listed = (_inside(root, line.strip()) for line in lines if line.strip())
            files += [file for file in listed if file is not None and file.suffix.lower() in SUFFIXES]
    return files


def _inside(root: Path, text: str) -> Path | None:
    """What of a written path leads to something below the root, the longest end of it that does.

    Roboflow writes `../train/images` for what is beside the YAML file; others the folders of their own machine.
    """
    name = PurePosixPath(text.replace("\\", "/"))
    kept = [part for part in name.parts if part not in ("..", ".", "/") and not part.endswith(":")]
    for start in range(len(kept)):
        try:
            place = confine(root, "/".join(kept[start:]))
            if place.exists():
                return place
        except (DataError, OSError):
            continue
    return root if name.parts and not kept else None


class LabelFinder:
    """Finds the label file of an image.

    It is where YOLO looks, `labels` in place of the last `images` of the path, or beside the image; else the one of the
    same name in folders that fit, or of a name that only one image and one label file have.
    """

    def __init__(self, root: Path, images: Iterable[Path], images_root: Path | None = None) -> None:
        """Set where to look.

        Args:
            root: folder of the label files.
            images: all images.
            images_root: folder of the images, when they stand elsewhere.
        """
        self._root, self._images_root = root, images_root
        self._stems: dict[str, int] = defaultdict(int)
        for image in images:
            self._stems[image.stem] += 1
        self._labels: dict[str, list[Path]] | None = None

    def find(self, image: Path) -> Path:
        """The label file of an image; where YOLO looks first when there is none."""
        usual = [place for place in _usual_places(image) if place.is_relative_to(self._root) or not self._images_root]
        if self._images_root is not None:
            relative = image.relative_to(self._images_root).with_suffix(".txt")
            usual = [self._root / "labels" / relative, self._root / relative, *usual]
        for place in usual:
            if place.is_file():
                return place
        return self._elsewhere(image) or usual[0]

    def all_labels(self) -> list[Path]:
        """Every label file of the set."""
        return [file for files in self._index().values() for file in files]

    def _elsewhere(self, image: Path) -> Path | None:
        candidates = self._index().get(image.stem, [])
        wanted = context_of(self._images_root or self._root, image)
        fitting = [file for file in candidates if context_of(self._root, file) == wanted]
        if len(fitting) == 1:
            return fitting[0]
        return candidates[0] if len(candidates) == 1 and self._stems[image.stem] == 1 else None

    def _index(self) -> dict[str, list[Path]]:
        if self._labels is None:
            self._labels = defaultdict(list)
            for file in files_below(self._root, (".txt",)):
                if file.name.lower() not in NO_LABELS and not is_hidden(file.name):
                    self._labels[file.stem].append(file)
        return self._labels


def _usual_places(image: Path) -> list[Path]:
    parts = image.parts
    for position in range(len(parts) - 2, -1, -1):
        if parts[position].lower() == "images":
            place = Path(*parts[:position], "labels", *parts[position + 1 : -1], f"{image.stem}.txt")
            return [place, image.with_suffix(".txt")]
    return [image.with_suffix(".txt")]
