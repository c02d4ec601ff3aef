"""Image encoder and mask decoder as modules whose graphs consist of plain float operations.

transformers' prompt encoder writes into slices and selects with integer conditions, which WebGPU rejects. Here labels
are floats, and every choice is a product with 0 or 1: exact for finite values, and the same on every runtime. Resizing
stays out of the graphs, because antialiasing does not export correctly.

Which masks a tool shows (docs/decisions/0140): tools ask for three masks and show the one with the highest predicted
IoU. For a box, several points or a mask prompt, all slots hold samtune's own single mask; for a single point, they hold
tokens 1 to 3, and the best of them is the mask that is shown.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2Attention, Sam2TwoWayAttentionBlock

from samtune.model.architecture import input_size
from samtune.model.encoder.embeddings import encode
from samtune.model.preprocess import LOW_RES_CLAMP

_MASKED = -10000.0
"""Added to the scores of padding; large enough for its softmax to be 0."""


class EncoderGraph(nn.Module):
    """float32 `[1, 3, S, S]`, normalised, to the image embedding and the features after `conv_s0` and `conv_s1`.

    Args:
        model: supplies the weights.
        dtype: of the arithmetic; inputs and outputs are float32.
    """

    def __init__(self, model: Sam2Model, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder."""
        return tuple(tensor.float().contiguous() for tensor in encode(self.model, pixels.to(self.dtype)).tensors)


