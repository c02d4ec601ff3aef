"""Measuring while training: the same fixed prompts every time, with the code that `samtune evaluate` measures with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch

from samtune.config import PromptPolicy
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.evaluation.paired import NEGLIGIBLE
from samtune.evaluation.protocol import measure, read_truth, spread
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.runtime.distributed import Processes

TRAIN_SHARE = 0.2
"""Objects of the training split that are measured beside the validation split's, as a share of these."""
CHUNK = 32


@dataclass(frozen=True, slots=True)
class _Item:
    """One image to measure; its objects are numbers `first` and following of all that are measured."""

    image: ImageEntry
    objects: tuple[ObjectEntry, ...]
    first: int


class Validation:
    """Fixed prompts on the validation split and on a part of the training split.

    Attributes:
        kinds: the prompts measured, `box` and `point`, as far as the policy trains them.
        objects: how many objects each split's figures rest on.
    """

    def __init__(self, dataset: Dataset, policy: PromptPolicy, most: int) -> None:
        self.dataset = dataset
        self.kinds = policy.kinds
        limits = {"valid": most, "train": max(1, round(most * TRAIN_SHARE))}
        self.objects: dict[str, int] = {}
        self._items: list[_Item] = []
        for split, limit in limits.items():
            first = sum(self.objects.values())
            for image, objects in spread(dataset.split(split).images, limit):
                self._items.append(_Item(image, tuple(objects), first + self.objects.get(split, 0)))
                self.objects[split] = self.objects.get(split, 0) + len(objects)

    def images(self, processes: Processes) -> list[ImageEntry]:
        """The images that this process measures, in order."""
        return [item.image for item in self._share(processes)]

    def criterion(self, metrics: Mapping[str, float]) -> float | None:
        """The figure that decides which weights are best: mean IoU on the validation split over the trained kinds.

        None where there is no validation split.
        """
        return fmean(self.of_kinds(metrics).values()) if "valid" in self.objects else None

    def of_kinds(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The figures of the trained kinds on the validation split; none where there is no such split."""
        return {kind: metrics[f"valid/{kind}"] for kind in self.kinds} if "valid" in self.objects else {}

    def lost(self, metrics: Mapping[str, float], base: Mapping[str, float]) -> tuple[str, ...]:
        """The kinds of prompts that are worse than the base model's `base`, by `NEGLIGIBLE` or more."""
        found = self.of_kinds(metrics)
        return tuple(kind for kind, before in base.items() if found[kind] <= before - NEGLIGIBLE)

    def measure(
        self, predictor: Predictor, embed: Callable[[ImageEntry], EmbeddedImage], processes: Processes
    ) -> dict[str, float]:
        """Mean IoU by `split/kind`, the same in every process and for any number of processes.

        Args:
            predictor: the model with its weights as they are now.
            embed: gives an image's embeddings, from a cache where there is one; called for `images`, in order.
            processes: those that share the images. Each measures its own, then every object's IoU is known to all.

        Raises:
            DataError: an image or a mask cannot be read.
        """
        ious = torch.zeros(len(self.kinds), sum(self.objects.values()), dtype=torch.float64)

        def measure_share() -> None:
            for item in self._share(processes):
                embedded = embed(item.image)
                truth = [read_truth(self.dataset, found) for found in item.objects]
                for row, kind in zip(ious, self.kinds, strict=True):
                    found = measure(predictor, embedded, kind, item.objects, truth, CHUNK)
                    row[item.first : item.first + len(found)] = torch.tensor(
                        [one.iou for one in found], dtype=torch.float64
                    )

        processes.all_or_none(measure_share)
        by_split = processes.sum(ious).split(list(self.objects.values()), dim=1)
        return {
            f"{split}/{kind}": fmean(row.tolist())
            for split, of_kinds in zip(self.objects, by_split, strict=True)
            for kind, row in zip(self.kinds, of_kinds, strict=True)
        }

    def _share(self, processes: Processes) -> list[_Item]:
        return self._items[processes.rank :: processes.count]
