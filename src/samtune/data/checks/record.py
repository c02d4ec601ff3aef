"""The one check of an image and its objects that both `samtune doctor` and `samtune prepare` run.

The doctor counts what comes out, `prepare` writes it. Neither decides on its own what can be used, so they agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samtune.data.checks.dataset import Seen
from samtune.data.checks.duplicates import fingerprint
from samtune.data.checks.image import (
    Frame,
    check_bands,
    check_frame,
    check_negative,
    check_object,
    check_turned,
    suspicions,
    unusable_image,
)
from samtune.data.images import ImageInfo, probe_image, sample_quantiles
from samtune.data.masks import Region
from samtune.data.reading import PLAIN, Reading
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
        quantiles: of its deep values, where they are asked for; see `samtune.data.intensity`.
    """

    info: ImageInfo
    frame: Frame
    objects: tuple[CheckedObject, ...]
    seen: Seen
    quantiles: NDArray[np.float32] | None = None


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


def check_record(
    record: ImageRecord, min_area: int = 1, reading: Reading = PLAIN, *, quantiles: bool = False
) -> CheckedRecord:
    """Check an image file, its size, and each of its objects.

    Args:
        record: what a reader says of the image.
        min_area: objects of fewer mask pixels cannot be used.
        reading: which of its bands and pages is read, unless the record names a page, and whether all at once.
        quantiles: whether its deep values are to be summed up.
    """
    issues: list[Issue] = []
    reading = reading if record.page is None else replace(reading, page=record.page)
    try:
        info = probe_image(record.path, reading)
        print = fingerprint(record.path, reading)
        found = sample_quantiles(record.path, reading) if quantiles else None
    except DataError as error:
        return CheckedRecord(tuple(unusable_image(record, error)))
    if not check_turned(record, info, reading, issues):
        return CheckedRecord(tuple(issues))
    check_bands(record, info, reading, issues)
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
    usable = UsableImage(info, frame, objects, Seen.of(record, print), found)
    return CheckedRecord(tuple(issues), usable, frame)