class DecoderGraph(nn.Module):
    """Prompt encoder and mask decoder for N prompts on one image, all with a mask prompt or all without.

    Args:
        model: supplies the weights, in float32.
    """

    matrix: Tensor
    labelled: Tensor
    not_a_point: Tensor
    no_mask: Tensor
    positions: Tensor
    outputs: Tensor

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        decoder, prompts = model.mask_decoder, model.prompt_encoder
        self.decoder, self.mask_embed = decoder, prompts.mask_embed
        self.size = input_size(model)
        config = decoder.config
        self.fall_back = bool(config.dynamic_multimask_via_stability)
        self.delta = float(config.dynamic_multimask_stability_delta)
        self.least_stability = float(config.dynamic_multimask_stability_thresh)
        matrix = prompts.shared_embedding.positional_embedding.detach()
        self.register_buffer("matrix", matrix)
        self.register_buffer("labelled", prompts.point_embed.weight.detach().clone())
        self.register_buffer("not_a_point", prompts.not_a_point_embed.weight.detach().clone())
        self.register_buffer("no_mask", prompts.no_mask_embed.weight.detach().view(1, -1, 1, 1).clone())
        with torch.no_grad():
            positions = model.get_image_wide_positional_embeddings()[0].flatten(1).t().contiguous()
        self.register_buffer("positions", positions)
        outputs = [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        self.register_buffer("outputs", torch.cat([weight.detach() for weight in outputs]))

    def forward(
        self,
        image: Tensor,
        high: Tensor,
        middle: Tensor,
        points: Tensor,
        labels: Tensor,
        mask: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode prompts.

        Args:
            image: `[1, C, h, w]`.
            high, middle: `[1, C/8, 4h, 4w]` and `[1, C/4, 2h, 2w]`.
            points: float32 `[N, P, 2]`, xy in pixels of the S x S input.
            labels: float32 `[N, P]`: 1 and 0 for clicks, 2 and 3 for a box's corners, below 0 for padding.
            mask: float32 `[N, 1, 4h, 4w]`, low-res logits.
            has_mask: float32 `[1]`, 1 where `mask` counts, else 0.

        Returns:
            Low-res logits `[N, 4, 4h, 4w]`, clamped, and predicted IoUs `[N, 4]`: slot 0 is the mask to show, slots 1
            to 3 the candidates; object score logits `[N, 1]`.
        """
        tokens, bias = self._tokens(points, labels)
        given = has_mask.view(1, 1, 1, 1)
        dense = given * self.mask_embed(mask) + (1 - given) * self.no_mask
        rows = (image + dense).flatten(2).transpose(1, 2)
        tokens, rows = self._transformer(tokens, rows, bias)
        masks, scores, present = self._heads(tokens, rows, high, middle)
        several = _step(_is_real(labels).sum(1, keepdim=True) - 1.5)
        unambiguous = torch.maximum(several, has_mask.view(1, 1))
        masks, scores = self._choose(masks, scores, unambiguous)
        return masks.clamp(-LOW_RES_CLAMP, LOW_RES_CLAMP), scores, present

    def _tokens(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Output tokens, points and one padding point `[n, T, C]`; what is added to scores of padding, `[n, 1, 1, T]`.

        The padding point inside is the official predictor's, which always takes part; padding from outside does not.
        """
        coordinates = 2 * ((points + 0.5) / self.size) - 1
        angles = 2 * math.pi * (coordinates[..., :1] * self.matrix[0] + coordinates[..., 1:] * self.matrix[1])
        embedded = torch.cat([angles.sin(), angles.cos()], dim=-1)
        for label in range(len(self.labelled)):
            embedded = embedded + _equals(labels, label).unsqueeze(-1) * self.labelled[label]
        n = points.shape[0]
        outputs = self.outputs.unsqueeze(0).expand(n, -1, -1)
        last = self.not_a_point.unsqueeze(0).expand(n, -1, -1)
        tokens = torch.cat([outputs, embedded, last], dim=1)
        bias = F.pad(_MASKED * (1 - _is_real(labels)), (outputs.shape[1], 1))
        return tokens, bias.unsqueeze(1).unsqueeze(1)

    def _transformer(self, tokens: Tensor, rows: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer on tokens `[n, T, C]` and pixels `[n, L, C]`."""
        start, transformer = tokens, self.decoder.transformer
        for layer in transformer.layers:
            assert isinstance(layer, Sam2TwoWayAttentionBlock)
            if layer.skip_first_layer_pe:
                tokens = _attention(layer.self_attn, tokens, tokens, tokens, bias)
            else:
                tokens = tokens + _attention(layer.self_attn, tokens + start, tokens + start, tokens, bias)
            tokens = layer.layer_norm1(tokens)
            placed = rows + self.positions
            attended = _attention(layer.cross_attn_token_to_image, tokens + start, placed, rows)
            tokens = layer.layer_norm2(tokens + attended)
            tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
            attended = _attention(layer.cross_attn_image_to_token, placed, tokens + start, tokens, bias)
            rows = layer.layer_norm4(rows + attended)
        last = transformer.final_attn_token_to_image
        tokens = tokens + _attention(last, tokens + start, rows + self.positions, rows)
        return transformer.layer_norm_final_attn(tokens), rows

    def _heads(self, tokens: Tensor, rows: Tensor, high: Tensor, middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[n, 4, 4h, 4w]`, predicted IoUs `[n, 4]`, object scores `[n, 1]`."""
        decoder, side = self.decoder, self.size // 16
        pixels = rows.transpose(1, 2).unflatten(2, (side, side))
        pixels = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(pixels) + middle))
        pixels = decoder.activation(decoder.upscale_conv2(pixels) + high)
        heads = [head(tokens[:, 2 + place]) for place, head in enumerate(decoder.output_hypernetworks_mlps)]
        masks = (torch.stack(heads, dim=1) @ pixels.flatten(2)).unflatten(2, (4 * side, 4 * side))
        return masks, decoder.iou_prediction_head(tokens[:, 1]), decoder.pred_obj_score_head(tokens[:, 0])

    def _choose(self, masks: Tensor, scores: Tensor, unambiguous: Tensor) -> tuple[Tensor, Tensor]:
        """Put the masks to show into their slots; `unambiguous` is 0 or 1, `[n, 1]`."""
        single, single_score = masks[:, :1], scores[:, :1]
        first, second, third = (scores[:, place : place + 1] for place in (1, 2, 3))
        best = torch.maximum(torch.maximum(first, second), third)
        is_first = 1 - _step(best - first)
        is_second = (1 - is_first) * (1 - _step(best - second))
        chosen = torch.cat([is_first, is_second, 1 - is_first - is_second], dim=1)
        ambiguous = (_apart(chosen) * masks[:, 1:]).sum(1, keepdim=True)
        if self.fall_back:
            stable = self._is_stable(single)
            single = _apart(stable) * single + _apart(1 - stable) * ambiguous
            single_score = stable * single_score + (1 - stable) * best
        mix, rest = unambiguous, 1 - unambiguous
        shown = _apart(mix) * single + _apart(rest) * ambiguous
        shown_score = mix * single_score + rest * best
        slots = _apart(mix) * single + _apart(rest) * masks[:, 1:]
        return torch.cat([shown, slots], dim=1), torch.cat([shown_score, mix * single_score + rest * scores[:, 1:]], 1)

    def _is_stable(self, single: Tensor) -> Tensor:
        """1 where the mask's areas at logits `delta` and `-delta` agree well enough or both are empty, `[n, 1]`."""
        logits = single.flatten(1)
        inner = _step(logits - self.delta).sum(1, keepdim=True)
        outer = _step(logits + self.delta).sum(1, keepdim=True)
        empty = 1 - _step(outer - 0.5)
        ratio = (inner + empty) / (outer + empty)
        return 1 - _step(self.least_stability - ratio)


def _attention(
    attention: Sam2Attention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Attention of `[n, q, C]` to `[n, k, C]`, by two products and a softmax; `bias` is added to the scores."""
    heads = attention.num_attention_heads
    query, key, value = (
        projection(rows).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, rows in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    scores = (query * attention.scaling) @ key.transpose(2, 3)
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))


def _step(values: Tensor) -> Tensor:
    """1.0 where a value is above 0, else 0.0."""
    return (values > 0).to(torch.float32)


def _equals(labels: Tensor, label: int) -> Tensor:
    """1.0 where a label, a whole number, is `label`, else 0.0."""
    return (1 - (labels - label).abs()).clamp(0, 1)


def _is_real(labels: Tensor) -> Tensor:
    """1.0 for points, 0.0 for padding, whose label is below 0."""
    return (labels + 1).clamp(0, 1)


def _apart(weights: Tensor) -> Tensor:
    """`[n, M]` as `[n, M, 1, 1]`."""
    return weights.unsqueeze(-1).unsqueeze(-1)
