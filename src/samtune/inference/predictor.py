"""Prompts in, masks out, at the image's own size. No state: embed an image once, then give any prompts.

The result is that of the official `SAM2ImagePredictor`: the same preprocessing, the same fall-back from the
single mask, bilinear upscaling of the logits, threshold at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.model.decoder.choice import DECODERS, DEFAULT_DECODER
from samtune.model.decoder.reference import ALL_TOKENS, DecoderOutput, asked_tokens, select_masks
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.encoder.fast import encode
from samtune.model.io.loaded import LoadedModel
from samtune.model.preprocess import MASK_THRESHOLD, clamp_low_res, scale_points, to_model_input, upscale_masks
from samtune.prompts.batch import PromptBatch
from samtune.types import Prediction, Prompt


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image after the encoder.

    Attributes:
        embeddings: B = 1.
        size: (H, W) of the image in pixels.
    """

    embeddings: ImageEmbeddings
    size: tuple[int, int]


class Predictor:
    """A model ready for prompts.

    Args:
        loaded: the model; stays on the device it is on.
        decoder: name of a decoder path; all give the same numbers.
    """

    def __init__(self, loaded: LoadedModel, decoder: str = DEFAULT_DECODER) -> None:
        self.loaded = loaded
        self._decode = DECODERS[decoder]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.loaded.model.device

    @torch.no_grad()
    def embed(self, image: NDArray) -> EmbeddedImage:
        """Run the image encoder on an image, uint8 `[H, W, 3]` RGB."""
        return self.embed_many([image])[0]

    @torch.no_grad()
    def embed_many(self, images: Sequence[NDArray]) -> list[EmbeddedImage]:
        """Run the image encoder once on several images of any sizes, each uint8 `[H, W, 3]` RGB."""
        pixels = [to_model_input(image, self.loaded.image_size) for image in images]
        return self.embed_inputs(pixels, [(image.shape[0], image.shape[1]) for image in images])

    @torch.no_grad()
    def embed_inputs(self, pixels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[EmbeddedImage]:
        """The same for images that `to_model_input` has made into `[3, S, S]`, of these sizes (H, W)."""
        embeddings = encode(self.loaded.model, torch.stack(list(pixels)).to(self.device))
        return [EmbeddedImage(embeddings[number], size) for number, size in enumerate(sizes)]

    @torch.no_grad()
    def decode(self, embedded: EmbeddedImage, prompts: PromptBatch, tokens: slice = ALL_TOKENS) -> DecoderOutput:
        """The decoder's output for N prompts, in pixels of the model's square input, with the masks of `tokens`."""
        return self._decode(self.loaded.model, embedded.embeddings, prompts.to(self.device), tokens=tokens)

    @torch.no_grad()
    def decode_images(
        self, embedded: Sequence[EmbeddedImage], prompts: Sequence[PromptBatch], chunk: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The single masks of prompts on several images, decoded together.

        Args:
            embedded: B images.
            prompts: of each image, N of them in pixels of the model's input.
            chunk: prompts per decoder call.

        Returns:
            Of each image the low-res logits `[N, h, w]`, the predicted IoUs `[N]` and the object scores `[N]`.
        """
        embeddings = ImageEmbeddings.cat([one.embeddings for one in embedded])
        counts = [len(some) for some in prompts]
        every, index = PromptBatch.cat(prompts), torch.arange(len(prompts)).repeat_interleave(torch.tensor(counts))
        tokens = asked_tokens(self.loaded.model, multimask_output=False)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(every), chunk):
            rows = slice(start, start + chunk)
            some, images = every.select(rows).to(self.device), index[rows].to(self.device)
            output = self._decode(self.loaded.model, embeddings, some, images, tokens)
            low_res, scores = select_masks(self.loaded.model, output, multimask_output=False)
            parts.append((low_res[:, 0], scores[:, 0], output.object_score_logits))
        masks, scores, present = (torch.cat(tensors).split(counts) for tensors in zip(*parts, strict=True))
        return list(zip(masks, scores, present, strict=True))

    def to_model_frame(self, embedded: EmbeddedImage, prompts: PromptBatch) -> PromptBatch:
        """Prompts in pixels of the image to prompts in pixels of the model's input."""
        points = scale_points(prompts.points, embedded.size, self.loaded.image_size)
        return PromptBatch(points, prompts.labels, prompts.masks, prompts.has_mask)

    def predict(
        self, embedded: EmbeddedImage, prompts: Sequence[Prompt], *, multimask_output: bool = False, chunk: int = 32
    ) -> list[Prediction]:
        """Predict the masks of prompts on one image.

        Args:
            embedded: the image, from `embed`.
            prompts: in pixels of the image.
            multimask_output: three masks per prompt instead of one.
            chunk: prompts per decoder call.

        Returns:
            One prediction per prompt, in order.
        """
        predictions: list[Prediction] = []
        tokens = asked_tokens(self.loaded.model, multimask_output=multimask_output)
        for start in range(0, len(prompts), chunk):
            batch = self.to_model_frame(embedded, PromptBatch.from_prompts(prompts[start : start + chunk]))
            output = self.decode(embedded, batch, tokens)
            low_res, scores = select_masks(self.loaded.model, output, multimask_output=multimask_output)
            predictions += [
                self._prediction(*parts, embedded.size)
                for parts in zip(low_res, scores, output.object_score_logits, strict=True)
            ]
        return predictions

    def _prediction(self, low_res: Tensor, scores: Tensor, score: Tensor, size: tuple[int, int]) -> Prediction:
        masks = upscale_masks(low_res, size) > MASK_THRESHOLD
        return Prediction(
            masks=masks.cpu().numpy(),
            iou_scores=scores.float().cpu().numpy(),
            low_res_masks=clamp_low_res(low_res.float()).cpu().numpy(),
            object_score=float(score),
        )
