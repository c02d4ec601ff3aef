"""Which format a source is in: everything in it is weighed, and what is chosen over what is said.

A format counts by the images that its files are about. Where two cover about as many, the one that says more about the
objects is taken, in the order of `FORMATS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

from samtune.data.images import SUFFIXES
from samtune.data.readers.common import OnIssue, require_source
from samtune.data.readers.files import content_folder, files_below, visible
from samtune.data.readers.json_kinds import json_kind
from samtune.data.readers.mask_pairs import pair_masks
from samtune.data.readers.stream import load_json
from samtune.data.readers.text import is_label_line, read_text
from samtune.data.readers.unread import advice_for
from samtune.errors import DataError
from samtune.types import Issue, Severity, SourceFormat

FORMATS: tuple[str, ...] = get_args(SourceFormat)[1:]
ROBOFLOW_NAME = "_annotations.coco.json"
NO_LABELS = frozenset(
    {"classes.txt", "labels.txt", "labelmap.txt", "class_names.txt", "label_names.txt", "readme.txt",
     "readme.dataset.txt",
     "readme.roboflow.txt", "license.txt", "requirements.txt", "train.txt", "val.txt", "valid.txt", "test.txt",
     "trainval.txt", "default.txt", "notes.txt"}
)  # fmt: skip
"""Text files that stand beside label files and are none."""
_TRIED = 20
"""Files of a kind looked into per folder; the formats with a file per image fill a folder with one kind."""
_SEARCHED = 200_000
_MAX_YAML = 1 << 20
_COUNTED = 256 << 20
_ABOUT_EQUAL = 0.5
"""Share of the most images covered from which a format is weighed by what it says, not by how many images."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a format.

    Attributes:
        name: the format, one of `FORMATS`.
        images: images with objects that its files are about; infinite where the file's name alone decides.
        what: the files, in words.
    """

    name: str
    images: float
    what: str


def detect_format(source: Path, on_issue: OnIssue = lambda issue: None) -> str:
    """The format of a source, as `--source-format` names it.

    Args:
        source: folder or annotation file.
        on_issue: called where several formats are found, with what is chosen and why.

    Raises:
        DataError: nothing there, or nothing recognised; names the export to choose where the tool is known.
    """
    require_source(source)
    if source.is_file():
        name = _of_file(source)
        found = [Evidence(name, 1, source.name)] if name else []
    else:
        found = weigh(content_folder(source))
    if not found:
        what, do = advice_for(source)
        raise DataError.of(
            expected=f"annotations in one of the formats {', '.join(FORMATS)}",
            found=what or ("an unknown file" if source.is_file() else "a folder without any that are recognised"),
            where=str(source),
            do=f"{do or 'check the path'}, or name the format with --source-format",
        )
    chosen, *others = (found[0], *(other for other in found[1:] if other.images))
    if others:
        text = f"Several formats are here. Read is {chosen.name} ({chosen.what}), not " + ", ".join(
            f"{other.name} ({other.what})" for other in others
        )
        reason = "it covers more images" if chosen.images > others[0].images else "it says more about the objects"
        on_issue(Issue("several-formats", Severity.WARNING, f"{text}: {reason}.",
                       "The others are not read; --source-format chooses.", str(source)))  # fmt: skip
    return chosen.name


def weigh(root: Path) -> list[Evidence]:
    """The formats found in a folder, the one to read first."""
    files = list(islice(files_below(root, ("",)), _SEARCHED))
    found = [evidence for look in (_coco_and_other_json, _yolo, _masks) for evidence in look(root, files)]
    most = max((evidence.images for evidence in found), default=0)

    def rank(evidence: Evidence) -> tuple[bool, int]:
        weak = evidence.images < _ABOUT_EQUAL * most
        return weak, FORMATS.index(evidence.name)

    return sorted(found, key=rank)


def json_files(folder: Path) -> list[Path]:
    """JSON files directly in a folder, by name, hidden ones left out."""
    return [file for file in visible(folder) if file.suffix.lower() in (".json", ".geojson")]


def _of_file(file: Path) -> str | None:
    if file.suffix.lower() in (".yaml", ".yml"):
        return "yolo"
    return json_kind(file)


def _coco_and_other_json(root: Path, files: list[Path]) -> Iterator[Evidence]:
    """JSON files by kind; of many in one folder the first few tell."""
    roboflow = [file for file in files if file.name == ROBOFLOW_NAME]
    if roboflow and not all(map(_is_empty_coco, roboflow)):
        yield Evidence("coco", math.inf, ROBOFLOW_NAME)
        return
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in (".json", ".geojson"):
            by_folder.setdefault(file.parent, []).append(file)
    found: dict[str, list[Path]] = {}
    images: Counter[str] = Counter()
    for inside in by_folder.values():
        kinds = {file: json_kind(file) for file in inside[:_TRIED]}
        known = [kind for kind in kinds.values() if kind]
        for file, kind in kinds.items():
            if kind:
                found.setdefault(kind, []).append(file)
                images[kind] += _images_in(file, kind)
        if known:
            most, count = Counter(known).most_common(1)[0]
            images[most] += round((len(inside) - len(kinds)) * count / len(kinds))
    for kind, those in found.items():
        shown = ", ".join(file.relative_to(root).as_posix() for file in those[:2])
        more = ", ..." if len(those) > 2 else ""
        yield Evidence(kind, images[kind], f"{shown}{more}")


def _is_empty_coco(file: Path) -> bool:
    """Whether a COCO file is about no object; one that cannot be read is not, for its reader says what is wrong."""
    if _images_in(file, "coco"):
        return False
    try:
        load_json(file)
    except DataError:
        return False
    return True


def _images_in(file: Path, kind: str) -> int:
    """About how many images with objects a JSON file is about."""
    telling = {"coco": (b'"file_name"', b'"image_id"'), "via": (b'"filename"', b'"shape_attributes"'),
               "label-studio": (b'"data"', b'"original_width"'), "datumaro": (b'"image"', b'"label_id"'),
               "coco-panoptic": (b'"segments_info"', b'"category_id"')}.get(kind)  # fmt: skip
    if telling is None:
        return 1
    with file.open("rb") as opened:
        data = opened.read(_COUNTED)
    image, thing = (data.count(word) for word in telling)
    return min(image, thing)


def _yolo(root: Path, files: list[Path]) -> Iterator[Evidence]:
    by_folder: dict[Path, list[Path]] = {}
    images = {file.stem for file in files if file.suffix.lower() in SUFFIXES}
    for file in files:
        named = not images or file.stem in images
        if file.suffix.lower() == ".txt" and named and file.name.lower() not in NO_LABELS:
            by_folder.setdefault(file.parent, []).append(file)
    kinds = {folder: _outlines_in(inside[:_TRIED]) for folder, inside in by_folder.items()}
    labels = sum(len(inside) for folder, inside in by_folder.items() if kinds[folder] is not None)
    outlined = sum(len(inside) for folder, inside in by_folder.items() if kinds[folder])
    settings = [file for file in files if file.suffix.lower() in (".yaml", ".yml") and is_yolo_yaml(file)]
    if labels or settings:
        names = [file.relative_to(root).as_posix() for file in settings[:1]]
        yield Evidence("yolo", outlined, ", ".join([*names, f"{labels} label files"]))


def _outlines_in(files: list[Path]) -> bool | None:
    """Whether text files are labels with outlines, not with boxes alone; None where they are no labels."""
    lines = [next((line for line in read_text(file, 4096).splitlines() if line.strip()), "") for file in files]
    filled = [line for line in lines if line]
    labels = [line for line in filled if is_label_line(line)]
    return any(len(line.split()) > 6 for line in labels) if 2 * len(labels) > len(filled) else None


def is_yolo_yaml(file: Path) -> bool:
    """Whether a YAML file names classes and image folders as YOLO's `data.yaml` does; other tools' files do not."""
    import yaml  # most sources have no such file

    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_YAML + 1)
        content: Any = yaml.safe_load(data.decode("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return file.name.lower() in ("data.yaml", "data.yml")
    keys = set(cast("dict[object, Any]", content)) if isinstance(content, dict) else set[object]()
    return "names" in keys or bool({"nc", "kpt_shape"} & keys) or len({"train", "val", "test", "path"} & keys) > 1


def _masks(root: Path, files: list[Path]) -> Iterator[Evidence]:
    if any(file.name.endswith("_gtFine_instanceIds.png") for file in files):
        count = sum(file.name.endswith("_gtFine_instanceIds.png") for file in files)
        yield Evidence("cityscapes", count, f"{count} files *_gtFine_instanceIds.png")
        return
    pairs = pair_masks(root, files)
    if pairs.matched or pairs.masks or pairs.class_file is not None:
        count = len(pairs.matched)
        yield Evidence("mask-folder", count, f"{count} images with masks")
