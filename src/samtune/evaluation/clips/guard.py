"""A guard of the verdict: objects followed through a few drawn clips, before and after tuning.

Tuning the decoder on images also changes what a video model does with it on every frame; see docs/video.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from samtune.evaluation.clips.davis import annotated_clips
from samtune.evaluation.clips.protocol import ClipScores, follow_clips
from samtune.evaluation.clips.results import groups_of, values_of
from samtune.evaluation.guards import BLEND_ADVICE
from samtune.evaluation.paired import NOTICEABLE, Guard, paired_change
from samtune.model.io.loaded import LoadedModel
from samtune.model.video import video_model
from samtune.synthetic.clips import write_clips

CLIPS, FRAMES, SIDE = 12, 5, 192
"""How many clips are drawn, of how many frames, of how many pixels a side."""


def follow_drawn_clips(
    models: Sequence[LoadedModel], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[ClipScores]:
    """The scores of all models on the same drawn clips; none where one of them has no video weights."""
    if not all(model.video_state for model in models):
        return []
    with tempfile.TemporaryDirectory(prefix="samtune-clips-") as folder:
        clips = annotated_clips(write_clips(Path(folder) / "clips", CLIPS, FRAMES, size=SIDE), "test")
        total = len(models) * CLIPS
        return [
            follow_clips(video_model(model), clips, "box", progress=_after(place * CLIPS, total, progress))
            for place, model in enumerate(models)
        ]


def _after(start: int, total: int, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return lambda done, _: progress(start + done, total)


def clip_guard(base: ClipScores, tuned: ClipScores) -> Guard:
    """J&F of the same objects, before and after."""
    before, after = values_of(base, "j_and_f"), values_of(tuned, "j_and_f")
    return Guard(
        name="clips",
        title="J&F of objects followed through drawn clips",
        base=fmean(before),
        tuned=fmean(after),
        change=paired_change(before, after, groups_of(tuned)),
        lower_is_better=False,
        advice=BLEND_ADVICE,
        limits="following objects through clips",
        tolerance=NOTICEABLE,
    )
