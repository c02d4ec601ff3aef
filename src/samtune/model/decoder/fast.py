"""The fast mask decoder: the same function of the same weights as `reference.py`, in fewer operations.

`two_way.py` explains the algebra of the attention, `upscaling.py` that of the masks. There are two entry points.
`decode_grid` takes equally many prompts of each image and computes all of them at once, without looking at a value:
what a GPU wants, and what a CUDA graph can record. `decode` takes any prompts in any order, and groups them into as few
such grids as it can without padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from samtune.model.decoder import upscaling
from samtune.model.decoder.reference import ALL_TOKENS, DecoderOutput
from samtune.model.decoder.two_way import ImageRows, PixelRows, repeat_for_prompts, two_way_transformer
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.prompts.batch import PADDING, PromptBatch

CHUNK = 16
"""Prompts computed at once on a CPU, where the work on tokens takes as long for sixteen as for one."""
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
        The outputs, in the order of the prompts.
    """
    rows: list[Tensor] = []
    parts: list[DecoderOutput] = []
    shared: dict[tuple[int, ...], ImageRows] = {}
    with _precision_of_pixels(embeddings) as dtype:
        positions = _positions(model).to(dtype)
        for some, images, masked in prompt_grids(prompts, image_index):
            rows.append(some)
            same = (len(some), *images)
            if same not in shared:
                shared[same] = ImageRows(embeddings[images].to(dtype=dtype), positions, len(some) // len(images))
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
        The outputs, in the order of the prompts; those of mere padding have no meaning.
    """
    each, left = divmod(len(prompts), len(embeddings))
    assert left == 0, f"{len(prompts)} prompts are no grid over {len(embeddings)} images"
    with _precision_of_pixels(embeddings) as dtype:
        images = ImageRows(embeddings.to(dtype=dtype), _positions(model).to(dtype), each)
        return _decode_some(model, images, prompts, prompts.masks is not None, ALL_TOKENS)


def prompt_grids(prompts: PromptBatch, image_index: Tensor | None) -> Iterator[tuple[Tensor, list[int], bool]]:
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
    """The dtype of everything that has a pixel's dimension: autocast's, or that of the embeddings.

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
    """Concatenate partial outputs in the order of the prompts."""
    by_name = ([getattr(part, name) for part in parts] for name in DecoderOutput.__dataclass_fields__)
    joined = [tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in by_name]
    if not torch.equal(rows, torch.arange(len(rows))):
        back = rows.argsort().to(joined[0].device)
        joined = [tensor[back] for tensor in joined]
    return DecoderOutput(*joined)


def _decode_some(
    model: Sam2Model, images: ImageRows, prompts: PromptBatch, masked: bool, asked: slice
) -> DecoderOutput:
    """Decode n prompts, equally many about each image and in their order, all of them with a mask or all without."""
    decoder = model.mask_decoder
    tokens, padding = _tokens(model, prompts)
    if masked:
        assert prompts.masks is not None
        dense = model.prompt_encoder.mask_embed(prompts.masks).flatten(2).transpose(1, 2)
        rows = repeat_for_prompts(images.rows, len(prompts)) + dense.to(images.rows.dtype)
        pixels = PixelRows(rows, rows + images.positions, tokens.new_zeros(rows.shape[-1]))
    else:
        constant = model.prompt_encoder.no_mask_embed.weight[0]
        pixels = PixelRows(images.rows, images.placed, constant, shared=images)
    tokens, rows = two_way_transformer(decoder.transformer, tokens, padding, pixels, images.positions)
    return _outputs(decoder, images, tokens, rows, asked)


def _tokens(model: Sam2Model, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
    """The tokens of n prompts `[n, T, C]`, and which of them are padding, bool `[n, T]`."""
    decoder = model.mask_decoder
    outputs = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    sparse, _ = model.prompt_encoder(prompts.points[:, None], prompts.labels[:, None], None, None)
    tokens = torch.cat([outputs.expand(len(prompts), -1, -1), sparse[:, 0].to(outputs.dtype)], dim=1)
    padding = F.pad(prompts.labels == PADDING, (len(outputs), 1), value=False)
    return tokens, padding


def _outputs(decoder: Sam2MaskDecoder, images: ImageRows, tokens: Tensor, rows: Tensor, asked: slice) -> DecoderOutput:
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
