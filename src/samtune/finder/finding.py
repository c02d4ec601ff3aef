"""Finding: boxes from the network, masks from the decoder, names from the class maps under the masks, no duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.data.masks import decode_rle, encode_rle
from samtune.data.tiles import Tile
from samtune.embeddings.cache import encoder_fingerprint
from samtune.errors import ModelError
from samtune.finder.head import STRIDE, FinderHead, FinderOutput
from samtune.finder.proposals import MASK_OVERLAP, paired_iou, propose
from samtune.finder.results import Finder, Finds
from samtune.inference.overlaps import MaskRuns, mask_boxes, without_duplicates
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.inference.tiles import LargeImage, TileAnswer, in_image, merged
from samtune.model.decoder.reference import asked_tokens, select_masks
from samtune.model.preprocess import MASK_THRESHOLD, to_model_input, upscale_masks
from samtune.prompts.batch import PromptBatch
from samtune.types import RunLengths

CHUNK = 32
"""Prompts per decoder call."""


@dataclass(frozen=True)
class Looks:
    """An image as a finder looks at it.

    Attributes:
        embedded: the image after the encoder.
        mirrored: its mirror image after the encoder, for a finder that looks twice; None where one look must do.
    """

    embedded: EmbeddedImage
    mirrored: EmbeddedImage | None = None

    @staticmethod
    def by(predictor: Predictor, image: NDArray[np.uint8], looks: int) -> Looks:
        """An image uint8 `[H, W, 3]` after the encoder, which sees its mirror image too where there are two `looks`."""
        pixels = to_model_input(image, predictor.loaded.image_size)
        size = (image.shape[0], image.shape[1])
        return Looks(*predictor.embed_inputs([pixels, pixels.flip(-1)][:looks], [size] * looks))


@torch.no_grad()
def look(head: FinderHead, seen: Looks) -> FinderOutput:
    """What the network says of an image; of both looks the mean."""
    output = head(seen.embedded.embeddings)
    return output if seen.mirrored is None else output.mean(head(seen.mirrored.embeddings).mirrored())


@torch.no_grad()
def find(predictor: Predictor, seen: Looks, finder: Finder, *, chunk: int = CHUNK) -> Finds:
    """Find everything in an image that looks like what the finder was trained on.

    Args:
        predictor: the model whose decoder draws the masks.
        seen: the image, from a model with the encoder that the finder was trained on.
        finder: the finder.
        chunk: prompts per decoder call.

    Returns:
        All finds; most have low scores. `Finds.above` keeps the good ones.
    """
    embedded, output = seen.embedded, look(finder.head, seen)
    proposed = propose(output, 0, finder.most)
    answers = answer_boxes(predictor, embedded, proposed.boxes, chunk)
    trust = proposed.objectness.numpy() * answers.iou_scores
    classes, likely = finder.namer(output.classes[0], answers.logits, trust)
    masks = (answers.logits > MASK_THRESHOLD).cpu().numpy()
    boxes = proposed.boxes.numpy()
    agreement = paired_iou(boxes, mask_boxes(masks).astype(np.float32))
    columns = (proposed.objectness.numpy(), answers.iou_scores, likely, agreement)
    evidence = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    strength = evidence[:, :3].prod(1).astype(np.float32)
    kept = without_duplicates(MaskRuns.of_masks(masks), strength, MASK_OVERLAP)
    kept = kept[masks[kept].any((1, 2))]
    scores = finder.calibration(evidence[kept])
    height, width = embedded.size
    found = Finds(
        logits=answers.logits[torch.from_numpy(kept).to(answers.logits.device)].cpu().numpy(),
        boxes=(boxes[kept] * np.array([width, height] * 2) * (STRIDE / finder.image_size)).astype(np.float32),
        classes=classes[kept],
        evidence=evidence[kept],
        scores=scores,
        object_scores=answers.object_scores[kept],
        size=embedded.size,
    )
    return found[np.argsort(-scores, kind="stable")]


@dataclass(frozen=True)
class BoxAnswers:
    """The decoder's answers to N boxes.

    Attributes:
        logits: low-res mask logits float32 `[N, h, w]`, on the model's device.
        iou_scores: predicted IoU `[N]`, 0 to 1.
        object_scores: logits `[N]` that there is an object.
    """

    logits: Tensor
    iou_scores: NDArray[np.float32]
    object_scores: NDArray[np.float32]


@torch.no_grad()
def answer_boxes(predictor: Predictor, embedded: EmbeddedImage, boxes: Tensor, chunk: int = CHUNK) -> BoxAnswers:
    """The decoder's one mask for each box.

    Args:
        predictor, chunk: as in `find`.
        embedded: the image.
        boxes: `[N, 4]`, xyxy in cells of the stride-4 grid.
    """
    size, tokens = predictor.loaded.mask_size, asked_tokens(predictor.loaded.model, multimask_output=False)
    logits = torch.empty(len(boxes), size, size, device=predictor.device)
    scores, present = torch.empty(len(boxes)), torch.empty(len(boxes))
    for start in range(0, len(boxes), chunk):
        rows = slice(start, start + chunk)
        output = predictor.decode(embedded, PromptBatch.from_boxes(boxes[rows] * STRIDE), tokens)
        masks, iou = select_masks(predictor.loaded.model, output, multimask_output=False)
        logits[rows], scores[rows], present[rows] = masks[:, 0], iou[:, 0], output.object_score_logits
    return BoxAnswers(logits, scores.clamp(0, 1).numpy(), present.numpy())


def full_masks(finds: Finds) -> Sequence[RunLengths]:
    """The finds' masks at the image's own size, as run lengths; one at a time is unpacked."""
    return [
        encode_rle((upscale_masks(torch.from_numpy(logits), finds.size) > MASK_THRESHOLD).numpy())
        for logits in finds.logits
    ]


def find_in_tiles(
    predictor: Predictor, image: LargeImage, finder: Finder, threshold: float, *, chunk: int = CHUNK
) -> Iterator[TileAnswer]:
    """Find everything in a large image, each object once, as soon as no tile to come can add to it.

    Args:
        predictor, finder, chunk: as in `find`.
        image: the image.
        threshold: least score; the score of an object in several tiles is the best one's, and so is its class.
    """

    def found() -> Iterator[tuple[Tile, list[TileAnswer]]]:
        for tile in image.grid():
            seen = Looks.by(predictor, image.read(tile.window), finder.looks)
            finds = find(predictor, seen, finder, chunk=chunk).above(threshold)
            regions = (in_image(decode_rle(runs), tile.window, 1) for runs in full_masks(finds))
            rows = zip(
                regions, finds.scores.tolist(), finds.object_scores.tolist(), finds.classes.tolist(), strict=True
            )
            yield tile, [TileAnswer(*row) for row in rows]

    yield from merged(image.grid(), found())


def check_fits(finder: Finder, predictor: Predictor) -> None:
    """Refuse a finder whose features another encoder made.

    Raises:
        ModelError: the model's encoder is not the one the finder was trained on.
    """
    if (finder.encoder, finder.image_size) != (
        encoder_fingerprint(predictor.loaded.model),
        predictor.loaded.image_size,
    ):
        raise ModelError.of(
            expected="the image encoder that the finder was trained on",
            found=f"another one, of {predictor.loaded.name}",
            do="use the run the finder was trained in, or train one: samtune find-train RUN",
        )
