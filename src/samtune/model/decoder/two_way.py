"""The two-way transformer of the mask decoder in fewer operations: self-attention, token-to-image, image-to-token.

Let X be an image's embedding as rows, one per pixel (`[L, C]`, L = h * w), E its position encoding, and let T be a
prompt's tokens (`[T, C]`, nine of them for a box). In each layer tokens attend to each other (self-attention), tokens
attend to pixels (token-to-image attention), and pixels attend to tokens (image-to-token attention). transformers spends
most of the time projecting X, which has 4096 rows, to keys, queries and values. Six remarks save most of that.

1. *Project the tokens instead.* A score is `q . (Wk x)`, which is also `(Wk' q) . x`; and the sum of values
   `sum a (Wv x)` is `Wv (sum a x)`. With H heads that costs `H * T * C` per pixel instead of `C * d`, d being the
   width of the attention: less while H * T is below d, so for up to 15 tokens in the released models. The same holds
   in image-to-token attention: `Wo (sum a v)` is `sum a (Wo v)`.
2. *Share what prompts share.* In the first layer X is the same for all prompts of an image unless a mask is prompted.
   From a few prompts on, one ordinary projection for all of them is the cheaper way. `PixelRows.projects` decides.
3. *Biases cost nothing.* A constant added to all keys changes no softmax over pixels. The weights of a softmax sum to
   one, so a constant added to all values comes out as itself, and can be added to the tokens' side. The embedding
   `no_mask_embed`, which is added to every pixel, is such a constant too. (The biases of the keys that are pixels thus
   get no gradient here; elsewhere theirs is rounding noise around zero.)
4. *Stay in rows.* A transposed convolution whose stride equals its kernel is a matrix product per pixel, and no pixel
   has to be moved before the masks are finished: see `upscaling.py`.
5. *Keep scores as `[tokens, L]`* in both directions, so that every softmax runs along or across long rows.
6. *One product for several gradients.* X is used several times in each layer, and its gradients there are products with
   few inner rows. `TokenToImage` and `ImageToToken` compute each one's as one wide product, added to the gradient of
   the layers above: no array as large as X is written only to be added.

Nothing is approximated; what differs is rounding. `tests/test_fast_decoder.py` holds logits and every gradient to
`reference.py`'s and transformers' own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.sam2.modeling_sam2 import Sam2Attention, Sam2TwoWayAttentionBlock, Sam2TwoWayTransformer

from samtune.model.decoder import upscaling
from samtune.model.encoder.embeddings import ImageEmbeddings


class ImageRows:
    """B images as rows, and what the prompts of each share; everything is computed when first asked for.

    Attributes:
        rows: `[B, L, C]`, the image embeddings.
        prompts: how many prompts ask about each image.
    """

    def __init__(self, embeddings: ImageEmbeddings, positions: Tensor, prompts: int) -> None:
        self.size = (embeddings.image_embeddings.shape[-2], embeddings.image_embeddings.shape[-1])
        self.rows = embeddings.image_embeddings.flatten(2).transpose(1, 2)
        self.positions = positions
        self.prompts = prompts
        self._finer, self._fine = embeddings.high_resolution_features
        self._projected: dict[nn.Module, Tensor] = {}

    @cached_property
    def placed(self) -> Tensor:
        """`rows` with the position encoding added."""
        return self.rows + self.positions

    @cached_property
    def fine(self) -> Tensor:
        """The features after `conv_s1`, as `upscaling.strips`."""
        return upscaling.strips(self._fine, 1)

    @cached_property
    def finer(self) -> Tensor:
        """The features after `conv_s0`, as `upscaling.strips`."""
        return upscaling.strips(self._finer, 2)

    def projected(self, rows: Tensor, projection: nn.Linear) -> Tensor:
        """`rows` (`self.rows` or `self.placed`) through a projection without its bias, once for all prompts."""
        if projection not in self._projected:
            self._projected[projection] = F.linear(rows, projection.weight.to(rows.dtype))
        return self._projected[projection]


@dataclass(frozen=True)
class PixelRows:
    """The image side of the transformer for n prompts.

    Attributes:
        rows: `[n, L, C]`, or `[B, L, C]` while the prompts of each of B images, n / B one after the other, share it.
        placed: the same with the position encoding added.
        constant: `[C]`, to be added to every row; kept apart because it costs nothing there (remark 3).
        shared: the images, while `rows` and `placed` are their own.
    """

    rows: Tensor
    placed: Tensor
    constant: Tensor
    shared: ImageRows | None = None

    def projects(self, attention: Sam2Attention, tokens: int) -> bool:
        """Whether projecting the rows is cheaper than projecting the tokens (remarks 1 and 2); in products per row."""
        width, channels = attention.internal_dim, attention.hidden_size
        prompts = 1 if self.shared is None else self.shared.prompts
        project_rows = channels * width + prompts * tokens * width
        project_tokens = prompts * tokens * attention.num_attention_heads * channels
        return project_rows < project_tokens

    def projected(self, rows: Tensor, projection: nn.Linear) -> Tensor:
        """`rows` through a projection without its bias, `[n or B, L, d]`."""
        return (
            F.linear(rows, projection.weight.to(rows.dtype))
            if self.shared is None
            else self.shared.projected(rows, projection)
        )


def repeat_for_prompts(rows: Tensor, n: int) -> Tensor:
    """What B images have, `[B, ...]`, once for each of their n prompts, `[n, ...]`; a view where B is 1 or n."""
    return rows.unsqueeze(1).expand(-1, n // len(rows), *rows.shape[1:]).flatten(0, 1)


def two_way_transformer(
    transformer: Sam2TwoWayTransformer, tokens: Tensor, padding: Tensor, pixels: PixelRows, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the decoder's transformer for n prompts.

    Args:
        transformer: supplies the weights.
        tokens: `[n, T, C]`, output tokens and prompt tokens.
        padding: bool `[n, T]`, tokens that nothing attends to.
        pixels: the images' rows.
        positions: `[L, C]`, position encoding of the pixels.

    Returns:
        Tokens `[n, T, C]` and pixels `[n, L, C]` (or `[B, L, C]`) after the last layer.
    """
    start = tokens
    for layer in transformer.layers:
        assert isinstance(layer, Sam2TwoWayAttentionBlock)
        tokens, pixels = _layer(layer, tokens, start, padding, pixels, positions)
    attended, pixels = _token_to_image(transformer.final_attn_token_to_image, tokens + start, pixels)
    return transformer.layer_norm_final_attn(tokens + attended), pixels.rows


