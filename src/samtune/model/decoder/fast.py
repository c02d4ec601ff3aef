"""The mask decoder in other words: the same function of the same weights as `decoder.py`, in fewer operations.

Let X be an image's embedding as rows, one per pixel (`[L, C]`, L = h * w), E its position encoding, and let T be a
prompt's tokens (`[T, C]`, nine of them for a box). The decoder is a conversation between T and X, and transformers
spends most of its time projecting X, which has 4096 rows, to keys, queries and values. Six remarks save most of that.

1. *Project the tokens instead.* A score is `q . (Wk x)`, which is also `(Wk' q) . x`; and the sum of values
   `sum a (Wv x)` is `Wv (sum a x)`. With H heads that costs `H * T * C` per pixel instead of `C * d`, d being the
   width of the attention: less while H * T is below d, so for up to 15 tokens in the released models. The same holds
   in the other direction: what pixels read from tokens, `Wo (sum a v)`, is `sum a (Wo v)`.
2. *Share what prompts share.* In the first layer X is the same for all prompts of an image unless a mask is prompted.
   From a few prompts on, one ordinary projection for all of them is the cheaper way. `_Pixels.projects` decides.
3. *Biases cost nothing.* A constant added to all keys changes no softmax over pixels. The weights of a softmax sum to
   one, so a constant added to all values comes out as itself, and can be added to the tokens' side. The embedding
   `no_mask_embed`, which is added to every pixel, is such a constant too. (The biases of the keys that are pixels thus
   get no gradient here; elsewhere theirs is rounding noise around zero.)
4. *Stay in rows.* A transposed convolution whose stride equals its kernel is a matrix product per pixel, and no pixel
   has to be moved before the masks are finished: see `upscaling.py`.
5. *Keep scores as `[tokens, L]`* in both directions, so that every softmax runs along or across long rows.
6. *Meet in one product.* X is used several times in each layer, and its gradients there are products with few inner
   rows. `_Read` and `_BeRead` make one wide product of each one's, on top of the gradient that comes from further on:
   nothing as large as X is written only to be added.

There are two ways in. `decode_grid` takes equally many prompts of each image and does all of them at once, without
looking at a value: what a GPU wants, and what a CUDA graph can record. `decode` takes any prompts in any order, and
makes as few such grids of them as it can without padding.

Nothing is approximated; what differs is rounding. `tests/test_fast_decoder.py` holds logits and every gradient to
`decoder.py`'s and transformers' own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2Attention, Sam2MaskDecoder, Sam2TwoWayAttentionBlock

from samtune.model.decoder import upscaling
from samtune.model.decoder.reference import ALL_TOKENS, DecoderOutput
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.prompts.batch import PADDING, PromptBatch

CHUNK = 16
"""Prompts worked on at once on a CPU: what is done for tokens takes as long for sixteen as for one."""
CHUNK_ACCELERATOR = 64
"""The same on a GPU, where more rows per kernel do gain."""


def decode(
    model: Sam2Model,
    embeddings: ImageEmbeddings,
    prompts: PromptBatch,
    image_index: Tensor | None = None,
    tokens: slice = ALL_TOKENS,
) -> DecoderOutput:
    """Run prompt encoder and mask decoder. Arguments and result are those of `samtune.model.decoder.reference.decode`.

    Any number of prompts per image, in any order; those of one image share its projections.

    Args:
        model: supplies the weights. Adapters inside the mask decoder are not supported; elsewhere they are.
        embeddings: of B images, best in `channels_last` memory order.
        prompts: N prompts in pixels of the model's square input.
        image_index: int64 `[N]`, the image each prompt belongs to; may be left out when B is 1.
        tokens: whose masks are wanted. Without any, pixels are not upscaled, which is half of the work.

    Returns:
        The answers, in the order of the prompts.
    """
    rows: list[Tensor] = []
    parts: list[DecoderOutput] = []
    shared: dict[tuple[int, ...], _Images] = {}
    with _precision_of_pixels(embeddings) as dtype:
        positions = _positions(model).to(dtype)
        for some, images, masked in _grids(prompts, image_index):
            rows.append(some)
            same = (len(some), *images)
            if same not in shared:
                shared[same] = _Images(embeddings[images].to(dtype=dtype), positions, len(some) // len(images))
            some_prompts = prompts.select(some.to(prompts.points.device))
            parts.append(_decode_some(model, shared[same], some_prompts, masked, tokens))
    return _in_order(parts, torch.cat(rows))


def decode_grid(model: Sam2Model, embeddings: ImageEmbeddings, prompts: PromptBatch) -> DecoderOutput:
    """Run prompt encoder and mask decoder on equally many prompts of each image, in one go.

    Nothing depends on values, so that the device is never waited for.

    Args:
        model: supplies the weights, as for `decode`.
        embeddings: of B images.
        prompts: N prompts, B divides N: first all of the first image, then all of the second and so on. All have a
            mask or none has; prompts of padding alone (label -10) fill up an image that has fewer.

    Returns:
        The answers, in the order of the prompts; those to mere padding mean nothing.
    """
    each, left = divmod(len(prompts), len(embeddings))
    assert left == 0, f"{len(prompts)} prompts are no grid over {len(embeddings)} images"
    with _precision_of_pixels(embeddings) as dtype:
        images = _Images(embeddings.to(dtype=dtype), _positions(model).to(dtype), each)
        return _decode_some(model, images, prompts, prompts.masks is not None, ALL_TOKENS)


def _grids(prompts: PromptBatch, image_index: Tensor | None) -> Iterator[tuple[Tensor, list[int], bool]]:
    """Prompts in as few grids as hold equally many of each of some images, all with a mask or all without.

    Yields:
        Which prompts, int64 `[n]`, those of an image following one another; which images; whether they have masks.
        No more than a chunk of prompts at a time.
    """
    chunk = CHUNK if prompts.points.device.type == "cpu" else CHUNK_ACCELERATOR
    index = torch.zeros(len(prompts), dtype=torch.int64) if image_index is None else image_index.cpu()
    has_mask = torch.zeros(len(prompts), dtype=torch.bool) if prompts.has_mask is None else prompts.has_mask.cpu()
    for masked in (False, True):
        pieces: defaultdict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        for image in index.unique().tolist():
            for some in torch.nonzero((index == image) & (has_mask == masked)).squeeze(1).split(chunk):
                pieces[len(some)].append((image, some))
        pieces.pop(0, None)
        for count, equal in pieces.items():
            for start in range(0, len(equal), chunk // count):
                images, rows = zip(*equal[start : start + chunk // count], strict=True)
                yield torch.cat(rows), list(images), masked


@contextmanager
def _precision_of_pixels(embeddings: ImageEmbeddings) -> Iterator[torch.dtype]:
    """What everything that has a pixel's dimension is computed in: autocast's type, or that of the embeddings.

    Tokens stay in fp32 and autocast is off inside: tokens are few, and to cast four million weights for them, twice a
    step, takes longer than the products do.
    """
    device = embeddings.device.type
    if not torch.amp.is_autocast_available(device):
        yield embeddings.dtype
        return
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeddings.dtype
    with torch.autocast(device, enabled=False):
        yield dtype


def _positions(model: Sam2Model) -> Tensor:
    """The position encoding of every pixel, `[L, C]`."""
    return model.get_image_wide_positional_embeddings()[0].flatten(1).t().contiguous()


def _in_order(parts: list[DecoderOutput], rows: Tensor) -> DecoderOutput:
    """Join partial answers and bring them into the order of the prompts."""
    by_name = ([getattr(part, name) for part in parts] for name in DecoderOutput.__dataclass_fields__)
    joined = [tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in by_name]
    if not torch.equal(rows, torch.arange(len(rows))):
        back = rows.argsort().to(joined[0].device)
        joined = [tensor[back] for tensor in joined]
    return DecoderOutput(*joined)


class _Images:
    """B images as rows, and what the prompts of each share; everything is computed when first asked for.

    Attributes:
        rows: `[B, L, C]`, the image embeddings.
        placed: `rows` with the position encoding added.
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
class _Pixels:
    """The image side of the conversation for n prompts.

    Attributes:
        rows: `[n, L, C]`, or `[B, L, C]` while the prompts of each of B images, n / B one after the other, share it.
        placed: the same with the position encoding added.
        constant: `[C]`, to be added to every row; kept apart because it costs nothing there (remark 3).
        shared: the images, while `rows` and `placed` are their own.
    """

    rows: Tensor
    placed: Tensor
    constant: Tensor
    shared: _Images | None = None

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


