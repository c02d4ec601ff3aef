"""The report's gallery: which objects are shown, drawn by both models, and what was found without prompts.

That is what a finder missed and its wrong finds, or, without a finder, what a grid of clicks finds where
nobody annotated.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samtune.config import AutomaticConfig
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.drawing import FoundObject, Panel, draw_finds, draw_unannotated, draw_views, to_jpeg
from samtune.evaluation.comparison import Comparison
from samtune.finder.evaluation import FindEvaluation
from samtune.finder.measure import Judged, TrueImage, decompress, judged
from samtune.inference.automatic import automatic_masks
from samtune.inference.predictor import Predictor
from samtune.inference.thresholds import with_thresholds
from samtune.types import Prompt
from samtune.utils.text import counted

GALLERY = "gallery"
"""Folder of the images, inside the comparison's."""
SHOWN = 6
"""Objects per row of the report."""
UNANNOTATED_IMAGES = 4
FINDER_IMAGES = 6
_COVERED = 0.5
"""A mask is of an annotated object when this share of it lies on annotations."""

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which objects a row of the gallery shows: numbers into the evaluations' objects."""

    name: str
    title: str
    rows: list[int]


def draw_gallery(
    dataset: Dataset,
    models: tuple[Predictor, Predictor],
    comparison: Comparison,
    folder: Path,
    progress: Advance,
    finds: FindEvaluation | None = None,
) -> list[dict[str, Any]]:
    """Draw the chosen objects and what was found without a prompt.

    Args:
        dataset: whole.
        models: base and tuned.
        comparison: of the two.
        folder: to make and write into.
        progress: called with what is being done, images done and their total.
        finds: what the tuned model's finder found, where it has one.

    Returns:
        The rows of the gallery for `comparison.json`.
    """
    folder.mkdir()
    split = dataset.split(comparison.base.split)
    choices = _choose(comparison)
    total, done = sum(len(choice.rows) for choice in choices) + UNANNOTATED_IMAGES, 0
    gallery: list[dict[str, Any]] = []
    masks = _masks(dataset, models, {row: _entries(comparison, row, split) for one in choices for row in one.rows})
    for choice in choices:
        files: list[dict[str, Any]] = []
        for row in choice.rows:
            before, after = comparison.base.objects[row], comparison.tuned.objects[row]
            image, found = _entries(comparison, row, split)
            panel = Panel(dataset.read_image(image), found.box, dataset.read_mask(found), *masks[row])
            views: dict[str, str] = {}
            for view, drawn in draw_views(panel).items():
                views[view] = f"{GALLERY}/{choice.name}-{len(files)}-{view}.jpg"
                (folder.parent / views[view]).write_bytes(to_jpeg(drawn))
            ious = before.answers["box"].iou, after.answers["box"].iou
            name = Path(image.image_path).name
            caption = f"{found.category}: base {ious[0]:.3f}, tuned {ious[1]:.3f} ({name})"
            files.append(
                {"views": views, "caption": caption, "category": found.category, "size": after.size}
                | {"studio": _studio_command(dataset, image, found)}
            )
            done += 1
            progress("drawing", done, total)
        gallery.append({"title": choice.title, "kind": "objects", "images": files})
    without_prompts = _unannotated(split, models[1], folder) if finds is None else _finds(dataset, finds, folder)
    gallery.append(without_prompts)
    progress("drawing", total, total)
    return gallery


def _studio_command(dataset: Dataset, image: ImageEntry, found: ObjectEntry) -> str:
    """The command that opens the studio at an object."""
    box = ",".join(f"{value:g}" for value in found.box)
    return shlex.join(["samtune", "studio", str(dataset.root), "--image", image.image_path, "--box", box])


def _choose(comparison: Comparison) -> list[_Choice]:
    before = np.array(comparison.base.values("box"))
    after = np.array(comparison.tuned.values("box"))
    change = after - before
    rising, falling = np.argsort(-change, kind="stable"), np.argsort(change, kind="stable")
    return [
        _Choice("gained", "Gained most by tuning", [int(row) for row in rising[:SHOWN] if change[row] > 0]),
        _Choice("lost", "Lost most by tuning", [int(row) for row in falling[:SHOWN] if change[row] < 0]),
        _Choice("best", "Best after tuning", np.argsort(-after, kind="stable")[:SHOWN].tolist()),
        _Choice("worst", "Worst after tuning", np.argsort(after, kind="stable")[:SHOWN].tolist()),
    ]


