"""YOLO segmentation: a line of text per object, `class x y x y ...` in shares of the image's width and height.

The paths in `data.yaml` are those of the machine that wrote it; where they lead nowhere, the folders beside it count.
An object of several polygons is one ring here: exporters join them by going there and back on one line, which covers no
pixel, so the ring is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import yaml

from samtune.data.images import SUFFIXES, probe_image
from samtune.data.paths import confine
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import (
    OnIssue,
    category_name,
    image_files,
    number,
    require_source,
    split_folders,
    unique,
)
from samtune.errors import DataError
from samtune.types import Annotation, Box, ImageRecord, Issue, Polygons, Severity, Split

_MAX_YAML = 1 << 20
_MAX_LABELS = 64 << 20
_KEYS = {"train": Split.TRAIN, "val": Split.VALID, "valid": Split.VALID, "validation": Split.VALID, "test": Split.TEST}


def read_yolo(path: Path, *, images: Path | None = None, on_issue: OnIssue) -> Iterator[ImageRecord]:
    """Read a YOLO segmentation dataset.

    Args:
        path: the folder that holds `data.yaml`, or the YAML file itself; without one, classes are named by number.
        images: folder of the images, when they stand apart from the labels; labels are then looked for in `path`.
        on_issue: called for each finding; lines reported as errors are left out.

    Yields:
        The images by split and name; those without a label file have no objects.

    Raises:
        DataError: no such folder, a YAML file that cannot be read, no image at all.
    """
    require_source(path)
    root = path.parent if path.is_file() else path
    settings = _settings(path if path.is_file() else _find_yaml(root))
    found = False
    for split, files, labels in _splits(root, images, settings):
        reader = _Reader(root, split, settings.names, on_issue)
        for file in files:
            found = True
            yield reader.record(file, labels(file))
        reader.report_unused({file.parent for file in map(labels, files)})
    if not found:
        raise DataError.of(
            expected="images in the folders that data.yaml names, or in images/", found="none", where=str(root)
        )


@dataclass(frozen=True)
class _Settings:
    """What `data.yaml` says: the class names by number, and the paths of the splits as written."""

    file: Path | None
    names: dict[int, str]
    paths: dict[Split, list[str]]


def _find_yaml(root: Path) -> Path | None:
    files = sorted((*root.glob("*.yaml"), *root.glob("*.yml")))
    return next((file for file in files if file.name in ("data.yaml", "data.yml")), files[0] if files else None)


def _settings(file: Path | None) -> _Settings:
    if file is None:
        return _Settings(None, {}, {})
    try:
        data = file.read_bytes()
        raw: Any = yaml.safe_load(data.decode("utf-8-sig")) if len(data) <= _MAX_YAML else "more than 1 MiB"
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise DataError.of(expected="a YAML file", found=found, where=str(file), do="export the data again") from error
    if not isinstance(raw, dict):
        raise DataError.of(expected="a YAML file with names, train and val", found=str(raw)[:60], where=str(file))
    entries = cast("dict[str, Any]", raw)
    paths = {_KEYS[key]: _texts(value) for key, value in entries.items() if key in _KEYS and value}
    return _Settings(file, _names(entries.get("names"), file), paths)


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


class _Labels:
    """Where the label file of an image is: `labels` in place of the last `images` of its path, or beside the image."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def __call__(self, image: Path) -> Path:
        if self._folder is not None:
            return self._folder / f"{image.stem}.txt"
        parts = image.parts
        for position in range(len(parts) - 2, -1, -1):
            if parts[position].lower() == "images":
                return Path(*parts[:position], "labels", *parts[position + 1 : -1], f"{image.stem}.txt")
        return image.with_suffix(".txt")


def _splits(root: Path, images: Path | None, settings: _Settings) -> Iterator[tuple[Split, list[Path], _Labels]]:
    """The images of each split, and where their labels are."""
    if images is not None:
        yield Split.TRAIN, image_files(images), _Labels(root / "labels" if (root / "labels").is_dir() else root)
        return
    seen: set[Path] = set()
    for split in Split:
        files = _written(root, settings.paths.get(split, []))
        if not files:
            files = [file for folder in _usual(root, split) for file in image_files(folder)]
        files = [file for file in files if file not in seen]
        seen.update(files)
        yield split, files, _Labels()


def _written(root: Path, paths: list[str]) -> list[Path]:
    """Images that the paths of `data.yaml` lead to; only those inside the dataset's folder."""
    files: list[Path] = []
    for text in paths:
        place = _inside(root, text)
        if place is None:
            continue
        if place.is_dir():
            inner = place / "images"
            files += image_files(place) or (image_files(inner) if inner.is_dir() else [])
        elif place.suffix.lower() == ".txt" and place.stat().st_size <= _MAX_LABELS:
            lines = place.read_text("utf-8", "replace").splitlines()
            listed = (_inside(root, line.strip()) for line in lines if line.strip())
            files += [file for file in listed if file is not None and file.suffix.lower() in SUFFIXES]
    return files


