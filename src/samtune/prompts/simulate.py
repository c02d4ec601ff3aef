"""Prompts simulated from masks: boxes tight and jittered, one click and several, rough masks, correction clicks.

Training, validation and evaluation all come here; they differ only in the values of their `PromptPolicy`. Random
numbers are drawn beforehand, on the host, into the named slots of `PromptDraws` and `CorrectionDraws`: every device
then gets the same numbers, and what one slot holds does not depend on whether another is used. Simulating reads no
value back to the host, so that a GPU is never waited for and a CUDA graph can record it; `background_prompts` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from samtune.config.prompts import MOST_CLICKS, PromptPolicy
from samtune.prompts.batch import NEGATIVE, PADDING, POSITIVE, PromptBatch
from samtune.prompts.regions import beside, first_filled, near_border, on_some, rough

_COLUMNS = 16
"""Columns compared at once when distances are searched for: what bounds the memory that takes."""


@dataclass(frozen=True, slots=True)
class CorrectionDraws:
    """Random numbers of one correction click for each of N prompts, float32, uniform in [0, 1).

    Attributes:
        from_object: `[N]`, whether to click on the object instead of the error.
        place: `[N]`, where in the region to click.
    """

    from_object: Tensor
    place: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> CorrectionDraws:
        """Fresh numbers for `count` prompts, on the generator's device."""
        return cls(*torch.rand(2, count, generator=generator, device=generator.device))


@dataclass(frozen=True, slots=True)
class PromptDraws:
    """Random numbers of N prompts and their correction clicks, float32, uniform in [0, 1).

    Attributes:
        kind: `[N]`, box or click.
        edges: `[N, 4]`, how far each edge of the box moves, xyxy.
        place: `[N]`, where in the object to click.
        corrections: one for each correction click, in order.
        tight: `[N]`, whether a box is exact.
        spot: `[N]`, whether to click anywhere, at the deepest pixel or near the border.
        clicks: `[N]`, how many clicks, where there are several.
        label: `[N, 3]`, whether each further click is negative.
        further: `[N, 3]`, where each further click goes.
        near: `[N, 3]`, whether a negative click goes to a neighbour or just beside the object.
        outline: `[N, 2]`, what of an object a rough mask gets wrong: how it is blurred, and where it is cut.
    """

    kind: Tensor
    edges: Tensor
    place: Tensor
    corrections: tuple[CorrectionDraws, ...]
    tight: Tensor
    spot: Tensor
    clicks: Tensor
    label: Tensor
    further: Tensor
    near: Tensor
    outline: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> PromptDraws:
        """Name the columns of `numbers` `[N, K]`, K as `count` says."""
        end = numbers.shape[1] - _MIXTURE
        kind, *edges, place = numbers[:, :_FIRST].unbind(1)
        corrections = (numbers[:, at : at + _EACH].unbind(1) for at in range(_FIRST, end, _EACH))
        tight, spot, clicks, *rest = numbers[:, end:].split([1, 1, 1, _FURTHER, _FURTHER, _FURTHER, 2], dim=1)
        return cls(
            kind,
            torch.stack(edges, dim=1),
            place,
            tuple(CorrectionDraws(*pair) for pair in corrections),
            *(column.squeeze(1) for column in (tight, spot, clicks)),
            *rest,
        )

    @classmethod
    def draw(
        cls, count: int, generator: torch.Generator, *, corrections: int = 0, mixture: bool = False
    ) -> PromptDraws:
        """Fresh numbers for `count` prompts, on the generator's device.

        Boxes, single clicks and corrections are no `mixture`: without it, the slots of everything else hold zeros.
        """
        device = generator.device
        numbers = torch.rand(count, _FIRST + _EACH * corrections, generator=generator, device=device)
        rest = (
            torch.rand(count, _MIXTURE, generator=generator, device=device)
            if mixture
            else torch.zeros(count, _MIXTURE, device=device)
        )
        return cls.of(torch.cat([numbers, rest], dim=1))

    @staticmethod
    def count(policy: PromptPolicy) -> tuple[int, int]:
        """How many numbers each prompt of a policy takes.

        Returns:
            For kind, box, click and correction clicks; and for everything else. K is their sum.
        """
        return _FIRST + _EACH * policy.correction_clicks, _MIXTURE