def _decode_some(model: Sam2Model, images: _Images, prompts: PromptBatch, masked: bool, asked: slice) -> DecoderOutput:
    """Decode n prompts, equally many about each image and in their order, all of them with a mask or all without."""
    decoder = model.mask_decoder
    tokens, absent = _tokens(model, prompts)
    if masked:
        assert prompts.masks is not None
        dense = model.prompt_encoder.mask_embed(prompts.masks).flatten(2).transpose(1, 2)
        rows = _for_each(images.rows, len(prompts)) + dense.to(images.rows.dtype)
        pixels = _Pixels(rows, rows + images.positions, tokens.new_zeros(rows.shape[-1]))
    else:
        constant = model.prompt_encoder.no_mask_embed.weight[0]
        pixels = _Pixels(images.rows, images.placed, constant, shared=images)
    start = tokens
    for layer in decoder.transformer.layers:
        assert isinstance(layer, Sam2TwoWayAttentionBlock)
        tokens, pixels = _layer(layer, tokens, start, absent, pixels, images.positions)
    transformer = decoder.transformer
    read, pixels = _read(transformer.final_attn_token_to_image, tokens + start, pixels)
    tokens = transformer.layer_norm_final_attn(tokens + read)
    return _answers(decoder, images, tokens, pixels.rows, asked)


