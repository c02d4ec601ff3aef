"""Annotated clips in the folders of DAVIS, YouTube-VOS and MOSE.

`JPEGImages/CLIP/FRAME.jpg` and `Annotations/CLIP/FRAME.png`, whose pixels are object numbers; between them may stand a
folder of a resolution (`480p` is preferred). `ImageSets/**/SPLIT.txt` lists the clips of a split; where the splits have
folders of their own, they are `train`, `valid` or `val`, and `test`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samtune.data.images import SUFFIXES
from samtune.errors import DataError

FRAMES, TRUTH, LISTS = "JPEGImages", "Annotations", "ImageSets"
_RESOLUTION = "480p"
_NAMES = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """A clip and its truth.

    Attributes:
        name: of its folder.
        frames: the folder of frames.
        truth: annotation files by the stem of their frame's name; some frames may have none.
    """

    name: str
    frames: Path
    truth: dict[str, Path]


def is_clip_set(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return any((part / FRAMES).is_dir() and (part / TRUTH).is_dir() for part in _parts(root))


def _parts(root: Path) -> list[Path]:
    return [root, *(root / name for names in _NAMES.values() for name in names)]


def annotated_clips(root: Path, split: str) -> list[AnnotatedClip]:
    """The clips of a split, in the order of their names; all where nothing tells splits apart.

    Raises:
        DataError: no such split, a clip that is listed and not there, no annotations.
    """
    own = next((root / name for name in _NAMES[split] if (root / name / FRAMES).is_dir()), None)
    base = own or root
    if not (base / FRAMES).is_dir():
        present = sorted(part.name for part in _parts(root)[1:] if (part / FRAMES).is_dir())
        raise _no_split(root, split, present)
    frames, truth = _resolution(base / FRAMES), _resolution(base / TRUTH)
    names = sorted(folder.name for folder in truth.iterdir() if folder.is_dir()) if own else _listed(root, split, truth)
    if not names:
        raise DataError.of(expected="a folder of annotations for each clip", found="none", where=str(truth))
    return [_clip(name, frames / name, truth / name) for name in names]


def _clip(name: str, frames: Path, truth: Path) -> AnnotatedClip:
    for folder in (frames, truth):
        if not folder.is_dir():
            raise DataError.of(expected=f"the clip {name}", found="no such folder", where=str(folder))
    files = {file.stem: file for file in sorted(truth.iterdir()) if file.suffix.lower() == ".png"}
    if len(files) < 3:
        raise DataError.of(
            expected="three annotated frames or more: the first and the last are not counted",
            found=str(len(files)),
            where=str(truth),
        )
    return AnnotatedClip(name, frames, files)


def _resolution(folder: Path) -> Path:
    """The folder itself, or the folder of a resolution in it."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    deeper = [path for path in inside if not any(file.suffix.lower() in SUFFIXES for file in path.iterdir())]
    if not deeper or len(deeper) < len(inside):
        return folder
    return next((path for path in deeper if path.name == _RESOLUTION), deeper[0])


def _listed(root: Path, split: str, truth: Path) -> list[str]:
    """The clips that a list of the split names; all where there are no lists."""
    lists = sorted((root / LISTS).rglob("*.txt"), reverse=True)  # 2017 before 2016
    if not lists:
        return sorted(folder.name for folder in truth.iterdir() if folder.is_dir())
    file = next((file for name in _NAMES[split] for file in lists if file.stem == name), None)
    if file is None:
        raise _no_split(root, split, sorted({file.stem for file in lists}))
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    bad = next((name for name in names if Path(name).name != name), None)
    if bad is not None:
        raise DataError.of(expected="names of clips, one a line", found=repr(bad)[:80], where=str(file))
    return names


def _no_split(root: Path, split: str, present: list[str]) -> DataError:
    return DataError.of(
        expected=f"clips of the split {split}",
        found=f"the splits {', '.join(present)}" if present else "none",
        where=str(root),
        do="give another --split (val counts as valid)",
    )
