"""Which COCO files of a source are read, where the images of each may be, and what several about one image mean.

COCO 2017 puts captions and keypoints beside its instances, people keep backups beside the file they work on, and
`all.json` beside `train.json` and `val.json`. Read together they would double every object, or leak between splits.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from samtune.data.readers.coco_index import CocoIndex, coco_issue, read_index
from samtune.data.readers.common import OnIssue, split_folders, split_named
from samtune.data.readers.detect import ROBOFLOW_NAME, json_files, json_kind
from samtune.data.readers.files import ImageFinder, files_below, visible_folders
from samtune.data.readers.stream import open_json
from samtune.errors import DataError
from samtune.types import Severity, Split

_TASK = re.compile(r"^(instances|person_keypoints|keypoints|captions|stuff|panoptic|image_info|labels)[_-]")
_COPY = re.compile(r"(backup|bak|old|copy|orig(inal)?|tmp|temp|before|draft)([^a-z]|$)", re.IGNORECASE)
_BESIDE = frozenset({"annotations", "annotation", "labels", "label", "json", "coco"})
"""Names of folders that stand beside the images that their files are about."""
_TRIED = 200
_COMPARED = 20_000
"""Images whose objects are compared at most between two files."""


@dataclass
class CocoFile:
    """A COCO file that is read.

    Attributes:
        split: what its images are for.
        says_split: whether its name or folder says so.
        index: the first pass over it.
        finder: where its images are.
        skipped: positions of images that another file is read for.
        joined: by position of an image, other files with objects of it, and its position there.
    """

    split: Split
    says_split: bool
    index: CocoIndex
    finder: ImageFinder
    skipped: set[int] = field(default_factory=lambda: set[int]())
    joined: dict[int, list[tuple[CocoFile, int]]] = field(
        default_factory=lambda: dict[int, list[tuple[CocoFile, int]]]()
    )

    @property
    def path(self) -> Path:
        """The file."""
        return self.index.file

    @cached_property
    def images(self) -> dict[Path, int]:
        """Positions of the images by the files they lead to; names that lead to none are left out."""
        found: dict[Path, int] = {}
        for position, entry in enumerate(self.index.entries):
            try:
                found.setdefault(self.finder.find(entry.name, where=""), position)
            except DataError:
                continue
        return found


def coco_files(path: Path) -> list[tuple[Split | None, Path]]:
    """The COCO files of a source with the split that each one's name or folder tells.

    Roboflow's name decides alone. Otherwise every COCO file in the folders named after splits, in `annotations` and in
    the folder itself counts, else any further below.
    """
    if path.is_file():
        return [(split_named(path.stem) or split_named(path.parent.name), path)]
    roboflow = [(split, folder / ROBOFLOW_NAME) for split, folder in split_folders(path)]
    roboflow = [(split, file) for split, file in roboflow if file.is_file()]
    if roboflow:
        return list(roboflow)
    if (path / ROBOFLOW_NAME).is_file():
        return [(split_named(path.name), path / ROBOFLOW_NAME)]
    found: list[tuple[Split | None, Path]] = []
    for split, folder in split_folders(path):
        found += [(split, file) for place in (folder, *_beside(folder)) for file in json_files(place)]
    for folder in (*_beside(path), path):
        found += [(split_named(file.stem), file) for file in json_files(folder)]
    found = [(split, file) for split, file in found if json_kind(file) == "coco"]
    if not found:
        below = islice(files_below(path, {".json"}), _TRIED)
        found = [(_split_of(file, path), file) for file in below if json_kind(file) == "coco"]
    return found


def _beside(folder: Path) -> list[Path]:
    return [inner for inner in visible_folders(folder) if inner.name.lower() in _BESIDE]


def _split_of(file: Path, root: Path) -> Split | None:
    names = (file.stem, *(part for part in reversed(file.parent.relative_to(root).parts)))
    return next((split for name in names if (split := split_named(name))), None)


def open_files(path: Path, images: Path | None, on_issue: OnIssue) -> Iterator[CocoFile]:
    """The files of a source, ready to be read; what two of them say about one image is told apart before.

    Raises:
        DataError: a file cannot be read, or two differ about one image.
    """
    files = _without_other_tasks(coco_files(path), on_issue)
    alone = len(files) == 1 or all(file.name == ROBOFLOW_NAME for _, file in files)
    opened = (_open(split, file, path, images) for split, file in files)
    yield from opened if alone else _without_overlap(list(opened), on_issue)


def _open(split: Split | None, file: Path, source: Path, images: Path | None) -> CocoFile:
    index = read_index(file)
    folders = [images] if images else _image_folders(file, source)
    subset = file.stem.partition("_")[2]

    def names() -> list[object]:
        return [entry.name for entry in index.entries]

    finder = ImageFinder(folders, images or _search_root(file, source), names, prefer=subset)
    return CocoFile(split or Split.TRAIN, split is not None, index, finder)


def _search_root(file: Path, source: Path) -> Path:
    if source.is_dir():
        return file.parent if file.name == ROBOFLOW_NAME else source
    return file.parent.parent if file.parent.name.lower() in _BESIDE else file.parent


def _image_folders(file: Path, source: Path) -> list[Path]:
    """Where images of a JSON may be, likeliest first, all within the source or, for a single file, beside it."""
    above = file.parent.parent
    split, subset = split_named(file.stem), file.stem.partition("_")[2].lower()
    folders = [file.parent, file.parent / "images"]
    if source.is_file() or file.parent != source:
        inner = [folder for place in (above / "images", above) for folder in visible_folders(place)]
        folders += [folder for folder in inner if subset and folder.name.lower() == subset]
        folders += [folder for folder in inner if split and split_named(folder.name) is split]
        folders += [above / "images", above]
    else:
        inner = visible_folders(file.parent / "images") + visible_folders(file.parent)
        folders += [folder for folder in inner if split and split_named(folder.name) is split]
    return [folder for folder in folders if folder.is_dir()]


def _without_other_tasks(files: list[tuple[Split | None, Path]], on_issue: OnIssue) -> list[tuple[Split | None, Path]]:
    """Without captions, keypoints and the like where `instances_*` stands beside them, as in COCO 2017 and CVAT."""
    tasks = [match.group(1) if (match := _TASK.match(file.name)) else "" for _, file in files]
    if "instances" not in tasks:
        return files
    kept: list[tuple[Split | None, Path]] = []
    for (split, file), task in zip(files, tasks, strict=True):
        if task in ("", "instances"):
            kept.append((split, file))
        else:
            text = f"{file.name} holds COCO's {task.replace('_', ' ')} beside files named instances_*."
            on_issue(coco_issue(file, "coco-file-skipped", text, "", severity=Severity.INFO,
                                repair="It is not read; instances_* is."))  # fmt: skip
    return kept


def _without_overlap(files: list[CocoFile], on_issue: OnIssue) -> list[CocoFile]:
    """The files, each image of which is read once; findings about the rest."""
    order = sorted(files, key=_rank)
    kept: list[CocoFile] = []
    for file in order:
        for other in kept:
            if not file.says_split or not other.says_split or file.split is other.split:
                _compare(file, other, on_issue)
        if len(file.skipped) < len(file.index.entries) or not file.index.entries:
            kept.append(file)
    return [file for file in files if file in kept]


def _rank(file: CocoFile) -> tuple[object, ...]:
    """Files that say their split come first, then no copies, then those with most objects, then by name."""
    name = file.path.stem
    return (not file.says_split, _COPY.search(name) is not None, -len(file.index.owner), len(name), name)


def _compare(file: CocoFile, other: CocoFile, on_issue: OnIssue) -> None:
    """Decide which objects of the images in both files count; `other` comes first."""
    if not _names(file) & _names(other):
        return
    shared = [
        (position, there) for path, position in file.images.items() if (there := other.images.get(path)) is not None
    ]
    shared = [(position, there) for position, there in shared if position not in file.skipped]
    if not shared:
        return
    same, alike = _same_objects(file, other, shared)
    count = f"{len(shared)} of its {len(file.index.entries)} images are in {other.path.name} too"
    text, repair = "", f"{other.path.name} is read for them."
    if same:
        text = f"{count}, with the same objects."
    elif not (file.index.used_names & other.index.used_names):
        for position, there in shared:
            other.joined.setdefault(there, []).append((file, position))
        text, repair = f"{count}, with objects of other categories.", "The objects of both are taken as one image's."
    elif _COPY.search(file.path.stem) and not _COPY.search(other.path.stem):
        text = f"{count}, with other objects; its name says that it is a copy or an older state."
    if not text:
        found = f"{file.path.name} and {other.path.name}, which share {len(shared)} images and differ on "
        raise DataError.of(
            expected="one COCO file about each image",
            found=found + f"{len(shared) - alike} of them",
            where=str(file.path.parent),
            do=f"give the file that counts, such as {other.path}, or take the other one out of the folder",
        )
    file.skipped.update(position for position, _ in shared)
    on_issue(coco_issue(file.path, "coco-files-overlap", f"{file.path.name}: {text}", "images", repair=repair,
                        severity=Severity.WARNING))  # fmt: skip


def _names(file: CocoFile) -> set[str]:
    """Base names of the listed images, in lower case."""
    names = (str(entry.name).replace("\\", "/").rpartition("/")[2].lower() for entry in file.index.entries)
    return set(names)


def _same_objects(file: CocoFile, other: CocoFile, shared: Sequence[tuple[int, int]]) -> tuple[bool, int]:
    """Whether a file has no object in the shared images that the other has not, and in how many images that is so."""
    alike = 0
    compared = shared[:_COMPARED]
    with open_json(file.path) as one, open_json(other.path) as two:
        for position, there in compared:
            objects = _signatures(file.index, one, file.index.places(position))
            alike += objects <= _signatures(other.index, two, other.index.places(there))
    return alike == len(compared), alike + len(shared) - len(compared)


def _signatures(index: CocoIndex, file: BinaryIO, positions: list[int]) -> Counter[str]:
    """The objects of an image as texts that are equal where category and outline are."""
    found: Counter[str] = Counter()
    for position in positions:
        raw = index.fetch(file, position)
        name = index.category_name(raw.get("category_id"))
        found[json.dumps([name, raw.get("segmentation")], sort_keys=True)] += 1
    return found
