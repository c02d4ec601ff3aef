"""samtune's and transformers' answers to the cases of the official implementation, in the same form, and their
comparison."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import Sam2Model

from samtune.model.decoder.reference import decode, select_masks
from samtune.model.encoder.embeddings import encode
from samtune.model.io.loaded import LoadedModel
from samtune.model.preprocess import clamp_low_res, scale_boxes, scale_points, to_model_input, upscale_masks
from samtune.prompts.batch import PromptBatch

LOGITS, SCORES, PIXELS = 1e-4, 1e-5, 1e-4
"""What may differ: low-res logits and scores absolutely, full-resolution masks by a share of their pixels."""


def parts_of(cases: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The prompts by case, with the image's name in front of the point."""
    names = sorted({key.split("/")[0] for key in cases} - {"image"})
    return {name: {k.split("/")[1]: v for k, v in cases.items() if k.split("/")[0] == name} for name in names}


def our_answers(loaded: LoadedModel, cases: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By samtune's own encoder and decoder paths."""
    size, embeddings, results = loaded.image_size, {}, {}
    for name, part in parts_of(cases).items():
        key = name.split(".")[0]
        image = cases[f"image/{key}"]
        if key not in embeddings:
            embeddings[key] = encode(loaded.model, to_model_input(image.numpy(), size)[None])
        output = decode(loaded.model, embeddings[key], _batch(part, tuple(image.shape[:2]), size))
        for kind in ("single", "multi"):
            low_res, iou = select_masks(loaded.model, output, multimask_output=kind == "multi")
            results |= _named(name, kind, low_res, iou, output.object_score_logits[:, None], image.shape[:2])
    return results


def transformers_answers(model: Sam2Model, cases: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """By transformers' own forward in eval mode, which falls back from token 0 by itself.

    The first prompt about an image is answered from its pixels, the others from the embeddings of that answer.
    """
    results, embeddings = {}, {}
    for name, part in parts_of(cases).items():
        key = name.split(".")[0]
        shape = tuple(cases[f"image/{key}"].shape[:2])
        inputs = {}
        if "box" in part:
            inputs["input_boxes"] = scale_boxes(part["box"].reshape(1, -1, 4), shape, size)
        if "points" in part:
            inputs["input_points"] = scale_points(part["points"], shape, size)[None, None]
            inputs["input_labels"] = part["labels"][None, None]
        if "mask" in part:
            inputs["input_masks"] = part["mask"][None]
        for kind in ("single", "multi"):
            if key in embeddings:
                image_inputs = {"image_embeddings": embeddings[key]}
            else:
                image_inputs = {"pixel_values": to_model_input(cases[f"image/{key}"].numpy(), size)[None]}
            with torch.no_grad():
                output = model(**image_inputs, **inputs, multimask_output=kind == "multi")
            embeddings[key] = output.image_embeddings
            results |= _named(
                name, kind, output.pred_masks[0], output.iou_scores[0], output.object_score_logits[0], shape
            )
    return results


def check_answers(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Hold answers to the official ones; returns the largest differences, for the record."""
    worst = {"low_res": 0.0, "iou": 0.0, "object": 0.0, "masks": 0.0}
    # An object score is a logit too: nano's reach 50, where three steps of fp32 are 1.1e-5.
    bounds = {"low_res": LOGITS, "iou": SCORES, "object": LOGITS, "masks": PIXELS}
    compared = 0
    for name, reference in expected.items():
        what = name.split("/")[-1]
        if what not in worst:
            continue
        difference = (found[name].float().reshape(-1) - reference.float().reshape(-1)).abs()
        worst[what] = max(worst[what], float(difference.mean() if what == "masks" else difference.max()))
        assert worst[what] <= bounds[what], f"{name}: {worst[what]} is more than {bounds[what]}"
        compared += 1
    assert compared
    return worst


def _batch(part: Mapping[str, Tensor], shape: tuple[int, int], size: int) -> PromptBatch:
    """The prompts as samtune's value: a box is two points, and clicks follow it."""
    batches = []
    if "box" in part:
        batches.append(PromptBatch.from_boxes(scale_boxes(part["box"].reshape(-1, 4), shape, size)))
    if "points" in part:
        batches.append(PromptBatch.from_clicks(scale_points(part["points"], shape, size)[None], part["labels"][None]))
    points = torch.cat([batch.points for batch in batches], dim=1)
    prompts = PromptBatch(points, torch.cat([batch.labels for batch in batches], dim=1))
    return prompts.with_masks(part["mask"][None]) if "mask" in part else prompts


def _named(
    name: str, kind: str, low_res: Tensor, iou: Tensor, score: Tensor, shape: tuple[int, int]
) -> dict[str, Tensor]:
    found = {
        "low_res": clamp_low_res(low_res),
        "iou": iou,
        "object": score,
        "masks": upscale_masks(low_res, shape) > 0,
    }
    return {f"{name}/{kind}/{key}": value.detach() for key, value in found.items()}
