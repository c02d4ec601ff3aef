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
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from samtune.config import PromptPolicy
from samtune.data.low_res import LowResTargets
from samtune.data.order import EpochOrder
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.data.views import AS_IS, MIRRORED, Change, change_of
from samtune.embeddings.dataset import View
from samtune.errors import DataError
from samtune.prompts.batch import PADDING, PromptBatch
from samtune.prompts.simulate import PromptDraws, background_prompts, empty_boxes, rough_masks, simulate_prompts
from samtune.training.losses.tuning import binary

PADDED, BACKGROUND, OBJECT = -1, 0, 1
"""What a prompt is about; padded ones make an image's prompts as many as another's, and have no influence."""
Purpose: TypeAlias = Literal["prompts", "flip", "mixture", "turns"]
BATCHES_AHEAD = 2
"""Batches that are loaded while a step is computed."""
_PURPOSES = get_args(Purpose)


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """One step's work: B images, N prompts to be made.

    Attributes:
        step: the step it belongs to, counted from 0.
        views: the B images.
        image_index: int64 `[N]`, which image each prompt is about, in ascending order; always on the CPU.
        covered: uint8 `[N, h, w]`, share of each low-res pixel the object covers, 255 for all of it; all zero for
            background prompts.
        boxes: float32 `[N, 4]`, xyxy in low-res pixels; for a background click the pixel to click at, twice.
        kinds: int8 `[N]`, `OBJECT`, `BACKGROUND` or `PADDED`.
        draws: float32 `[N, K]`, the random numbers that prompts and correction clicks are made with, see `PromptDraws`.
        neighbours: float32 `[N, 2]`, a pixel of another object, xy in low-res pixels; negative where there is none.
        fine: uint8 `[N, s h, s w]`, as `covered`, where masks are compared at a finer scale s; else `[N, 0, 0]`.
        ignored: bool `[N, h, w]`, pixels of crowd regions outside the object; `[N, 0, 0]` where the dataset has none.
        has_masks: whether the prompts come with rough masks; decided for the whole step, because prompts with a mask
            and without one cannot share a decoder call.
        corrections: correction clicks that follow, likewise.
    """

    step: int
    views: tuple[View, ...]
    image_index: Tensor
    covered: Tensor
    boxes: Tensor
    kinds: Tensor
    draws: Tensor
    neighbours: Tensor
    fine: Tensor
    ignored: Tensor
    has_masks: bool = False
    corrections: int = 0

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What goes to the device."""
        return self.covered, self.boxes, self.kinds, self.draws, self.neighbours, self.fine, self.ignored

    @property
    def targets(self) -> Tensor:
        """float32 `[N, h, w]`, share of each low-res pixel the object covers, 0 to 1."""
        return self.covered.float() / 255

    @property
    def fine_targets(self) -> Tensor:
        """The same at the finer scale."""
        return self.fine.float() / 255

    @property
    def counted(self) -> Tensor:
        """Bool `[N]`, which prompts are not padding."""
        return self.kinds != PADDED

    def with_tensors(self, tensors: Sequence[Tensor], image_index: Tensor | None = None) -> TrainingBatch:
        """The same with other `tensors`."""
        covered, boxes, kinds, draws, neighbours, fine, ignored = tensors
        index = self.image_index if image_index is None else image_index
        return replace(
            self,
            image_index=index,
            covered=covered,
            boxes=boxes,
            kinds=kinds,
            draws=draws,
            neighbours=neighbours,
            fine=fine,
            ignored=ignored,
        )

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

        values = (0, 0, PADDED, 0, -1, 0, 0)
        rows = [padded(tensor, value) for tensor, value in zip(self.tensors, values, strict=True)]
        return self.with_tensors(rows, torch.arange(len(self.views)).repeat_interleave(each))

    def columns(self, width: int) -> Iterator[TrainingBatch]:
        """A grid in parts that are grids too, with at most `width` prompts for each image."""
        B = len(self.views)
        split = [tensor.unflatten(0, (B, -1)).split(width, dim=1) for tensor in (*self.tensors, self.image_index)]
        for *tensors, index in zip(*split, strict=True):
            yield self.with_tensors([tensor.flatten(0, 1) for tensor in tensors], index.flatten())

    def prompts(self, policy: PromptPolicy) -> PromptBatch:
        """The first prompts, in pixels of the model's square input."""
        objects, draws = binary(self.targets), PromptDraws.of(self.draws)
        found = simulate_prompts(objects, self.boxes, policy, draws, self.neighbours)
        if policy.negative_boxes > 0:
            found = found.padded(max(2, found.points.shape[1]))
        points, labels = found.points, found.labels
        if policy.negative > 0:
            clicks = PromptBatch.from_clicks(self.boxes[:, None, :2]).padded(points.shape[1])
            is_background = self.kinds == BACKGROUND
            is_click = is_background[:, None]
            if policy.negative_boxes > 0:
                boxes = PromptBatch.from_boxes(self.boxes).padded(points.shape[1])
                is_box = (is_background & (self.boxes[:, 2] > self.boxes[:, 0]))[:, None]
                points = torch.where(is_box[..., None], boxes.points, points)
                labels = torch.where(is_box, boxes.labels, labels)
                is_click = is_click & ~is_box
            points = torch.where(is_click[..., None], clicks.points, points)
            labels = torch.where(is_click, clicks.labels, labels)
        prompts = PromptBatch(points, labels.masked_fill(~self.counted[:, None], PADDING)).low_res_to_input()
        return prompts.with_masks(rough_masks(objects, draws)) if self.has_masks else prompts


