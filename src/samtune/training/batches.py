"""What a training step is made of: images and objects, their low-res targets, and what prompts are made from.

Everything drawn at random for step `t` is a function of `(seed, t)` and nothing else, and drawn on the host whatever
the device. A run that is interrupted and resumed, or that loads with more workers, therefore sees the same batches to
the last bit, and neither sampler state nor random generators need to be saved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

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
from samtune.prompts.simulate import Draws, Random, background_prompts, simulate_prompts
from samtune.training.losses.tuning import binary

FILL, BACKGROUND, OBJECT = -1, 0, 1
"""What a prompt is about; fill is there to make an image's prompts as many as another's, and counts nowhere."""
BATCHES_AHEAD = 2
"""Batches that are loaded while a step is computed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work: B images, N prompts to be made.

    Attributes:
        step: the step it belongs to, counted from 0.
        views: the B images.
        image_index: int64 `[N]`, which image each prompt is about, in ascending order; always on the CPU.
        covered: uint8 `[N, h, w]`, share of each low-res pixel the object covers, 255 for all of it; all zero for
            background prompts.
        boxes: float32 `[N, 4]`, xyxy in low-res pixels; for a background prompt the pixel to click at, twice.
        kinds: int8 `[N]`, `OBJECT`, `BACKGROUND` or `FILL`.
        draws: float32 `[N, K]`, the random numbers that prompts and correction clicks are made with, 0 to 1.
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
        """Bool `[N]`, which prompts are more than fill."""
        return self.kinds != FILL

    def with_tensors(self, tensors: Sequence[Tensor], image_index: Tensor | None = None) -> Batch:
        """The same with other `tensors`."""
        covered, boxes, kinds, draws = tensors
        index = self.image_index if image_index is None else image_index
        return Batch(self.step, self.views, index, covered, boxes, kinds, draws)

    def to(self, device: torch.device | str) -> Batch:
        """The same work on `device`; copies from pinned memory are not waited for."""
        return self.with_tensors([tensor.to(device, non_blocking=True) for tensor in self.tensors])

    def pin_memory(self) -> Batch:
        """The same work in memory a GPU can copy from by itself."""
        return self.with_tensors([tensor.pin_memory() for tensor in self.tensors])

    def select(self, rows: slice) -> Batch:
        """Some of the prompts, of the same images."""
        return self.with_tensors([tensor[rows] for tensor in self.tensors], self.image_index[rows])

    @property
    def counts(self) -> list[int]:
        """How many prompts each image has."""
        return self.image_index.bincount(minlength=len(self.views)).tolist()

    def grid(self, each: int) -> Batch:
        """The same work with `each` prompts for each image, as many as the fullest has or more, filled up."""
        counts = self.counts

        def filled(tensor: Tensor, value: int) -> Tensor:
            beside = (0, 0) * (tensor.dim() - 1)
            parts = zip(tensor.split(counts), counts, strict=True)
            return torch.cat([F.pad(part, (*beside, 0, each - count), value=value) for part, count in parts])

        rows = [filled(self.covered, 0), filled(self.boxes, 0), filled(self.kinds, FILL), filled(self.draws, 0)]
        return self.with_tensors(rows, torch.arange(len(self.views)).repeat_interleave(each))

    def columns(self, width: int) -> Iterator[Batch]:
        """A grid in parts that are grids too, with at most `width` prompts for each image."""
        B = len(self.views)
        split = [tensor.unflatten(0, (B, -1)).split(width, dim=1) for tensor in (*self.tensors, self.image_index)]
        for *tensors, index in zip(*split, strict=True):
            yield self.with_tensors([tensor.flatten(0, 1) for tensor in tensors], index.flatten())

    def prompts(self, policy: PromptPolicy, random: Random) -> PromptBatch:
        """The first prompts, in pixels of the model's square input."""
        found = simulate_prompts(binary(self.targets), self.boxes, policy, random)
        points, labels = found.points, found.labels
        if policy.negative > 0:
            clicks = PromptBatch.from_clicks(self.boxes[:, None, :2]).padded(points.shape[1])
            is_click = (self.kinds == BACKGROUND)[:, None]
            points = torch.where(is_click[..., None], clicks.points, points)
            labels = torch.where(is_click, clicks.labels, labels)
        return PromptBatch(points, labels.masked_fill(~self.counted[:, None], PADDING)).scaled(4.0, 4.0)


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

    def __getitem__(self, step: int) -> Batch:
        generator = step_generator(self.sampling.seed, step, self.rank)
        views = self.views(step)
        parts = [self._of_image(view, generator) for view in views]
        covered, boxes, kinds = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Batch(
            step=step,
            views=views,
            image_index=torch.arange(len(views)).repeat_interleave(torch.tensor([len(part[0]) for part in parts])),
            covered=torch.from_numpy(covered),
            boxes=torch.from_numpy(boxes),
            kinds=torch.from_numpy(kinds),
            draws=torch.rand(len(covered), Draws.needed(self.sampling.prompts), generator=generator),
        )

    def views(self, step: int) -> tuple[View, ...]:
        """The images of a step, and which way round; takes no look at any file."""
        generator = step_generator(self.sampling.seed, step, self.rank, purpose=1)
        images = self._images_of(step)
        flips = (torch.rand(len(images), generator=generator) < 0.5).tolist()
        return tuple(View(image, self.sampling.flip and flip) for image, flip in zip(images, flips, strict=True))

    def upcoming(self, step: int, end: int) -> Iterator[View]:
        """The images of the steps between `step` and `end`, in order."""
        for later in range(step + 1, end):
            yield from self.views(later)

    def _images_of(self, step: int) -> list[ImageEntry]:
        """The images of this step and process; each pass over the data has its own shuffled order."""
        first = (step * self.world + self.rank) * self.sampling.images_per_step
        chosen: list[ImageEntry] = []
        for position in range(first, first + self.sampling.images_per_step):
            turn, place = divmod(position, len(self.images))
            order = np.random.default_rng((self.sampling.seed, turn)).permutation(len(self.images))
            chosen.append(self.images[order[place]])
        return chosen

    def _of_image(
        self, view: View, generator: torch.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int8]]:
        """`covered`, `boxes` and `kinds` of some objects of an image, and of its background."""
        image, size = view.image, self.sampling.mask_size
        objects = _choose(image.single_objects, self.sampling.objects_per_image, generator)
        boxes = np.array([found.box for found in objects], np.float32).reshape(-1, 4)
        boxes *= np.array([size / image.width, size / image.height] * 2, np.float32)
        covered = self._targets.of(objects)
        if view.flipped:
            covered = covered[:, :, ::-1]
            boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=1)
        places = self._background(view, len(objects), generator)
        return (
            np.concatenate([covered, np.zeros((len(places), size, size), np.uint8)]),
            np.concatenate([boxes, np.tile(places, 2)]),
            np.array([OBJECT] * len(objects) + [BACKGROUND] * len(places), np.int8),
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
        found = background_prompts(grid, count, self.sampling.prompts, generator)
        return np.zeros((0, 2), np.float32) if found is None else found.points[:, 0].numpy()


def step_generator(seed: int, step: int, rank: int = 0, purpose: int = 0) -> torch.Generator:
    """The generator of everything random in one step. Different purposes within a step get independent streams."""
    (state,) = np.random.SeedSequence((seed, step, rank, purpose)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> 1))


def loader(batches: TrainingBatches, first: int, end: int, workers: int, *, pin: bool = False) -> Iterator[Batch]:
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


def _loaded_by_a_thread(batches: TrainingBatches, steps: range) -> Iterator[Batch]:
    """Into pinned memory, from which a GPU copies by itself."""

    def load(step: int) -> Batch:
        return batches[step].pin_memory()

    thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
    waiting: deque[Future[Batch]] = deque()
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