def _layer(
    layer: Sam2TwoWayAttentionBlock,
    tokens: Tensor,
    start: Tensor,
    padding: Tensor,
    pixels: PixelRows,
    positions: Tensor,
) -> tuple[Tensor, PixelRows]:
    """One layer: self-attention of the tokens, token-to-image attention, MLP, image-to-token attention."""
    if layer.skip_first_layer_pe:
        tokens = _self_attention(layer.self_attn, tokens, tokens, padding)
    else:
        tokens = tokens + _self_attention(layer.self_attn, tokens + start, tokens, padding)
    tokens = layer.layer_norm1(tokens)
    attended, pixels = _token_to_image(layer.cross_attn_token_to_image, tokens + start, pixels)
    tokens = layer.layer_norm2(tokens + attended)
    tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
    rows = _image_to_token(layer.cross_attn_image_to_token, tokens + start, tokens, padding, pixels)
    rows = layer.layer_norm4(rows)
    return tokens, PixelRows(rows, rows + positions, tokens.new_zeros(rows.shape[-1]))


def _self_attention(attention: Sam2Attention, tokens: Tensor, values: Tensor, padding: Tensor) -> Tensor:
    """Self-attention of each prompt's tokens, `[n, T, C]`; padding is masked out."""
    query = _heads(attention, attention.q_proj(tokens))
    key = _heads(attention, attention.k_proj(tokens))
    value = _heads(attention, attention.v_proj(values))
    scores = (query * attention.scaling) @ key.transpose(2, 3)
    weights = scores.masked_fill(padding[:, None, None], -torch.inf).softmax(-1)
    return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))


