"""What a training step is made of: images and objects, their low-res targets, and what prompts are made from.

The images of a run are numbered in the order they are trained on, over all processes. Everything drawn at random for
an image is a function of the seed and this number and nothing else, and drawn on the host whatever the device. A run
that is interrupted and resumed, that loads with more workers, or that spreads a step's images over more processes,
therefore sees the same images with the same prompts, and neither sampler state nor random generators need to be saved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from samtune.config import PromptPolicy
from samtune.data.low_res import LowResTargets
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.embeddings.dataset import View
from samtune.errors import DataError
from samtune.prompts.batch import PADDING, PromptBatch
from samtune.prompts.simulate import PromptDraws, background_prompts, simulate_prompts
from samtune.training.losses.tuning import binary

PADDED, BACKGROUND, OBJECT = -1, 0, 1
"""What a prompt is about; padded ones make an image's prompts as many as another's, and have no influence."""
BATCHES_AHEAD = 2
"""Batches that are loaded while a step is computed."""
_PURPOSES = ("prompts", "flip")


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """One step's work: B images, N prompts to be made.

    Attributes:
        step: the step it belongs to, counted from 0.
        views: the B images.
        image_index: int64 `[N]`, which image each prompt is about, in ascending order; always on the CPU.
        covered: uint8 `[N, h, w]`, share of each low-res pixel the object covers, 255 for all of it; all zero for
            background prompts.
        boxes: float32 `[N, 4]`, xyxy in low-res pixels; for a background prompt the pixel to click at, twice.
        kinds: int8 `[N]`, `OBJECT`, `BACKGROUND` or `PADDED`.
        draws: float32 `[N, K]`, the random numbers that prompts and correction clicks are made with, see `PromptDraws`.
    """

    step: int
    views: tuple[View, ...]
    image_index: Tensor
    covered: Tensor
    boxes: Tensor
    kinds: Tensor
    draws: Tensor

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What goes to the device."""
        return self.covered, self.boxes, self.kinds, self.draws

    @property
    def targets(self) -> Tensor:
        """float32 `[N, h, w]`, share of each low-res pixel the object covers, 0 to 1."""
        return self.covered.float() / 255

    @property
    def counted(self) -> Tensor:
        """Bool `[N]`, which prompts are not padding."""
        return self.kinds != PADDED

    def with_tensors(self, tensors: Sequence[Tensor], image_index: Tensor | None = None) -> TrainingBatch:
        """The same with other `tensors`."""
        covered, boxes, kinds, draws = tensors
        index = self.image_index if image_index is None else image_index
        return TrainingBatch(self.step, self.views, index, covered, boxes, kinds, draws)

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same work on `device`; copies from pinned memory are not waited for."""
        return self.with_tensors([tensor.to(device, non_blocking=True) for tensor in self.tensors])

    def pin_memory(self) -> TrainingBatch:
        """The same work in memory a GPU can copy from by itself."""
        return self.with_tensors([tensor.pin_memory() for tensor in self.tensors])

    def select(self, rows: slice) -> TrainingBatch:
        """Some of the prompts, of the same images."""
        return self.with_tensors([tensor[rows] for tensor in self.tensors], self.image_index[rows])

    def by_images(self, most: int) -> list[TrainingBatch]:
        """The same work in parts of at most `most` images."""
        if len(self.views) <= most:
            return [self]
        ends = torch.tensor([0, *self.counts]).cumsum(0).tolist()
        parts: list[TrainingBatch] = []
        for first in range(0, len(self.views), most):
            part = self.select(slice(ends[first], ends[min(first + most, len(self.views))]))
            parts.append(replace(part, views=self.views[first : first + most], image_index=part.image_index - first))
        return parts

    @property
    def counts(self) -> list[int]:
        """How many prompts each image has."""
        return self.image_index.bincount(minlength=len(self.views)).tolist()

    def grid(self, each: int) -> TrainingBatch:
        """The same work with `each` prompts for each image, as many as any of them has or more, padded."""
        counts = self.counts

        def padded(tensor: Tensor, value: int) -> Tensor:
            beside = (0, 0) * (tensor.dim() - 1)
            parts = zip(tensor.split(counts), counts, strict=True)
            return torch.cat([F.pad(part, (*beside, 0, each - count), value=value) for part, count in parts])

        rows = [padded(self.covered, 0), padded(self.boxes, 0), padded(self.kinds, PADDED), padded(self.draws, 0)]
        return self.with_tensors(rows, torch.arange(len(self.views)).repeat_interleave(each))

    def columns(self, width: int) -> Iterator[TrainingBatch]:
        """A grid in parts that are grids too, with at most `width` prompts for each image."""
        B = len(self.views)
        split = [tensor.unflatten(0, (B, -1)).split(width, dim=1) for tensor in (*self.tensors, self.image_index)]
        for *tensors, index in zip(*split, strict=True):
            yield self.with_tensors([tensor.flatten(0, 1) for tensor in tensors], index.flatten())

    def prompts(self, policy: PromptPolicy) -> PromptBatch:
        """The first prompts, in pixels of the model's square input."""
        found = simulate_prompts(binary(self.targets), self.boxes, policy, PromptDraws.of(self.draws))
        points, labels = found.points, found.labels
        if policy.negative > 0:
            clicks = PromptBatch.from_clicks(self.boxes[:, None, :2]).padded(points.shape[1])
            is_click = (self.kinds == BACKGROUND)[:, None]
            points = torch.where(is_click[..., None], clicks.points, points)
            labels = torch.where(is_click, clicks.labels, labels)
        return PromptBatch(points, labels.masked_fill(~self.counted[:, None], PADDING)).low_res_to_input()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How batches are drawn: the model's low-res mask size in pixels, and the settings of `TrainConfig`."""

    mask_size: int
    images_per_step: int
    objects_per_image: int
    flip: bool
    seed: int
    prompts: PromptPolicy


