"""Measuring a model on a split: fixed prompts, masks at full resolution, figures of every object.

Each object is asked for twice: with its exact box, and with one click at its deepest pixel. Measured is the mask a
user would be handed (the single mask, with the official fall-back); for clicks, which are ambiguous, also the best of
the three guesses. Beside every box stand the two trivial guesses, the filled box and the ellipse inscribed in it.
Clicks on the background ask for nothing, and count how often the model says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.config import EvalConfig, PromptPolicy
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.errors import DataError, ModelError
from samtune.evaluation.metrics import (
    Calibration,
    Overlap,
    Summary,
    box_mask,
    calibration,
    ellipse_mask,
    summarize,
)
from samtune.files import write_json
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder import select_masks
from samtune.model.preprocess import MASK_THRESHOLD, upscale_masks
from samtune.prompts import PromptBatch, background_prompts, pick_points

FORMAT = 1
KINDS = ("box", "point")
BACKGROUND_CLICKS = 3
"""Clicks per picture on pixels no object covers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one prompt about one object.

    Attributes:
        iou, dice: of the mask a user is handed, at full resolution, 0 to 1.
        predicted_iou: what the model said its IoU would be.
        object_score: logit that an object is there.
        best_of_three: IoU of the best of the three guesses; what a user who picks the best by eye would get.
    """

    iou: float
    dice: float
    predicted_iou: float
    object_score: float
    best_of_three: float


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """One object and how the model did on it.

    Attributes:
        image_path, annotation_id, category, area: as in the table.
        group: objects of one group are not independent; intervals resample groups.
        filled_box, ellipse: IoU of the two trivial guesses at its box.
        answers: by kind of prompt, `box` and `point`.
    """

    image_path: str
    annotation_id: str
    category: str
    group: str
    area: int
    filled_box: float
    ellipse: float
    answers: dict[str, Answer]


@dataclass(frozen=True, slots=True)
class BackgroundResult:
    """One click where no object is: below 0 the model rightly says that nothing is there."""

    image_path: str
    group: str
    object_score: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model on a split. Schema of the file: docs/evaluation.md.

    Attributes:
        model: what the model was asked for by.
        split: name of the split.
        crowd: regions left out because they cover groups of objects.
        objects: every object measured.
        background: every background click.
    """

    model: str
    split: str
    crowd: int
    objects: tuple[ObjectResult, ...]
    background: tuple[BackgroundResult, ...]

    def values(self, kind: str, figure: str = "iou") -> list[float]:
        """One figure of every object, in order."""
        return [getattr(found.answers[kind], figure) for found in self.objects]

    @property
    def groups(self) -> list[str]:
        """The group of every object, in order."""
        return [found.group for found in self.objects]

    def summary(self, kind: str, figure: str = "iou") -> Summary:
        """Mean, median and interval of a figure over all objects."""
        return _certain(summarize(self.values(kind, figure), self.groups))

    def trivial(self, guess: str) -> Summary:
        """The same for `filled_box` or `ellipse`."""
        return _certain(summarize([getattr(found, guess) for found in self.objects], self.groups))

    def by_category(self, kind: str) -> dict[str, Summary]:
        """IoU for each category, by name."""
        found: dict[str, Summary] = {}
        for category in sorted({one.category for one in self.objects}):
            members = [one for one in self.objects if one.category == category]
            values, groups = [one.answers[kind].iou for one in members], [one.group for one in members]
            found[category] = _certain(summarize(values, groups))
        return found

    def calibration(self, kind: str) -> Calibration:
        """How well the model foretells its own IoU."""
        found = calibration(self.values(kind, "predicted_iou"), self.values(kind, "iou"))
        assert found is not None
        return found

    def refusals(self) -> Summary | None:
        """Share of background clicks where the model says that nothing is there; None where no click was possible."""
        values = [float(click.object_score < 0) for click in self.background]
        return summarize(values, [click.group for click in self.background])

    def lines(self) -> list[str]:
        """What to tell the user."""
        box, point = self.summary("box"), self.summary("point")
        lines = [
            f"{self.model} on {self.split}: {box.count} objects in {box.groups} independent groups of images",
            _line("box", box, self.summary("box", "dice")),
            f"  trivial guesses  filled box {self.trivial('filled_box').mean:.3f}, "
            f"ellipse {self.trivial('ellipse').mean:.3f}",
            _line("one click", point, self.summary("point", "dice")),
            f"  best of three    IoU {self.summary('point', 'best_of_three').mean:.3f}",
        ]
        categories = self.by_category("box")
        if len(categories) > 1:
            lines += [f"  {name[:16]:<16} box IoU {one.mean:.3f} ({one.count})" for name, one in categories.items()]
        refusals = self.refusals()
        if refusals is not None:
            lines.append(f"background       says 'nothing here' to {refusals.mean:.0%} of {refusals.count} clicks")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Everything, as in docs/evaluation.md."""
        return {
            "format": FORMAT,
            "model": self.model,
            "split": self.split,
            "crowd": self.crowd,
            "summary": {
                **{kind: self._kind_json(kind) for kind in KINDS},
                "filled_box": asdict(self.trivial("filled_box")),
                "ellipse": asdict(self.trivial("ellipse")),
                "background_refused": None if (refused := self.refusals()) is None else asdict(refused),
            },
            "objects": [asdict(found) for found in self.objects],
            "background": [asdict(click) for click in self.background],
        }

    def save(self, path: Path) -> None:
        """Write `to_json` as a file."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            ModelError: no such file, or not such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            return cls(
                content["model"],
                content["split"],
                content["crowd"],
                tuple(_object_from_json(entry) for entry in content["objects"]),
                tuple(BackgroundResult(**entry) for entry in content["background"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError.of(
                expected="a file that samtune evaluate wrote", found=str(error), where=str(path), do="evaluate again"
            ) from error

    def _kind_json(self, kind: str) -> dict[str, Any]:
        return {
            "iou": asdict(self.summary(kind)),
            "dice": asdict(self.summary(kind, "dice")),
            "best_of_three": asdict(self.summary(kind, "best_of_three")),
            "calibration": asdict(self.calibration(kind)),
            "by_category": {name: asdict(one) for name, one in self.by_category(kind).items()},
        }


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    config: EvalConfig,
    *,
    name: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a model on a split.

    Args:
        predictor: the model.
        dataset: whole; the split is chosen by `config`.
        config: what to measure.
        name: what to call the model in the result.
        progress: told of images done and their total.

    Raises:
        DataError: the split has no objects, or an image cannot be read.
    """
    images = dataset.split(config.split).images
    crowd = sum(found.iscrowd for image in images for found in image.objects)
    chosen = spread(images, config.max_objects)
    if not chosen:
        present = sorted({str(image.split) for image in dataset.images if image.objects})
        raise DataError.of(
            expected=f"objects in the {config.split} split",
            found=f"{len(images)} images without any",
            where=str(dataset.root),
            do=f"choose --split {' or '.join(present)}" if present else "prepare a dataset that has objects",
        )
    objects: list[ObjectResult] = []
    background: list[BackgroundResult] = []
    for done, (image, found) in enumerate(chosen, start=1):
        embedded = predictor.embed(dataset.read_image(image))
        truth = [dataset.read_mask(one) for one in found]
        answers = {kind: measure(predictor, embedded, kind, found, truth, config.chunk) for kind in KINDS}
        objects += _results(image, found, truth, answers)
        background += _background(predictor, embedded, dataset, image)
        progress(done, len(chosen))
    return Evaluation(name or predictor.loaded.name, config.split, crowd, tuple(objects), tuple(background))


def measure(
    predictor: Predictor,
    embedded: EmbeddedImage,
    kind: str,
    objects: Sequence[ObjectEntry],
    truth: Sequence[NDArray[np.bool_]],
    chunk: int,
) -> list[Answer]:
    """Ask about objects of one image, `kind` box or point, and compare with the truth, one bool `[H, W]` each."""
    answers: list[Answer] = []
    for start in range(0, len(objects), chunk):
        masks = truth[start : start + chunk]
        prompts = predictor.to_model_frame(embedded, _prompts(kind, objects[start : start + chunk], masks))
        output = predictor.decode(embedded, prompts)
        handed, scores = select_masks(predictor.loaded.model, output, multimask_output=False)
        for row, mask in enumerate(masks):
            overlap = _overlap(handed[row, 0], mask, embedded.size)
            guesses = [_overlap(logits, mask, embedded.size).iou for logits in output.masks[row, 1:]]
            answers.append(
                Answer(
                    iou=overlap.iou,
                    dice=overlap.dice,
                    predicted_iou=float(scores[row, 0]),
                    object_score=float(output.object_score_logits[row]),
                    best_of_three=max(guesses),
                )
            )
    return answers


def spread(images: Sequence[ImageEntry], most: int) -> list[tuple[ImageEntry, list[ObjectEntry]]]:
    """Objects to measure, by image: all that are no crowd, or `most` of them, evenly spaced; 0 means all."""
    owners = [(place, found) for place, image in enumerate(images) for found in image.objects if not found.iscrowd]
    if most and most < len(owners):
        owners = [owners[place] for place in np.linspace(0, len(owners) - 1, most).round().astype(int)]
    chosen: dict[int, list[ObjectEntry]] = {}
    for place, found in owners:
        chosen.setdefault(place, []).append(found)
    return [(images[place], found) for place, found in chosen.items()]


def _prompts(kind: str, objects: Sequence[ObjectEntry], truth: Sequence[NDArray[np.bool_]]) -> PromptBatch:
    """Exact boxes, or clicks at the deepest pixels, in pixels of the image."""
    if kind == "box":
        return PromptBatch.from_boxes(torch.tensor([found.box for found in objects], dtype=torch.float32))
    regions = torch.from_numpy(np.stack(truth))
    return PromptBatch.from_clicks(pick_points(regions, PromptPolicy(point_at="center"), torch.Generator())[:, None])


def _overlap(logits: Tensor, truth: NDArray[np.bool_], size: tuple[int, int]) -> Overlap:
    return Overlap.of((upscale_masks(logits, size) > MASK_THRESHOLD).cpu().numpy(), truth)


def _results(
    image: ImageEntry,
    objects: Sequence[ObjectEntry],
    truth: Sequence[NDArray[np.bool_]],
    answers: dict[str, list[Answer]],
) -> Iterator[ObjectResult]:
    for row, (found, mask) in enumerate(zip(objects, truth, strict=True)):
        yield ObjectResult(
            image_path=image.image_path,
            annotation_id=found.annotation_id,
            category=found.category,
            group=image.group,
            area=found.area,
            filled_box=Overlap.of(box_mask(found.box, *mask.shape), mask).iou,
            ellipse=Overlap.of(ellipse_mask(found.box, *mask.shape), mask).iou,
            answers={kind: of_kind[row] for kind, of_kind in answers.items()},
        )


def _background(
    predictor: Predictor, embedded: EmbeddedImage, dataset: Dataset, image: ImageEntry
) -> Iterator[BackgroundResult]:
    """The same clicks for every model: the generator is seeded by what the image is called."""
    occupied = np.zeros((image.height, image.width), bool)
    for found in image.objects:
        occupied |= dataset.read_mask(found)
    generator = torch.Generator().manual_seed(int.from_bytes(image.image_id.encode()[-6:], "big"))
    prompts = background_prompts(torch.from_numpy(occupied), BACKGROUND_CLICKS, PromptPolicy(), generator)
    if prompts is None:
        return
    output = predictor.decode(embedded, predictor.to_model_frame(embedded, prompts))
    for score in output.object_score_logits.tolist():
        yield BackgroundResult(image.image_path, image.group, score)


def _line(name: str, iou: Summary, dice: Summary) -> str:
    interval = f" [{iou.low:.3f}, {iou.high:.3f}]" if iou.low is not None and iou.high is not None else ""
    return f"{name:<16} IoU {iou.mean:.3f}{interval}, median {iou.median:.3f}, Dice {dice.mean:.3f}"


def _object_from_json(entry: dict[str, Any]) -> ObjectResult:
    answers = {kind: Answer(**answer) for kind, answer in entry["answers"].items()}
    return ObjectResult(**(entry | {"answers": answers}))


def _certain(summary: Summary | None) -> Summary:
    assert summary is not None  # an evaluation without objects is refused before it is made
    return summary
