"""A finder beside what it is to be compared with: the grid of clicks, the base model's decoder, the true boxes.

Five rows on the same held-out images. AP and AR are about the order of all finds, for the grid by predicted IoU;
precision, recall and counts are about what a user gets, with the threshold of the finder and those of the grid. The
last row asks the decoder with the true boxes; nothing that finds boxes can be better than it, so it says what the
decoder costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from samtune.config import FindEvalConfig
from samtune.data.table import Dataset, ImageEntry
from samtune.embeddings.cache import encoder_fingerprint
from samtune.errors import DataError
from samtune.finder.calibration import EVIDENCE, calibration_error, error_by_chance
from samtune.finder.caveats import about_classes, about_decoder, about_sizes
from samtune.finder.coco import Precision, coco_precision, coco_results, coco_truth
from samtune.finder.finding import Looks, answer_boxes, check_fits, find, look
from samtune.finder.grid import GridFinds, find_by_grid
from samtune.finder.head import STRIDE
from samtune.finder.measure import (
    FoundImage,
    Matched,
    TrueImage,
    matched,
    read_true,
    right_finds,
)
from samtune.finder.results import Finder, Finds
from samtune.finder.verdict import Usefulness, judge
from samtune.inference.predictor import Predictor
from samtune.model.preprocess import scale_boxes
from samtune.utils.files import new_folder, write_json
from samtune.utils.results import Result
from samtune.utils.text import text_table

FIGURES, TRUTH = "find.json", "truth.json"
OURS, BOUND = "finder + tuned", "true boxes + tuned"
BASE_GRID, TUNED_GRID = "base, grid of clicks", "tuned, grid of clicks"
ANOTHER_ENCODER = "without the row finder + base: the base model has another image encoder than the finder was made for"


@dataclass(frozen=True)
class MethodResult:
    """One way to find objects, measured.

    Attributes:
        name: which.
        one_class: AP and AR as if there were one class.
        named: AP and AR with the right class; None where there are no classes, or the way has no names.
        matched: what its threshold keeps; with the right class where it has names.
        images: what was found, in the order of the scores.
    """

    name: str
    one_class: Precision
    named: Precision | None
    matched: Matched
    images: tuple[FoundImage, ...]

    def cells(self, *, with_names: bool) -> tuple[str, ...]:
        """Its line of the table."""
        one, kept = self.one_class, self.matched
        shares = [f"{100 * value:.1f}" for value in (one.ap, one.ap50, one.ap75, one.ar)]
        if with_names:
            shares += [f"{100 * value:.1f}" for value in (self.named.ap, self.named.ap50)] if self.named else ["-"] * 2
        figures = (kept.point.precision, kept.point.recall, kept.point.f1, kept.count_error.mean)
        return (self.name, *shares, *(f"{value:.2f}" for value in figures))

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        named = None if self.named is None else self.named.to_json()
        return {"one_class": self.one_class.to_json(), "named": named, "kept": self.matched.to_json()}


@dataclass(frozen=True)
class FindEvaluation(Result):
    """A finder on a split.

    Attributes:
        split: its name.
        classes: names in the order of their numbers.
        rows: the ways, the finder with the tuned decoder among them.
        calibration_error: of its scores on this split, which had no part in fitting them unless it is valid.
        error_by_chance: what that would be, on so few finds, if each score were exactly right.
        chosen_on: which images the finder's threshold comes from, in words.
        usefulness: what was said of the finder when it was made.
        truth: the annotated objects.
        caveats: what to keep in mind about these figures, in words.
    """

    split: str
    classes: tuple[str, ...]
    rows: tuple[MethodResult, ...]
    calibration_error: float
    error_by_chance: float
    chosen_on: str
    usefulness: Usefulness
    truth: tuple[TrueImage, ...]
    caveats: tuple[str, ...] = ()

    @property
    def ours(self) -> MethodResult:
        """The finder with the tuned decoder."""
        return next(row for row in self.rows if row.name == OURS)

    @property
    def matched(self) -> Matched:
        """The finder with the tuned decoder, at its threshold."""
        return self.ours.matched

    @property
    def objects(self) -> int:
        """How many annotated objects there are."""
        return sum(len(one.masks) for one in self.truth)

    def in_short(self) -> str:
        """One sentence: what was found at the threshold."""
        right, wrong = self.matched.right, self.matched.finds - self.matched.right
        return f"found {right} of {self.objects} objects without any prompt, with {wrong} wrong finds"

    def lines(self) -> list[str]:
        """What to tell the user."""
        lines = [f"{self.objects} objects in {len(self.truth)} images of {self.split}; masks, in %"]
        named = ("named AP", "named AP50") if len(self.classes) > 1 else ()
        head = ("", "AP", "AP50", "AP75", "AR", *named, "precision", "recall", "F1", "count off")
        lines += text_table(head, [row.cells(with_names=bool(named)) for row in self.rows])
        intervals = self.ours.one_class.in_short()
        if named and self.ours.named is not None:
            intervals += f"; named {self.ours.named.in_short()}"
        lines.append(f"{OURS}: {intervals}")
        point, counts = self.matched.point, self.matched.count_error
        interval = (
            f" [{counts.low:.2f}, {counts.high:.2f}]" if counts.low is not None and counts.high is not None else ""
        )
        lines.append(
            f"from a score of {point.threshold:.2f} on: precision {point.precision:.2f}, recall {point.recall:.2f}, F1 "
            f"{point.f1:.2f}; counts off by {counts.mean:.2f}{interval} of {self.objects / len(self.truth):.1f}"
        )
        lines.append(
            f"a score is off by {self.calibration_error:.3f} from the share that is right; "
            f"if all were exact, so few finds would show {self.error_by_chance:.3f}"
        )
        lines.append(f"scores and threshold were chosen on {self.chosen_on}")
        if len(self.classes) > 1:
            lines += self._confused()
        return [*lines, *(f"{'warning':<10} {one}" for one in self.caveats)]

    def to_json(self) -> dict[str, Any]:
        """The figures, as in docs/finder.md."""
        found = self.matched
        return {
            "format": 1,
            "split": self.split,
            "images": len(self.truth),
            "objects": self.objects,
            "classes": list(self.classes),
            "rows": {row.name: row.to_json() for row in self.rows},
            **found.to_json(),
            "confusion": found.confusion.tolist(),
            "counts": {
                name: dict(zip(("annotated", "found"), pair, strict=True))
                for name, pair in zip(self.classes, found.counts.tolist(), strict=True)
            },
            "calibration_error": self.calibration_error,
            "error_by_chance": self.error_by_chance,
            "chosen_on": self.chosen_on,
            "is_usable": self.usefulness.is_usable,
            "reasons": list(self.usefulness.reasons),
            "caveats": list(self.caveats),
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
    grids: Mapping[str, Sequence[GridFinds]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FindEvaluation:
    """Measure a finder on a split.

    Args:
        dataset: whole; the split is chosen by `config`.
        tuned: the model the finder was made for.
        base: the model before tuning, for the rows about it; None leaves them out.
        finder: the finder.
        config: split, rows and threshold.
        grids: what grids of clicks find in the same images, by the name of the row, where that is known already.
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
    by_grid = {name: list(found) for name, found in (grids or {}).items()}
    by_finder: dict[str, list[FoundImage]] = {}
    truth: list[TrueImage] = []
    for done, image in enumerate(images, start=1):
        pixels = dataset.read_image(image)
        seen = Looks.by(tuned, pixels, finder.looks)
        truth.append(read_true(dataset, image, finder.classes))
        if config.grid and grids is None:
            if base is not None:
                by_grid.setdefault(BASE_GRID, []).append(
                    find_by_grid(base, seen.embedded if share else base.embed(pixels))
                )
            by_grid.setdefault(TUNED_GRID, []).append(find_by_grid(tuned, seen.embedded))
        for name, found in _by_finder(base if share else None, tuned, seen, image, finder, config.chunk).items():
            by_finder.setdefault(name, []).append(found)
        progress(done, len(images))
    rows = [_grid_row(name, truth, found) for name, found in by_grid.items()]
    rows += [_row(name, truth, found, finder, threshold) for name, found in by_finder.items()]
    scores, right = _judged(truth, by_finder[OURS])
    return FindEvaluation(
        split=config.split,
        classes=finder.names,
        rows=tuple(rows),
        calibration_error=calibration_error(scores, right),
        error_by_chance=error_by_chance(scores),
        chosen_on=finder.chosen_on,
        usefulness=judge(finder),
        truth=tuple(truth),
        caveats=(
            *about_decoder(finder, tuned.loaded),
            *about_classes(finder, images),
            *about_sizes(finder, [(image.width, image.height) for image in images]),
            *about_grids(rows),
            *([ANOTHER_ENCODER] if base is not None and not share else []),
        ),
    )