def _for_each(rows: Tensor, n: int) -> Tensor:
    """What B images have, `[B, ...]`, once for each of their n prompts, `[n, ...]`; a view where B is 1 or n."""
    return rows.unsqueeze(1).expand(-1, n // len(rows), *rows.shape[1:]).flatten(0, 1)


def _tokens(model: Sam2Model, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
    """The tokens of n prompts `[n, T, C]`, and which of them are padding, bool `[n, T]`."""
    decoder = model.mask_decoder
    outputs = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    sparse, _ = model.prompt_encoder(prompts.points[:, None], prompts.labels[:, None], None, None)
    tokens = torch.cat([outputs.expand(len(prompts), -1, -1), sparse[:, 0].to(outputs.dtype)], dim=1)
    absent = F.pad(prompts.labels == PADDING, (len(outputs), 1), value=False)
    return tokens, absent


def _layer(
    layer: Sam2TwoWayAttentionBlock, tokens: Tensor, start: Tensor, absent: Tensor, pixels: _Pixels, positions: Tensor
) -> tuple[Tensor, _Pixels]:
    """One turn of the conversation: tokens among themselves, tokens read pixels, pixels read tokens."""
    if layer.skip_first_layer_pe:
        tokens = _among(layer.self_attn, tokens, tokens, absent)
    else:
        tokens = tokens + _among(layer.self_attn, tokens + start, tokens, absent)
    tokens = layer.layer_norm1(tokens)
    read, pixels = _read(layer.cross_attn_token_to_image, tokens + start, pixels)
    tokens = layer.layer_norm2(tokens + read)
    tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
    rows = _be_read(layer.cross_attn_image_to_token, tokens + start, tokens, absent, pixels)
    rows = layer.layer_norm4(rows)
    return tokens, _Pixels(rows, rows + positions, tokens.new_zeros(rows.shape[-1]))


def _among(attention: Sam2Attention, tokens: Tensor, values: Tensor, absent: Tensor) -> Tensor:
    """Attention among the tokens of each prompt, `[n, T, C]`; nobody listens to padding."""
    query = _heads(attention, attention.q_proj(tokens))
    key = _heads(attention, attention.k_proj(tokens))
    value = _heads(attention, attention.v_proj(values))
    scores = (query * attention.scaling) @ key.transpose(2, 3)
    weights = scores.masked_fill(absent[:, None, None], -torch.inf).softmax(-1)
    return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))


def _read(attention: Sam2Attention, tokens: Tensor, pixels: _Pixels) -> tuple[Tensor, _Pixels]:
    """Tokens read pixels: queries `[n, T, C]` to answers `[n, T, C]`, and the pixels to go on with."""
    query = _heads(attention, attention.q_proj(tokens)) * attention.scaling
    key, value = attention.k_proj, attention.v_proj
    n, heads, T, _ = query.shape
    if pixels.projects(attention, T):
        weights = _scores(query, pixels, key).softmax(-1)
        rows = pixels.projected(pixels.rows, value).unflatten(-1, (heads, -1))
        read = _per_head(weights, rows.permute(0, 2, 1, 3)).to(tokens.dtype)
    else:
        large = (query @ _by_head(attention, key.weight)).to(pixels.rows.dtype)
        sums, rows = _Read.apply(large.view(len(pixels.rows), -1, large.shape[-1]), pixels.rows, pixels.placed)
        if pixels.rows.requires_grad:
            pixels = replace(pixels, rows=rows)
        sums = sums.view(n, heads, T, -1).to(tokens.dtype)
        read = sums @ _by_head(attention, value.weight).transpose(1, 2)
    bias = value.bias + value.weight @ pixels.constant
    return attention.o_proj(read.transpose(1, 2).flatten(2) + bias), pixels