def _entries(comparison: Comparison, row: int, split: Dataset) -> tuple[ImageEntry, ObjectEntry]:
    """The image and the table's entry of an evaluated object."""
    wanted = comparison.base.objects[row]
    for image in split.images:
        if image.image_path == wanted.image_path:
            for found in image.objects:
                if found.annotation_id == wanted.annotation_id:
                    return image, found
    raise AssertionError(f"{wanted.annotation_id} was evaluated and is not in the table")


def _masks(
    dataset: Dataset, models: tuple[Predictor, Predictor], owners: dict[int, tuple[ImageEntry, ObjectEntry]]
) -> dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Both models' masks for boxes of some objects, by row; each image is encoded once per model."""
    rows_of: dict[ImageEntry, list[int]] = {}
    for row, (image, _) in owners.items():
        rows_of.setdefault(image, []).append(row)
    masks: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    for image, rows in rows_of.items():
        pixels = dataset.read_image(image)
        prompts = [Prompt.box(*owners[row][1].box) for row in rows]
        before, after = (model.predict(model.embed(pixels), prompts) for model in models)
        for row, one, other in zip(rows, before, after, strict=True):
            masks[row] = one.best, other.best
    return masks


def _unannotated(split: Dataset, tuned: Predictor, folder: Path) -> dict[str, Any]:
    """What the tuned model finds from a grid of clicks, apart from what is annotated."""
    files: list[dict[str, str]] = []
    images, grid = split.images, with_thresholds(AutomaticConfig(), tuned.loaded)
    step = max(1, len(images) // UNANNOTATED_IMAGES)
    for image in images[::step][:UNANNOTATED_IMAGES]:
        pixels = split.read_image(image)
        annotated = np.zeros(pixels.shape[:2], bool)
        for one in image.objects:
            annotated |= split.read_mask(one)
        found = [
            FoundObject(one.mask, one.point, one.iou_score)
            for one in automatic_masks(tuned, tuned.embed(pixels), grid)
            if (one.mask & annotated).sum() < _COVERED * one.mask.sum()
        ]
        file = f"unannotated-{len(files)}.jpg"
        (folder / file).write_bytes(to_jpeg(draw_unannotated(pixels, annotated, found)))
        files.append({"file": f"{GALLERY}/{file}", "caption": f"{len(found)} masks on {_plural(image.objects)}"})
    title = "Found by the tuned model where nobody annotated"
    return {"title": title, "kind": "images", "images": files}


def _finds(dataset: Dataset, finds: FindEvaluation, folder: Path) -> dict[str, Any]:
    """The images in which the finder missed most and had most wrong finds."""
    images = [one.above(finds.matched.point.threshold) for one in finds.ours.images]
    verdicts = [judged(one, found) for one, found in zip(finds.truth, images, strict=True)]
    worst = sorted(range(len(verdicts)), key=lambda row: -int(len(verdicts[row].missed) + verdicts[row].false.sum()))
    files: list[dict[str, str]] = []
    for row in worst[:FINDER_IMAGES]:
        truth, verdict, masks = finds.truth[row], verdicts[row], images[row].masks
        groups = (np.flatnonzero(verdict.owner >= 0), np.flatnonzero(verdict.false))
        right, false = ([decompress(masks[number]) for number in numbers] for numbers in groups)
        missed = [decompress(truth.masks[number]) for number in verdict.missed]
        file = f"finds-{len(files)}.jpg"
        drawn = draw_finds(dataset.read_image(truth.image), right, missed, false)
        (folder / file).write_bytes(to_jpeg(drawn))
        files.append({"file": f"{GALLERY}/{file}", "caption": _caption(truth, verdict)})
    return {
        "title": "What the finder missed, and found where nobody annotated or wrongly",
        "kind": "finds",
        "images": files,
    }


def _caption(truth: TrueImage, verdict: Judged) -> str:
    figures = {
        "found": int((verdict.owner >= 0).sum()),
        "missed": len(verdict.missed),
        "where nobody annotated": int(verdict.unannotated.sum()),
        "otherwise wrong": int((verdict.false & ~verdict.unannotated).sum()),
        "with another name": int(verdict.misnamed.sum()),
    }
    words = ", ".join(f"{count} {what}" for what, count in figures.items() if count or what in ("found", "missed"))
    return f"{words} ({Path(truth.image.image_path).name})"


def _plural(objects: Sequence[ObjectEntry]) -> str:
    return f"an image with {counted(len(objects), 'annotated object')}"
