"""The reference decoder path: prompts and image embeddings in, all four masks of every prompt out.

It calls transformers' own modules and adds only what training needs and `Sam2Model.forward` hides: the masks of all
four tokens at once, prompts of different lengths in one batch without any influence of the padding, mask prompts for
some of the prompts. `fast.py` computes the same numbers faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Sam2Model

from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.prompts.batch import PADDING, PromptBatch

SINGLE_TOKEN = 0
"""Index of the mask token for unambiguous prompts; 1 to 3 are for ambiguous ones."""
ALL_TOKENS, MULTIMASK_TOKENS, NO_TOKENS = slice(0, 4), slice(1, 4), slice(0, 0)
"""Mask tokens whose masks to compute; without any, only the scores are computed."""


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """The decoder's output for N prompts.

    Attributes:
        masks: `[N, M, h, w]` low-res logits of the mask tokens that were asked for; token 0 is the single mask, 1 to 3
            are the three masks for an ambiguous prompt.
        iou_scores: `[N, 4]`, predicted IoU of each mask, 0 to 1.
        object_score_logits: `[N]`, above 0 where the model predicts that there is an object.
    """

    masks: Tensor
    iou_scores: Tensor
    object_score_logits: Tensor


def decode(
    model: Sam2Model,
    embeddings: ImageEmbeddings,
    prompts: PromptBatch,
    image_index: Tensor | None = None,
    tokens: slice = ALL_TOKENS,
) -> DecoderOutput:
    """Run prompt encoder and mask decoder.

    Args:
        model: supplies the weights; its train or eval state makes no difference here.
        embeddings: of B images.
        prompts: N prompts in pixels of the model's square input.
        image_index: int64 `[N]`, the image each prompt belongs to; may be left out when B is 1.
        tokens: whose masks are computed; the scores always are.

    Returns:
        The outputs, in the order of the prompts.
    """
    if image_index is None:
        image_index = torch.zeros(len(prompts), dtype=torch.int64, device=prompts.points.device)
    groups = _equal_groups(prompts)
    parts = [_decode_equal(model, embeddings, prompts.select(rows), image_index[rows], tokens) for rows in groups]
    if len(parts) == 1:
        return parts[0]
    back = torch.cat(groups).argsort()
    return DecoderOutput(
        torch.cat([part.masks for part in parts])[back],
        torch.cat([part.iou_scores for part in parts])[back],
        torch.cat([part.object_score_logits for part in parts])[back],
    )


def asked_tokens(model: Sam2Model, *, multimask_output: bool) -> slice:
    """The tokens whose masks `select_masks` needs: 1 to 3, or all four because the single mask may be unstable."""
    if multimask_output:
        return MULTIMASK_TOKENS
    return ALL_TOKENS if model.mask_decoder.config.dynamic_multimask_via_stability else slice(SINGLE_TOKEN, 1)


def select_masks(model: Sam2Model, output: DecoderOutput, *, multimask_output: bool) -> tuple[Tensor, Tensor]:
    """The masks a user gets: the three of tokens 1 to 3, or one mask.

    The one mask is token 0's, unless that mask is unstable (its area changes much between thresholds a little above and
    below 0); then the best of the three by predicted IoU. Source: `sam2/modeling/sam/mask_decoder.py`,
    `_dynamic_multimask_via_stability`; transformers does the same in eval mode.

    Returns:
        Logits `[N, M, h, w]` and predicted IoUs `[N, M]`, M = 3 or 1.
    """
    if multimask_output:
        return output.masks[:, -3:], output.iou_scores[:, 1:]
    single, single_iou = output.masks[:, 0], output.iou_scores[:, 0]
    config = model.mask_decoder.config
    if config.dynamic_multimask_via_stability:
        rows = torch.arange(len(single), device=single.device)
        best = output.iou_scores[:, 1:].argmax(1) + 1
        stable = _stability(single, config.dynamic_multimask_stability_delta) >= (
            config.dynamic_multimask_stability_thresh
        )
        single = torch.where(stable[:, None, None], single, output.masks[rows, best])
        single_iou = torch.where(stable, single_iou, output.iou_scores[rows, best])
    return single[:, None], single_iou[:, None]


def _stability(logits: Tensor, delta: float) -> Tensor:
    """IoU of the masks at thresholds `delta` and `-delta`, `[N]`; 1 where both are empty."""
    inner = (logits > delta).flatten(1).sum(1).float()
    outer = (logits > -delta).flatten(1).sum(1).float()
    return (inner / outer.clamp(min=1)).masked_fill(outer == 0, 1.0)


def _equal_groups(prompts: PromptBatch) -> list[Tensor]:
    """Rows of prompts that have equally many points and agree on having a mask, so that no padding is needed."""
    key = (prompts.labels != PADDING).sum(1) * 2
    if prompts.has_mask is not None:
        key = key + prompts.has_mask
    return [torch.nonzero(key == value).squeeze(1) for value in key.unique()]


def _decode_equal(
    model: Sam2Model, embeddings: ImageEmbeddings, prompts: PromptBatch, image_index: Tensor, asked: slice
) -> DecoderOutput:
    """Decode prompts that all have equally many points. N plays the role of transformers' batch, one prompt each."""
    decoder = model.mask_decoder
    real = prompts.labels != PADDING
    count = int(real[0].sum())
    points = prompts.points[real].reshape(len(prompts), 1, count, 2)
    labels = prompts.labels[real].reshape(len(prompts), 1, count)
    masks = prompts.masks if prompts.has_mask is not None and bool(prompts.has_mask[0]) else None
    sparse, dense = model.prompt_encoder(input_points=points, input_labels=labels, input_boxes=None, input_masks=masks)
    outputs = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([outputs.expand(len(prompts), 1, -1, -1), sparse.to(outputs.dtype)], dim=2)
    positions = model.get_image_wide_positional_embeddings().to(outputs.dtype)
    tokens, image = decoder.transformer(
        point_embeddings=tokens,
        image_embeddings=embeddings.image_embeddings[image_index] + dense,
        image_positional_embeddings=positions.expand(len(prompts), -1, -1, -1),
        attention_similarity=None,
    )
    fine, finer = (features[image_index] for features in embeddings.high_resolution_features[::-1])
    height, width = embeddings.image_embeddings.shape[-2:]
    image = image.squeeze(1).transpose(1, 2).reshape(len(prompts), -1, height, width)
    image = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image) + fine))
    image = decoder.activation(decoder.upscale_conv2(image) + finer)
    mask_tokens = tokens[:, 0, 2 : 2 + decoder.num_mask_tokens]
    weights = torch.stack([head(mask_tokens[:, i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    return DecoderOutput(
        masks=(weights[:, asked] @ image.flatten(2)).unflatten(2, image.shape[-2:]),
        iou_scores=decoder.iou_prediction_head(tokens[:, 0, 1]),
        object_score_logits=decoder.pred_obj_score_head(tokens[:, 0, 0]).squeeze(-1),
    )