@dataclass(frozen=True, slots=True)
class Sampling:
    """How batches are drawn: the model's low-res mask size in pixels, and the settings of `TrainConfig`.

    `steps` is the length of the run, 0 for one without an end.
    """

    mask_size: int
    images_per_step: int
    objects_per_image: int
    flip: bool
    seed: int
    prompts: PromptPolicy
    views: int = 1
    loss_scale: int = 1
    steps: int = 0

    @property
    def boxes_from(self) -> float:
        """The step from which on every object is asked for with boxes."""
        return self.steps * (1 - self.prompts.boxes_last) if self.steps else float("inf")


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
        finer = sampling.loss_scale * sampling.mask_size
        self._fine = LowResTargets(dataset, finer) if sampling.loss_scale > 1 else None
        background = sampling.prompts.negative > 0
        self.images = [image for image in dataset.images if background or image.single_objects]
        if not any(image.single_objects for image in self.images):
            raise DataError.of(
                expected="at least one object in the training split",
                found=f"{len(dataset.images)} images, none with a usable object",
                where=str(dataset.root),
                do="look into the dataset's issues.json, or prepare it with other --split shares",
            )
        self._has_crowds = any(found.iscrowd for image in self.images for found in image.objects)
        self._changes: dict[tuple[str, str, int], Change] = {}
        self._order = EpochOrder(len(self.images), sampling.seed)

    def __getitem__(self, step: int) -> TrainingBatch:
        views = self.views(step)
        parts = [self._of_image(view, number) for view, number in zip(views, self._numbers(step), strict=True)]
        names = ("covered", "boxes", "kinds", "draws", "neighbours", "fine", "ignored")
        arrays = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        has_masks, corrections = self._turns(step)
        return TrainingBatch(
            step=step,
            views=views,
            image_index=torch.arange(len(views)).repeat_interleave(torch.tensor([len(part[0]) for part in parts])),
            **dict(zip(names, arrays, strict=True)),
            has_masks=has_masks,
            corrections=corrections,
        )

    def views(self, step: int) -> tuple[View, ...]:
        """The images of a step in this process, and how they are seen; reads no file."""
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

    def _turns(self, step: int) -> tuple[bool, int]:
        """Whether the prompts of a step have rough masks, and how many correction clicks follow; alike everywhere."""
        policy = self.sampling.prompts
        chance = float(torch.rand(1, generator=image_generator(self.sampling.seed, step, "turns")))
        has_masks = chance < policy.mask_steps
        is_corrected = not has_masks and chance < policy.mask_steps + policy.correction_steps
        return has_masks, policy.correction_clicks if is_corrected else 0

    def _view(self, number: int) -> View:
        """Image `number` of the run."""
        image = self.images[self._order(number)]
        if not self.sampling.flip and self.sampling.views == 1:
            return View(image)
        chance = float(torch.rand(1, generator=image_generator(self.sampling.seed, number, "flip")))
        if self.sampling.flip:
            return View(image, MIRRORED if chance < 0.5 else AS_IS)
        which = (image.image_path, image.part, int(chance * self.sampling.views))
        if which not in self._changes:
            self._changes[which] = change_of(image, which[2])
        return View(image, self._changes[which])

    def _of_image(self, view: View, number: int) -> tuple[NDArray[Any], ...]:
        """`covered`, `boxes`, `kinds`, `draws`, `neighbours`, `fine` and `ignored`: some objects and background."""
        image, size, policy = view.image, self.sampling.mask_size, self.sampling.prompts
        generator = image_generator(self.sampling.seed, number, "prompts")
        more = image_generator(self.sampling.seed, number, "mixture")
        shown = [found for found in image.single_objects if view.change.shows(found.box)]
        objects = _choose(shown, self.sampling.objects_per_image, generator)
        boxes, covered = self._targets.boxes(objects, image, view.change), self._targets.of(objects, view.change)
        fine = np.zeros((len(objects), 0, 0), np.uint8) if self._fine is None else self._fine.of(objects, view.change)
        if view.change.crop is not None:  # a mask may lie in the half of its box that is not seen
            seen = covered.any(axis=(1, 2))
            boxes, covered, fine = boxes[seen], covered[seen], fine[seen]
        each = policy.per_object
        boxes, covered, fine = boxes.repeat(each, axis=0), covered.repeat(each, axis=0), fine.repeat(each, axis=0)
        background = self._background(view, boxes, generator, more)
        kinds = np.array([OBJECT] * len(boxes) + [BACKGROUND] * len(background), np.int8)
        columns = zip(PromptDraws.count(policy), (generator, more), strict=True)
        draws = [torch.rand(len(kinds), count, generator=source).numpy() for count, source in columns]
        _spread_kinds(draws[0][: len(boxes), 0], each)
        if number // (self.world * self.sampling.images_per_step) >= self.sampling.boxes_from:
            draws[0][:, 0] = 0.0  # what says box wherever boxes have any weight
        neighbours = np.full((len(kinds), 2), -1, np.float32)
        if policy.points > 0:
            neighbours[: len(boxes)] = _neighbours(covered, boxes, each, more)
        covered = np.concatenate([covered, np.zeros((len(background), size, size), np.uint8)])
        return (
            covered,
            np.concatenate([boxes, background]),
            kinds,
            np.concatenate(draws, axis=1),
            neighbours,
            np.concatenate([fine, np.zeros((len(background), *fine.shape[1:]), np.uint8)]),
            self._ignored(view, covered),
        )

    def _ignored(self, view: View, covered: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """What lies in a crowd region and in none of the objects `covered` `[N, h, w]`, for each of these."""
        if not self._has_crowds:
            return np.zeros((len(covered), 0, 0), bool)
        crowd = self._targets.of([found for found in view.image.objects if found.iscrowd], view.change)
        return np.any(crowd > 0, axis=0) & (covered == 0)

    def _background(
        self, view: View, boxes: NDArray[np.float32], generator: torch.Generator, more: torch.Generator
    ) -> NDArray[np.float32]:
        """What to ask about an image's background, beside objects with such `boxes`: low-res pixels, `[n, 4]`, xyxy.

        A click is a box of no size. At least one of them on an image that has no object at all.
        """
        policy, size = self.sampling.prompts, self.sampling.mask_size
        wanted = policy.negative * max(len(boxes), 1)
        count = int(wanted) + bool(torch.rand(1, generator=generator) < wanted % 1)
        if policy.negative > 0 and not len(boxes):
            count = max(count, 1)
        if count == 0:
            return np.zeros((0, 4), np.float32)
        grid = torch.from_numpy(np.any(self._targets.of(view.image.objects, view.change) > 0, axis=0))
        found = background_prompts(grid, count, generator)
        if found is None:
            return np.zeros((0, 4), np.float32)
        places = found.points[:, 0].repeat(1, 2)
        if policy.negative_boxes > 0:
            sides = torch.from_numpy(boxes[:, 2:] - boxes[:, :2]) if len(boxes) else torch.full((1, 2), size / 4)
            chosen = torch.randint(len(sides), (count,), generator=more)
            empty = empty_boxes(grid, sides[chosen], more)
            is_box = (torch.rand(count, generator=more) < policy.negative_boxes) & (empty[:, 2] > empty[:, 0])
            places = torch.where(is_box[:, None], empty, places)
        return places.numpy()


def _spread_kinds(draws: NDArray[np.float32], each: int) -> None:
    """Spread what chooses the kind of a prompt evenly over the prompts of each object, in place: `[objects * each]`."""
    draws += np.arange(len(draws), dtype=np.float32) % each
    draws /= each


def image_generator(seed: int, number: int, purpose: Purpose) -> torch.Generator:
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


def _neighbours(
    covered: NDArray[np.uint8], boxes: NDArray[np.float32], each: int, generator: torch.Generator
) -> NDArray[np.float32]:
    """For each row a pixel of the object beside its own that is not its own: `[n, 2]`, xy; -1 where there is none.

    Of every object there are `each` rows, one after the other.
    """
    found = np.full((len(covered), 2), -1, np.float32)
    places = torch.rand(len(covered), generator=generator).tolist()
    if len(covered) <= each:
        return found
    objects = np.arange(len(covered)) // each
    centers = boxes.reshape(-1, 2, 2).mean(1)
    distances = np.linalg.norm(centers[:, None] - centers, axis=2)
    distances[objects[:, None] == objects] = np.inf
    for row, (other, place) in enumerate(zip(distances.argmin(1), places, strict=True)):
        pixels = np.flatnonzero((covered[other] >= 128) & (covered[row] == 0))
        if len(pixels):
            y, x = divmod(int(pixels[int(place * len(pixels))]), covered.shape[2])
            found[row] = x, y
    return found


def _choose(objects: Sequence[ObjectEntry], most: int, generator: torch.Generator) -> list[ObjectEntry]:
    order = torch.randperm(len(objects), generator=generator)[:most]
    return [objects[i] for i in order.tolist()]
