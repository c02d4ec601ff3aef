"""The recipe of transformers' users, in our words: `Sam2Model`, vision and prompt encoder frozen, boxes, Adam.

    python side_transformers.py WORK recipe|cached IMAGES OBJECTS
    python side_transformers.py WORK embed

`recipe` runs the encoder in each step. `cached` passes `image_embeddings=` instead, made once by `embed` and kept in
memory, and is otherwise the same: what everybody could do today.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2Model

from contest import DEVICE, memory_peak, serve, step_orders, timed

SIZE, MASK_SIZE = 1024, 256
EMBEDDED = 4
"""Images whose embeddings `cached` keeps."""


class Recipe:
    """The recipe's model, optimizer and step."""

    def __init__(self, work: Path, images: int, objects: int, embeddings: list[list[Tensor]] | None) -> None:
        self.model = Sam2Model.from_pretrained(work / "model").to(DEVICE)
        for name, parameter in self.model.named_parameters():
            if name.startswith(("vision_encoder", "prompt_encoder")):
                parameter.requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model.mask_decoder.parameters(), lr=1e-5)
        self.embeddings = embeddings
        listed = json.loads((work / "images.json").read_text())
        listed = listed if embeddings is None else listed[:EMBEDDED]
        self.next = itertools.cycle(enumerate(listed))
        self.images, self.objects = images, objects
        self.model.train()

    def step(self) -> None:
        """One step, from the files to the new weights."""
        chosen = [next(self.next) for _ in range(self.images)]
        boxes = torch.tensor([entry["boxes"][: self.objects] for _, entry in chosen], dtype=torch.float32).to(DEVICE)
        truth = torch.stack([_targets(entry["masks"][: self.objects]) for _, entry in chosen]).to(DEVICE)
        if self.embeddings is None:
            pixels = torch.stack([_pixels(entry["image"]) for _, entry in chosen])
            given: dict[str, Any] = {"pixel_values": pixels.to(DEVICE)}
        else:
            kept = [self.embeddings[number] for number, _ in chosen]
            given = {"image_embeddings": [torch.cat(level) for level in zip(*kept, strict=True)]}
        masks = self.model(**given, input_boxes=boxes, multimask_output=False).pred_masks.flatten(0, 2)
        loss = _dice_and_cross_entropy(masks, truth.flatten(0, 1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def memory(self, count: int) -> dict[str, int]:
        """Memory before some steps, and at its highest during them."""
        return memory_peak(lambda: timed(self.step, count))


def embed(work: Path) -> None:
    """Write the embeddings of the first images."""
    model = Sam2Model.from_pretrained(work / "model").to(DEVICE).eval()
    found: dict[str, Tensor] = {}
    for number, entry in enumerate(json.loads((work / "images.json").read_text())[:EMBEDDED]):
        levels = model.get_image_embeddings(_pixels(entry["image"])[None].to(DEVICE))
        found |= {f"{number}.{level}": tensor.cpu().contiguous() for level, tensor in enumerate(levels)}
    save_file(found, work / "embeddings.safetensors")


def _kept(work: Path, images: int) -> list[list[Tensor]]:
    """Embeddings of as many images as are there, three levels each; of one where a step has one object set."""
    tensors = load_file(work / "embeddings.safetensors")
    return [
        [tensors[f"{number}.{level}"].clone().to(DEVICE) for level in range(3)]
        for number in range(max(images, EMBEDDED))
    ]


def _dice_and_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    probability = logits.sigmoid().flatten(1)
    overlap = 2 * (probability * truth.flatten(1)).sum(1)
    dice = 1 - (overlap + 1e-5) / (probability.sum(1) + truth.flatten(1).sum(1) + 1e-5)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, truth)


def _pixels(path: str) -> Tensor:
    """An image as the model takes it, `[3, 1024, 1024]`."""
    image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / spread[:, None, None]


def _targets(paths: list[str]) -> Tensor:
    """Masks on the low-res grid, `[N, 256, 256]` of 0 and 1."""
    masks = [Image.open(path).resize((MASK_SIZE, MASK_SIZE), Image.Resampling.NEAREST) for path in paths]
    return torch.from_numpy(np.stack([np.array(mask) > 0 for mask in masks])).float()


if __name__ == "__main__":
    work, what = Path(sys.argv[1]), sys.argv[2]
    if what == "embed":
        embed(work)
        serve({})
    else:
        images, objects = int(sys.argv[3]), int(sys.argv[4])
        recipe = Recipe(work, images, objects, _kept(work, images) if what == "cached" else None)
        serve(step_orders(recipe.step) | {"memory": recipe.memory})
