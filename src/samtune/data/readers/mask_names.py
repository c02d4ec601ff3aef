"""Which files are masks, told from the names of files and folders alone, and what of a name says so."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from samtune.data.images import SUFFIXES
from samtune.data.readers.folders import is_image_folder, is_mask_folder, parts_below

MASK_SUFFIXES = SUFFIXES | {".gif", ".npy"}
"""Endings of mask files."""

ENDINGS = (
    "_cp_masks", "_cp_mask", "_instance_masks", "_instances", "_masks", "_mask", "_segmentation", "_segm", "_seg",
    "_labels", "_label", "_groundtruth", "_ground_truth", "_gt", "_annotation", "_anno", "_l",
)  # fmt: skip
BEGINNINGS = ("masks", "mask", "labels", "label", "seg", "gt", "groundtruth", "instances")
COUNTED = re.compile(rf"({'|'.join(BEGINNINGS)})[_. -]?([0-9]+)", re.IGNORECASE)
"""A mask that is named by a number alone: `mask_0`, `mask1`."""
IMAGE_WORD = re.compile(
    r"^(image|img|frame|photo|rgb|raw)(?=[0-9_. -])|[_. -](image|img|rgb|raw|photo|input|orig(inal)?)$"
)
"""What in a name only says that it is an image's."""
_NO_MASKS = re.compile(r"(vi[sz]|visuali[sz]ations?|overlays?|preview|outlines?|contours?|flows?|weights?)$")
_NEITHER = re.compile(
    r"(_flows|_flow|_dp|_cp_output|_cp_outlines|_outlines|_outline|_overlay|_vi[sz]|_cp_flows|_prob|_cellprob)$"
)
_NUMBERED = re.compile(r"(.+?)([_. -](?:masks?|seg|labels?|instances?|objects?|obj|gt)[_. -]?[0-9]+)", re.IGNORECASE)
"""A mask of one object: `a_mask_0`."""
SEPARATORS = "_-. ()[]"


def is_beside_the_point(file: Path, root: Path) -> bool:
    """Whether a file shows masks for people, or is another output of the tool that made them."""
    return _NEITHER.search(file.stem.lower()) is not None or any(
        _NO_MASKS.search(part.lower()) for part in parts_below(root, file)
    )


def role_folder(root: Path, file: Path) -> str:
    """The folder that makes a file a mask, in lower case; empty where there is none."""
    parts = parts_below(root, file)
    for part in reversed(parts):
        if is_image_folder(part):
            return ""
        if is_mask_folder(part):
            return part.lower()
    return ""


def masks_among(root: Path, files: list[Path]) -> list[Path]:
    """The files whose folder or name says that they are masks."""
    in_folders = [file for file in files if role_folder(root, file)]
    outside = [file for file in files if not role_folder(root, file)]
    if in_folders and any(file.suffix.lower() in SUFFIXES for file in outside):
        return in_folders
    if in_folders:
        outside = files  # one folder, whatever its name, holds both
    stems = {(file.parent, file.stem) for file in outside}
    named = [file for file in outside if _is_named_mask(file, stems)]
    return named or in_folders or _second_folder(root, outside) or _companions(outside) or _lossless_copies(outside)


def _is_named_mask(file: Path, stems: set[tuple[Path, str]]) -> bool:
    """Whether a file's ending or beginning says that it is a mask; a single letter only beside the image itself."""
    if file.stem.lower() in BEGINNINGS or COUNTED.fullmatch(file.stem):
        return True
    for stem, ending in stripped(file.stem):
        if (len(ending) > 3 or (file.parent, stem) in stems) and stem:
            return True
    return file.suffix.lower() == ".npy"


def stripped(stem: str) -> list[tuple[str, str]]:
    """Names without what says that they are a mask's, and what that was."""
    low = stem.lower()
    found = [
        (stem[: -len(ending)], ending)
        for plain in ENDINGS
        for ending in (plain, plain.replace("_", "-"), plain.replace("_", "."), plain.replace("_", " "))
        if low.endswith(ending) and len(stem) > len(ending)
    ]
    if match := _NUMBERED.fullmatch(stem):
        found.append((match.group(1), match.group(2).lower()))
    if match := COUNTED.fullmatch(stem):
        found.append((match.group(2), match.group(1).lower()))
    for plain in BEGINNINGS:
        for mark in SEPARATORS[:4]:
            if low.startswith(plain + mark) and len(stem) > len(plain) + 1:
                found += [(stem[len(plain) + 1 :], plain + mark)]
    return sorted(set(found), key=lambda item: (-len(item[1]), item))


def _companions(files: list[Path]) -> list[Path]:
    """Files named like another one beside them and on with one ending, one for each other file."""
    by_stem = {(file.parent, file.stem) for file in files}
    rests: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        for end in range(len(file.stem) - 1, 0, -1):
            if file.stem[end] in SEPARATORS and (file.parent, file.stem[:end]) in by_stem:
                rests[file.stem[end:]].append(file)
                break
    found = next(iter(rests.values()), list[Path]())
    return found if len(rests) == 1 and 2 * len(found) == len(files) else []


def _lossless_copies(files: list[Path]) -> list[Path]:
    """Of files in pairs of one name, a JPEG and another, the others; none where any file is not in such a pair."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in files:
        groups[file.parent, file.stem].append(file)
    found = [
        [file for file in group if file.suffix.lower() not in (".jpg", ".jpeg", ".jfif")] for group in groups.values()
    ]
    paired = all(len(group) == 2 for group in groups.values()) and all(len(others) == 1 for others in found)
    return [file for others in found for file in others] if paired else []


def _second_folder(root: Path, files: list[Path]) -> list[Path]:
    """Of two folders with the same names, the one with formats that masks are stored in, if only one has them."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    if len(by_folder) != 2:
        return []
    (_, one), (_, other) = sorted(by_folder.items())
    exact = (".png", ".gif", ".bmp", ".tif", ".tiff", ".npy")
    if {file.stem for file in one} != {file.stem for file in other}:
        return []
    lossless = [all(file.suffix.lower() in exact for file in side) for side in (one, other)]
    if lossless[0] == lossless[1]:
        return []
    return one if lossless[0] else other