def _token_to_image(attention: Sam2Attention, tokens: Tensor, pixels: PixelRows) -> tuple[Tensor, PixelRows]:
    """Token-to-image attention: `[n, T, C]` to `[n, T, C]`, and the pixels for the next operation."""
    query = _heads(attention, attention.q_proj(tokens)) * attention.scaling
    key, value = attention.k_proj, attention.v_proj
    n, heads, T, _ = query.shape
    if pixels.projects(attention, T):
        weights = _scores(query, pixels, key).softmax(-1)
        rows = pixels.projected(pixels.rows, value).unflatten(-1, (heads, -1))
        attended = _per_head(weights, rows.permute(0, 2, 1, 3)).to(tokens.dtype)
    else:
        large = (query @ _by_head(attention, key.weight)).to(pixels.rows.dtype)
        sums, rows = TokenToImage.apply(large.view(len(pixels.rows), -1, large.shape[-1]), pixels.rows, pixels.placed)
        if pixels.rows.requires_grad:
            pixels = replace(pixels, rows=rows)
        sums = sums.view(n, heads, T, -1).to(tokens.dtype)
        attended = sums @ _by_head(attention, value.weight).transpose(1, 2)
    bias = value.bias + value.weight @ pixels.constant
    return attention.o_proj(attended.transpose(1, 2).flatten(2) + bias), pixels


def _image_to_token(
    attention: Sam2Attention, tokens: Tensor, values: Tensor, padding: Tensor, pixels: PixelRows
) -> Tensor:
    """Image-to-token attention: the pixels `[n, L, C]` with its result added; padding is masked out."""
    key = _heads(attention, attention.k_proj(tokens)) * attention.scaling
    query, output, dtype = attention.q_proj, attention.o_proj, pixels.rows.dtype
    n, heads, T, _ = key.shape
    bias = query.bias + query.weight @ pixels.constant
    offset = (key * bias.view(heads, 1, -1)).sum(-1, keepdim=True)
    offset = offset.masked_fill(padding[:, None, :, None], -torch.inf).to(dtype)
    value = _heads(attention, attention.v_proj(values))
    output_rows = value @ _by_head(attention, output.weight.t()) + (output.bias + pixels.constant) / heads
    output_rows = output_rows.to(dtype).flatten(1, 2)
    if pixels.projects(attention, T):
        weights = (_scores(key, pixels, query) + offset).softmax(2).flatten(1, 2)
        return _product(weights.transpose(1, 2), output_rows, onto=repeat_for_prompts(pixels.rows, n))
    large = (key @ _by_head(attention, query.weight)).to(dtype).flatten(1, 2)
    return ImageToToken.apply(large, offset.flatten(1, 2), output_rows, pixels.rows, pixels.placed, heads)


