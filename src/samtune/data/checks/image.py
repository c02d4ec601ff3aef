"""What is looked at in one image and its objects. `prepare` and the doctor call the same functions, so they agree.

`check_frame` and `check_object` decide what can be used; `suspicions` finds what can be used but looks wrong.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from samtune.data.checks.crossing import crossing_rings, overlapping
from samtune.data.images import MAX_PIXELS, ImageError, ImageInfo
from samtune.data.masks import Region, SegmentationError, rasterise_region, region_of
from samtune.data.masks.regions import check_size
from samtune.data.reading import Reading
from samtune.errors import DataError, SamtuneError
from samtune.types import Annotation, ImageRecord, Issue, Polygons, RunLengths, Severity

_SLIGHT = 2
"""Pixels by which a stated size may differ from the file's; exporters round."""
_BOX_SLACK = 2.0
"""Pixels by which a stated box may differ from the mask's; a twentieth of the side is allowed on top."""
_TINY = 16
"""Mask pixels below which an object is a few pixels of a 1024 px input."""
_WHOLE = 0.99
"""Share of the image above which an object is taken to cover all of it."""
_SAME_OBJECT = 0.9
"""IoU above which two objects are taken to be one, annotated twice."""

_PREPARED = "It is prepared as it is."


@dataclass(frozen=True, slots=True)
class Frame:
    """What the annotations' coordinates are in: a size in pixels, and the EXIF orientation still to be applied."""

    width: int
    height: int
    orientation: int = 1


@contextmanager
def errors_naming(archive: Path, folder: Path) -> Generator[None]:
    """Errors raised inside name the archive, not the folder it was unpacked to, which is gone when they are read."""
    try:
        yield
    except SamtuneError as error:
        raise error.replacing(str(folder), str(archive)) from error


def naming_archive(issue: Issue, archive: Path, folder: Path) -> Issue:
    """A finding that names the archive, not the folder it was unpacked to."""
    parts = {name: getattr(issue, name).replace(str(folder), str(archive)) for name in ("file", "message", "do")}
    return replace(issue, **parts)


def unusable_image(record: ImageRecord, error: DataError) -> list[Issue]:
    """The findings about an image that cannot be read, and about the objects lost with it."""
    text = f"The image cannot be used: {error.found}."
    code = error.code if isinstance(error, ImageError) else "unusable-image"
    about = about_image(record, code, text, "The image and its objects are left out.").caused_by(error)
    return [about, *_all_lost(record, "unusable-image", "The object's image cannot be used.")]


def check_frame(record: ImageRecord, info: ImageInfo, issues: list[Issue]) -> Frame | None:
    """The frame the annotations live in, known by the size they state; None, and issues, if that is neither frame's.

    Annotation tools disagree on whether they turn an image as its EXIF tag says. The size decides where turning
    changes it; where it does not, the image is taken to be annotated as it is shown, and that is reported. An image
    without objects can be used whatever size is stated.
    """
    stored, upright = (info.width, info.height), info.upright_size
    stated = (record.width, record.height)
    if info.orientation != 1 and stored != upright and stated == stored:
        return Frame(*stored, info.orientation)
    if (info.orientation != 1 and stated != upright) or (info.orientation != 1 and stored == upright):
        text = f"The image carries EXIF orientation {info.orientation}; its size does not tell how it was annotated."
        repair = "It is taken to be annotated upright, as it is shown."
        issues.append(about_image(record, "exif-orientation-unclear", text, repair, Severity.WARNING))
    if stated == upright or 0 in stated:
        return Frame(*upright)
    text = f"The annotations say {stated[0]} x {stated[1]} pixels, the file has {upright[0]} x {upright[1]}."
    if record.annotations and max(abs(one - other) for one, other in zip(stated, upright, strict=True)) > _SLIGHT:
        text += " They may be about an image of another resolution."
        issues.append(about_image(record, "image-size-differs", text, "The image and its objects are left out."))
        issues += _all_lost(record, "image-size-differs", "The object's image has another size.")
        return None
    issues.append(about_image(record, "image-size-differs", text, "The file's size counts.", Severity.WARNING))
    return Frame(*upright)


def check_bands(record: ImageRecord, info: ImageInfo, reading: Reading, issues: list[Issue]) -> None:
    """Report pages and bands that are not looked at, where nobody said which ones should be."""
    if info.pages > 1 and reading.is_plain and record.page is None:
        text = f"The file has {info.pages} pages, of which the first is read."
        issue = about_image(record, "several-pages", text, "Page 1 is prepared.", Severity.WARNING)
        choices = "--page 2 reads another page, --page all each as an image of its own"
        do = f"{choices}; --bands 1,2,3 takes pages as red, green and blue" if info.bands == 1 else choices
        issues.append(replace(issue, do=do))
    if info.bands not in (1, 3) and not reading.bands and info.windows:
        used = "the first three are read as red, green and blue" if info.bands > 3 else "the first is read as gray"
        text = f"The image has {info.bands} bands; {used}."
        issue = about_image(record, "several-bands", text, "It is prepared so.", Severity.WARNING)
        issues.append(replace(issue, do="say which: --bands 4,3,2, or --channel 1 for a single one"))


