"""What only a source as a whole shows: nothing but boxes, no object at all, splits that nothing was read for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from samtune.data.images import SUFFIXES
from samtune.data.readers.common import split_folders
from samtune.data.readers.files import files_below
from samtune.types import Annotation, ImageRecord, Issue, Polygons, Severity, Split
from samtune.utils.text import counted

_MANY = 10
"""Objects from which outlines that are all rectangles are no chance."""
_NEARLY_ALL = 0.9
_SET = 30
"""Objects from which a category with one object is worth a word."""


class WholeSource:
    """Counts what is read, image by image."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: Counter[Split] = Counter()
        self._objects: Counter[Split] = Counter()
        self._categories: Counter[str] = Counter()
        self._boxes = self._rectangles = 0

    def add(self, record: ImageRecord) -> None:
        """Count an image and its objects."""
        self._images[record.split] += 1
        self._objects[record.split] += len(record.annotations)
        for annotation in record.annotations:
            self._categories[annotation.category] += 1
            self._boxes += annotation.segmentation is None
            self._rectangles += _is_rectangle(annotation)

    def issues(self, errors: int, *, splits_explained: bool = False) -> Iterator[Issue]:
        """The findings, once all is counted.

        Args:
            errors: findings that explain already what is missing.
            splits_explained: whether it was said already why splits are missing.
        """
        objects = self._objects.total()
        if objects and self._boxes == objects and not errors:
            yield self._issue(
                "boxes-only", Severity.ERROR, f"All {objects} objects have a box and no outline.",
                do="export polygons or masks; `samtune predict --boxes` makes masks from boxes, to be looked through",
            )  # fmt: skip
        elif objects >= _MANY and self._rectangles >= _NEARLY_ALL * objects:
            yield self._issue(
                "outlines-are-boxes", Severity.WARNING,
                f"{self._rectangles} of {objects} outlines are rectangles: boxes rather than outlines of objects.",
                do="export polygons or masks; a model tuned on boxes answers with boxes",
            )  # fmt: skip
        if not objects and not errors:
            yield self._issue(
                "no-objects", Severity.ERROR,
                f"The source has {counted(self._images.total(), 'image')} and no object.",
                do="check that the annotations were exported, and of which kind they are",
            )  # fmt: skip
        if not splits_explained:
            yield from self._splits()
        for category, count in sorted(self._categories.items()):
            if count == 1 and objects >= _SET:
                yield self._issue(
                    "category-once", Severity.INFO, f"Category {category!r} has one object.",
                    do="annotate more of them, or check its spelling; one object is learned or measured, not both",
                )  # fmt: skip

    def _splits(self) -> Iterator[Issue]:
        if not self._root.is_dir() or not self._images:
            return
        for place in (self._root, self._root / "images"):
            for split, folder in split_folders(place) if place.is_dir() else ():
                if not self._images[split] and (first := next(iter(files_below(folder, SUFFIXES)), None)) is not None:
                    yield self._issue(
                        "split-not-read", Severity.WARNING,
                        f"The folder {folder.name} holds images, such as {first.name}, and nothing was read for it.",
                        do="check that its annotations are there; the other splits are read without it",
                    )  # fmt: skip

    def _issue(self, code: str, severity: Severity, message: str, *, do: str) -> Issue:
        return Issue(code, severity, message, file=str(self._root), where="the whole source", do=do)


def _is_rectangle(annotation: Annotation) -> bool:
    """Whether an outline is one ring of four corners with upright edges."""
    shape = annotation.segmentation
    if not isinstance(shape, Polygons) or len(shape.rings) != 1 or len(shape.rings[0]) not in (8, 10):
        return False
    ring = shape.rings[0]
    xs, ys = ring[:8:2], ring[1:8:2]
    closed = len(ring) == 8 or ring[:2] == ring[8:]
    return closed and len(set(xs)) == 2 and len(set(ys)) == 2 and xs[0] != xs[2] and ys[0] != ys[2]