_FIRST, _EACH, _FURTHER = 6, 2, MOST_CLICKS - 1
"""Columns of a first prompt and of each correction click; clicks beyond the first one."""
_TRIES = 12
"""Places tried for an empty box."""
_MIXTURE = 3 + 3 * _FURTHER + 2
_NEGATIVE_SHARE, _NEIGHBOUR_SHARE = 0.5, 0.5
"""Of the further clicks, those that are negative; of these, those on a neighbour, where there is one."""
_DEEPEST_SHARE, _BORDER_SHARE = 0.3, 0.3
"""Where `point_at` is mixed: clicks at the deepest pixel and near the border; the rest goes anywhere."""


def simulate_prompts(
    masks: Tensor, boxes: Tensor, policy: PromptPolicy, draws: PromptDraws, neighbours: Tensor | None = None
) -> PromptBatch:
    """First prompts for N objects: per object a box, a positive click or several clicks, as the policy's weights say.

    Source: SAM 2's training recipe (`sam2/modeling/sam2_utils.py`: each box edge moves by a uniform share of the side).

    Args:
        masks: bool `[N, H, W]`, every one with at least one pixel.
        boxes: float `[N, 4]`, xyxy in pixels of `masks`; may be more precise than the masks.
        policy: what to make.
        draws: random numbers, on the device of `masks`.
        neighbours: float `[N, 2]`, xy of a pixel of another object, negative where there is none; none anywhere, when
            left out.

    Returns:
        N prompts in pixels of `masks`. P depends on the policy alone: 2 with boxes, 1 with single clicks only.
    """
    total = policy.box + policy.point + policy.points
    takes_box = draws.kind < policy.box / total
    as_boxes = PromptBatch.from_boxes(_boxes(boxes, masks.shape[-2:], policy, draws))
    if policy.max_clicks == 0:
        return as_boxes
    first = pick_points(masks, policy, draws.place, draws.spot)[:, None]
    as_clicks = PromptBatch.from_clicks(first)
    if policy.points > 0:
        has_more = draws.kind >= (policy.box + policy.point) / total
        points, labels = _further_clicks(masks, draws, has_more, neighbours)
        as_clicks = PromptBatch(
            torch.cat([first, points], dim=1),
            torch.cat([as_clicks.labels, labels.masked_fill(~has_more[:, None], PADDING)], dim=1),
        )
    if policy.box == 0:
        return as_clicks
    width = max(2, policy.max_clicks)
    as_boxes, as_clicks = as_boxes.padded(width), as_clicks.padded(width)
    return PromptBatch(
        torch.where(takes_box[:, None, None], as_boxes.points, as_clicks.points),
        torch.where(takes_box[:, None], as_boxes.labels, as_clicks.labels),
    )


def rough_masks(masks: Tensor, draws: PromptDraws) -> Tensor:
    """Mask prompts: outlines that are too wide, too narrow, too smooth, as an earlier tool or a quick hand leaves them.

    Args:
        masks: bool `[N, H, W]`, on the low-res grid.
        draws: random numbers, on their device.

    Returns:
        float32 logits `[N, 1, H, W]`, -10 to 10, as a mask prompt at full size is brought down.
    """
    found = rough(masks, draws.outline)
    return (found.float() * 20 - 10)[:, None]


def background_prompts(occupied: Tensor, count: int, generator: torch.Generator) -> PromptBatch | None:
    """Prompts whose right answer is "nothing here": clicks on pixels no object covers.

    Args:
        occupied: bool `[H, W]`, pixels any object covers.
        count: how many prompts.
        generator: on the device of `occupied`.

    Returns:
        The prompts in pixels of `occupied`, or None where no pixel is free.
    """
    free = ~occupied
    if count == 0 or not free.any():
        return None
    place = torch.rand(count, generator=generator, device=occupied.device)
    return PromptBatch.from_clicks(random_points(free[None], place[None])[0][:, None])


def empty_boxes(occupied: Tensor, sides: Tensor, generator: torch.Generator) -> Tensor:
    """Boxes that hold no pixel of any object, for prompts whose right answer is "nothing here".

    Args:
        occupied: bool `[H, W]`, pixels any object covers, on the generator's device.
        sides: float `[n, 2]`, width and height of the boxes wanted, in pixels.
        generator: of the places that are tried, a few for each box.

    Returns:
        float32 `[n, 4]`, xyxy; of no size, at no pixel in particular, where no place was found.
    """
    H, W = occupied.shape
    limit = torch.tensor([W, H], dtype=torch.float32)
    sides = torch.minimum(sides.round().clamp(min=1), limit)
    first = (torch.rand(_TRIES, len(sides), 2, generator=generator) * (limit - sides + 1)).floor()
    x0, y0 = first.long().unbind(2)
    x1, y1 = (first + sides).long().unbind(2)
    covered = F.pad(occupied.int(), (1, 0, 1, 0)).cumsum(0).cumsum(1)
    is_free = covered[y1, x1] - covered[y0, x1] - covered[y1, x0] + covered[y0, x0] == 0
    tried = torch.cat([first, first + sides], dim=2)
    best = tried[is_free.int().argmax(0), torch.arange(len(sides))]
    return torch.where(is_free.any(0)[:, None], best, torch.zeros(4))


