"""A finder beside what it is to be compared with: the grid of clicks, the base model's decoder, the true boxes.

Five rows on the same held-out images. The grid ranks its masks by predicted IoU, without the thresholds it has for
users: AP is about the order, and thresholds made for one model find nothing with another. The last row asks the decoder
with the true boxes; nothing that finds boxes can be better than it, so it says what the decoder costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samtune.config import AutomaticConfig, FindEvalConfig
from samtune.data.table import Dataset, ImageEntry
from samtune.embeddings.cache import encoder_fingerprint
from samtune.errors import DataError
from samtune.finder.calibration import EVIDENCE, calibration_error
from samtune.finder.finding import answer_boxes, check_fits, find, name_masks
from samtune.finder.head import STRIDE
from samtune.finder.measure import (
    FoundImage,
    Matched,
    Precision,
    TrueImage,
    coco_precision,
    coco_results,
    coco_truth,
    compress,
    matched,
    read_true,
    right_finds,
)
from samtune.finder.results import Finder, Finds
from samtune.inference.automatic import automatic_masks
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.preprocess import scale_boxes
from samtune.utils.files import new_folder, write_json
from samtune.utils.results import Result
from samtune.utils.text import text_table

FIGURES, TRUTH = "find.json", "truth.json"
_EVERYTHING = AutomaticConfig(min_iou_score=0.1, min_stability=0.5)
"""Of the grid's masks these are kept; AP is about their order."""


@dataclass(frozen=True)
class MethodResult:
    """One way to find objects, measured.

    Attributes:
        name: which.
        one_class: AP and AR as if there were one class.
        named: AP and AR with the right class; None where there are no classes, or the way has no names.
        images: what was found.
    """

    name: str
    one_class: Precision
    named: Precision | None
    images: tuple[FoundImage, ...]

    def cells(self, count: int) -> tuple[str, ...]:
        """Its line of a table with `count` figures, in %."""
        one = self.one_class
        figures = [one.ap, one.ap50, one.ap75, one.ar, *((self.named.ap, self.named.ap50) if self.named else ())]
        cells = [f"{100 * value:.1f}" for value in figures]
        return (self.name, *cells, *["-"] * (count - len(cells)))

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return {"one_class": asdict(self.one_class), "named": None if self.named is None else asdict(self.named)}


@dataclass(frozen=True)
class FindEvaluation(Result):
    """A finder on a split.

    Attributes:
        split: its name.
        classes: names in the order of their numbers.
        rows: the ways, the finder with the tuned decoder among them.
        matched: the finder with the tuned decoder, at its threshold.
        calibration_error: of its scores on this split, which had no part in fitting them unless it is valid.
        truth: the annotated objects.
    """

    split: str
    classes: tuple[str, ...]
    rows: tuple[MethodResult, ...]
    matched: Matched
    calibration_error: float
    truth: tuple[TrueImage, ...]

    @property
    def objects(self) -> int:
        """How many annotated objects there are."""
        return sum(len(one.masks) for one in self.truth)

    def in_short(self) -> str:
        """One sentence: what was found at the threshold."""
        right, wrong = self.matched.right, self.matched.finds - self.matched.right
        return f"found {right} of {self.objects} objects without any prompt, and {wrong} finds that are none"

    def lines(self) -> list[str]:
        """What to tell the user."""
        lines = [f"{self.objects} objects in {len(self.truth)} images of {self.split}; masks, in %"]
        head = ("", "AP", "AP50", "AP75", "AR", *(("named AP", "named AP50") if len(self.classes) > 1 else ()))
        lines += text_table(head, [row.cells(len(head) - 1) for row in self.rows])
        point, counts = self.matched.point, self.matched.count_error
        interval = (
            f" [{counts.low:.2f}, {counts.high:.2f}]" if counts.low is not None and counts.high is not None else ""
        )
        lines.append(
            f"from a score of {point.threshold:.2f} on: precision {point.precision:.2f}, recall {point.recall:.2f}, F1 "
            f"{point.f1:.2f}; counts off by {counts.mean:.2f}{interval} of {self.objects / len(self.truth):.1f}"
        )
        lines.append(f"a score is off by {self.calibration_error:.3f} from the share that is right")
        if len(self.classes) > 1:
            lines += self._confused()
        return lines

    def to_json(self) -> dict[str, Any]:
        """The figures, as in docs/finder.md."""
        found = self.matched
        return {
            "format": 1,
            "split": self.split,
            "images": len(self.truth),
            "objects": self.objects,
            "classes": list(self.classes),
            "rows": {
                row.name: {
                    "one_class": asdict(row.one_class),
                    "named": None if row.named is None else asdict(row.named),
                }
                for row in self.rows
            },
            "threshold": found.point.threshold,
            "precision": found.point.precision,
            "recall": found.point.recall,
            "f1": found.point.f1,
            "confusion": found.confusion.tolist(),
            "count_error": asdict(found.count_error),
            "relative_count_error": asdict(found.relative_count_error),
            "counts": {
                name: dict(zip(("annotated", "found"), pair, strict=True))
                for name, pair in zip(self.classes, found.counts.tolist(), strict=True)
            },
            "calibration_error": self.calibration_error,
        }

    def save(self, out: Path) -> None:
        """Write the figures, the annotated objects as COCO, and every row's finds as COCO results, into a folder."""
        named = len(self.classes) > 1
        with new_folder(out) as folder:
            write_json(folder / FIGURES, self.to_json())
            write_json(folder / TRUTH, coco_truth(self.truth, named=named))
            for row in self.rows:
                file = re.sub(r"\W+", "-", row.name) + ".json"
                write_json(folder / file, coco_results(row.images, named=named and row.named is not None))

    def _confused(self) -> list[str]:
        """For each class, what its objects were found as."""
        names = [*self.classes, "not found"]
        lines: list[str] = []
        for name, row in zip(self.classes, self.matched.confusion, strict=False):
            found_as = [f"{names[place]} {row[place]}" for place in np.argsort(-row, kind="stable") if row[place]]
            lines.append(f"  {name[:20]:<20} found as {', '.join(found_as) if found_as else 'nothing: no objects'}")
        return lines


