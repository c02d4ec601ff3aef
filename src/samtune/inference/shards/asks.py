"""What is asked of a shard's images: boxes and clicks, or a grid of clicks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from samtune.config import AutomaticConfig, PredictConfig
from samtune.errors import DataError
from samtune.inference.automatic import everything
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.inference.shards.job import Job
from samtune.inference.shards.work import LoadedImage, MaskAnswer
from samtune.prompts.batch import PromptBatch


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes of one image: xyxy float32 `[N, 4]` in its pixels, class and the detector's score of each."""

    boxes: NDArray[np.float32]
    categories: list[int]
    scores: list[float | None]


class AskPrompts:
    """The boxes of a shard's images, and those boxes and clicks that are the same for every image.

    Args:
        predictor: the model.
        job: the job.
        shard: number of the shard.
        config: the prompts for every image, and prompts per decoder call.
    """

    needs_image = False

    def __init__(self, predictor: Predictor, job: Job, shard: int, config: PredictConfig) -> None:
        self._predictor, self._chunk = predictor, config.chunk
        self._points = np.array(config.fixed_points, np.float32).reshape(-1, 1, 2)
        fixed = np.array(config.fixed_boxes, np.float32).reshape(-1, 4)
        self._fixed = _Boxes(fixed, [1] * len(fixed), [None] * len(fixed))
        self._boxes: dict[int, _Boxes] = {}
        table = job.prompts_of(shard)
        if table is not None:
            rows = table["image"].to_numpy().astype(np.int64) - shard * job.about.shard_images
            boxes = table.select("x0", "y0", "x1", "y1").to_numpy().astype(np.float32)
            categories, scores = table["category_id"].to_list(), table["detection_score"].to_list()
            starts = np.flatnonzero(np.diff(rows, prepend=-1)).tolist()
            for start, end in pairwise([*starts, len(rows)]):
                self._boxes[int(rows[start])] = _Boxes(boxes[start:end], categories[start:end], scores[start:end])

    def is_asked(self, row: int) -> bool:
        """Whether the image has a prompt."""
        return bool(len(self._fixed.boxes) or len(self._points) or row in self._boxes)

    def __call__(
        self, images: Sequence[LoadedImage], embedded: Sequence[EmbeddedImage]
    ) -> list[list[MaskAnswer] | DataError]:
        """One mask for each prompt."""
        prompts: list[PromptBatch] = []
        abouts: list[_Boxes] = []
        answers: list[list[MaskAnswer] | DataError] = [[] for _ in images]
        inside: list[int] = []
        for place, image in enumerate(images):
            about = self._of(image.row)
            if error := _outside(about.boxes, self._points, image.size):
                answers[place] = error
                continue
            inside.append(place)
            abouts.append(about)
            corners = PromptBatch.from_boxes(torch.from_numpy(about.boxes))
            batch = PromptBatch.cat([corners, PromptBatch.from_clicks(torch.from_numpy(self._points))])
            prompts.append(self._predictor.to_model_frame(embedded[place], batch))
        if not inside:
            return answers
        decoded = self._predictor.decode_images([embedded[place] for place in inside], prompts, self._chunk)
        for place, about, (masks, scores, present) in zip(inside, abouts, decoded, strict=True):
            clicks = len(self._points)
            columns = (
                masks.cpu(), scores.tolist(), present.tolist(),
                about.categories + [1] * clicks, about.scores + [None] * clicks,
            )  # fmt: skip
            answers[place] = [MaskAnswer(*figures) for figures in zip(*columns, strict=True)]
        return answers

    def _of(self, row: int) -> _Boxes:
        own, fixed = self._boxes.get(row), self._fixed
        if own is None:
            return fixed
        return replace(
            own,
            boxes=np.concatenate([fixed.boxes, own.boxes]),
            categories=fixed.categories + own.categories,
            scores=fixed.scores + own.scores,
        )


class AskGrid:
    """Everything that a grid of clicks finds.

    Args:
        predictor: the model.
        config: grid, crops and thresholds.
    """

    needs_image = True

    def __init__(self, predictor: Predictor, config: AutomaticConfig) -> None:
        self._predictor, self._config = predictor, config

    def is_asked(self, row: int) -> bool:
        """Every image is."""
        return True

    def __call__(
        self, images: Sequence[LoadedImage], embedded: Sequence[EmbeddedImage]
    ) -> list[list[MaskAnswer] | DataError]:
        """What is found in each image, best first."""
        answers: list[list[MaskAnswer] | DataError] = []
        for image, one in zip(images, embedded, strict=True):
            assert image.image is not None, "needs_image"
            found = everything(self._predictor, image.image, self._config, one)
            answers.append([MaskAnswer(mask.region, mask.iou_score, mask.object_score) for mask in found])
        return answers


def _outside(boxes: NDArray[np.float32], points: NDArray[np.float32], size: tuple[int, int]) -> DataError | None:
    """Why prompts cannot be about an image of `size`, (H, W): one does not touch it."""
    height, width = size
    low = np.concatenate([boxes[:, :2], points[:, 0]])
    high = np.concatenate([boxes[:, 2:], points[:, 0]])
    bad = (high < 0).any(1) | (low > [width, height]).any(1)
    if not bad.any():
        return None
    row = int(bad.argmax())
    return DataError.of(
        expected=f"prompts inside the image, {width} x {height} pixels",
        found=", ".join(f"{value:g}" for value in np.concatenate([low[row], high[row]])),
    )
