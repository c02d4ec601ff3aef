"""What is wrong with a dataset, said before any training: `audit` reads and decodes everything and writes nothing.

The checks of images and objects are those that `prepare` runs (`checks.py`); the doctor adds what only the whole set
shows: leaks between splits, and what the set is made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from samtune.data.archive import is_archive, unpack
from samtune.data.checks.dataset import Seen, find_leaks, never_learned, splits_without_objects
from samtune.data.checks.duplicates import same_images
from samtune.data.checks.image import (
    Frame,
    errors_naming,
    naming_archive,
)
from samtune.data.checks.page import draw, render_text, to_json
from samtune.data.checks.record import UsableImage, check_record
from samtune.data.prepare.tiling import cut_by_tiles
from samtune.data.readers import ReadOptions, detect_format, read
from samtune.data.readers.common import AUTO
from samtune.data.reading import PLAIN, Reading
from samtune.types import Annotation, ImageRecord, Issue, Severity
from samtune.utils.results import Result

EXAMPLES_PER_CODE = 4
_SIZES = (("tiny", 16**2), ("small", 32**2), ("medium", 96**2))


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image to show beside a finding.

    Attributes:
        path: the image file.
        turned: whether to turn it as its EXIF orientation says.
        annotation: the object to draw, in pixels of that frame; None draws nothing.
        drawn: the image as a JPEG where it was drawn already, because its file will be gone.
    """

    path: Path
    turned: bool = True
    annotation: Annotation | None = None
    drawn: bytes | None = None


@dataclass(frozen=True, slots=True)
class FindingExample:
    """A finding with the images that show it."""

    issue: Issue
    images: tuple[ShownImage, ...]


@dataclass
class SplitSummary:
    """What one split holds.

    Attributes:
        images: images that can be used.
        without_objects: those among them without a usable object.
        objects: usable objects.
        categories: usable objects by category.
    """

    images: int = 0
    without_objects: int = 0
    objects: int = 0
    categories: Counter[str] = field(default_factory=lambda: Counter[str]())


@dataclass
class DatasetSummary:
    """What a dataset is made of.

    Attributes:
        splits: by split name, only those that have images.
        sizes: objects by size in mask pixels: tiny under 16 x 16, small under 32 x 32, medium under 96 x 96, large.
        objects_per_image: how many images have that many objects.
        image_sizes: images by (width, height) in pixels.
        unusable_images, unusable_objects: what cannot be used.
    """

    splits: dict[str, SplitSummary] = field(default_factory=lambda: dict[str, SplitSummary]())
    sizes: Counter[str] = field(default_factory=lambda: Counter[str]())
    objects_per_image: Counter[int] = field(default_factory=lambda: Counter[int]())
    image_sizes: Counter[tuple[int, int]] = field(default_factory=lambda: Counter[tuple[int, int]]())
    unusable_images: int = 0
    unusable_objects: int = 0


