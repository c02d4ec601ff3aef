"""Measuring while training: fixed prompts on the same objects every time, at the pictures' own resolution.

What is measured is what a user would be handed for an exact box, or for one click at an object's deepest pixel; the
full story, with intervals, is `samtune evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from samtune.config import PromptPolicy
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.evaluation.metrics import Overlap
from samtune.model.decoder import DecoderOutput, select_masks
from samtune.model.embeddings import ImageEmbeddings
from samtune.model.load import LoadedModel
from samtune.model.preprocess import scale_points, upscale_masks
from samtune.prompts import PromptBatch, pick_points
from samtune.training.batches import usable_objects

TRAIN_SHARE = 0.2
"""Objects of the training split that are measured beside the validation split's, as a share of these."""
CHUNK = 32

Decoder = Callable[[PromptBatch, ImageEmbeddings], DecoderOutput]


@dataclass(frozen=True, slots=True)
class _Picked:
    """Some objects of one image that are measured each time."""

    image: ImageEntry
    objects: tuple[ObjectEntry, ...]


class Validation:
    """Fixed prompts on a part of the training split and on the validation split.

    Attributes:
        kinds: the prompts measured, `box` and `point`, as far as the policy trains them.
        objects: how many objects each split's figures rest on.
    """

    def __init__(self, dataset: Dataset, policy: PromptPolicy, most: int) -> None:
        self.dataset = dataset
        self.kinds = tuple(kind for kind in ("box", "point") if getattr(policy, kind) > 0)
        chosen = {"valid": _spread(dataset.split("valid"), most)}
        chosen["train"] = _spread(dataset.split("train"), max(1, round(most * TRAIN_SHARE)))
        self.picked = {split: picked for split, picked in chosen.items() if picked}
        self.objects = {split: sum(len(one.objects) for one in picked) for split, picked in self.picked.items()}

    @property
    def has_valid(self) -> bool:
        """Whether there is a validation split to choose the best weights on."""
        return "valid" in self.picked

    def criterion(self, metrics: Mapping[str, float]) -> float | None:
        """The figure that decides which weights are best: mean IoU on the validation split over the trained kinds."""
        return fmean(metrics[f"valid/{kind}"] for kind in self.kinds) if self.has_valid else None

    @torch.no_grad()
    def measure(
        self, loaded: LoadedModel, embed: Callable[[ImageEntry], ImageEmbeddings], decode: Decoder
    ) -> dict[str, float]:
        """Mean IoU by `split/kind`.

        Args:
            loaded: the model with its weights as they are now.
            embed: gives an image's embeddings, B = 1.
            decode: answers prompts in pixels of the model's input.
        """
        reached: dict[str, list[float]] = {}
        for split, picked in self.picked.items():
            for one in picked:
                embeddings = embed(one.image)
                for kind in self.kinds:
                    ious = reached.setdefault(f"{split}/{kind}", [])
                    ious.extend(self._ious(loaded, one, kind, embeddings, decode))
        return {name: fmean(values) for name, values in reached.items()}

    def _ious(
        self, loaded: LoadedModel, one: _Picked, kind: str, embeddings: ImageEmbeddings, decode: Decoder
    ) -> list[float]:
        size = (one.image.height, one.image.width)
        ious: list[float] = []
        for start in range(0, len(one.objects), CHUNK):
            objects = one.objects[start : start + CHUNK]
            truth = [self.dataset.read_mask(found) for found in objects]
            prompts = _prompts(kind, objects, truth)
            points = scale_points(prompts.points, size, loaded.image_size)
            answer = decode(PromptBatch(points, prompts.labels).to(embeddings.device), embeddings)
            low_res, _ = select_masks(loaded.model, answer, multimask_output=False)
            for mask, logits in zip(truth, low_res[:, 0], strict=True):
                predicted = (upscale_masks(logits, size) > 0).cpu().numpy()
                ious.append(Overlap.of(predicted, mask).iou)
        return ious


def _prompts(kind: str, objects: Sequence[ObjectEntry], truth: Sequence[np.ndarray]) -> PromptBatch:
    """Exact boxes, or clicks at the deepest pixels, in pixels of the image."""
    if kind == "box":
        return PromptBatch.from_boxes(torch.tensor([found.box for found in objects], dtype=torch.float32))
    regions = torch.from_numpy(np.stack(truth))
    return PromptBatch.from_clicks(pick_points(regions, PromptPolicy(point_at="center"), torch.Generator())[:, None])


def _spread(dataset: Dataset, most: int) -> tuple[_Picked, ...]:
    """At most `most` objects, evenly spaced over the split, kept together by image."""
    owners = [(image, found) for image in dataset.images for found in usable_objects(image)]
    places = np.unique(np.linspace(0, len(owners) - 1, min(most, len(owners))).round().astype(int))
    picked: dict[tuple[str, str], list[ObjectEntry]] = {}
    images: dict[tuple[str, str], ImageEntry] = {}
    for place in places:
        image, found = owners[place]
        key = (str(image.split), image.image_id)
        images[key] = image
        picked.setdefault(key, []).append(found)
    return tuple(_Picked(images[key], tuple(found)) for key, found in picked.items())
