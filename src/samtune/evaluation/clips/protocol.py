"""Following the objects of annotated clips from their first frame, and the scores of what was found.

The protocol is DAVIS's semi-supervised one: an object is given on the first annotated frame that shows it (as its mask,
its box, or a click at its deepest pixel), overlaps go to the higher logit, and the first and the last annotated frame
are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Sam2VideoModel

from samtune.data.masks import mask_box
from samtune.data.masks.palette import read_label_image
from samtune.errors import DataError
from samtune.evaluation.clips.davis import AnnotatedClip
from samtune.evaluation.clips.measures import ObjectScore, clip_scores
from samtune.inference.video.clips import FrameFolder
from samtune.inference.video.prompts import ClipPrompt
from samtune.inference.video.track import track
from samtune.prompts.simulate import deepest_points
from samtune.types import Prompt

Advance = Callable[[int, int], None]
ClipScores = dict[str, dict[int, ObjectScore]]
"""By clip and object."""


def follow_clips(
    model: Sam2VideoModel, clips: Sequence[AnnotatedClip], kind: str, *, progress: Advance = lambda done, total: None
) -> ClipScores:
    """The scores of a model on clips.

    Args:
        model: from `samtune.model.video.video_model`.
        clips: annotated.
        kind: how objects are given: `mask`, `box` or `click`.
        progress: called with clips done and their total.

    Raises:
        DataError: a frame or an annotation cannot be read, or sizes differ.
    """
    found: ClipScores = {}
    for done, clip in enumerate(clips, start=1):
        found[clip.name] = clip_scores(labels_of(model, clip, kind))
        progress(done, len(clips))
    return found


def labels_of(
    model: Sam2VideoModel, clip: AnnotatedClip, kind: str
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Object numbers `[H, W]` found and true, on every frame that counts."""
    frames = FrameFolder(clip.frames)
    numbers = {Path(name).stem: number for number, name in enumerate(frames.names)}
    unknown = next((name for name in clip.truth if name not in numbers), None)
    if unknown is not None:
        raise DataError.of(expected="a frame for each annotation", found="none", where=str(clip.truth[unknown]))
    truth = {numbers[name]: path for name, path in clip.truth.items()}
    counted = sorted(truth)[1:-1]
    for found in track(model, frames, first_prompts(truth, frames, kind)):
        if found.number in counted:
            yield found.labels(), _truth(truth[found.number], frames.size)


def stand_still(clips: Sequence[AnnotatedClip]) -> ClipScores:
    """The scores of true masks left where they are on the first annotated frame that shows each object.

    No model is asked: it is what following has to beat. Annotations are those that `follow_clips` has looked at.
    """
    return {clip.name: clip_scores(_left_where_they_are(clip)) for clip in clips}


def _left_where_they_are(clip: AnnotatedClip) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Object numbers left and true, on every frame that counts; a later object covers an earlier one."""
    left: NDArray[np.uint8] | None = None
    for number, (_, path) in enumerate(sorted(clip.truth.items())):
        truth = read_label_image(path)
        left = np.zeros_like(truth) if left is None else left
        left = np.where((truth > 0) & ~np.isin(truth, left), truth, left)
        if 0 < number < len(clip.truth) - 1:
            yield left, truth


def first_prompts(truth: dict[int, Path], frames: FrameFolder, kind: str) -> list[ClipPrompt]:
    """A prompt about every object on the first annotated frame that shows it."""
    prompts: dict[int, ClipPrompt] = {}
    for number, path in sorted(truth.items()):
        labels = _truth(path, frames.size)
        for object_id in np.unique(labels).tolist():
            if object_id and object_id not in prompts:
                prompts[object_id] = prompt_of(labels == object_id, kind, number, object_id)
    if not prompts:
        raise DataError.of(expected="an object in the annotations", found="none", where=str(next(iter(truth.values()))))
    return list(prompts.values())


def prompt_of(mask: NDArray[np.bool_], kind: str, frame: int, object_id: int) -> ClipPrompt:
    """An object given by its mask, its box, or a click at the pixel farthest from its edge."""
    if kind == "mask":
        return ClipPrompt(frame, object_id, mask=mask)
    if kind == "box":
        box = mask_box(mask)
        assert box is not None, "an object has pixels"
        return ClipPrompt(frame, object_id, Prompt.box(*box))
    x, y = deepest_points(torch.from_numpy(mask)[None])[0].tolist()
    return ClipPrompt(frame, object_id, Prompt.clicks([(x, y)]))


def _truth(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    labels = read_label_image(path)
    if labels.shape != size:
        raise DataError.of(
            expected=f"an annotation of its frame's size, {size[1]} x {size[0]}",
            found=f"{labels.shape[1]} x {labels.shape[0]}",
            where=str(path),
        )
    return labels
