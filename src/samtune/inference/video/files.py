"""A clip's prompts in, files out: a palette PNG per frame, COCO results with object numbers, an overlay video."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from samtune.config import TrackConfig
from samtune.data.masks.palette import write_label_image
from samtune.drawing import draw_overlay
from samtune.errors import UsageError
from samtune.inference.files import MASKS, RESULTS, MaskResult, coco_result, count_of
from samtune.inference.video.clips import Clip, import_av
from samtune.inference.video.prompts import clip_prompts
from samtune.inference.video.track import Advance, TrackedFrame, starts_of, track
from samtune.model.io.loaded import LoadedModel
from samtune.model.video import video_model
from samtune.utils.files import new_folder
from samtune.utils.output_folders import check_output
from samtune.utils.results import Result

OVERLAY = "overlay.mp4"
NO_PYAV = "no overlay video: it needs PyAV (pip install 'samtune[video]')"
_CODECS = ("libx264", "mpeg4")


@dataclass(frozen=True, slots=True)
class TrackReport(Result):
    """What was written.

    Attributes:
        out: the folder: `masks/` with a palette PNG per frame, `predictions.json`, and `overlay.mp4` with PyAV.
        frames: how many frames the clip has.
        objects: how many objects were followed.
        absent: masks of objects with an object score below 0, which says that the object is not in sight.
        note: what was left out, and why.
    """

    out: Path
    frames: int
    objects: int
    absent: int
    note: str = ""

    def lines(self) -> list[str]:
        """What to tell the user."""
        gone = f", out of sight in {self.absent:,} masks" if self.absent else ""
        return [
            f"{count_of(self.objects, 'object')} in {count_of(self.frames, 'frame')}{gone}",
            *([self.note] if self.note else []),
            f"results    {self.out / RESULTS}",
        ]


def track_files(
    clip: Clip,
    loaded: LoadedModel,
    out: Path,
    config: TrackConfig,
    *,
    progress: Advance = lambda done, total: None,
) -> TrackReport:
    """Follow objects through a clip and write what was found.

    Args:
        clip: the frames.
        loaded: a model with video weights.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: the prompts.
        progress: called with frames done and their total.

    Raises:
        ModelError: the model has no video weights.
        ConfigError: no prompts, or `out` holds something else.
        DataError: prompts outside the clip, a frame that cannot be decoded or has another size.
        StorageError: the disk refused.
    """
    model = video_model(loaded)
    prompts = clip_prompts(clip, config)
    check_output(out, mark=RESULTS, earlier="earlier predictions", inputs=[clip.path])
    objects = tuple(starts_of(prompts))
    absent, note = 0, ""
    with new_folder(out) as folder, ExitStack() as stack:
        (folder / MASKS).mkdir()
        try:
            overlay = stack.enter_context(_overlay_video(folder / OVERLAY, clip))
        except UsageError:
            overlay, note = None, NO_PYAV
        rows = stack.enter_context(_json_rows(folder / RESULTS))
        followed = track(model, clip, prompts, backwards=config.backwards, scratch=folder, progress=progress)
        for found in followed:
            name, (masks, labels) = clip.names[found.number], found.masks_and_labels()
            write_label_image((folder / MASKS / name).with_suffix(".png"), labels)
            for object_id in sorted(masks):
                rows.add(_row(found, object_id, masks[object_id], name))
                absent += found.scores[object_id] < 0
            if overlay is not None:
                hidden = np.zeros(clip.size, bool)
                overlay.add(draw_overlay(found.image, [masks.get(number, hidden) for number in objects]))
    return TrackReport(out, len(clip), len(objects), absent, note)


def _row(found: TrackedFrame, object_id: int, mask: NDArray[np.bool_], name: str) -> dict[str, Any]:
    """COCO's results format with `frame` and `object_id` added; `score` is the object's, 0 to 1."""
    object_score = found.scores[object_id]
    presence = float(1 / (1 + np.exp(-np.clip(object_score, -50, 50))))
    result = MaskResult.of_mask(mask, presence, object_score, found.number, 1)
    return {"frame": found.number, "object_id": object_id} | coco_result(result, Path(name))


class _Rows:
    """A JSON list that is written row by row, so that it is never in memory as a whole."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._first = file, True

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(("\n" if self._first else ",\n") + json.dumps(row, allow_nan=False))
        self._first = False


@contextmanager
def _json_rows(path: Path) -> Iterator[_Rows]:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        yield _Rows(file)
        file.write("\n]\n")


class _Images(Protocol):
    def add(self, image: NDArray[np.uint8]) -> None:
        """Write one more image."""


@contextmanager
def _overlay_video(path: Path, clip: Clip) -> Iterator[_Images]:
    """A video of images of the clip's size; sides that are odd lose one row or column, as H.264 needs even ones.

    Raises:
        UsageError: PyAV is not installed.
    """
    av = import_av(path)
    height, width = (max(2, side - side % 2) for side in clip.size)
    with av.open(str(path), "w") as container:
        codec = next(name for name in _CODECS if name in av.codecs_available)
        stream = container.add_stream(codec, rate=Fraction(clip.rate).limit_denominator(65_535))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"

        class Images:
            def add(self, image: NDArray[np.uint8]) -> None:
                padded = np.pad(image, ((0, max(0, height - len(image))), (0, max(0, width - image.shape[1])), (0, 0)))
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded[:height, :width]), format="rgb24")
                container.mux(stream.encode(frame))

        yield Images()
        container.mux(stream.encode(None))