def check_turned(record: ImageRecord, info: ImageInfo, reading: Reading, issues: list[Issue]) -> bool:
    """Whether an image can be turned as its EXIF orientation says; not where only parts or bands of it are read."""
    if info.orientation == 1 or (reading.is_plain and info.width * info.height <= MAX_PIXELS):
        return True
    text = f"The image carries EXIF orientation {info.orientation}, and is to be read in parts or bands."
    issue = about_image(record, "exif-orientation-in-parts", text, "The image and its objects are left out.")
    issues.append(replace(issue, do="store it upright, without an orientation tag"))
    issues += _all_lost(record, "unusable-image", "The object's image cannot be used.")
    return False


def check_object(
    annotation: Annotation, record: ImageRecord, frame: Frame, min_area: int, issues: list[Issue]
) -> Region | None:
    """The object's pixels in the frame of the annotations, or None and an issue."""
    if annotation.segmentation is None:
        issues.append(lost(record, annotation, "no-segmentation", "The object has only a box, no outline."))
        return None
    try:
        region = _rasterised(annotation, record, frame)
    except DataError as error:
        code = error.code if isinstance(error, SegmentationError) else "mask-unreadable"
        issue = lost(record, annotation, code, f"The outline cannot be used: {error.found}.")
        issues.append(issue.caused_by(error))
        return None
    if region is None:
        outside = _extent_outside(annotation, frame) is not None
        text = "The outline lies outside the image." if outside else "The outline covers no pixel of the image."
        issues.append(lost(record, annotation, "empty-mask", text))
    elif region.area < min_area:
        text = f"The object has {region.area} pixels, fewer than --min-area {min_area}."
        issues.append(lost(record, annotation, "too-small", text))
    else:
        return region
    return None


def check_negative(record: ImageRecord, issues: list[Issue]) -> bool:
    """Whether an image without a usable object shows none; an issue if its objects were lost.

    Taken for an image without objects it would teach that what it shows is background.
    """
    lost_objects = len(record.annotations) + record.unread
    if lost_objects:
        text = f"None of the image's {lost_objects} objects can be used; it is no example of an image without objects."
        issues.append(about_image(record, "no-usable-object", text, "The image is left out.", Severity.WARNING))
    return not lost_objects


def suspicions(
    record: ImageRecord, frame: Frame, objects: Sequence[tuple[Annotation, Region]], issues: list[Issue]
) -> None:
    """Report what is usable but looks wrong: odd outlines, boxes, areas, sizes, and objects annotated twice.

    Args:
        record: the image.
        frame: what `check_frame` said.
        objects: the usable objects with their pixels in that frame.
        issues: gets the findings.
    """
    for (annotation, region), crosses in zip(objects, _crossing(objects), strict=True):
        for code, severity, text in _oddities(annotation, region, frame, crosses=crosses):
            issues.append(_about_object(record, annotation, code, text, _PREPARED, severity))
    for first, second, overlap in _duplicates(objects):
        one, other = objects[first][0], objects[second][0]
        same = "" if one.category == other.category else f", which is called {one.category!r}"
        text = f"The object covers {overlap:.0%} of the same pixels as annotation {one.annotation_id}{same}."
        issues.append(_about_object(record, other, "duplicate-object", text, "Both are prepared.", Severity.WARNING))


def about_image(
    record: ImageRecord, code: str, message: str, repair: str, severity: Severity = Severity.ERROR
) -> Issue:
    """A finding about an image file."""
    return Issue(code, severity, message, repair, file=str(record.path), image=record.path.name)


def lost(record: ImageRecord, annotation: Annotation, code: str, message: str) -> Issue:
    """An object that is left out."""
    return _about_object(record, annotation, code, message, "The object is left out.", Severity.ERROR)


def _about_object(
    record: ImageRecord, annotation: Annotation, code: str, message: str, repair: str, severity: Severity
) -> Issue:
    return Issue(
        code,
        severity,
        message,
        repair,
        file=str(record.source),
        image=record.path.name,
        annotation=annotation.annotation_id,
        where=annotation.where,
    )


def _all_lost(record: ImageRecord, code: str, message: str) -> list[Issue]:
    return [lost(record, annotation, code, message) for annotation in record.annotations]


def _rasterised(annotation: Annotation, record: ImageRecord, frame: Frame) -> Region | None:
    shape = annotation.segmentation
    assert shape is not None
    stated = (record.height, record.width)
    if isinstance(shape, RunLengths) and (shape.height, shape.width) == stated != (frame.height, frame.width):
        # The stated size is a pixel or two off; run lengths need exactly it, so the edge is cut or left empty after.
        check_size(shape.height, shape.width)
        whole = np.zeros((max(shape.height, frame.height), max(shape.width, frame.width)), bool)
        region = rasterise_region(shape, shape.height, shape.width)
        if region is not None:
            x0, y0, x1, y1 = region.box
            whole[y0:y1, x0:x1] = region.mask
        return region_of(whole[: frame.height, : frame.width])
    return rasterise_region(shape, frame.height, frame.width)


