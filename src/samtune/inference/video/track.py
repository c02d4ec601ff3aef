"""Following objects through a clip, frame by frame: each object with a memory of its own, all with the same features.

Source: the official `SAM2VideoPredictor` (per-object inference), with a frame that is corrected counting as prompted
from then on, as in SAM 2's own training (`add_all_frames_to_correct_as_cond`). Holes are not filled; the official
predictor fills those up to 8 pixels where its CUDA extension is built.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import Sam2VideoModel

from samtune.inference.video.clips import Clip
from samtune.inference.video.prompts import ClipPrompt
from samtune.inference.video.session import ObjectSession, new_cache
from samtune.model.preprocess import MASK_THRESHOLD, clamp_low_res, scale_points, to_model_input, upscale_masks

Advance = Callable[[int, int], None]
BOX_CORNERS = (2, 3)
"""Labels of a box given as two points."""


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """What is known of one frame.

    Attributes:
        number: of the frame, from 0.
        image: uint8 `[H, W, 3]`.
        low_res: by object, logits `[h, w]` float32; objects that are not followed on this frame are not in it.
        scores: by object, the logit that it is there at all.
    """

    number: int
    image: NDArray[np.uint8] = field(repr=False)
    low_res: dict[int, Tensor] = field(repr=False)
    scores: dict[int, float]

    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """By object, its mask bool `[H, W]`; masks may overlap."""
        return self.masks_and_labels()[0]

    def labels(self) -> NDArray[np.uint8]:
        """The number of the object that every pixel shows, uint8 `[H, W]`, 0 for none; the highest logit wins."""
        return self.masks_and_labels()[1]

    def masks_and_labels(self) -> tuple[dict[int, NDArray[np.bool_]], NDArray[np.uint8]]:
        """Both, from one pass over the logits at the frame's size."""
        size = (self.image.shape[0], self.image.shape[1])
        best, labels = torch.full(size, MASK_THRESHOLD), torch.zeros(size, dtype=torch.uint8)
        masks: dict[int, NDArray[np.bool_]] = {}
        for number, low_res in sorted(self.low_res.items()):
            logits = upscale_masks(low_res, size).cpu()
            masks[number] = (logits > MASK_THRESHOLD).numpy()
            ahead = logits > best
            best[ahead], labels[ahead] = logits[ahead], number
        return masks, labels.numpy()


class Tracker:
    """Objects being followed in one direction; frames are shown in order.

    Args:
        model: from `samtune.model.video.video_model`.
        clip: gives length and size.
        prompts: at least one about each object; see `samtune.inference.video.prompts`.
        reverse: frames are shown from the last to the first.
    """

    def __init__(self, model: Sam2VideoModel, clip: Clip, prompts: Sequence[ClipPrompt], *, reverse: bool) -> None:
        self._model, self._clip, self._reverse = model, clip, reverse
        side: Any = model.image_size
        self._size: int = side
        self._cache = new_cache(model.device)
        self._prompts = {(one.frame, one.object_id): one for one in prompts}
        self._starts = starts_of(prompts)
        self.sessions: dict[int, ObjectSession] = {}

    def show(self, number: int, image: NDArray[np.uint8]) -> TrackedFrame:
        """Follow all objects that have started to the next frame."""
        pixels: Tensor | None = None
        found = TrackedFrame(number, image, {}, {})
        for object_id, start in self._starts.items():
            if (number > start) if self._reverse else (number < start):
                continue
            if pixels is None:
                pixels = to_model_input(image, self._size).to(self._model.device)
            session = self.sessions.setdefault(object_id, ObjectSession(self._model, len(self._clip), self._cache))
            session.show(number, pixels)
            prompt = self._prompts.get((number, object_id))
            low_res, score = self._answer(session, number, start, prompt)
            found.low_res[object_id], found.scores[object_id] = low_res.float().cpu(), score
        return found

    def _answer(
        self, session: ObjectSession, number: int, start: int, prompt: ClipPrompt | None
    ) -> tuple[Tensor, float]:
        """Low-res logits `[h, w]` and object score on one frame."""
        if number == start:
            assert prompt is not None, "an object starts where it is prompted"
            points, mask = self._inputs(prompt)
            if mask is not None:
                session.add_mask_inputs(0, number, mask)
            else:
                session.add_point_inputs(0, number, points)
            session.obj_with_new_inputs = [0]
        out = self._model(inference_session=session, frame_idx=number, reverse=self._reverse)
        if prompt is None or number == start:
            return out.pred_masks[0, 0], float(out.object_score_logits.reshape(-1)[0])
        return self._correct(session, number, prompt, out.pred_masks)

    @torch.inference_mode()
    def _correct(self, session: ObjectSession, number: int, prompt: ClipPrompt, before: Tensor) -> tuple[Tensor, float]:
        """Ask again on a tracked frame, with a prompt and the mask so far, as the official predictor does."""
        points, mask = self._inputs(prompt)
        model: Any = self._model  # what is used of it is private: tests/test_private_members.py names it
        output = model._run_single_frame_inference(
            session,
            frame_idx=number,
            obj_idx=0,
            batch_size=1,
            is_init_cond_frame=False,
            point_inputs=points or None,
            mask_inputs=mask,
            reverse=self._reverse,
            prev_sam_mask_logits=None if mask is not None else clamp_low_res(before),
        )
        session.store_output(0, number, output_value=output, is_conditioning_frame=True)
        session.become_prompted(number)
        score = output["object_score_logits"]
        model._batch_encode_memories(session, number, [0], [output["high_res_masks"]], [score], [True])
        return output["pred_masks"][0, 0], float(score.reshape(-1)[0])

    def _inputs(self, prompt: ClipPrompt) -> tuple[dict[str, Tensor], Tensor | None]:
        """A prompt as the model takes it: points `[1, 1, P, 2]` with labels, or a mask `[1, 1, S, S]` of 0 and 1."""
        size, device = self._size, self._model.device
        if prompt.mask is not None:
            whole = torch.from_numpy(prompt.mask)[None, None].float()
            small = functional.interpolate(whole, (size, size), mode="bilinear", align_corners=False, antialias=True)
            return {}, (small >= 0.5).float().to(device)
        assert prompt.prompt is not None
        given = prompt.prompt
        points = [torch.from_numpy(given.input_box).reshape(2, 2)] if given.input_box is not None else []
        labels = [torch.tensor(BOX_CORNERS)] if given.input_box is not None else []
        if given.input_points is not None and given.input_labels is not None:
            points.append(torch.from_numpy(given.input_points))
            labels.append(torch.from_numpy(given.input_labels))
        scaled = scale_points(torch.cat(points), self._clip.size, size)
        return {
            "point_coords": scaled[None, None].to(device),
            "point_labels": torch.cat(labels).int()[None, None].to(device),
        }, None