def _by_finder(
    base: Predictor | None, tuned: Predictor, seen: Looks, image: ImageEntry, finder: Finder, chunk: int
) -> dict[str, FoundImage]:
    """What the finder finds in an image, by the names of the rows; without a base of its encoder one less."""
    found: dict[str, FoundImage] = {}
    if base is not None:
        found["finder + base"] = FoundImage.of(find(base, seen, finder, chunk=chunk))
    found[OURS] = FoundImage.of(find(tuned, seen, finder, chunk=chunk))
    found[BOUND] = _true_boxes(tuned, seen, image, finder, chunk)
    return found


def about_grids(rows: Sequence[MethodResult]) -> list[str]:
    """Which grids of clicks find as well as the finder does, where they were measured."""
    ours = next(row.one_class.ap50 for row in rows if row.name == OURS)
    return [
        f"no better than the {row.name}, on these images: AP50 {100 * ours:.1f} against {100 * row.one_class.ap50:.1f}"
        for row in rows
        if row.name in (BASE_GRID, TUNED_GRID) and row.one_class.ap50 >= ours
    ]


def _row(
    name: str, truth: Sequence[TrueImage], found: Sequence[FoundImage], finder: Finder, threshold: float
) -> MethodResult:
    """A way that has the finder's names; of the answers to true boxes all are kept."""
    return MethodResult(
        name=name,
        one_class=coco_precision(truth, found, named=False),
        named=coco_precision(truth, found, named=True) if finder.head.classes > 0 else None,
        matched=matched(truth, found, len(finder.names), 0.0 if name == BOUND else threshold),
        images=tuple(found),
    )


