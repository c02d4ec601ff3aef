"""A simulated annotator: clicks where the mask is most wrong, one click after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from samtune.config import EvalConfig
from samtune.data.masks import Region
from samtune.evaluation.fixed_prompts import ObjectPrompts, clicks_of
from samtune.evaluation.full_size import full_size_masks, overlap_of, within_one_frame
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.reference import asked_tokens, select_masks
from samtune.model.preprocess import clamp_low_res
from samtune.prompts.batch import PromptBatch
from samtune.prompts.simulate import deepest_correction


@torch.no_grad()
def click_curves(
    predictor: Predictor,
    embedded: EmbeddedImage,
    objects: Sequence[ObjectPrompts],
    truth: Sequence[Region],
    config: EvalConfig,
) -> Iterator[tuple[float, ...]]:
    """IoU after each click of a simulated annotator: first the object's deepest pixel, then the error's, each time."""
    tokens = asked_tokens(predictor.loaded.model, multimask_output=False)
    for start in range(0, len(truth), config.chunk):
        regions = truth[start : start + config.chunk]
        clicks = clicks_of(objects[start : start + config.chunk])
        prompts = predictor.to_model_frame(embedded, clicks).to(predictor.device)
        ious: list[list[float]] = []
        for turn in range(config.clicks + 1):
            output = predictor.decode(embedded, prompts, tokens)
            low_res, _ = select_masks(predictor.loaded.model, output, multimask_output=False)
            masks = [found[0] for found in full_size_masks(low_res, embedded.size)]
            ious.append([overlap_of(mask, region).iou for mask, region in zip(masks, regions, strict=True)])
            if turn < config.clicks:
                prompts = _with_corrections(predictor, embedded, prompts, low_res, masks, regions)
        yield from zip(*ious, strict=True)


def _with_corrections(
    predictor: Predictor,
    embedded: EmbeddedImage,
    prompts: PromptBatch,
    low_res: Tensor,
    masks: Sequence[Region],
    truth: Sequence[Region],
) -> PromptBatch:
    """The prompts with one more click at the deepest error, seen at full resolution, and the mask they had led to."""
    clicks = [_correction(mask, region, embedded.size) for mask, region in zip(masks, truth, strict=True)]
    points, labels = torch.tensor([click[:2] for click in clicks]), torch.tensor([click[2] for click in clicks])
    more = predictor.to_model_frame(embedded, PromptBatch.from_clicks(points[:, None].float(), labels[:, None]))
    more = more.to(predictor.device)
    return prompts.with_clicks(more.points[:, 0], more.labels[:, 0]).with_masks(clamp_low_res(low_res.float()))


def _correction(mask: Region, truth: Region, size: tuple[int, int]) -> tuple[int, int, int]:
    """One click at the deepest pixel of the error: x, y, and label.

    Only a frame around both masks is looked at; a mask without any error needs the whole image, where the click goes to
    the background.
    """
    predicted, wanted, (x0, y0) = within_one_frame(mask, truth, size)
    if (predicted == wanted).all():
        predicted, wanted, (x0, y0) = truth.paste(*size), truth.paste(*size), (0, 0)
    x, y, label = deepest_correction(predicted, wanted)
    return x + x0, y + y0, label
