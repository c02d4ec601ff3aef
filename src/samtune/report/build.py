"""Two models judged on a dataset, from pictures to a folder with figures, pictures and report.

OUT/base.json, OUT/tuned.json   every object's figures (docs/evaluation.md)
OUT/comparison.json             the paired differences and the verdict
OUT/pictures/                   panels of the best, worst and most changed objects; what was found unasked
OUT/report.html                 all of it in one file
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samtune.config import AutomaticConfig, EvalConfig
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.drawing import FoundObject, Panel, draw_panel, draw_unannotated, save_picture
from samtune.evaluation.comparison import Comparison, compare
from samtune.evaluation.protocol import evaluate_all
from samtune.inference.automatic import automatic_masks
from samtune.inference.predictor import Predictor
from samtune.report.page import write_report
from samtune.types import Prompt
from samtune.utils.files import new_folder, write_json
from samtune.utils.output_folders import check_output

COMPARISON = "comparison.json"
SHOWN = 6
"""Objects per row of the report."""
UNANNOTATED_IMAGES = 4
_COVERED = 0.5
"""A mask is of an annotated object when this share of it lies on annotations."""

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which objects a row of pictures shows: numbers into the evaluations' objects."""

    name: str
    title: str
    rows: list[int]


def judge(
    dataset: Dataset,
    base: Predictor,
    tuned: Predictor,
    out: Path,
    config: EvalConfig,
    *,
    names: tuple[str, str],
    curve: Path | None = None,
    progress: Advance = lambda what, done, total: None,
) -> Comparison:
    """Evaluate both models on the same prompts, compare, draw, report.

    Args:
        dataset: whole; the split is chosen by `config`.
        base, tuned: the models.
        out: folder to write, as a whole or not at all; an earlier comparison there is replaced.
        config: what to measure.
        names: what to call the two models.
        curve: `metrics.jsonl` of the run, for its training curve.
        progress: told what is being done, of images done and their total.

    Raises:
        ConfigError: `out` holds something that is no comparison.
        DataError: the split has no objects, or an image cannot be read.
        StorageError: the disk refused.
    """
    check_output(out, mark=COMPARISON, earlier="an earlier comparison")
    measuring = _named(progress, "measuring both")
    comparison = compare(*evaluate_all((base, tuned), dataset, config, names=names, progress=measuring))
    with new_folder(out) as folder:
        comparison.base.save(folder / "base.json")
        comparison.tuned.save(folder / "tuned.json")
        gallery = _draw(dataset, base, tuned, comparison, folder / "pictures", config, progress)
        write_json(folder / COMPARISON, comparison.to_json() | {"pictures": gallery})
        write_report(folder, curve=curve)
    return comparison


def _draw(
    dataset: Dataset,
    base: Predictor,
    tuned: Predictor,
    comparison: Comparison,
    folder: Path,
    config: EvalConfig,
    progress: Advance,
) -> list[dict[str, Any]]:
    """Draw the chosen objects and the unannotated finds; returns the rows of the report."""
    folder.mkdir()
    split = dataset.split(config.split)
    choices = _choose(comparison)
    total, done = sum(len(choice.rows) for choice in choices) + UNANNOTATED_IMAGES, 0
    gallery: list[dict[str, Any]] = []
    masks = _masks(dataset, base, tuned, {row: _owner(comparison, row, split) for one in choices for row in one.rows})
    for choice in choices:
        files: list[dict[str, str]] = []
        for row in choice.rows:
            before, after = comparison.base.objects[row], comparison.tuned.objects[row]
            image, found = _owner(comparison, row, split)
            panel = Panel(dataset.read_image(image), found.box, dataset.read_mask(found), *masks[row])
            file = f"{choice.name}-{len(files)}.jpg"
            save_picture(draw_panel(panel), folder / file)
            ious = before.answers["box"].iou, after.answers["box"].iou
            name = Path(image.image_path).name
            caption = f"{found.category}: base {ious[0]:.3f}, tuned {ious[1]:.3f} ({name})"
            files.append({"file": f"pictures/{file}", "caption": caption})
            done += 1
            progress("drawing", done, total)
        gallery.append({"title": choice.title, "kind": "objects", "pictures": files})
    gallery.append(_unannotated(split, tuned, folder))
    progress("drawing", total, total)
    return gallery


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


def _owner(comparison: Comparison, row: int, split: Dataset) -> tuple[ImageEntry, ObjectEntry]:
    """The image and the table's entry of an evaluated object."""
    wanted = comparison.base.objects[row]
    for image in split.images:
        if image.image_path == wanted.image_path:
            for found in image.objects:
                if found.annotation_id == wanted.annotation_id:
                    return image, found
    raise AssertionError(f"{wanted.annotation_id} was evaluated and is not in the table")


def _masks(
    dataset: Dataset, base: Predictor, tuned: Predictor, owners: dict[int, tuple[ImageEntry, ObjectEntry]]
) -> dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Both models' masks for boxes of some objects, by row; each image is encoded once per model."""
    rows_of: dict[ImageEntry, list[int]] = {}
    for row, (image, _) in owners.items():
        rows_of.setdefault(image, []).append(row)
    masks: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    for image, rows in rows_of.items():
        pixels = dataset.read_image(image)
        prompts = [Prompt.box(*owners[row][1].box) for row in rows]
        before, after = (model.predict(model.embed(pixels), prompts) for model in (base, tuned))
        for row, one, other in zip(rows, before, after, strict=True):
            masks[row] = one.best, other.best
    return masks


def _unannotated(split: Dataset, tuned: Predictor, folder: Path) -> dict[str, Any]:
    """What the tuned model finds from a grid of clicks, apart from what is annotated."""
    files: list[dict[str, str]] = []
    images = split.images
    step = max(1, len(images) // UNANNOTATED_IMAGES)
    for image in images[::step][:UNANNOTATED_IMAGES]:
        pixels = split.read_image(image)
        annotated = np.zeros(pixels.shape[:2], bool)
        for one in image.objects:
            annotated |= split.read_mask(one)
        found = [
            FoundObject(one.mask, one.point, one.iou_score)
            for one in automatic_masks(tuned, tuned.embed(pixels), AutomaticConfig())
            if (one.mask & annotated).sum() < _COVERED * one.mask.sum()
        ]
        file = f"unannotated-{len(files)}.jpg"
        save_picture(draw_unannotated(pixels, annotated, found), folder / file)
        files.append({"file": f"pictures/{file}", "caption": f"{len(found)} finds on {_plural(image.objects)}"})
    title = "Found by the tuned model where nobody annotated"
    return {"title": title, "kind": "images", "pictures": files}


def _plural(objects: Sequence[ObjectEntry]) -> str:
    return f"a picture with {len(objects)} annotated object{'' if len(objects) == 1 else 's'}"


def _named(progress: Advance, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)
