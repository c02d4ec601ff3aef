"""What the names of folders say: masks or images are in them, and which folders of a set belong together."""

from __future__ import annotations

import re
from pathlib import Path

_MASK_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "labelled", "gt", "groundtruth", "groundtruths", "truth", "annot",
     "annotation", "annotations", "anno", "ann", "seg", "segmented", "segs", "segm", "segmentation", "segmentations",
     "segmentationclass", "segmentationclasspng", "segmentationclassraw", "segmentationobject",
     "segmentationobjectpng", "manual", "target", "targets", "instance", "instances", "semantic", "alpha", "json",
     "jsons"}
)  # fmt: skip
_IMAGE_BEGINNINGS = ("image", "img", "jpegimage", "photo", "pic", "rgb", "raw", "input", "original", "leftimg")
_FILLERS = frozenset({"png", "jpg", "jpeg", "tif", "tiff", "data", "ground", "1st", "2nd"})
_SPLIT_AND_MASK = re.compile(r"^(train|training|val|valid|validation|test)_?(annot|masks?|labels?|gt)$")


def is_mask_folder(name: str) -> bool:
    """Whether a folder's name says that masks or annotations are in it."""
    return bool(_MASK_WORDS & set(_words(name)) or _SPLIT_AND_MASK.match(name.lower()))


def is_image_folder(name: str) -> bool:
    """Whether a folder's name says that images are in it."""
    return any(map(_says_image, _words(name))) and not is_mask_folder(name)


def parts_below(root: Path, file: Path) -> tuple[str, ...]:
    """The folders of a file from the root down; none for a file elsewhere."""
    return file.parent.relative_to(root).parts if file.is_relative_to(root) else ()


def context_of(root: Path, file: Path) -> tuple[str, ...]:
    """A file's folders, in lower case, without what only says image or mask: equal for an image and its annotations."""
    kept: list[str] = []
    for part in parts_below(root, file):
        match = _SPLIT_AND_MASK.match(part.lower())
        words = [match.group(1)] if match else _words(part)
        rest = "_".join(word for word in words if word not in _MASK_WORDS | _FILLERS and not _says_image(word))
        kept += [rest] if rest else []
    return tuple(kept)


def _says_image(word: str) -> bool:
    return word.startswith(_IMAGE_BEGINNINGS)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