def _crossing(objects: Sequence[tuple[Annotation, Region]]) -> list[bool]:
    """Which objects have an outline that crosses itself."""
    shapes = [annotation.segmentation for annotation, _ in objects]
    rings = [shape.rings if isinstance(shape, Polygons) else () for shape in shapes]
    crossing = iter(crossing_rings(list(chain.from_iterable(rings))))
    return [any(list(islice(crossing, len(one)))) for one in rings]


def _oddities(
    annotation: Annotation, region: Region, frame: Frame, *, crosses: bool
) -> Iterator[tuple[str, Severity, str]]:
    """Code, severity and meaning of what is odd about one object."""
    area = region.area
    if (beyond := _extent_outside(annotation, frame)) is not None:
        text = f"The outline reaches {beyond:.0f} pixels out of the image; what lies outside is cut off."
        yield "polygon-outside-image", Severity.WARNING, text
    if crosses:
        text = "The outline crosses itself; parts that it goes around twice are holes in the mask."
        yield "polygon-self-crossing", Severity.WARNING, text
    if annotation.box is not None and not _fits(annotation.box, region, frame):
        stated = ", ".join(f"{side:.8g}" for side in annotation.box)
        text = f"The box is given as {stated} (xyxy), the mask's is {', '.join(map(str, region.box))}, which counts."
        yield "box-differs", Severity.WARNING, text
    if annotation.area is not None and not _area_fits(annotation, area):
        text = f"The area is given as {annotation.area:.8g} pixels, the mask has {area}, which counts."
        yield "area-differs", Severity.INFO, text
    if area < _TINY:
        yield "tiny-object", Severity.INFO, f"The object has {area} pixels, too few to learn a shape from."
    if area > _WHOLE * frame.width * frame.height:
        yield "covers-image", Severity.WARNING, "The object covers the whole image."
    if annotation.iscrowd:
        text = "The object is marked as a crowd; it is kept but not used as a prompt by default."
        yield "crowd", Severity.INFO, text


def _extent_outside(annotation: Annotation, frame: Frame) -> float | None:
    """How many pixels an outline reaches out of the image, where it is more than rounding."""
    if not isinstance(annotation.segmentation, Polygons):
        return None
    beyond = max(
        max(-min(ring[::2]), -min(ring[1::2]), max(ring[::2]) - frame.width, max(ring[1::2]) - frame.height)
        for ring in annotation.segmentation.rings
    )
    return beyond if beyond > 1 else None


def _fits(box: tuple[float, float, float, float], region: Region, frame: Frame) -> bool:
    limits = (frame.width, frame.height) * 2
    stated = [min(max(side, 0.0), limit) for side, limit in zip(box, limits, strict=True)]
    found = region.box
    slack = [_BOX_SLACK + 0.05 * (found[2] - found[0]), _BOX_SLACK + 0.05 * (found[3] - found[1])] * 2
    return all(abs(one - other) <= most for one, other, most in zip(stated, found, slack, strict=True))


def _area_fits(annotation: Annotation, area: int) -> bool:
    """Whether the stated area is the mask's, or the box's, as some exporters always write it."""
    stated = annotation.area
    assert stated is not None
    if abs(stated - area) <= max(16.0, 0.1 * area):
        return True
    if annotation.box is None:
        return False
    x0, y0, x1, y1 = annotation.box
    of_box = (x1 - x0) * (y1 - y0)
    return abs(stated - of_box) <= max(1.0, 0.01 * of_box)


def _duplicates(objects: Sequence[tuple[Annotation, Region]]) -> Iterator[tuple[int, int, float]]:
    """Objects, crowds aside, that cover nearly the same pixels: positions with first < second, and their IoU."""
    if len(objects) < 2:
        return
    boxes = np.array([region.box for _, region in objects], np.float64)
    # Boxes of such objects begin within a quarter of their width of each other.
    one, other = overlapping(boxes[:, 0], boxes[:, 0] + 0.25 * (boxes[:, 2] - boxes[:, 0]))
    corner = np.minimum(boxes[one, 2:], boxes[other, 2:]) - np.maximum(boxes[one, :2], boxes[other, :2])
    shared = np.clip(corner, 0, None).prod(axis=1)
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alike = shared / (sizes[one] + sizes[other] - shared) >= 0.75
    firsts, seconds = np.minimum(one, other)[alike], np.maximum(one, other)[alike]
    for first, second in sorted((int(a), int(b)) for a, b in zip(firsts, seconds, strict=True)):
        if objects[first][0].iscrowd or objects[second][0].iscrowd:
            continue
        overlap = _iou(objects[first][1], objects[second][1])
        if overlap >= _SAME_OBJECT:
            yield first, second, overlap


def _iou(one: Region, other: Region) -> float:
    x0, y0 = max(one.x0, other.x0), max(one.y0, other.y0)
    x1, y1 = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    parts = [region.mask[y0 - region.y0 : y1 - region.y0, x0 - region.x0 : x1 - region.x0] for region in (one, other)]
    shared = int(np.count_nonzero(parts[0] & parts[1]))
    return shared / (one.area + other.area - shared)
