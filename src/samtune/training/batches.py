"""What a training step is made of: which images and objects, their low-res targets, their first prompts.

Everything drawn at random for step `t` is a function of `(seed, t)` and nothing else. A run that is interrupted and
resumed, or that loads with more workers, therefore sees the same batches to the last bit, and neither sampler state nor
random generators need to be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from samtune.config import PromptPolicy
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.errors import DataError
from samtune.model.dataset_embeddings import View
from samtune.prompts import PromptBatch, background_prompts, simulate_prompts
from samtune.training.losses import binary


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work: B images, N prompts.

    Attributes:
        step: the step it belongs to, counted from 0.
        views: the B images.
        prompts: N first prompts, in pixels of the model's square input.
        image_index: int64 `[N]`, which image each prompt is about.
        targets: float32 `[N, h, w]`, share of each low-res pixel the object covers; all zero for background prompts.
    """

    step: int
    views: tuple[View, ...]
    prompts: PromptBatch
    image_index: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same work on `device`."""
        return Batch(
            self.step, self.views, self.prompts.to(device), self.image_index.to(device), self.targets.to(device)
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How batches are drawn: the model's low-res mask size in pixels, and the settings of `TrainConfig`."""

    mask_size: int
    images_per_step: int
    objects_per_image: int
    flip: bool
    seed: int
    prompts: PromptPolicy


class TrainingBatches(TorchDataset[Batch]):
    """Item `t` is the batch of step `t` (of this process, when several train together).

    Images come in shuffled order, each once per pass. Of an image with more than `objects_per_image` objects, a random
    choice is drawn each time. Images without objects take part when the policy asks for background prompts.
    """

    def __init__(self, dataset: Dataset, sampling: Sampling, *, rank: int = 0, world: int = 1) -> None:
        self.dataset = dataset
        self.sampling = sampling
        self.rank = rank
        self.world = world
        background = sampling.prompts.negative > 0
        self.images = [image for image in dataset.images if background or image.single_objects]
        if not any(image.single_objects for image in self.images):
            raise DataError.of(
                expected="at least one object in the training split",
                found=f"{len(dataset.images)} images, none with a usable object",
                where=str(dataset.root),
                do="look into the dataset's issues.json, or prepare it with other --split shares",
            )

    def __getitem__(self, step: int) -> Batch:
        generator = step_generator(self.sampling.seed, step, self.rank)
        views: list[View] = []
        prompts: list[PromptBatch] = []
        targets: list[Tensor] = []
        counts: list[int] = []
        for image in self._images_of(step):
            flipped = self.sampling.flip and bool(torch.rand(1, generator=generator) < 0.5)
            chosen = _choose(image.single_objects, self.sampling.objects_per_image, generator)
            image_prompts, image_targets = self._prompts(image, chosen, flipped, generator)
            views.append(View(image, flipped))
            prompts.append(image_prompts)
            targets.append(image_targets)
            counts.append(len(image_prompts))
        index = torch.arange(len(views)).repeat_interleave(torch.tensor(counts))
        return Batch(step, tuple(views), PromptBatch.cat(prompts), index, torch.cat(targets))

    def _images_of(self, step: int) -> list[ImageEntry]:
        """The images of this step and process; each pass over the data has its own shuffled order."""
        first = (step * self.world + self.rank) * self.sampling.images_per_step
        chosen: list[ImageEntry] = []
        for position in range(first, first + self.sampling.images_per_step):
            turn, place = divmod(position, len(self.images))
            order = np.random.default_rng((self.sampling.seed, turn)).permutation(len(self.images))
            chosen.append(self.images[order[place]])
        return chosen

    def _prompts(
        self, image: ImageEntry, objects: Sequence[ObjectEntry], flipped: bool, generator: torch.Generator
    ) -> tuple[PromptBatch, Tensor]:
        """Prompts in model pixels and targets `[N, h, w]` for some objects of one image, and for its background."""
        size = self.sampling.mask_size
        policy = self.sampling.prompts
        masks = [self.dataset.read_mask(found) for found in objects]
        targets = torch.from_numpy(low_res_targets(masks, size)).float() / 255
        boxes = torch.tensor([found.box for found in objects], dtype=torch.float32).reshape(-1, 4)
        boxes = boxes * boxes.new_tensor([size / image.width, size / image.height] * 2)
        if flipped:
            targets = targets.flip(-1)
            boxes = torch.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], dim=1)
        found: list[PromptBatch] = []
        if objects:
            found.append(simulate_prompts(binary(targets), boxes, policy, generator))
        background = self._background(image, len(objects), flipped, generator)
        if background is not None:
            found.append(background)
            targets = torch.cat([targets, targets.new_zeros(len(background), size, size)])
        return PromptBatch.cat(found).scaled(4.0, 4.0), targets

    def _background(
        self, image: ImageEntry, objects: int, flipped: bool, generator: torch.Generator
    ) -> PromptBatch | None:
        """Background prompts beside `objects` object prompts; at least one on an image that has no object at all."""
        share = self.sampling.prompts.negative
        wanted = share * max(objects, 1)
        count = int(wanted) + bool(torch.rand(1, generator=generator) < wanted % 1)
        if share > 0 and objects == 0:
            count = max(count, 1)
        if count == 0:
            return None
        size = self.sampling.mask_size
        occupied = np.zeros((size, size), bool)
        for found in image.objects:
            occupied |= low_res_targets([self.dataset.read_mask(found)], size)[0] > 0
        grid = torch.from_numpy(occupied[:, ::-1].copy() if flipped else occupied)
        return background_prompts(grid, count, self.sampling.prompts, generator)


def low_res_targets(masks: Sequence[NDArray[np.bool_]], size: int) -> NDArray[np.uint8]:
    """Squash masks `[H, W]` to the model's low-res grid: uint8 `[N, size, size]`, 255 where a cell is covered."""
    targets = np.zeros((len(masks), size, size), np.uint8)
    for target, mask in zip(targets, masks, strict=True):
        shrinks = mask.shape[0] >= size and mask.shape[1] >= size
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(mask.astype(np.uint8) * 255, (size, size), dst=target, interpolation=how)
        if not target.any():  # smaller than 1/510 of a cell: keep the cell it is in, or the object would read as absent
            row, column = np.argwhere(mask)[0]
            target[row * size // mask.shape[0], column * size // mask.shape[1]] = 1
    return targets


def step_generator(seed: int, step: int, rank: int = 0, purpose: int = 0) -> torch.Generator:
    """The generator of everything random in one step. Different purposes within a step get independent streams."""
    (state,) = np.random.SeedSequence((seed, step, rank, purpose)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> 1))


def loader(batches: TrainingBatches, first: int, end: int, workers: int) -> DataLoader[Batch]:
    """Batches of the steps `first` to `end` - 1 in order, loaded ahead by `workers` processes (0: by this one)."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, end),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="forkserver" if workers else None,
    )


def _choose(objects: Sequence[ObjectEntry], most: int, generator: torch.Generator) -> list[ObjectEntry]:
    order = torch.randperm(len(objects), generator=generator)[:most]
    return [objects[i] for i in order.tolist()]