def _inside(root: Path, text: str) -> Path | None:
    """A path of `data.yaml` if it exists below the root; Roboflow writes `../train/images` for what is beside it."""
    name = PurePosixPath(text.replace("\\", "/"))
    kept = [part for part in name.parts if part not in ("..", ".")]
    try:
        place = confine(root, "/".join(kept)) if kept else root
    except DataError:
        return None
    return place if place.exists() else None


def _usual(root: Path, split: Split) -> list[Path]:
    """Folders of a split's images in the two usual layouts, `SPLIT/images` and `images/SPLIT`; else `images`."""
    inside = [
        folder / "images" if (folder / "images").is_dir() else folder
        for name, folder in split_folders(root)
        if name is split
    ]
    below = root / "images"
    if below.is_dir():
        inside += [folder for name, folder in split_folders(below) if name is split]
        if split is Split.TRAIN and not split_folders(below) and not split_folders(root):
            inside.append(below)
    elif split is Split.TRAIN and not split_folders(root):
        inside.append(root)
    return inside


class _Reader:
    """Turns the label files of one split into records."""

    def __init__(self, root: Path, split: Split, names: dict[int, str], on_issue: OnIssue) -> None:
        self._root, self._split, self._names, self._on_issue = root, split, names, on_issue
        self._ids: set[str] = set()
        self._used: set[Path] = set()

    def record(self, image: Path, labels: Path) -> ImageRecord:
        width = height = 0
        try:
            info = probe_image(image)
            width, height = info.upright_size
            if info.orientation != 1:
                self._report_orientation(image, info.orientation)
        except DataError:
            pass  # told once, by what checks every image; the shapes below have no scale then
        self._used.add(labels)
        return ImageRecord(
            image_id=unique(image.stem, self._ids),
            path=image,
            width=width,
            height=height,
            split=self._split,
            annotations=tuple(self._annotations(labels, image, width, height)),
            group=group_of(image.name),
            source=labels,
        )

    def report_unused(self, folders: set[Path]) -> None:
        """Report label files that no image belongs to."""
        for folder in sorted(folder for folder in folders if folder.is_dir()):
            for file in sorted(folder.glob("*.txt")):
                if file not in self._used and file.name not in (
                    "classes.txt",
                    "README.dataset.txt",
                    "README.roboflow.txt",
                ):
                    text = "The label file has no image of its name."
                    self._report("image-missing", text, file, "", "Its objects are left out.")

    def _annotations(self, labels: Path, image: Path, width: int, height: int) -> Iterator[Annotation]:
        if not labels.is_file():
            return
        if labels.stat().st_size > _MAX_LABELS:
            text = "The label file is larger than 64 MiB."
            self._report("file-too-large", text, labels, "", "It is left out.", image, labels.name)
            return
        for line, text in enumerate(labels.read_text("utf-8", "replace").splitlines(), start=1):
            if text.strip():
                annotation = self._annotation(text.split(), line, labels, image, width, height)
                if annotation is not None:
                    yield annotation

    def _annotation(
        self, words: list[str], line: int, labels: Path, image: Path, width: int, height: int
    ) -> Annotation | None:
        where = f"line {line}"
        values = [number(word) for word in words]
        if any(value is None for value in values):
            self._refuse(
                "label-not-a-number", "The line holds something that is not a finite number.", labels, image, line
            )
            return None
        kind, *shares = [value for value in values if value is not None]
        category = self._names.get(int(kind)) if self._names else str(int(kind))
        if kind != int(kind) or category is None:
            self._refuse(
                "category-unknown", f"The class is {words[0]}, which data.yaml does not name.", labels, image, line
            )
            return None
        box: Box | None = None
        ring: tuple[float, ...] = ()
        if len(shares) == 4:
            cx, cy, w, h = shares
            box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        elif len(shares) < 6 or len(shares) % 2:
            text = f"The line holds {len(shares)} numbers after the class, not at least 3 points."
            self._refuse("polygon-points", text, labels, image, line)
            return None
        else:
            ring = tuple(share * side for share, side in zip(shares, (width, height) * (len(shares) // 2), strict=True))
        shape = Polygons((ring,)) if ring and width else None
        return Annotation(f"{image.stem}-{line}", category, shape, box, where=where)

    def _report_orientation(self, image: Path, orientation: int) -> None:
        issue = Issue(
            "exif-orientation-unclear",
            Severity.WARNING,
            f"The picture carries EXIF orientation {orientation}; shares of its size do not tell how it was annotated.",
            "It is taken to be annotated upright, as it is shown.",
            str(image),
            image.name,
        )
        self._on_issue(issue)

    def _refuse(self, code: str, message: str, labels: Path, image: Path, line: int) -> None:
        self._report(code, message, labels, f"line {line}", "The object is left out.", image, f"{image.stem}-{line}")

    def _report(
        self,
        code: str,
        message: str,
        file: Path,
        where: str,
        repair: str,
        image: Path | None = None,
        annotation: str | None = None,
    ) -> None:
        name = image.name if image else None
        self._on_issue(Issue(code, Severity.ERROR, message, repair, str(file), name, annotation, where))