def starts_of(prompts: Sequence[ClipPrompt]) -> dict[int, int]:
    """The first frame on which each object is prompted."""
    starts: dict[int, int] = {}
    for one in prompts:
        starts[one.object_id] = min(one.frame, starts.get(one.object_id, one.frame))
    return dict(sorted(starts.items()))


def track(
    model: Sam2VideoModel,
    clip: Clip,
    prompts: Sequence[ClipPrompt],
    *,
    backwards: bool = False,
    scratch: Path | None = None,
    progress: Advance = lambda done, total: None,
) -> Iterator[TrackedFrame]:
    """Follow objects through a clip.

    Backwards comes first, from each object's first prompt with a memory of its own, and its low-res masks wait in
    temporary files (256 KiB for a frame and an object at 1024 px); so every frame is yielded once, in order, with all
    its objects.

    Args:
        model: from `samtune.model.video.video_model`.
        clip: the frames.
        prompts: checked by `check_prompts`.
        backwards: also follow objects to frames before their first prompt.
        scratch: folder for the temporary files; the system's if left out.
        progress: called with frames done and their total, both directions together.

    Yields:
        Every frame of the clip.

    Raises:
        DataError: a frame cannot be decoded, or has another size.
    """
    starts = starts_of(prompts)
    last_start = max(starts.values())
    extra = last_start + 1 if backwards and last_start else 0
    total = len(clip) + extra
    with tempfile.TemporaryDirectory(dir=scratch, prefix="samtune-clip-") as name:
        folder = Path(name)
        if extra:
            tracker = Tracker(model, clip, prompts, reverse=True)
            for done, image in enumerate(clip.backwards(last_start)):
                _keep(tracker.show(last_start - done, image), starts, folder)
                progress(done + 1, total)
        tracker = Tracker(model, clip, prompts, reverse=False)
        for number, image in enumerate(clip.frames(0, len(clip))):
            found = tracker.show(number, image)
            if extra:
                _add_kept(found, starts, folder)
            yield found
            progress(extra + number + 1, total)


def _keep(found: TrackedFrame, starts: Mapping[int, int], folder: Path) -> None:
    """Write what was found before an object's first prompt."""
    for object_id, low_res in found.low_res.items():
        if found.number < starts[object_id]:
            content = np.concatenate([[found.scores[object_id]], low_res.numpy().ravel()])
            np.save(folder / f"{found.number}-{object_id}.npy", content.astype(np.float32), allow_pickle=False)


def _add_kept(found: TrackedFrame, starts: Mapping[int, int], folder: Path) -> None:
    """Read that again, once."""
    for object_id, start in starts.items():
        if found.number < start:
            file = folder / f"{found.number}-{object_id}.npy"
            content = np.load(file, allow_pickle=False)
            side = round((len(content) - 1) ** 0.5)
            found.scores[object_id] = float(content[0])
            found.low_res[object_id] = torch.from_numpy(content[1:].reshape(side, side))
            file.unlink()
