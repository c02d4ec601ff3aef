"""The prompts of an evaluation: made once from masks and a seed, kept in a file, the same for every model and tool.

Coordinates are pixels of the original image; `docs/evaluation.md` has the file's schema.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from samtune.config import EvalConfig, PromptPolicy
from samtune.data.masks import Region, region_of
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.errors import DataError
from samtune.model.preprocess import mask_prompt
from samtune.prompts.batch import PromptBatch
from samtune.prompts.simulate import background_prompts, deepest_points, jitter_boxes
from samtune.types import Box
from samtune.utils.files import write_json
from samtune.utils.text import one_line

FORMAT = 1
JITTER = "box_jitter_"
"""Prefix of the kinds of jittered boxes; the share of the side follows."""
_PER_LOW_RES = 4
"""Pixels of the model's input for each low-res pixel, a side."""
_SPREAD = 2
"""Low-res pixels beside an object that antialiasing reaches, and one more."""
_OUTSIDE = -10.0
"""Logit of a mask prompt where nothing is."""
_MOST_KEPT = 256 << 20
"""Bytes of masks that are kept between making prompts and measuring."""


@dataclass(frozen=True, slots=True)
class ObjectPrompts:
    """What is asked about one object.

    Attributes:
        annotation_id: as in the table.
        box: its exact box, xyxy.
        jittered_boxes: boxes whose edges moved, by kind (`box_jitter_0.1`).
        click: xy of its deepest pixel, the one farthest from its edge.
        outline: its convex hull, `[x0, y0, x1, y1, ...]`; a mask prompt is this polygon filled.
    """

    annotation_id: str
    box: Box
    jittered_boxes: dict[str, Box]
    click: tuple[float, float]
    outline: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ImagePrompts:
    """What is asked about one image.

    Attributes:
        image_path: as in the table.
        width, height: of the image in pixels.
        objects: prompts about its objects.
        background: xy of clicks that no annotation covers.
    """

    image_path: str
    width: int
    height: int
    objects: tuple[ObjectPrompts, ...]
    background: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PromptSet:
    """All prompts of an evaluation.

    Attributes:
        dataset: name of the dataset's folder.
        split: the split they are about.
        seed: of jittered boxes and background clicks.
        images: in the table's order.
    """

    dataset: str
    split: str
    seed: int
    images: tuple[ImagePrompts, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of jittered boxes."""
        objects = [found for image in self.images for found in image.objects]
        return tuple(objects[0].jittered_boxes) if objects else ()

    def save(self, path: Path) -> None:
        """Write the prompts as JSON."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> PromptSet:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or not such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            found = _FILE.validate_python({name: content[name] for name in cls.__dataclass_fields__})
            kinds = {tuple(one.jittered_boxes) for image in found.images for one in image.objects}
            if len(kinds) > 1:
                raise ValueError("objects with different kinds of boxes")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError.of(
                expected=f"prompts that samtune write-prompts wrote, format {FORMAT}",
                found=one_line(error),
                where=str(path),
                do="write them again: samtune write-prompts DATASET --out FILE",
            ) from error
        return found


_FILE = TypeAdapter(PromptSet)


def make_prompts(
    dataset: Dataset,
    config: EvalConfig,
    *,
    truth: TrueMasks | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PromptSet:
    """The prompts about a split, the same for the same dataset and settings.

    Args:
        dataset: whole; the split is chosen by `config`.
        config: what to ask.
        truth: keeps the masks that are read for those who need them again.
        progress: called with images done and their total.

    Raises:
        DataError: the split has no objects, or a mask cannot be read.
    """
    images = dataset.split(config.split).images
    chosen = spread(images, config.max_objects)
    if not chosen:
        raise _no_objects(dataset, config.split, len(images))
    if not config.max_objects:
        chosen += [(image, []) for image in images if not image.single_objects]
    truth = truth or TrueMasks(dataset, room=0)
    made: list[ImagePrompts] = []
    for done, (image, objects) in enumerate(chosen, start=1):
        made.append(_image_prompts(truth, image, objects, config))
        progress(done, len(chosen))
    return PromptSet(dataset.root.resolve().name, config.split, config.seed, tuple(made))


def spread(images: Sequence[ImageEntry], most: int) -> list[tuple[ImageEntry, list[ObjectEntry]]]:
    """Objects to measure, by image: all that are no crowd, or `most` of them, evenly spaced; 0 means all."""
    owners = [(place, found) for place, image in enumerate(images) for found in image.single_objects]
    if most and most < len(owners):
        owners = [owners[place] for place in np.linspace(0, len(owners) - 1, most).round().astype(int)]
    chosen: dict[int, list[ObjectEntry]] = {}
    for place, found in owners:
        chosen.setdefault(place, []).append(found)
    return [(images[place], found) for place, found in chosen.items()]


def read_truth(dataset: Dataset, found: ObjectEntry) -> Region:
    """An object's mask, kept as the part that holds it: hundreds of objects of a large image must fit into memory.

    Raises:
        DataError: the file is missing, no mask, or empty.
    """
    region = region_of(dataset.read_mask(found))
    if region is None:
        raise DataError.of(
            expected="a mask with at least one pixel",
            found="an empty one",
            where=str(dataset.root / found.mask_path),
            do="run samtune prepare again",
        )
    return region


class TrueMasks:
    """The masks of a dataset's objects; those read once are kept as bits, first come first kept, while there is room.

    Args:
        dataset: whose masks.
        room: most bytes to keep.
    """

    def __init__(self, dataset: Dataset, room: int = _MOST_KEPT) -> None:
        self._dataset = dataset
        self._room = room
        self._kept: dict[str, tuple[NDArray[np.uint8], Box]] = {}

    def __call__(self, found: ObjectEntry) -> Region:
        """An object's mask; errors are those of `read_truth`."""
        if found.mask_path in self._kept:
            bits, (x0, y0, x1, y1) = self._kept[found.mask_path]
            shape = int(y1 - y0), int(x1 - x0)
            mask = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).view(np.bool_)
            return Region(mask, int(x0), int(y0))
        region = read_truth(self._dataset, found)
        bits = np.packbits(region.mask)
        if bits.nbytes <= self._room:
            self._kept[found.mask_path] = bits, region.box
            self._room -= bits.nbytes
        return region


def boxes_of(objects: Sequence[ObjectPrompts], kind: str) -> PromptBatch:
    """Box prompts of one kind, `box` or a jittered one, in pixels of the image."""
    boxes = [found.box if kind == "box" else found.jittered_boxes[kind] for found in objects]
    return PromptBatch.from_boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def clicks_of(objects: Sequence[ObjectPrompts]) -> PromptBatch:
    """One positive click for each object, in pixels of the image."""
    return PromptBatch.from_clicks(torch.tensor([found.click for found in objects], dtype=torch.float32)[:, None])


def masks_of(objects: Sequence[ObjectPrompts], size: tuple[int, int], mask_size: int) -> PromptBatch:
    """Mask prompts: the outlines filled, each with its click, as the official predictor takes them together.

    Args:
        objects: N objects.
        size: (H, W) of the image.
        mask_size: side of the model's low-res masks.
    """
    logits = torch.full((len(objects), 1, mask_size, mask_size), _OUTSIDE)
    for row, found in zip(logits[:, 0], objects, strict=True):
        filled, (x, y) = _filled_outline(found.outline, size, _PER_LOW_RES * mask_size)
        part = mask_prompt(filled, (filled.shape[0] // _PER_LOW_RES, filled.shape[1] // _PER_LOW_RES))
        row[y : y + part.shape[0], x : x + part.shape[1]] = part
    return clicks_of(objects).with_masks(logits)


def _filled_outline(
    outline: Sequence[float], size: tuple[int, int], side: int
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """An outline filled on the model's input, `side` pixels wide; only the part that antialiasing spreads it over.

    Returns:
        The part, whole low-res pixels, bool `[h, w]`, and where it begins, xy in low-res pixels.
    """
    scale = np.array([side / size[1], side / size[0]])
    # A pixel's centre lies half a pixel from its index; OpenCV's points are centres.
    points = ((np.array(outline).reshape(-1, 2) + 0.5) * scale - 0.5).round().astype(np.int32)
    first = np.maximum(points.min(0) // _PER_LOW_RES - _SPREAD, 0)
    last = np.minimum(points.max(0) // _PER_LOW_RES + _SPREAD + 1, side // _PER_LOW_RES)
    width, height = ((last - first) * _PER_LOW_RES).tolist()
    filled = np.zeros((height, width), np.uint8)
    cv2.fillPoly(filled, [points - (first * _PER_LOW_RES).astype(np.int32)], 1)
    return filled.astype(np.bool_), (int(first[0]), int(first[1]))


def deepest_click(region: Region) -> Tensor:
    """The pixel farthest from an object's edge, `[1, 2]`, xy in pixels of the image."""
    inside = deepest_points(torch.from_numpy(region.mask)[None])
    return inside + torch.tensor([[region.x0, region.y0]], dtype=torch.float32)


def _image_prompts(
    truth: TrueMasks, image: ImageEntry, objects: Sequence[ObjectEntry], config: EvalConfig
) -> ImagePrompts:
    """Prompts about one image; what is drawn depends on the seed and the image or object alone."""
    occupied = np.zeros((image.height, image.width), bool)
    chosen, prompts = {found.annotation_id for found in objects}, dict[str, ObjectPrompts]()
    for found in image.objects:
        region = truth(found)
        x0, y0, x1, y1 = region.box
        occupied[y0:y1, x0:x1] |= region.mask
        if found.annotation_id in chosen:
            prompts[found.annotation_id] = _object_prompts(image, found, region, config)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed} {image.image_id}".encode()))
    clicks = background_prompts(torch.from_numpy(occupied), config.background_clicks, generator)
    background = [] if clicks is None else clicks.points[:, 0].tolist()
    return ImagePrompts(
        image_path=image.image_path,
        width=image.width,
        height=image.height,
        objects=tuple(prompts[found.annotation_id] for found in objects),
        background=tuple((x, y) for x, y in background),
    )


def _object_prompts(image: ImageEntry, found: ObjectEntry, region: Region, config: EvalConfig) -> ObjectPrompts:
    seed = zlib.crc32(f"{config.seed} {image.image_id} {found.annotation_id}".encode())
    edges = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed))
    box = torch.tensor([found.box], dtype=torch.float32)
    jittered: dict[str, Box] = {}
    for share in config.jitter:
        policy = PromptPolicy(box_jitter=share, box_jitter_max=1.0)
        x0, y0, x1, y1 = jitter_boxes(box, (image.height, image.width), policy, edges)[0].tolist()
        jittered[f"{JITTER}{share:g}"] = (x0, y0, x1, y1)
    ((x, y),) = deepest_click(region).tolist()
    return ObjectPrompts(found.annotation_id, found.box, jittered, (x, y), _hull(region))


def _hull(region: Region) -> tuple[float, ...]:
    """The convex hull of a mask's pixels; the first and last one of each row are all that can be its corners."""
    rows = np.flatnonzero(region.mask.any(1))
    mask = region.mask[rows]
    ends = mask.argmax(1), mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
    points = np.stack([np.stack([end + region.x0, rows + region.y0], axis=1) for end in ends], axis=1)
    corners = np.asarray(cv2.convexHull(points.reshape(-1, 2).astype(np.int32))).reshape(-1)
    return tuple(float(value) for value in corners)


def _no_objects(dataset: Dataset, split: str, images: int) -> DataError:
    present = sorted({str(image.split) for image in dataset.images if image.single_objects})
    return DataError.of(
        expected=f"objects in the {split} split",
        found=f"{images} images without any" if images else "no images",
        where=str(dataset.root),
        do=f"choose --split {' or '.join(present)}" if present else "prepare a dataset that has objects",
    )