def _be_read(attention: Sam2Attention, tokens: Tensor, values: Tensor, absent: Tensor, pixels: _Pixels) -> Tensor:
    """Pixels read tokens: the pixels `[n, L, C]` with what they read added. Padding is not read."""
    key = _heads(attention, attention.k_proj(tokens)) * attention.scaling
    query, output, dtype = attention.q_proj, attention.o_proj, pixels.rows.dtype
    n, heads, T, _ = key.shape
    bias = query.bias + query.weight @ pixels.constant
    offset = (key * bias.view(heads, 1, -1)).sum(-1, keepdim=True)
    offset = offset.masked_fill(absent[:, None, :, None], -torch.inf).to(dtype)
    value = _heads(attention, attention.v_proj(values))
    said = value @ _by_head(attention, output.weight.t()) + (output.bias + pixels.constant) / heads
    said = said.to(dtype).flatten(1, 2)
    if pixels.projects(attention, T):
        weights = (_scores(key, pixels, query) + offset).softmax(2).flatten(1, 2)
        return _product(weights.transpose(1, 2), said, onto=_for_each(pixels.rows, n))
    large = (key @ _by_head(attention, query.weight)).to(dtype).flatten(1, 2)
    return _BeRead.apply(large, offset.flatten(1, 2), said, pixels.rows, pixels.placed, heads)


class _Read(torch.autograd.Function):
    """`softmax(K (X + E)') X`, and X itself to go on with, so that gradients at X meet in one product (remark 6)."""

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
        keys, rows, placed, weights = ctx.saved_tensors
        by_scores = _through_softmax(_product(by_sums, rows.transpose(1, 2)), weights, -1)
        if ctx.needs_input_grad[1]:
            left, right = torch.cat([by_scores, weights], dim=1), torch.cat([keys, by_sums], dim=1)
            by_rows = _product(left.transpose(1, 2), right, onto=by_rows)
        return _product(by_scores, placed), by_rows, None


class _BeRead(torch.autograd.Function):
    """`X + softmax(K (X + E)' + o)' S`, the softmax running over the tokens of a head."""

    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, offset: Tensor, said: Tensor, rows: Tensor, placed: Tensor, heads: int
    ) -> Tensor:
        """`[n, H * T, C]`, `[n, H * T, 1]`, `[n, H * T, C]`, and `[B, L, C]` twice to `[n, L, C]`."""
        n, B = len(keys), len(rows)
        scores = _product(keys.reshape(B, -1, keys.shape[-1]), placed.transpose(1, 2)).view(n, -1, placed.shape[1])
        weights = scores.add_(offset).unflatten(1, (heads, -1)).softmax(2).flatten(1, 2)
        ctx.save_for_backward(keys, said, placed, weights)
        ctx.heads = heads
        return _product(weights.transpose(1, 2), said, onto=_for_each(rows, n))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_pixels: Tensor
    ) -> tuple[Tensor | None, ...]:
        keys, said, placed, weights = ctx.saved_tensors
        n, B = len(keys), len(placed)
        by_weights = _product(said, by_pixels.transpose(1, 2)).unflatten(1, (ctx.heads, -1))
        by_scores = _through_softmax(by_weights, weights.view_as(by_weights), 2).flatten(1, 2)
        by_keys = _product(by_scores.view(B, -1, placed.shape[1]), placed).view_as(keys)
        by_said = _product(weights, by_pixels)
        by_rows: Tensor | None = None
        if ctx.needs_input_grad[3]:
            each = _product(by_scores.transpose(1, 2), keys, onto=by_pixels)
            by_rows = each if n == B else each.unflatten(0, (B, -1)).sum(1)
        return by_keys, by_scores.sum(-1, keepdim=True), by_said, by_rows, None, None


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


def _scores(small: Tensor, pixels: _Pixels, projection: nn.Linear) -> Tensor:
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


def _answers(decoder: Sam2MaskDecoder, images: _Images, tokens: Tensor, rows: Tensor, asked: slice) -> DecoderOutput:
    """Masks, predicted IoUs and object scores from the last tokens `[n, T, C]` and pixels `[n, L, C]`."""
    mask_tokens = tokens[:, 2 : 2 + decoder.num_mask_tokens]
    heads = [head(mask_tokens[:, i]) for i, head in list(enumerate(decoder.output_hypernetworks_mlps))[asked]]
    if heads:
        masks = upscaling.masks(decoder, rows, torch.stack(heads, dim=1), images.fine, images.finer, images.size)
    else:
        masks = rows.new_empty(len(rows), 0, *(4 * side for side in images.size))
    return DecoderOutput(
        masks=masks,
        iou_scores=decoder.iou_prediction_head(tokens[:, 1]),
        object_score_logits=decoder.pred_obj_score_head(tokens[:, 0]).squeeze(-1),
    )
