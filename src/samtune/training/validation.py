"""Measuring while training: the same fixed prompts every time, with the code that `samtune evaluate` measures with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from samtune.config import PromptPolicy
from samtune.data.table import Dataset, ImageEntry
from samtune.evaluation.protocol import KINDS, measure, read_truth, spread
from samtune.inference.predictor import EmbeddedImage, Predictor

TRAIN_SHARE = 0.2
"""Objects of the training split that are measured beside the validation split's, as a share of these."""
CHUNK = 32


class Validation:
    """Fixed prompts on the validation split and on a part of the training split.

    Attributes:
        kinds: the prompts measured, `box` and `point`, as far as the policy trains them.
        objects: how many objects each split's figures rest on.
    """

    def __init__(self, dataset: Dataset, policy: PromptPolicy, most: int) -> None:
        self.dataset = dataset
        self.kinds = tuple(kind for kind in KINDS if getattr(policy, kind) > 0)
        chosen = {"valid": spread(dataset.split("valid").images, most)}
        chosen["train"] = spread(dataset.split("train").images, max(1, round(most * TRAIN_SHARE)))
        self.chosen = {split: images for split, images in chosen.items() if images}
        self.objects = {split: sum(len(found) for _, found in images) for split, images in self.chosen.items()}

    @property
    def images(self) -> list[ImageEntry]:
        """The images that are measured on, in order."""
        return [image for images in self.chosen.values() for image, _ in images]

    def criterion(self, metrics: Mapping[str, float]) -> float | None:
        """The figure that decides which weights are best: mean IoU on the validation split over the trained kinds.

        None where there is no validation split.
        """
        return fmean(metrics[f"valid/{kind}"] for kind in self.kinds) if "valid" in self.chosen else None

    def measure(self, predictor: Predictor, embed: Callable[[ImageEntry], EmbeddedImage]) -> dict[str, float]:
        """Mean IoU by `split/kind`.

        Args:
            predictor: the model with its weights as they are now.
            embed: gives an image's embeddings, from a cache where there is one.
        """
        reached: dict[str, list[float]] = {}
        for split, images in self.chosen.items():
            for image, objects in images:
                embedded = embed(image)
                truth = [read_truth(self.dataset, found) for found in objects]
                for kind in self.kinds:
                    answers = measure(predictor, embedded, kind, objects, truth, CHUNK)
                    reached.setdefault(f"{split}/{kind}", []).extend(answer.iou for answer in answers)
        return {name: fmean(values) for name, values in reached.items()}
