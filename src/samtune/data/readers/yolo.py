"""YOLO segmentation: a line of text per object, `class x y x y ...` in shares of the image's width and height.

An object of several polygons is one ring here: exporters join them by going there and back on one line, which covers no
pixel, so the ring is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from samtune.data.images import probe_image
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import AUTO, OnIssue, ReadOptions, lost, number, require_source, unique
from samtune.data.readers.files import files_below
from samtune.data.readers.text import read_text
from samtune.data.readers.yolo_layout import LabelFinder, YoloSettings, find_settings, images_by_split, read_settings
from samtune.data.readers.yolo_lines import Lines, look_at_lines
from samtune.data.reading import IN_TILES
from samtune.errors import DataError
from samtune.types import Annotation, Box, ImageRecord, Issue, Polygons, Severity, Split

_MAX_LABELS = 64 << 20
_MANY = 0.5
"""Share of images without a label file from which they may be lost rather than empty."""


def read_yolo(
    path: Path, *, images: Path | None = None, on_issue: OnIssue, options: ReadOptions = AUTO
) -> Iterator[ImageRecord]:
    """Read a YOLO segmentation dataset.

    Args:
        path: the folder that holds `data.yaml`, or the YAML file itself; without one, a list such as `classes.txt`
            names the classes, else their number does.
        images: folder of the images, when they stand apart from the labels; labels are then looked for in `path`.
        on_issue: called for each finding; lines reported as errors are left out.
        options: not used.

    Yields:
        The images by split and name; those without a label file have no objects. A split none of whose images has a
        label file is reported and left out.

    Raises:
        DataError: no such folder, a YAML file that cannot be read, no image or no label file at all, pose files.
    """
    del options
    require_source(path)
    root = path.parent if path.is_file() else path
    settings = read_settings(path) if path.is_file() else find_settings(root)
    splits = {Split.TRAIN: list(files_below(images))} if images else images_by_split(root, settings)
    files = [file for those in splits.values() for file in those]
    if not files:
        raise DataError.of(
            expected="images in the folders that data.yaml names, or in images/", found="none", where=str(root)
        )
    finder = LabelFinder(root, files, images)
    labels = {file: label for file in files if (label := finder.find(file)).is_file()}
    if not labels:
        raise DataError.of(
            expected="label files, one .txt per image in labels/ or beside it",
            found=f"{len(files)} images and none of them",
            where=str(finder.find(files[0])),
            do="copy the folder of the labels too, or export again",
        )
    reader = _Reader(settings, look_at_lines(list(labels.values()), settings, on_issue), on_issue)
    for split, those in splits.items():
        if those and reader.report_missing(root, split, those, labels, finder):
            yield from (reader.record(file, labels.get(file) or finder.find(file), split) for file in those)
    reader.report_unused(finder, set(labels.values()))


class _Reader:
    """Turns label files into records."""

    def __init__(self, settings: YoloSettings, lines: Lines, on_issue: OnIssue) -> None:
        self._names, self._lines, self._on_issue = settings.names, lines, on_issue
        self._ids: dict[Split, set[str]] = {split: set() for split in Split}

    def record(self, image: Path, labels: Path, split: Split) -> ImageRecord:
        """One image with its objects."""
        width = height = 0
        try:
            info = probe_image(image, IN_TILES)
            width, height = info.upright_size
            if info.orientation != 1:
                self._report_orientation(image, info.orientation)
        except DataError:
            pass  # reported by what checks every image; the shapes below have no scale then
        return ImageRecord(
            image_id=unique(image.stem, self._ids[split]),
            path=image,
            width=width,
            height=height,
            split=split,
            annotations=tuple(self._annotations(labels, image, width, height)),
            group=group_of(image.name),
            source=labels,
        )

    def report_missing(
        self, root: Path, split: Split, images: list[Path], labels: dict[Path, Path], finder: LabelFinder
    ) -> bool:
        """Report images of a split without label files; False where none has one, so that the split cannot be used."""
        missing = [image for image in images if image not in labels]
        if not missing:
            return True
        where = finder.find(missing[0]).parent
        place = where.relative_to(root).as_posix() if where.is_relative_to(root) else str(where)
        if len(missing) == len(images):
            text = f"None of the {len(images)} images of {split.value} has a label file in {place}."
            repair = "They are left out; empty label files would say that they show no object."
            self._on_issue(Issue("labels-missing", Severity.WARNING, text, repair, str(where)))
            return False
        text = f"{len(missing)} of the {len(images)} images of {split.value} have no label file in {place}."
        severity = Severity.WARNING if len(missing) >= _MANY * len(images) else Severity.INFO
        repair = "They are taken as images without objects, as YOLO does."
        self._on_issue(Issue("labels-missing", severity, text, repair, str(where), missing[0].name))
        return True

    def report_unused(self, finder: LabelFinder, used: set[Path]) -> None:
        """Report label files that no image belongs to."""
        folders = {file.parent for file in used}
        for file in sorted(finder.all_labels()):
            if file not in used and (file.parent in folders or file.parent.name.lower() == "labels"):
                text = "The label file has no image of its name."
                self._on_issue(lost("image-missing", text, file, repair="Its objects are left out."))

    def _annotations(self, labels: Path, image: Path, width: int, height: int) -> Iterator[Annotation]:
        if not labels.is_file():
            return
        if labels.stat().st_size > _MAX_LABELS:
            text = "The label file is larger than 64 MiB."
            self._on_issue(lost("file-too-large", text, labels, "", image.name, labels.name, "It is left out."))
            return
        for line, text in enumerate(read_text(labels, _MAX_LABELS).splitlines(), start=1):
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
            text = f"The class is {words[0]}, which the list of names does not have."
            self._refuse("category-unknown", text, labels, image, line)
            return None
        if self._lines.confidence and len(shares) in (5, *range(7, len(shares) + 1, 2)):
            shares = shares[:-1]
        sides = (1, 1) if self._lines.pixels else (width, height)
        box: Box | None = None
        ring: tuple[float, ...] = ()
        if len(shares) == 4:
            cx, cy, w, h = (share * side for share, side in zip(shares, sides * 2, strict=True))
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        elif len(shares) < 6 or len(shares) % 2:
            text = f"The line holds {len(shares)} numbers after the class, not at least 3 points."
            self._refuse("polygon-points", text, labels, image, line)
            return None
        else:
            ring = tuple(share * side for share, side in zip(shares, sides * (len(shares) // 2), strict=True))
        shape = Polygons((ring,)) if ring and width else None
        return Annotation(f"{image.stem}-{line}", category, shape, box, where=where)

    def _report_orientation(self, image: Path, orientation: int) -> None:
        text = f"The image carries EXIF orientation {orientation}; shares of its size do not tell how it was annotated."
        repair = "It is taken to be annotated upright, as it is shown."
        issue = Issue("exif-orientation-unclear", Severity.WARNING, text, repair, str(image), image.name)
        self._on_issue(issue)

    def _refuse(self, code: str, message: str, labels: Path, image: Path, line: int) -> None:
        self._on_issue(lost(code, message, labels, f"line {line}", image.name, f"{image.stem}-{line}"))