def _grid_row(name: str, truth: Sequence[TrueImage], found: Sequence[GridFinds]) -> MethodResult:
    """A grid of clicks: it has no names, and is not asked for them."""
    ranked, unnamed = [one.ranked for one in found], [one.unnamed() for one in truth]
    kept = matched(unnamed, [one.kept for one in found], 1, 0.0)
    return MethodResult(name, coco_precision(truth, ranked, named=False), None, kept, tuple(ranked))


@torch.no_grad()
def _true_boxes(predictor: Predictor, seen: Looks, image: ImageEntry, finder: Finder, chunk: int) -> FoundImage:
    """The decoder's masks for the true boxes, with the finder's names for them."""
    boxes = torch.tensor([one.box for one in image.single_objects], dtype=torch.float32).reshape(-1, 4)
    cells = scale_boxes(boxes, seen.embedded.size, finder.image_size) / STRIDE
    answers = answer_boxes(predictor, seen.embedded, cells, chunk)
    maps = look(finder.head, seen).classes[0]
    classes, likely = finder.namer(maps, answers.logits, answers.iou_scores)
    scores = answers.iou_scores.astype(np.float64) * likely
    found = Finds(
        logits=answers.logits.cpu().numpy(),
        boxes=boxes.numpy(),
        classes=classes,
        evidence=np.zeros((len(boxes), len(EVIDENCE))),
        scores=scores,
        object_scores=answers.object_scores,
        size=seen.embedded.size,
    )
    return FoundImage.of(found[np.argsort(-scores, kind="stable")])


def _judged(truth: Sequence[TrueImage], found: Sequence[FoundImage]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Scores of the finds of all images, and which of them are right; those in crowd regions are left out."""
    pairs = [right_finds(one, these) for one, these in zip(truth, found, strict=True)]
    right, counted = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return np.concatenate([one.scores for one in found])[counted], right[counted]


def knows_classes(finder: Finder, images: Sequence[ImageEntry]) -> bool:
    """Whether some object of the images has a class that the finder can find."""
    present = {one.category for image in images for one in image.single_objects}
    return bool(present & set(finder.classes) if finder.classes else present)


def _check_classes(dataset: Dataset, images: Sequence[ImageEntry], finder: Finder, split: str) -> None:
    """A dataset whose classes the finder does not know would only be found wrong."""
    present = {one.category for image in images for one in image.single_objects}
    if not present:
        raise DataError.of(
            expected=f"objects in the {split} split", found=f"{len(images)} images without any", where=str(dataset.root)
        )
    if not knows_classes(finder, images):
        raise DataError.of(
            expected=f"objects of the finder's classes: {', '.join(finder.classes)}",
            found=f"only others: {', '.join(sorted(present))}",
            where=str(dataset.root),
            do="evaluate on a dataset with these classes, or train a finder with --find-classes none",
        )