class TrainingBatches(TorchDataset[TrainingBatch]):
    """Item `t` is the batch of step `t` (of this process, when several train together).

    Images come in shuffled order, each once per pass. Of an image with more than `objects_per_image` objects, a random
    choice is drawn each time. Images without objects take part when the policy asks for background prompts.
    """

    def __init__(self, dataset: Dataset, sampling: Sampling, *, rank: int = 0, world: int = 1) -> None:
        self.dataset = dataset
        self.sampling = sampling
        self.rank = rank
        self.world = world
        self._targets = LowResTargets(dataset, sampling.mask_size)
        background = sampling.prompts.negative > 0
        self.images = [image for image in dataset.images if background or image.single_objects]
        if not any(image.single_objects for image in self.images):
            raise DataError.of(
                expected="at least one object in the training split",
                found=f"{len(dataset.images)} images, none with a usable object",
                where=str(dataset.root),
                do="look into the dataset's issues.json, or prepare it with other --split shares",
            )
        self._order = EpochOrder(len(self.images), sampling.seed)

    def __getitem__(self, step: int) -> TrainingBatch:
        views = self.views(step)
        parts = [self._of_image(view, number) for view, number in zip(views, self._numbers(step), strict=True)]
        covered, boxes, kinds, draws = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return TrainingBatch(
            step=step,
            views=views,
            image_index=torch.arange(len(views)).repeat_interleave(torch.tensor([len(part[0]) for part in parts])),
            covered=torch.from_numpy(covered),
            boxes=torch.from_numpy(boxes),
            kinds=torch.from_numpy(kinds),
            draws=torch.from_numpy(draws),
        )

    def views(self, step: int) -> tuple[View, ...]:
        """The images of a step in this process, and which way round; reads no file."""
        return tuple(self._view(number) for number in self._numbers(step))

    def upcoming(self, step: int, end: int) -> Iterator[View]:
        """The images of the steps between `step` and `end`, in order."""
        for later in range(step + 1, end):
            yield from self.views(later)

    def images_of(self, step: int) -> list[ImageEntry]:
        """The images of a step in all processes."""
        count = self.world * self.sampling.images_per_step
        return [self._view(number).image for number in range(step * count, (step + 1) * count)]

    def _numbers(self, step: int) -> range:
        """Numbers in the run of this step's images in this process."""
        first = (step * self.world + self.rank) * self.sampling.images_per_step
        return range(first, first + self.sampling.images_per_step)

    def _view(self, number: int) -> View:
        """Image `number` of the run."""
        image = self.images[self._order(number)]
        if not self.sampling.flip:
            return View(image)
        generator = image_generator(self.sampling.seed, number, "flip")
        return View(image, bool(torch.rand(1, generator=generator) < 0.5))

    def _of_image(
        self, view: View, number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
        """`covered`, `boxes`, `kinds` and `draws` of some objects of an image, and of its background."""
        image, size = view.image, self.sampling.mask_size
        generator = image_generator(self.sampling.seed, number, "prompts")
        objects = _choose(image.single_objects, self.sampling.objects_per_image, generator)
        boxes = np.array([found.box for found in objects], np.float32).reshape(-1, 4)
        boxes *= np.array([size / image.width, size / image.height] * 2, np.float32)
        covered = self._targets.of(objects)
        if view.flipped:
            covered = covered[:, :, ::-1]
            boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=1)
        places = self._background(view, len(objects), generator)
        kinds = np.array([OBJECT] * len(objects) + [BACKGROUND] * len(places), np.int8)
        return (
            np.concatenate([covered, np.zeros((len(places), size, size), np.uint8)]),
            np.concatenate([boxes, np.tile(places, 2)]),
            kinds,
            torch.rand(len(kinds), PromptDraws.count(self.sampling.prompts), generator=generator).numpy(),
        )

    def _background(self, view: View, objects: int, generator: torch.Generator) -> NDArray[np.float32]:
        """Where to click on an image's background, beside `objects` objects: low-res pixels, `[n, 2]`.

        At least one on an image that has no object at all.
        """
        share = self.sampling.prompts.negative
        wanted = share * max(objects, 1)
        count = int(wanted) + bool(torch.rand(1, generator=generator) < wanted % 1)
        if share > 0 and objects == 0:
            count = max(count, 1)
        if count == 0:
            return np.zeros((0, 2), np.float32)
        occupied = np.any(self._targets.of(view.image.objects) > 0, axis=0)
        grid = torch.from_numpy(occupied[:, ::-1].copy() if view.flipped else occupied)
        found = background_prompts(grid, count, generator)
        return np.zeros((0, 2), np.float32) if found is None else found.points[:, 0].numpy()


