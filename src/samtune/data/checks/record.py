"""The one check of an image and its objects that both `samtune doctor` and `samtune prepare` run.

The doctor counts what comes out, `prepare` writes it. Neither decides on its own what can be used, so they agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from samtune.data.checks.dataset import Seen
from samtune.data.checks.duplicates import fingerprint
from samtune.data.checks.image import Frame, check_frame, check_negative, check_object, suspicions, unusable_image
from samtune.data.images import ImageInfo, probe_image
from samtune.data.masks import Region
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue


@dataclass(frozen=True, slots=True)
class CheckedObject:
    """An object that can be used: its position among the image's annotations, and its pixels in the frame."""

    number: int
    annotation: Annotation
    region: Region


@dataclass(frozen=True, slots=True)
class UsableImage:
    """An image that can be used.

    Attributes:
        info: what its header says.
        frame: the frame that its annotations are in.
        objects: its usable objects; empty for an image that shows none.
        seen: what it is compared with the other images by.
    """

    info: ImageInfo
    frame: Frame
    objects: tuple[CheckedObject, ...]
    seen: Seen


@dataclass(frozen=True, slots=True)
class CheckedRecord:
    """What the check of one image found.

    Attributes:
        issues: everything worth saying about the image and its objects.
        usable: what can be used of it; None where that is nothing.
        frame: the frame that its annotations are in, where it could be determined.
    """

    issues: tuple[Issue, ...]
    usable: UsableImage | None = None
    frame: Frame | None = None


def check_record(record: ImageRecord, min_area: int = 1) -> CheckedRecord:
    """Check an image file, its size, and each of its objects.

    Args:
        record: what a reader says of the image.
        min_area: objects of fewer mask pixels cannot be used.
    """
    issues: list[Issue] = []
    try:
        info = probe_image(record.path)
        print = fingerprint(record.path)
    except DataError as error:
        return CheckedRecord(tuple(unusable_image(record, error)))
    frame = check_frame(record, info, issues)
    if frame is None:
        return CheckedRecord(tuple(issues))
    regions = (check_object(annotation, record, frame, min_area, issues) for annotation in record.annotations)
    objects = tuple(
        CheckedObject(number, annotation, region)
        for number, (annotation, region) in enumerate(zip(record.annotations, regions, strict=True))
        if region is not None
    )
    if not objects and not check_negative(record, issues):
        return CheckedRecord(tuple(issues), frame=frame)
    suspicions(record, frame, [(found.annotation, found.region) for found in objects], issues)
    usable = UsableImage(info, frame, objects, Seen.of(record, print))
    return CheckedRecord(tuple(issues), usable, frame)
