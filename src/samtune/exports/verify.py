"""Whether an export is the model it was made from: the same prompts to both, the largest difference of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import Sam2Model

from samtune.errors import SamtuneError
from samtune.model.architecture import input_size
from samtune.model.decoder.reference import DecoderOutput, decode
from samtune.model.encoder.embeddings import encode
from samtune.model.preprocess import scale_boxes, scale_points, to_model_input, upscale_masks
from samtune.prompts.batch import PromptBatch

LOGIT_BOUND = 1e-4
"""Largest difference of a low-res logit an export may have, in fp32."""
PIXEL_BOUND = 1e-4
"""Largest share of full-resolution mask pixels that may differ."""
_SHAPE = (240, 360)


@dataclass(frozen=True, slots=True)
class ExportDifference:
    """How far the answers of two models are apart.

    Attributes:
        masks: how many masks were compared.
        logits: largest absolute difference of a low-res logit.
        scores: largest absolute difference of a predicted IoU or object score.
        pixels: share of full-resolution mask pixels that differ, 0 to 1.
    """

    masks: int
    logits: float
    scores: float
    pixels: float

    def __str__(self) -> str:
        return (
            f"{self.masks} masks compared: logits differ by at most {self.logits:.1e}, scores by {self.scores:.1e}, "
            f"{self.pixels:.4%} of the mask pixels"
        )


@torch.no_grad()
def answers(model: Sam2Model) -> DecoderOutput:
    """All four masks to the probe's prompts: boxes, single clicks, clicks with a box, a mask prompt."""
    size = input_size(model)
    prompts = _prompts(size)
    image = to_model_input(probe_image(), size)[None]
    first = next(model.parameters())
    embeddings = encode(model, image.to(first.device, first.dtype))
    return decode(model, embeddings, prompts.to(first.device))


def difference(found: DecoderOutput, expected: DecoderOutput) -> ExportDifference:
    """Compare the answers of two models to the probe."""
    masks = [upscale_masks(output.masks, _SHAPE) > 0 for output in (found, expected)]
    scores = [
        (found.iou_scores - expected.iou_scores).abs().max(),
        (found.object_score_logits - expected.object_score_logits).abs().max(),
    ]
    return ExportDifference(
        masks=found.masks.shape[0] * found.masks.shape[1],
        logits=float((found.masks - expected.masks).abs().max()),
        scores=float(torch.stack(scores).max()),
        pixels=float((masks[0] != masks[1]).float().mean()),
    )


def check(found: ExportDifference, where: str) -> None:
    """Refuse an export that answers differently.

    Raises:
        SamtuneError: it does; nothing of it is kept.
    """
    if not (found.logits <= LOGIT_BOUND and found.pixels <= PIXEL_BOUND):
        raise SamtuneError.of(
            expected=f"an export with the model's own masks (logits within {LOGIT_BOUND:g})",
            found=str(found),
            where=where,
            do="nothing was kept; please report this with the output of `samtune --version`",
        )


def probe_image() -> NDArray[np.uint8]:
    """Smooth colours and one hard edge, the same on every machine; not square, as most images are not."""
    coarse = torch.from_numpy(np.random.default_rng(0).random((1, 3, 6, 9), np.float32))
    image = functional.interpolate(coarse, _SHAPE, mode="bilinear", align_corners=False)[0]
    image[:, 60:150, 90:220] = 1 - image[:, 60:150, 90:220]
    return np.ascontiguousarray((image * 255).to(torch.uint8).permute(1, 2, 0).numpy())


def _prompts(size: int) -> PromptBatch:
    """Eight prompts in pixels of the model's input."""
    boxes = scale_boxes(torch.tensor([[90.0, 60, 220, 150], [5, 5, 300, 200], [200, 100, 359, 239]]), _SHAPE, size)
    points = scale_points(torch.tensor([[[150.0, 100]], [[20, 30]], [[330, 220]]]), _SHAPE, size)
    boxed = PromptBatch.from_boxes(boxes[:1]).with_clicks(points[0], torch.tensor([1]))
    mask = torch.full((1, 1, size // 4, size // 4), -8.0)
    mask[..., size // 16 : size // 6, size // 16 : size // 7] = 8.0
    return PromptBatch.cat(
        [
            PromptBatch.from_boxes(boxes),
            PromptBatch.from_clicks(points),
            boxed,
            PromptBatch.from_boxes(boxes[:1]).with_masks(mask),
        ]
    )