def correction_clicks(
    predicted: Tensor, masks: Tensor, policy: PromptPolicy, draws: CorrectionDraws
) -> tuple[Tensor, Tensor]:
    """One more click per object where the prediction is wrong: positive on what it misses, negative on its excess.

    Where a prediction has no error, a negative click on the background (or a positive one, where there is none) is
    drawn, as in SAM 2's recipe.

    Args:
        predicted, masks: bool `[N, H, W]`.
        policy: `point_at` "random" draws from the whole error region, "center" takes its deepest pixel, "mixed" either.
        draws: random numbers, on the device of `masks`.

    Returns:
        Points float32 `[N, 2]` (xy, in pixels of `masks`) and labels int64 `[N]`.
    """
    error = predicted ^ masks
    from_object = draws.from_object < policy.correction_from_object
    region = torch.where((from_object & masks.flatten(1).any(1))[:, None, None], masks, error)
    region = first_filled(region, ~masks, masks)
    # what is left of the number that has decided against the object is as even as before; from the object: anywhere
    spot = (draws.from_object - policy.correction_from_object) / max(1 - policy.correction_from_object, 1e-6)
    points = pick_points(region, policy, draws.place, spot.masked_fill(from_object, 1.0))
    column, row = points.long().unbind(1)
    return points, masks[torch.arange(len(masks), device=masks.device), row, column].long()


