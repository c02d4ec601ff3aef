"""One pre-training step's work: views of scenes and real images, with prompts; made ahead in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samtune.config import PretrainStage, PromptPolicy
from samtune.model.preprocess import MEAN, STD
from samtune.nano.augment import TrainingView, degraded, recoloured, turned
from samtune.nano.neighbours import Neighbours, neighbours
from samtune.nano.real_images import RealImages
from samtune.nano.scenes import SceneBank
from samtune.prompts.batch import LOW_RES_STRIDE, PromptBatch
from samtune.prompts.simulate import PromptDraws, background_prompts, simulate_prompts

BACKGROUND_CLICKS = 4
"""Clicks per image whose answer is "no object"."""
TIGHT = PromptPolicy.model_validate({"box": 0.6, "point": 0.4, "box_jitter": 0.0})
"""Exact boxes, and clicks anywhere on the object."""
LOOSE = PromptPolicy.model_validate({"box": 0.6, "point": 0.4, "box_jitter": 0.1})
"""Jittered boxes."""
_LOOSE_SHARE = 0.2
"""Views with jittered boxes. More would teach that a box's edges cannot be trusted."""
_CENTER_SHARE = 0.5
"""Views of real images in which clicks are at the object's deepest pixel, where people click."""
_SMALL_SIDES = (4.0, 24.0)
"""Sides of small boxes, in input pixels: one to six low-res pixels."""
_AHEAD = 2
"""Batches made ahead."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class PretrainingBatch:
    """One step's work: B images, N prompts.

    Attributes:
        pixels: float32 `[B, 3, S, S]`, normalised.
        prompts: N prompts in input pixels.
        image_index: int64 `[N]`.
        targets: float32 `[N, S/4, S/4]`, the share of each low-res pixel the object covers; all zero for "no object".
        fine: float32 `[N, s S/4, s S/4]`, the same at the loss's scale s; `targets` themselves where s is 1.
        neighbours: what the encoder's second task asks; None where the stage has none.
    """

    pixels: Tensor
    prompts: PromptBatch
    image_index: Tensor
    targets: Tensor
    fine: Tensor
    neighbours: Neighbours | None = None

    def to(self, device: torch.device) -> PretrainingBatch:
        """The same work on `device`."""
        pixels, index, targets, fine = (
            tensor.to(device) for tensor in (self.pixels, self.image_index, self.targets, self.fine)
        )
        asked = None if self.neighbours is None else self.neighbours.to(device)
        return PretrainingBatch(pixels, self.prompts.to(device), index, targets, fine, asked)

    def about(self, rows: Tensor, prompts: PromptBatch) -> PretrainingBatch:
        """Other prompts about the targets of some rows, int64 `[n]`."""
        return PretrainingBatch(self.pixels, prompts, self.image_index[rows], self.targets[rows], self.fine[rows])


def make_batch(bank: SceneBank, real: RealImages, stage: PretrainStage, generator: torch.Generator) -> PretrainingBatch:
    """Views of random scenes and real images with prompts, all of it from `generator`."""
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    asked = stage.objects
    if stage.teaches_neighbours:
        stage = stage.model_copy(update={"objects": max(asked, stage.neighbour_objects)})
    views: list[TrainingView] = []
    centered: list[bool] = []
    while len(views) < stage.images:
        source = real.draw(rng)
        if source is None:
            view = real.with_pasted(rng, bank.view(rng, stage.size, stage.objects), stage.paste)
        else:
            view = real.view(rng, source, stage)
        centered.append(source is not None and rng.random() < _CENTER_SHARE)
        views.append(turned(rng, view))
    pixels = [normalised(recoloured(rng, degraded(rng, view.image) if stage.degrade else view.image)) for view in views]
    seen = None
    if stage.teaches_neighbours:
        seen = neighbours([_low_res(view.masks) for view in views])
        views = [_some_objects(rng, view, asked) for view in views]
    return replace(_with_prompts(views, pixels, centered, stage, generator), neighbours=seen)


def _low_res(masks: NDArray[np.bool_]) -> Tensor:
    """Masks `[K, S, S]` on the low-res grid, by the half of each of its pixels."""
    return functional.avg_pool2d(torch.from_numpy(masks).float(), LOW_RES_STRIDE) > 0.5


def _some_objects(rng: np.random.Generator, view: TrainingView, most: int) -> TrainingView:
    """The view with at most `most` of its objects as targets."""
    chosen = np.sort(rng.permutation(len(view.masks))[:most])
    return replace(view, masks=view.masks[chosen])


def _with_prompts(
    views: list[TrainingView],
    pixels: list[Tensor],
    centered: list[bool],
    stage: PretrainStage,
    generator: torch.Generator,
) -> PretrainingBatch:
    """First prompts for the objects of each view, small boxes, and clicks where there is nothing."""
    scale = stage.loss.scale
    prompts: list[PromptBatch] = []
    fine: list[Tensor] = []
    index: list[Tensor] = []
    for number, (view, at_center) in enumerate(zip(views, centered, strict=True)):
        policy = LOOSE if torch.rand(1, generator=generator) < _LOOSE_SHARE else TIGHT
        policy = policy.model_copy(update={"point_at": "center" if at_center else "random"})
        masks = torch.from_numpy(view.masks)
        found = [simulate_prompts(masks, tight_boxes(masks), policy, PromptDraws.draw(len(masks), generator))]
        shares = masks.float()
        if stage.small_boxes:
            boxes, inside = small_ellipses(stage.small_boxes, stage.size, generator)
            found.append(PromptBatch.from_boxes(boxes))
            shares = torch.cat([shares, inside])
        if view.occupied is not None:
            beside = background_prompts(torch.from_numpy(view.occupied), BACKGROUND_CLICKS, generator)
            found += [beside] if beside is not None else []
        covered = functional.avg_pool2d(shares, LOW_RES_STRIDE // scale)
        count = sum(len(part) for part in found)
        prompts += found
        fine.append(functional.pad(covered, (0, 0, 0, 0, 0, count - len(covered))))
        index.append(torch.full((count,), number))
    targets = torch.cat(fine)
    low_res = functional.avg_pool2d(targets, scale) if scale > 1 else targets
    return PretrainingBatch(torch.stack(pixels), PromptBatch.cat(prompts), torch.cat(index), low_res, targets)


def small_ellipses(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Small boxes anywhere in an image, and the ellipses in them.

    Args:
        count: how many.
        size: side of the image, at least 64.
        generator: the source of randomness.

    Returns:
        Boxes `[N, 4]`, xyxy in pixels, not whole numbers; and float32 `[N, S, S]`, about the share of each pixel that
        the ellipse covers, 0 to 1.
    """
    low, high = _SMALL_SIDES
    sides = low * (high / low) ** torch.rand(count, 1, generator=generator)
    radius = (sides * torch.exp(torch.rand(count, 2, generator=generator) - 0.5)).clamp(low, high) / 2
    center = radius + torch.rand(count, 2, generator=generator) * (size - 2 * radius)
    return torch.cat([center - radius, center + radius], dim=1), ellipses(center, radius, size)


