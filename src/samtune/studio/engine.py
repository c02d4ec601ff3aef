"""Answers to prompts, from embeddings that are kept: masks, comparisons of two models, proposals, doubt."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from samtune.config import AutomaticConfig
from samtune.data.masks import Region
from samtune.data.table import ImageEntry
from samtune.errors import UsageError
from samtune.evaluation.full_size import full_size_masks
from samtune.finder.finding import Looks, find
from samtune.finder.results import Finder
from samtune.inference.automatic import automatic_masks
from samtune.inference.predictor import EmbeddedImage
from samtune.inference.thresholds import with_thresholds
from samtune.labelling.doubt import measure_doubt
from samtune.model.decoder.reference import asked_tokens, select_masks
from samtune.model.preprocess import clamp_low_res
from samtune.prompts.batch import PromptBatch
from samtune.studio.embedding import Embedder
from samtune.studio.models import StudioModel
from samtune.studio.questions import FoundRegion, Question, StudioAnswer
from samtune.types import Box, Prompt

MOST_PREVIOUS = 256
"""Low-res masks that corrections can start from; the least recently used go first."""
DOUBT_GRID, DOUBT_PROMPTS = 6, 36
"""Clicks per side of the grid, and prompts at most, whose answers say how doubtful a model is about an image."""
_Answer = TypeVar("_Answer")


class Engine:
    """Decodes one thing after the other in one thread, which keeps a click from waiting for half of the cores.

    Args:
        embedder: gives embeddings.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self._previous: OrderedDict[str, tuple[str, str, NDArray[np.float32]]] = OrderedDict()
        self._lock = threading.Lock()
        self._decoder = ThreadPoolExecutor(1, "decoding")

    def ask(self, model: StudioModel, key: str, entry: ImageEntry, question: Question) -> StudioAnswer:
        """Masks for a question about one image, by its key in the studio.

        Raises:
            UsageError: no prompt, a prompt outside the image, or a token that is not known any more.
            DataError: the image cannot be read.
        """
        prompt = self._prompt(question, model, key, entry)
        embedded = self.embedder.get(model, key, entry)
        return self._in_turn(lambda: self._ask(model, key, embedded, prompt, question.multimask))

    def region_for_box(self, model: StudioModel, embedded: EmbeddedImage, boxes: Sequence[Box]) -> list[Region]:
        """The one mask for each of N boxes, xyxy in pixels of the image."""
        if not boxes:
            return []
        return self._in_turn(lambda: self._boxes(model, embedded, torch.tensor(boxes, dtype=torch.float32)))

    def propose(self, model: StudioModel, key: str, entry: ImageEntry) -> list[FoundRegion]:
        """Objects that the model's finder finds, with their classes, or else a grid of clicks; the surest first."""
        embedded = self.embedder.get(model, key, entry)
        return self._in_turn(lambda: _proposals(model, embedded))

    def doubt(self, model: StudioModel, embedded: EmbeddedImage) -> float | None:
        """How unsure a model is about an image, 0 to 1, as `samtune next` asks; None where it sees no object."""
        asked = {"finder": model.finder, "points_per_side": DOUBT_GRID, "most": DOUBT_PROMPTS}
        return self._in_turn(lambda: measure_doubt(model.predictor, embedded, None, **asked).value)

    def close(self) -> None:
        """End both threads."""
        self.embedder.close()
        self._decoder.shutdown(cancel_futures=True)

    def _in_turn(self, work: Callable[[], _Answer]) -> _Answer:
        return self._decoder.submit(work).result()

    @torch.no_grad()
    def _ask(
        self, model: StudioModel, key: str, embedded: EmbeddedImage, prompt: Prompt, multimask: bool
    ) -> StudioAnswer:
        predictor = model.predictor
        batch = predictor.to_model_frame(embedded, PromptBatch.from_prompts([prompt]))
        output = predictor.decode(embedded, batch, asked_tokens(predictor.loaded.model, multimask_output=multimask))
        low_res, scores = select_masks(predictor.loaded.model, output, multimask_output=multimask)
        regions = full_size_masks(low_res, embedded.size)[0]
        kept = clamp_low_res(low_res[0].float()).cpu().numpy()
        masks = tuple(
            FoundRegion(region if region.mask.any() else None, iou, self._remember(key, model.key, logits))
            for region, iou, logits in zip(regions, scores[0].clamp(0, 1).tolist(), kept, strict=True)
        )
        return StudioAnswer(masks, float(output.object_score_logits[0]))

    @torch.no_grad()
    def _boxes(self, model: StudioModel, embedded: EmbeddedImage, boxes: torch.Tensor) -> list[Region]:
        predictor, found = model.predictor, list[Region]()
        for part in boxes.split(32):
            batch = predictor.to_model_frame(embedded, PromptBatch.from_boxes(part))
            output = predictor.decode(embedded, batch, asked_tokens(predictor.loaded.model, multimask_output=False))
            low_res, _ = select_masks(predictor.loaded.model, output, multimask_output=False)
            found += [regions[0] for regions in full_size_masks(low_res, embedded.size)]
        return found

    def _remember(self, key: str, model: str, logits: NDArray[np.float32]) -> str:
        token = secrets.token_urlsafe(9)
        with self._lock:
            self._previous[token] = (key, model, logits)
            while len(self._previous) > MOST_PREVIOUS:
                self._previous.popitem(last=False)
        return token

    def _prompt(self, question: Question, model: StudioModel, key: str, entry: ImageEntry) -> Prompt:
        xs = [x for x, _ in question.points] + list(question.box[0::2] if question.box else ())
        ys = [y for _, y in question.points] + list(question.box[1::2] if question.box else ())
        if not all(0 <= x <= entry.width for x in xs) or not all(0 <= y <= entry.height for y in ys):
            raise UsageError.of(
                expected=f"a prompt inside the image of {entry.width} x {entry.height} pixels",
                found="one outside",
                where="box, points",
            )
        logits = None
        if question.previous is not None:
            with self._lock:
                known = self._previous.get(question.previous)
                if known is not None:
                    self._previous.move_to_end(question.previous)
            if known is None or known[:2] != (key, model.key):
                raise UsageError.of(
                    expected="the token of an answer about this image by this model",
                    found="another one, or one that is too old",
                    where="previous",
                    do="ask without it",
                )
            logits = known[2][None]
        return Prompt(
            np.array(question.points, np.float32).reshape(-1, 2) if question.points else None,
            np.array(question.labels, np.int64) if question.points else None,
            None if question.box is None else np.array(question.box, np.float32),
            logits,
        )


@torch.no_grad()
def _proposals(model: StudioModel, embedded: EmbeddedImage) -> list[FoundRegion]:
    if model.finder is not None:
        return _finds(model, embedded, model.finder)
    found = automatic_masks(model.predictor, embedded, with_thresholds(AutomaticConfig(), model.predictor.loaded))
    return [FoundRegion(one.region, one.iou_score) for one in found]


def _finds(model: StudioModel, embedded: EmbeddedImage, finder: Finder) -> list[FoundRegion]:
    finds = find(model.predictor, Looks(embedded), finder).above(finder.threshold)  # one look: an answer is waited for
    regions = full_size_masks(torch.from_numpy(finds.logits)[:, None], embedded.size) if len(finds) else []
    return [
        FoundRegion(masks[0], float(score), category=finder.classes[number] if finder.classes else None)
        for masks, score, number in zip(regions, finds.scores.tolist(), finds.classes.tolist(), strict=True)
        if masks[0].mask.any()
    ]