def deepest_correction(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The click of `correction_clicks` at the deepest pixel of the error, for one object and without any chance.

    Args:
        predicted, mask: bool `[H, W]`.

    Returns:
        Its x and y in pixels of `mask`, and its label.
    """
    region = predicted ^ mask
    if not region.any():
        region = mask if mask.all() else ~mask
    row, column = _deepest(region)
    return column, row, int(mask[row, column])


def _boxes(boxes: Tensor, size: torch.Size, policy: PromptPolicy, draws: PromptDraws) -> Tensor:
    """Boxes with noise; a share of them is exact."""
    moved = jitter_boxes(boxes, size, policy, draws.edges)
    return moved if policy.box_tight == 0 else torch.where((draws.tight < policy.box_tight)[:, None], boxes, moved)


def _further_clicks(
    masks: Tensor, draws: PromptDraws, wanted: Tensor, neighbours: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One to three clicks beyond the first: on the object, just beside it, or on a neighbour.

    Returns:
        Points float32 `[N, 3, 2]` and labels int64 `[N, 3]`, -10 where there is no further click. Without meaning where
        not `wanted`.
    """
    neighbours = masks.new_full((len(masks), 2), -1, dtype=torch.float32) if neighbours is None else neighbours
    on_object = on_some(wanted, _scattered, masks, draws.further)
    missed = on_some(wanted, lambda masks, places: _scattered(beside(masks), places), masks, draws.further)
    is_negative = draws.label < _NEGATIVE_SHARE
    on_neighbour = is_negative & (draws.near < _NEIGHBOUR_SHARE) & (neighbours[:, None, 0] >= 0)
    points = torch.where(is_negative[..., None], missed, on_object)
    points = torch.where(on_neighbour[..., None], neighbours[:, None], points)
    # a click just beside an object that fills the image would lie on it
    column, row = points.long().unbind(2)
    inside = masks[torch.arange(len(masks), device=masks.device)[:, None], row, column]
    count = 1 + (draws.clicks * _FURTHER).long()
    is_there = torch.arange(_FURTHER, device=masks.device) < count[:, None]
    labels = torch.where(inside, POSITIVE, NEGATIVE)
    return points, labels.masked_fill(~is_there, PADDING)


def _scattered(regions: Tensor, places: Tensor) -> Tensor:
    """Several pixels of each region by uniform numbers `[N, n]`: float32 `[N, n, 2]`."""
    return random_points(regions, places)


def jitter_boxes(boxes: Tensor, size: tuple[int, int] | torch.Size, policy: PromptPolicy, edges: Tensor) -> Tensor:
    """Move every edge of `boxes` `[N, 4]` by up to `box_jitter` of the side, inside an image of `size` (H, W).

    `edges` `[N, 4]` are random numbers: 0 moves an edge all the way towards 0, 1 all the way from it.
    """
    if policy.box_jitter == 0:
        return boxes
    noise = 2 * edges - 1
    moved = torch.empty_like(boxes)
    for axis, side in enumerate(reversed(size)):
        near, far = boxes[:, axis], boxes[:, axis + 2]
        reach = ((far - near) * policy.box_jitter).clamp(max=side * policy.box_jitter_max)
        for edge in (axis, axis + 2):
            moved[:, edge] = (boxes[:, edge] + noise[:, edge] * reach).clamp(0, side)
    return moved


def pick_points(regions: Tensor, policy: PromptPolicy, place: Tensor, spot: Tensor | None = None) -> Tensor:
    """One pixel of each region: the deepest, one drawn by `place` `[N]`, or either by `spot` `[N]`, as the policy says.

    `regions` is bool `[N, H, W]`, none empty; returns float32 `[N, 2]`, xy. Without `spot`, what is mixed is drawn.
    """
    if policy.point_at == "center":
        return deepest_points(regions)
    if policy.point_at == "random" or spot is None:
        return random_points(regions, place)
    is_deepest = spot < _DEEPEST_SHARE
    on_border = (spot >= _DEEPEST_SHARE) & (spot < _DEEPEST_SHARE + _BORDER_SHARE)
    borders = on_some(on_border, near_border, regions)
    drawn = random_points(torch.where(on_border[:, None, None], borders, regions), place)
    return torch.where(is_deepest[:, None], on_some(is_deepest, deepest_points, regions), drawn)


def random_points(regions: Tensor, place: Tensor) -> Tensor:
    """A pixel of each region by a uniform number: the k-th set pixel for a uniform k, found in the running count.

    Args:
        regions: bool `[N, H, W]`, none empty.
        place: float `[N]` in [0, 1), which pixel, in the order of rows; `[N, K]` for K pixels of each region.

    Returns:
        float32 `[N, 2]`, xy; `[N, K, 2]` for K pixels.
    """
    running = regions.flatten(1).cumsum(1, dtype=torch.int32)
    count = running[:, -1:]
    places = place if place.ndim > 1 else place[:, None]
    wanted = (places * count).int().clamp(max=count - 1) + 1
    index = torch.searchsorted(running, wanted).reshape(place.shape)
    width = regions.shape[-1]
    return torch.stack([index % width, index // width], dim=-1).float()


def deepest_points(regions: Tensor) -> Tensor:
    """The pixel of each region farthest from its edge; the image's border counts as an edge.

    Args:
        regions: bool `[N, H, W]`, none empty.

    Returns:
        float32 `[N, 2]`, xy.
    """
    return _deepest_on_cpu(regions) if regions.device.type == "cpu" else deepest_points_by_minima(regions)


def deepest_points_by_minima(regions: Tensor) -> Tensor:
    """The same for a GPU, by exact squared distances instead of OpenCV's approximate ones.

    A pixel's squared distance is the least, over the pixels of its row, of their squared distance to it plus that of
    the nearest edge pixel in their columns (Felzenszwalb and Huttenlocher 2012, by brute force).
    """
    H, W = regions.shape[1:]
    inside = F.pad(regions, (1, 1, 1, 1))
    row = torch.arange(H + 2, device=regions.device, dtype=torch.int32)[:, None].expand_as(inside)
    above = row.masked_fill(inside, -1).cummax(1).values
    below = row.masked_fill(inside, H + 2).flip(1).cummin(1).values.flip(1)
    vertical = torch.minimum(row - above, below - row).float().square()
    column = torch.arange(W + 2, device=regions.device, dtype=torch.float32)
    squared = torch.full_like(vertical, torch.inf)
    for others, depths in zip(column.split(_COLUMNS), vertical.split(_COLUMNS, dim=2), strict=True):
        along = (column[:, None] - others).square()
        squared = torch.minimum(squared, (depths[:, :, None] + along).amin(-1))
    deepest = squared[:, 1:-1, 1:-1].flatten(1).argmax(1)
    return torch.stack([deepest % W, deepest // W], dim=1).float()


def _deepest_on_cpu(regions: Tensor) -> Tensor:
    return torch.tensor([_deepest(region)[::-1] for region in regions.numpy()], dtype=torch.float32).reshape(-1, 2)


def _deepest(region: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the pixel farthest from the edge of a region bool `[H, W]`."""
    padded = np.zeros((region.shape[0] + 2, region.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = region
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return row, column
