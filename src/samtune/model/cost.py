"""What a model costs: parameters, and floating point operations of one image and of one box prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from samtune.model.architecture import empty_image_model, input_size
from samtune.model.decoder.reference import decode
from samtune.model.encoder.embeddings import ImageEmbeddings, encode
from samtune.prompts.batch import PromptBatch


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one model.

    Attributes:
        parameters: of the image model.
        encoder_gflops: one image through the encoder, in 1e9 operations; a multiply-add counts as two.
        decoder_gflops: one box prompt through prompt encoder and mask decoder.
    """

    parameters: int
    encoder_gflops: float
    decoder_gflops: float


def cost(config: Mapping[str, Any]) -> Cost:
    """Count, by running the model on tensors without storage, and its decoder on zeros."""
    model = empty_image_model(config).requires_grad_(False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = input_size(model)
    with torch.device("meta"), FlopCounterMode(display=False) as encoder:
        shapes = [tensor.shape for tensor in encode(model, torch.empty(1, 3, size, size)).tensors]
    del model.vision_encoder
    model.to_empty(device="cpu")
    image, high, middle = (torch.zeros(shape) for shape in shapes)
    prompt = PromptBatch.from_boxes(torch.tensor([[1.0, 1.0, 9.0, 9.0]]))
    with FlopCounterMode(display=False) as decoder:
        decode(model, ImageEmbeddings(image, (high, middle)), prompt)
    return Cost(parameters, encoder.get_total_flops() / 1e9, decoder.get_total_flops() / 1e9)
