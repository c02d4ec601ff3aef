"""What `iscrowd` means in a file: a region of many objects, as in COCO, or a painted mask of one, as CVAT writes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samtune.data.readers.coco_index import CocoIndex, coco_issue
from samtune.types import Issue, Severity

_FEW = 0.02
"""Share of images and categories that may have several crowd regions in a file that means regions."""


def crowds_are_regions(index: CocoIndex, choice: str) -> tuple[bool, Issue | None]:
    """Whether annotations with `iscrowd` are regions of many objects, which are not trained, and what to say of it.

    COCO's own files have one crowd region per image and category, beside single objects of that category. CVAT marks
    every painted mask, so that they are most of a file, or several in one image, or the only ones of their category.

    Args:
        index: the file.
        choice: `auto`, `objects` or `regions`, as `--crowd` takes it.
    """
    crowd = np.frombuffer(bytes(index.crowd), np.uint8).astype(bool)
    count = int(np.count_nonzero(crowd))
    if not count:
        return True, None
    regions = choice == "regions" if choice != "auto" else _look_like_regions(index, crowd)
    if regions:
        text = f"{count} of {crowd.size} annotations are marked iscrowd: regions that cover many objects."
        repair = "They are kept and not trained; --crowd objects takes them as single objects."
        return True, coco_issue(index.file, "crowd-regions", text, "annotations", repair=repair, severity=Severity.INFO)
    text = f"{count} of {crowd.size} annotations are marked iscrowd, as CVAT marks the painted masks of single objects."
    repair = "They are taken as single objects; --crowd regions keeps them out of training."
    severity = Severity.WARNING if choice == "auto" else Severity.INFO
    return False, coco_issue(index.file, "crowd-objects", text, "annotations", repair=repair, severity=severity)


def _look_like_regions(index: CocoIndex, crowd: NDArray[np.bool_]) -> bool:
    if index.from_cvat or 2 * np.count_nonzero(crowd) > crowd.size:
        return False
    owner = np.frombuffer(index.owner, np.int64)
    places = owner * len(index.category_ids) + np.frombuffer(index.category, np.int32)
    groups, counts = np.unique(places[crowd & (owner >= 0)], return_counts=True)
    if not groups.size:
        return True
    beside = np.isin(groups, places[~crowd])
    return bool(np.mean(counts > 1) <= _FEW and np.mean(beside) >= 0.5)