def ellipses(center: Tensor, radius: Tensor, size: int) -> Tensor:
    """The share of each pixel that ellipses cover, nearly: float32 `[N, S, S]`, 0 to 1; x and y `[N, 2]` in pixels."""
    pixel = torch.arange(size) + 0.5
    x, y = ((pixel - center[:, i : i + 1]) / radius[:, i : i + 1] for i in (0, 1))
    distance = (x[:, None, :] ** 2 + y[:, :, None] ** 2).sqrt()
    return ((1 - distance) * radius.amin(1)[:, None, None] + 0.5).clamp(0, 1)


def normalised(pixels: NDArray[np.floating]) -> Tensor:
    """Values 0 to 255, `[S, S, 3]`, as the encoder takes them, `[3, S, S]`."""
    scaled = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32))


def tight_boxes(masks: Tensor) -> Tensor:
    """Boxes `[N, 4]`, xyxy with exclusive right and lower edges, of masks `[N, H, W]`, none empty."""
    columns, rows = masks.any(1), masks.any(2)

    def first(line: Tensor) -> Tensor:
        return line.int().argmax(1)

    def end(line: Tensor) -> Tensor:
        return line.shape[1] - line.flip(1).int().argmax(1)

    return torch.stack([first(columns), first(rows), end(columns), end(rows)], dim=1).float()


def made_ahead(items: Iterable[_In], make: Callable[[_In], _Out]) -> Iterator[tuple[_In, _Out]]:
    """Each item with what `make` makes of it; a thread is up to two items ahead. Errors are raised at their item."""
    waiting: deque[tuple[_In, Future[_Out]]] = deque()
    pool = ThreadPoolExecutor(1, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > _AHEAD:
                oldest, made = waiting.popleft()
                yield oldest, made.result()
        for item, made in waiting:
            yield item, made.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