class EpochOrder:
    """Which of `count` images comes at each place of a run: every image once per epoch, each epoch shuffled anew.

    An epoch's permutation is made once, when a place in it is first asked for, and kept until two later ones have been
    made: reading ahead looks into the next epoch before this one ends. Four bytes for each image and kept epoch.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._kept: dict[int, NDArray[np.uint32]] = {}

    def __call__(self, number: int) -> int:
        """Index of the image at place `number` of the run."""
        epoch, place = divmod(number, self.count)
        order = self._kept.get(epoch)
        if order is None:
            order = self.permutation(epoch)
            self._kept = {**dict(list(self._kept.items())[-1:]), epoch: order}  # replaced whole: threads read it
        return int(order[place])

    def permutation(self, epoch: int) -> NDArray[np.uint32]:
        """The order of one epoch, `[count]`."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.count).astype(np.uint32)


def image_generator(seed: int, number: int, purpose: Literal["prompts", "flip"]) -> torch.Generator:
    """The generator of everything random about image `number` of a run; each purpose has an independent stream."""
    (state,) = np.random.SeedSequence((seed, number, _PURPOSES.index(purpose))).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> 1))


def loader(
    batches: TrainingBatches, first: int, end: int, workers: int, *, pin: bool = False
) -> Iterator[TrainingBatch]:
    """Batches of the steps `first` to `end` - 1 in order.

    Args:
        batches: where they come from.
        first, end: which.
        workers: processes that load ahead; 0 means this one: in line, or ahead in a thread, where a GPU computes.
        pin: load into pinned memory, for a GPU.
    """
    steps = range(first, end)
    if not workers:
        return _loaded_by_a_thread(batches, steps) if pin else (batches[step] for step in steps)
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=4,
            multiprocessing_context="forkserver",
            pin_memory=pin,
        )
    )


def _loaded_by_a_thread(batches: TrainingBatches, steps: range) -> Iterator[TrainingBatch]:
    """Into pinned memory, from which a GPU copies by itself."""

    def load(step: int) -> TrainingBatch:
        return batches[step].pin_memory()

    thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
    waiting: deque[Future[TrainingBatch]] = deque()
    try:
        for step in steps:
            waiting.append(thread.submit(load, step))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


def _choose(objects: Sequence[ObjectEntry], most: int, generator: torch.Generator) -> list[ObjectEntry]:
    order = torch.randperm(len(objects), generator=generator)[:most]
    return [objects[i] for i in order.tolist()]