def evaluate_finder(
    dataset: Dataset,
    tuned: Predictor,
    base: Predictor | None,
    finder: Finder,
    config: FindEvalConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FindEvaluation:
    """Measure a finder on a split.

    Args:
        dataset: whole; the split is chosen by `config`.
        tuned: the model the finder was made for.
        base: the model before tuning, for the rows about it; None leaves them out.
        finder: the finder.
        config: split, rows and threshold.
        progress: told of images done and their total.

    Raises:
        DataError: the split has no objects, or none of the finder's classes.
        ModelError: the finder was made for another encoder.
        ConfigError: no threshold gives the wanted precision or recall.
    """
    check_fits(finder, tuned)
    threshold = finder.chosen_threshold(config)
    images = dataset.split(config.split).images
    _check_classes(dataset, images, finder, config.split)
    share = base is not None and encoder_fingerprint(base.loaded.model) == finder.encoder
    rows: dict[str, list[FoundImage]] = {}
    truth: list[TrueImage] = []
    for done, image in enumerate(images, start=1):
        pixels = dataset.read_image(image)
        embedded = tuned.embed(pixels)
        of_base = embedded if share or base is None else base.embed(pixels)
        truth.append(read_true(dataset, image, finder.classes))
        found: dict[str, FoundImage] = {}
        if config.grid and base is not None:
            found["base, grid of clicks"] = _grid(base, of_base)
        if config.grid:
            found["tuned, grid of clicks"] = _grid(tuned, embedded)
        if base is not None and share:
            found["finder + base"] = FoundImage.of(find(base, embedded, finder, chunk=config.chunk))
        found["finder + tuned"] = FoundImage.of(find(tuned, embedded, finder, chunk=config.chunk))
        found["true boxes + tuned"] = _true_boxes(tuned, embedded, image, finder, config.chunk)
        for name, one in found.items():
            rows.setdefault(name, []).append(one)
        progress(done, len(images))
    ours = rows["finder + tuned"]
    return FindEvaluation(
        split=config.split,
        classes=finder.names,
        rows=tuple(_row(name, truth, found, finder) for name, found in rows.items()),
        matched=matched(truth, ours, len(finder.names), threshold),
        calibration_error=_calibration_error(truth, ours),
        truth=tuple(truth),
    )


def _row(name: str, truth: Sequence[TrueImage], found: Sequence[FoundImage], finder: Finder) -> MethodResult:
    has_names = finder.head.classes > 0 and "grid" not in name
    return MethodResult(
        name=name,
        one_class=coco_precision(truth, found, named=False),
        named=coco_precision(truth, found, named=True) if has_names else None,
        images=tuple(found),
    )


def _grid(predictor: Predictor, embedded: EmbeddedImage) -> FoundImage:
    """What a grid of clicks finds, ranked by predicted IoU."""
    masks = automatic_masks(predictor, embedded, _EVERYTHING)
    scores = np.array([one.iou_score for one in masks], np.float64)
    return FoundImage([compress(one.mask) for one in masks], np.zeros(len(masks), np.int64), scores)


@torch.no_grad()
def _true_boxes(
    predictor: Predictor, embedded: EmbeddedImage, image: ImageEntry, finder: Finder, chunk: int
) -> FoundImage:
    """The decoder's masks for the true boxes, with the finder's names for them."""
    boxes = torch.tensor([one.box for one in image.single_objects], dtype=torch.float32).reshape(-1, 4)
    cells = scale_boxes(boxes, embedded.size, finder.image_size) / STRIDE
    answers = answer_boxes(predictor, embedded, cells, chunk)
    classes, likely = name_masks(finder.head(embedded.embeddings).classes[0], answers.logits)
    scores = answers.iou_scores.astype(np.float64) * likely
    found = Finds(
        logits=answers.logits.cpu().numpy(),
        boxes=boxes.numpy(),
        classes=classes,
        evidence=np.zeros((len(boxes), len(EVIDENCE))),
        scores=scores,
        object_scores=answers.object_scores,
        size=embedded.size,
    )
    return FoundImage.of(found[np.argsort(-scores, kind="stable")])


def _calibration_error(truth: Sequence[TrueImage], found: Sequence[FoundImage]) -> float:
    pairs = [right_finds(one, these) for one, these in zip(truth, found, strict=True)]
    right, counted = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return calibration_error(np.concatenate([one.scores for one in found])[counted], right[counted])


def _check_classes(dataset: Dataset, images: Sequence[ImageEntry], finder: Finder, split: str) -> None:
    """A dataset whose classes the finder does not know would only be found wrong."""
    present = {one.category for image in images for one in image.single_objects}
    if not present:
        raise DataError.of(
            expected=f"objects in the {split} split", found=f"{len(images)} images without any", where=str(dataset.root)
        )
    if finder.head.classes and not present & set(finder.classes):
        raise DataError.of(
            expected=f"objects of the finder's classes: {', '.join(finder.classes)}",
            found=f"only others: {', '.join(sorted(present))}",
            where=str(dataset.root),
            do="evaluate on a dataset with these classes, or train a finder with --find-classes none",
        )