@dataclass(frozen=True, slots=True)
class Audit(Result):
    """What the doctor found.

    Attributes:
        source: what was looked at.
        source_format: the format it is in.
        issues: every finding, errors first, otherwise in the order of the source.
        summary: what the dataset is made of.
        examples: some findings of each kind, with images; those of an archive are drawn already.
    """

    source: Path
    source_format: str
    issues: tuple[Issue, ...]
    summary: DatasetSummary
    examples: tuple[FindingExample, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 for clean or warnings, 2 for errors."""
        return 2 if any(issue.severity is Severity.ERROR for issue in self.issues) else 0

    def lines(self) -> list[str]:
        """What to tell the user."""
        return self.to_text().splitlines()

    def to_text(self) -> str:
        """See `doctor_report.render_text`."""
        return render_text(self)

    def to_json(self) -> dict[str, Any]:
        """See `doctor_report.to_json`."""
        return to_json(self)


def audit(
    source: Path,
    source_format: str = "auto",
    images: Path | None = None,
    *,
    options: ReadOptions = AUTO,
    reading: Reading = PLAIN,
    grid: tuple[int, int] = (0, 0),
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Look at everything in a source: annotations, image files, masks, splits.

    Args:
        source: folder, annotation file, or archive of an export; it is only read.
        source_format: auto, or the name of a format.
        images: image folder, when the annotation file stands elsewhere.
        options: what the user says where a source has two readings.
        reading: which bands and page of the images are read.
        grid: side and margin in pixels of the tiles that large images will be cut into; 0 for none.
        progress: called with (images looked at, the same number); how many there will be is not known before.

    Raises:
        DataError: the source as a whole cannot be read; the message names file, field and line.
    """
    with _as_folder(source) as folder:
        check = _Check(replace(reading, in_tiles=grid[0] > 0), *grid)
        name = detect_format(folder, check.read_issue) if source_format == "auto" else source_format
        records = read(folder, name, images, on_issue=check.read_issue, options=options)
        for done, record in enumerate(records, start=1):
            check.image(record)
            if progress:
                progress(done, done)
        check.leaks()
        check.categories(source)
        found = check.audit(source, name)
        return found if folder == source else _outliving(found, folder)


@contextmanager
def _as_folder(source: Path) -> Generator[Path]:
    if not is_archive(source):
        yield source
        return
    with TemporaryDirectory(prefix="samtune-doctor-") as place:
        folder = unpack(source, Path(place) / "export")
        with errors_naming(source, folder):
            yield folder


def _outliving(found: Audit, folder: Path) -> Audit:
    """An audit of an archive that says and shows the same when the folder it was unpacked to is gone."""
    examples = tuple(
        FindingExample(
            naming_archive(example.issue, found.source, folder),
            tuple(replace(shown, drawn=draw(shown)) for shown in example.images),
        )
        for example in found.examples
    )
    issues = tuple(naming_archive(issue, found.source, folder) for issue in found.issues)
    return replace(found, issues=issues, examples=examples)


class _Check:
    """Gathers findings, counts and fingerprints, image by image."""

    def __init__(self, reading: Reading, tile: int, halo: int) -> None:
        self._reading, self._tile, self._halo = reading, tile, halo
        self.issues: list[Issue] = []
        self.summary = DatasetSummary()
        self.examples: dict[str, list[FindingExample]] = {}
        self.seen: list[Seen] = []
        self._unshown: list[Issue] = []

    def read_issue(self, issue: Issue) -> None:
        """Take what the reader reports; readers report on an image before they yield it."""
        self.issues.append(issue)
        self._unshown.append(issue)

    def image(self, record: ImageRecord) -> None:
        """Look at one image and its objects."""
        unshown, self._unshown = self._unshown, []
        checked = check_record(record, reading=self._reading)
        self.issues += checked.issues
        if checked.usable is not None and self._tile:
            self.issues += cut_by_tiles(checked.usable, record, self._tile, self._halo)
        if checked.usable is None:
            self.summary.unusable_images += 1
        else:
            self.seen.append(checked.usable.seen)
            self._count(record, checked.usable)
        about = [issue for issue in unshown if issue.image and Path(issue.image).name == record.path.name]
        self._keep_examples(record, checked.frame, [*about, *checked.issues])

    def leaks(self) -> None:
        """Report images that stand in more than one split."""
        for leak in find_leaks(self.seen, same_images([image.print for image in self.seen])):
            self.issues.append(leak.issue)
            self._keep(FindingExample(leak.issue, (ShownImage(leak.leaked.path), ShownImage(leak.original.path))))

    def categories(self, source: Path) -> None:
        """Report splits without objects, and categories that are evaluated but never learned."""
        objects = {name: split.categories for name, split in self.summary.splits.items()}
        self.issues += [*splits_without_objects(objects, source), *never_learned(objects, source)]

    def audit(self, source: Path, source_format: str) -> Audit:
        """Everything found."""
        self.summary.unusable_objects = sum(
            issue.severity is Severity.ERROR and issue.annotation is not None for issue in self.issues
        )
        order = list(Severity)
        issues = sorted(self.issues, key=lambda issue: order.index(issue.severity))
        examples = [example for kept in self.examples.values() for example in kept]
        return Audit(source, source_format, tuple(issues), self.summary, tuple(examples))

    def _count(self, record: ImageRecord, usable: UsableImage) -> None:
        summary, objects = self.summary, usable.objects
        split = summary.splits.setdefault(record.split.value, SplitSummary())
        split.images += 1
        split.without_objects += not objects
        split.objects += len(objects)
        split.categories.update(found.annotation.category for found in objects)
        summary.objects_per_image[len(objects)] += 1
        summary.image_sizes[usable.info.upright_size] += 1
        summary.sizes.update(_size_name(found.region.area) for found in objects)

    def _keep_examples(self, record: ImageRecord, frame: Frame | None, found: Iterable[Issue]) -> None:
        by_id = {annotation.annotation_id: annotation for annotation in record.annotations}
        for issue in found:
            annotation = by_id.get(issue.annotation) if issue.annotation is not None and frame else None
            turned = frame is None or frame.orientation == 1
            self._keep(FindingExample(issue, (ShownImage(record.path, turned, annotation),)))

    def _keep(self, example: FindingExample) -> None:
        kept = self.examples.setdefault(example.issue.code, [])
        if len(kept) < EXAMPLES_PER_CODE:
            kept.append(example)


def _size_name(area: int) -> str:
    return next((name for name, limit in _SIZES if area < limit), "large")