class TokenToImage(torch.autograd.Function):
    """`softmax(K (X + E)') X`, and X itself for further use, so that gradients at X are one product (remark 6)."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, rows: Tensor, placed: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, K, C]`, `[B, L, C]`, and `rows` plus a constant, to `[B, K, C]` and `rows`."""
        weights = _product(keys, placed.transpose(1, 2)).softmax(-1)
        ctx.save_for_backward(keys, rows, placed, weights)
        ctx.set_materialize_grads(False)
        return _product(weights, rows), rows

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_sums: Tensor, by_rows: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The gradients at the arguments of `forward`."""
        keys, rows, placed, weights = ctx.saved_tensors
        by_scores = _through_softmax(_product(by_sums, rows.transpose(1, 2)), weights, -1)
        if ctx.needs_input_grad[1]:
            left, right = torch.cat([by_scores, weights], dim=1), torch.cat([keys, by_sums], dim=1)
            by_rows = _product(left.transpose(1, 2), right, onto=by_rows)
        return _product(by_scores, placed), by_rows, None


class ImageToToken(torch.autograd.Function):
    """`X + softmax(K (X + E)' + o)' S`, the softmax running over the tokens of a head."""

    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, offset: Tensor, output_rows: Tensor, rows: Tensor, placed: Tensor, heads: int
    ) -> Tensor:
        """`[n, H * T, C]`, `[n, H * T, 1]`, `[n, H * T, C]`, and `[B, L, C]` twice to `[n, L, C]`."""
        n, B = len(keys), len(rows)
        scores = _product(keys.reshape(B, -1, keys.shape[-1]), placed.transpose(1, 2)).view(n, -1, placed.shape[1])
        weights = scores.add_(offset).unflatten(1, (heads, -1)).softmax(2).flatten(1, 2)
        ctx.save_for_backward(keys, output_rows, placed, weights)
        ctx.heads = heads
        return _product(weights.transpose(1, 2), output_rows, onto=repeat_for_prompts(rows, n))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_pixels: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The gradients at the arguments of `forward`."""
        keys, output_rows, placed, weights = ctx.saved_tensors
        n, B = len(keys), len(placed)
        by_weights = _product(output_rows, by_pixels.transpose(1, 2)).unflatten(1, (ctx.heads, -1))
        by_scores = _through_softmax(by_weights, weights.view_as(by_weights), 2).flatten(1, 2)
        by_keys = _product(by_scores.view(B, -1, placed.shape[1]), placed).view_as(keys)
        by_output = _product(weights, by_pixels)
        by_rows: Tensor | None = None
        if ctx.needs_input_grad[3]:
            each = _product(by_scores.transpose(1, 2), keys, onto=by_pixels)
            by_rows = each if n == B else each.unflatten(0, (B, -1)).sum(1)
        return by_keys, by_scores.sum(-1, keepdim=True), by_output, by_rows, None, None


def _product(left: Tensor, right: Tensor, onto: Tensor | None = None) -> Tensor:
    """`left @ right` of `[B, a, b]` and `[B, b, c]`, added `onto` `[B, a, c]`.

    A batch of one is multiplied as matrices: on a CPU torch copies transposed operands of batched products then, which
    takes three times as long as multiplying them.
    """
    if len(left) == 1:
        left, right = left[0], right[0]
        return (left @ right if onto is None else torch.addmm(onto[0], left, right))[None]
    return torch.bmm(left, right) if onto is None else torch.baddbmm(onto, left, right)


def _through_softmax(gradient: Tensor, weights: Tensor, dim: int) -> Tensor:
    """The gradient at a softmax's arguments from that at its result `weights`."""
    return torch.ops.aten._softmax_backward_data(gradient, weights, dim, weights.dtype)


def _scores(small: Tensor, pixels: PixelRows, projection: nn.Linear) -> Tensor:
    """Products of the tokens' vectors `[n, H, T, d/H]` with all projected pixels: `[n, H, T, L]`, without the bias."""
    rows = pixels.projected(pixels.placed, projection).unflatten(-1, (small.shape[1], -1))
    return _per_head(small.to(rows.dtype), rows.permute(0, 2, 3, 1))


def _per_head(tokens: Tensor, pixels: Tensor) -> Tensor:
    """`[n, H, T, a] @ [n or B, H, a, b]`, without copying pixels that are shared."""
    n, heads, T, _ = tokens.shape
    B = len(pixels)
    if n == B:
        return tokens @ pixels
    together = tokens.unflatten(0, (B, n // B)).transpose(1, 2).reshape(B, heads, n // B * T, -1) @ pixels
    return together.view(B, heads, n // B, T, -1).transpose(1, 2).flatten(0, 1)


def _heads(attention: Sam2Attention, vectors: Tensor) -> Tensor:
    """`[n, T, d]` to `[n, H, T, d/H]`."""
    return vectors.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def _by_head(attention: Sam2Attention, weight: Tensor) -> Tensor:
    """A projection's weight `[d, C]` as `[H, d/H, C]`."""
    return weight.unflatten(0, (attention.num_attention_heads, -1))
