"""Prompts on the frames of a clip: from options, from COCO boxes about its frames, from a file that can say everything.

The first frame on which an object is prompted starts it; prompts on later frames correct it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from samtune.config import TrackConfig
from samtune.data.masks import read_mask_file
from samtune.data.masks.palette import MOST_OBJECTS
from samtune.errors import DataError
from samtune.inference.files import check_inside, prompts_of_coco
from samtune.inference.names import ImageNames
from samtune.inference.video.clips import Clip
from samtune.types import Prompt
from samtune.utils.text import one_line


@dataclass(frozen=True, slots=True)
class ClipPrompt:
    """What is asked about one object on one frame: a prompt, or the object's mask, bool `[H, W]`."""

    frame: int
    object_id: int
    prompt: Prompt | None = None
    mask: NDArray[np.bool_] | None = None


class _Entry(BaseModel):
    """One entry of a prompts file; coordinates are pixels of the frame."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    frame: int | str
    object: int = Field(ge=1, le=MOST_OBJECTS)
    box: tuple[float, float, float, float] | None = None
    points: list[tuple[float, float]] = []
    labels: list[int] | None = None
    mask: str | None = None


def clip_prompts(clip: Clip, config: TrackConfig) -> list[ClipPrompt]:
    """All prompts that the settings name, in the order of their frames.

    Objects of a prompts file keep their numbers; boxes and clicks of options and COCO entries are numbered after them.

    Raises:
        ConfigError: no prompts.
        DataError: a file that cannot be read, a prompt outside of the clip, too many objects.
    """
    config.require_prompts()
    found = [] if config.prompts is None else _from_file(config.prompts, clip)
    number = max((one.object_id for one in found), default=0)
    fixed = [Prompt.box(*box) for box in config.fixed_boxes] + [Prompt.clicks([xy]) for xy in config.fixed_points]
    found += [ClipPrompt(config.frame, number + place, one) for place, one in enumerate(fixed, start=1)]
    if config.boxes is not None:
        found += _from_coco(config.boxes, clip, number + len(fixed))
    check_prompts(found, clip)
    return sorted(found, key=lambda one: (one.frame, one.object_id))


def check_prompts(prompts: Sequence[ClipPrompt], clip: Clip) -> None:
    """Refuse prompts that a clip cannot answer.

    Raises:
        DataError: none; a frame that is not there; a box or clicks outside of the frame; a mask of another size; too
            many objects; two prompts about one object on one frame.
    """
    if not prompts:
        raise DataError.of(expected="at least one prompt about a frame of the clip", found="none", where=str(clip.path))
    height, width = clip.size
    for one in prompts:
        where = f"{clip.path}, frame {one.frame}, object {one.object_id}"
        if not 0 <= one.frame < len(clip):
            raise DataError.of(
                expected=f"a prompt on one of the frames 0 to {len(clip) - 1}", found=f"frame {one.frame}", where=where
            )
        if one.object_id > MOST_OBJECTS:
            raise DataError.of(
                expected=f"at most {MOST_OBJECTS} objects, which a palette image can tell apart",
                found=f"object {one.object_id}",
                where=where,
                do="follow them in several runs",
            )
        if one.prompt is not None:
            check_inside(one.prompt, clip.size, where)
        if one.mask is not None and one.mask.shape != clip.size:
            found = f"{one.mask.shape[1]} x {one.mask.shape[0]}"
            raise DataError.of(expected=f"a mask of the frame's size, {width} x {height}", found=found, where=where)
    _refuse_doubles([(one.frame, one.object_id) for one in prompts], clip)


def _refuse_doubles(asked: Sequence[tuple[int, int]], clip: Clip) -> None:
    double = next((one for one in asked if asked.count(one) > 1), None) if len(set(asked)) < len(asked) else None
    if double is not None:
        raise DataError.of(
            expected="one prompt about an object on a frame",
            found=f"several about object {double[1]} on frame {double[0]}",
            where=str(clip.path),
            do="put box and points into one entry, or number the objects differently",
        )


def _from_file(file: Path, clip: Clip) -> list[ClipPrompt]:
    """The prompts of a file; docs/video.md has its schema."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        entries = TypeAdapter(list[_Entry]).validate_python(content)
    except (OSError, ValueError, RecursionError) as error:
        found = one_line(error) if isinstance(error, ValidationError | OSError) else str(error)
        raise DataError.of(
            expected='a list of prompts such as {"frame": 0, "object": 1, "box": [10, 20, 110, 140]}',
            found=found,
            where=str(file),
        ) from error
    names = ImageNames(clip.names)
    return [_of_entry(entry, clip, names, file, number) for number, entry in enumerate(entries)]


def _of_entry(entry: _Entry, clip: Clip, names: ImageNames, file: Path, number: int) -> ClipPrompt:
    where = f"{file}, entry {number}"
    frame = entry.frame if isinstance(entry.frame, int) else frame_number(names, clip.names, entry.frame, where)
    if entry.mask is not None:
        if entry.box or entry.points:
            raise DataError.of(expected="a mask, or a box and points", found="both", where=where)
        return ClipPrompt(frame, entry.object, mask=_mask_beside(file, entry.mask, where))
    if entry.box is not None and (entry.box[2] <= entry.box[0] or entry.box[3] <= entry.box[1]):
        raise DataError.of(
            expected="box [x0, y0, x1, y1] with a positive size", found=str(list(entry.box)), where=where
        )
    labels = [1] * len(entry.points) if entry.labels is None else entry.labels
    if len(labels) != len(entry.points) or not set(labels) <= {0, 1} or not (entry.box or entry.points):
        raise DataError.of(
            expected="a box, a mask or points with a label, 1 or 0, for each",
            found=f"{len(entry.points)} points with labels {labels}",
            where=where,
        )
    prompt = Prompt(
        input_points=np.array(entry.points, np.float32) if entry.points else None,
        input_labels=np.array(labels, np.int64) if entry.points else None,
        input_box=None if entry.box is None else np.array(entry.box, np.float32),
    )
    return ClipPrompt(frame, entry.object, prompt)


def _mask_beside(file: Path, name: str, where: str) -> NDArray[np.bool_]:
    """The mask file that an entry names, which lies in the folder of the prompts file or below it."""
    root = file.parent.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise DataError.of(expected="a mask file in the folder of the prompts file", found=repr(name), where=where)
    return read_mask_file(path)


def _from_coco(file: Path, clip: Clip, used: int) -> list[ClipPrompt]:
    """Boxes about frames: those with one `track_id` are one object, any other is an object of its own."""
    found: list[ClipPrompt] = []
    ids: dict[object, int] = {}
    frames = {name: number for number, name in enumerate(clip.names)}
    for place, (name, named) in enumerate(prompts_of_coco(file, clip.names)):
        key = ("alone", place) if named.track_id is None else named.track_id
        found.append(ClipPrompt(frames[name], ids.setdefault(key, used + len(ids) + 1), named.prompt))
    return found


def frame_number(names: ImageNames, frames: Iterable[str], name: str, where: str) -> int:
    """The number of a frame given by its name.

    Raises:
        DataError: no frame is called so, or several could be.
    """
    found = names.find(name)
    if found is None:
        raise DataError.of(expected="the number or the name of a frame", found=repr(name)[:80], where=where)
    return list(frames).index(found)
