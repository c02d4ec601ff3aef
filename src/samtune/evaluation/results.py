"""What an evaluation found: the figures of every object and every background click, their summaries, their file.

The file's schema is documented in docs/evaluation.md and versioned by `FORMAT`. Summaries in the file are there for
readers; samtune computes them anew from the objects, so that they cannot disagree with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
from pydantic import TypeAdapter

from samtune.config import EvalConfig
from samtune.errors import DataError
from samtune.evaluation.boundaries import Boundary
from samtune.evaluation.intervals import COUNT, SHARE, Summary, summarize
from samtune.evaluation.metrics import Calibration, Detection, calibration, detection
from samtune.utils.files import new_file, write_json
from samtune.utils.results import Result
from samtune.utils.text import html_lines, html_table, one_line

FORMAT = 3
KINDS = ("box", "point")
"""Prompt kinds of every evaluation: exact boxes and single clicks."""
MASK = "mask"
"""The prompt kind of rough outlines."""
HAUSDORFF = "hausdorff_95"
BOUNDARIES = {
    "iou": "boundary IoU",
    "f_score": "boundary F",
    "surface_dice": "surface Dice",
    HAUSDORFF: "95 % Hausdorff",
}
"""Figures of how well edges lie, and what people call them; 0 to 1, but for the distance, which is in pixels."""
TARGETS = (0.85, 0.9)
"""IoUs for which the clicks an annotator needs are counted."""
SIZES = (("tiny", 16**2), ("small", 32**2), ("medium", 96**2), ("large", math.inf))
"""Size buckets, by mask pixels below the limit; 32 and 96 are COCO's."""
_OBJECT_COLUMNS = ("image_path", "annotation_id", "category", "group", "size", "area", "filled_box", "ellipse")
_ANSWER_COLUMNS = ("iou", "dice", "predicted_iou", "object_score", "first_of_three", "best_of_three")
_COLUMNS = {
    "split": pl.String,
    **dict.fromkeys(_OBJECT_COLUMNS[:5], pl.String),
    "area": pl.Int64,
    **dict.fromkeys(_OBJECT_COLUMNS[6:], pl.Float64),
    "kind": pl.String,
    **dict.fromkeys(_ANSWER_COLUMNS, pl.Float64),
    **dict.fromkeys((f"boundary_{name}" for name in Boundary.__dataclass_fields__), pl.Float64),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer to one prompt about one object.

    Attributes:
        iou, dice: of the mask that a user gets who asks for one mask (token 0's, or where that is unstable the best
            guess by predicted IoU), at full resolution, 0 to 1.
        predicted_iou: what the model said the IoU of that mask would be.
        object_score: logit that an object is there.
        first_of_three: exact boxes and clicks only: IoU of the guess that a user gets who asks for three masks and
            takes the one the model ranks first, as many tools do.
        best_of_three: exact boxes and clicks only: IoU of the best guess by the truth. No user gets this without
            choosing by eye.
        boundary: how well the edge lies, where that was measured.
    """

    iou: float
    dice: float
    predicted_iou: float
    object_score: float
    first_of_three: float | None = None
    best_of_three: float | None = None
    boundary: Boundary | None = None


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """One object and how the model did on it.

    Attributes:
        image_path, annotation_id, category, area: as in the table.
        group: objects of one group are not independent; intervals resample groups.
        filled_box, ellipse: IoU of the two trivial guesses at its box.
        answers: by kind of prompt: `box` and `point`; where asked for also jittered boxes, `box_jitter_0.1` and the
            like, and `mask`.
        clicks: IoU after the first click and after each correction click; empty where no corrections were simulated.
    """

    image_path: str
    annotation_id: str
    category: str
    group: str
    area: int
    filled_box: float
    ellipse: float
    answers: dict[str, Answer]
    clicks: tuple[float, ...] = ()

    @property
    def size(self) -> str:
        """`tiny`, `small`, `medium` or `large`, by mask pixels: under 16^2, 32^2, 96^2, or more."""
        return next(name for name, limit in SIZES if self.area < limit)


@dataclass(frozen=True, slots=True)
class BackgroundResult:
    """One click where nothing is annotated: below 0 the model says that no object is there."""

    image_path: str
    group: str
    object_score: float

    @property
    def is_refused(self) -> bool:
        """The model says that nothing is there."""
        return self.object_score < 0


@dataclass(frozen=True, slots=True)
class ClicksNeeded:
    """How many clicks an annotator needs.

    Attributes:
        target: IoU to be reached.
        clicks: mean over objects; one that never got there counts with all clicks that were made, so this is a lower
            bound where `failed` is above 0.
        failed: share of objects that never got there, 0 to 1.
    """

    target: float
    clicks: float
    failed: float


@dataclass(frozen=True)
class Evaluation(Result):
    """A model on a split.

    Attributes:
        model: what the model was asked for by.
        weights: sha256 of its weights.
        dataset: name of the dataset's folder.
        config: what was measured.
        images: images looked at.
        crowd: regions left out because they cover groups of objects.
        left_out: further objects left out by `config.max_objects`.
        objects: every object measured; at least one.
        background: every background click.
    """

    model: str
    weights: str
    dataset: str
    config: EvalConfig
    images: int
    crowd: int
    left_out: int
    objects: tuple[ObjectResult, ...]
    background: tuple[BackgroundResult, ...]

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.config.split

    def values(self, kind: str, figure: str = "iou") -> list[float]:
        """One figure of every object, in order."""
        return [getattr(found.answers[kind], figure) for found in self.objects]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind of prompt that was measured."""
        return tuple(self.objects[0].answers)

    @cached_property
    def groups(self) -> list[str]:
        """The group of every object, in order."""
        return [found.group for found in self.objects]

    def summary(self, kind: str, figure: str = "iou") -> Summary:
        """Mean, median and interval of a figure over all objects."""
        return _summary(self.values(kind, figure), self.groups)

    def boundaries(self, kind: str) -> dict[str, Summary]:
        """The same for how well edges lie, by the figures of `BOUNDARIES`; empty where that was not measured."""
        found = [one.answers[kind].boundary for one in self.objects]
        if None in found:
            return {}
        values = {name: [getattr(one, name) for one in found] for name in BOUNDARIES}
        return {
            name: _summary(ours, self.groups, bounds=COUNT if name == HAUSDORFF else SHARE)
            for name, ours in values.items()
        }

    def trivial(self, guess: str) -> Summary:
        """The same for `filled_box` or `ellipse`."""
        return _summary([getattr(found, guess) for found in self.objects], self.groups)

    def by(self, what: str, kind: str) -> dict[str, Summary]:
        """IoU for each `category`, `size` or `image_path`, by name."""
        return {
            name: _summary(
                [self.objects[row].answers[kind].iou for row in rows], [self.objects[row].group for row in rows]
            )
            for name, rows in self.rows_by(what).items()
        }

    def rows_by(self, what: str) -> dict[str, list[int]]:
        """Numbers of the objects of each `category`, `size` or `image_path`; sizes from small to large."""
        found: dict[str, list[int]] = {}
        for row, one in enumerate(self.objects):
            found.setdefault(getattr(one, what), []).append(row)
        order = {name: place for place, (name, _) in enumerate(SIZES)}
        return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 0) if what == "size" else 0, item[0])))

    def calibration(self, kind: str) -> Calibration:
        """How well the model predicts its own IoU."""
        found = calibration(self.values(kind, "predicted_iou"), self.values(kind, "iou"))
        assert found is not None
        return found

    def refusals(self) -> Summary | None:
        """Share of background clicks where the model says that nothing is there; None where no click was possible."""
        if not self.background:
            return None
        refused = [float(click.is_refused) for click in self.background]
        return _summary(refused, [click.group for click in self.background])

    def detection(self) -> Detection | None:
        """Precision and recall of "nothing here" on background clicks, against clicks on objects."""
        return detection(self.values("point", "object_score"), [click.object_score for click in self.background])

    def after_clicks(self) -> list[Summary]:
        """IoU after the first click and after each correction; empty where none were simulated."""
        curves = zip(*(one.clicks for one in self.objects), strict=True)
        return [_summary(ious, self.groups) for ious in curves]

    def clicks_needed(self, target: float) -> ClicksNeeded | None:
        """Clicks it takes to reach an IoU; None where no corrections were simulated."""
        curves = [one.clicks for one in self.objects]
        if not curves[0]:
            return None
        reached = [next((n for n, iou in enumerate(curve, 1) if iou >= target), None) for curve in curves]
        made = sum(len(curve) if n is None else n for n, curve in zip(reached, curves, strict=True))
        return ClicksNeeded(target, made / len(curves), reached.count(None) / len(curves))

    def lines(self) -> list[str]:
        """What to tell the user."""
        box, point = self.summary("box"), self.summary("point")
        three = {kind: [self.summary(kind, of).mean for of in ("first_of_three", "best_of_three")] for kind in KINDS}
        others = [kind for kind in self.kinds if kind not in KINDS]
        lines = [
            f"{self.model} on {self.split}: {box.count} objects in {box.groups} independent groups of images",
            _line("exact box", box, self.summary("box", "dice")),
            f"  trivial guesses  filled box {self.trivial('filled_box').mean:.3f}, "
            f"ellipse {self.trivial('ellipse').mean:.3f}",
            _three_guesses(*three["box"]),
            *_edges(self.boundaries("box")),
            *(_line(kind_title(kind), self.summary(kind), self.summary(kind, "dice")) for kind in others),
            _line("one click", point, self.summary("point", "dice")),
            _three_guesses(*three["point"]),
            *_edges(self.boundaries("point")),
        ]
        for target in TARGETS:
            needed = self.clicks_needed(target)
            if needed is not None:
                lines.append(
                    f"  to IoU {target:g}       {needed.clicks:.2f} clicks; {needed.failed:.0%} of the objects not "
                    f"within {len(self.objects[0].clicks)}"
                )
        categories = self.by("category", "box")
        if len(categories) > 1:
            lines += [f"  {name[:16]:<16} box IoU {one.mean:.3f} ({one.count})" for name, one in categories.items()]
        error = self.calibration("box").mean_error
        lines.append(f"predicted IoU    off by {error:.3f} on average for boxes")
        refusals = self.refusals()
        if refusals is not None:
            lines.append(f"background       says 'nothing here' to {refusals.mean:.0%} of {refusals.count} clicks")
        if self.crowd or self.left_out:
            lines.append(f"left out         {self.crowd} crowd regions, {self.left_out} objects by --max-objects")
        return lines

    def _repr_html_(self) -> str:
        figures = [(kind_title(kind), self.summary(kind), self.summary(kind, "dice")) for kind in self.kinds]
        rows = [(title, f"{iou.mean:.3f}", iou.interval_text, f"{dice.mean:.3f}") for title, iou, dice in figures]
        rows += [
            (title, f"{trivial.mean:.3f}", trivial.interval_text, "")
            for title, trivial in (("filled box", self.trivial("filled_box")), ("ellipse", self.trivial("ellipse")))
        ]
        what = f"{self.model} on {self.split}: {len(self.objects)} objects"
        return html_lines([what]) + html_table(("prompt", "IoU", "95 % interval", "Dice"), rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, as in docs/evaluation.md."""
        refused = self.refusals()
        needed = [found for target in TARGETS if (found := self.clicks_needed(target)) is not None]
        return {
            "format": FORMAT,
            "model": self.model,
            "weights": self.weights,
            "dataset": self.dataset,
            "config": self.config.model_dump(mode="json"),
            "images": self.images,
            "crowd": self.crowd,
            "left_out": self.left_out,
            "summary": {
                **{kind: self._kind_json(kind) for kind in self.kinds},
                "filled_box": asdict(self.trivial("filled_box")),
                "ellipse": asdict(self.trivial("ellipse")),
                "background_refused": None if refused is None else asdict(refused),
                "nothing_here": None if (found := self.detection()) is None else asdict(found),
                "after_clicks": [asdict(one) for one in self.after_clicks()],
                "clicks_needed": [asdict(one) for one in needed],
            },
            "objects": [asdict(found) for found in self.objects],
            "background": [asdict(click) for click in self.background],
        }

    def save(self, path: Path) -> None:
        """Write `to_json` as a file, and `to_frame` as a Parquet file of the same name beside it."""
        with new_file(path.with_suffix(".parquet")) as temporary:
            self.to_frame().write_parquet(temporary)
        write_json(path, self.to_json())

    def to_frame(self) -> pl.DataFrame:
        """One row per object and prompt kind: the object, the kind, and the answer's figures."""
        rows = [
            {
                "split": self.split,
                **{name: getattr(one, name) for name in _OBJECT_COLUMNS},
                "kind": kind,
                **{name: getattr(answer, name) for name in _ANSWER_COLUMNS},
                **{f"boundary_{name}": getattr(answer.boundary, name, None) for name in Boundary.__dataclass_fields__},
            }
            for one in self.objects
            for kind, answer in one.answers.items()
        ]
        return pl.DataFrame(rows, schema=_COLUMNS)

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, not such a file, or one of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            return _checked(_FILE.validate_python({name: content[name] for name in cls.__dataclass_fields__}))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError.of(
                expected=f"a file that samtune evaluate wrote, format {FORMAT}",
                found=one_line(error),
                where=str(path),
                do="evaluate again",
            ) from error

    def _kind_json(self, kind: str) -> dict[str, Any]:
        figures = ("iou", "dice", "first_of_three", "best_of_three") if kind in KINDS else ("iou", "dice")
        return {
            **{figure: asdict(self.summary(kind, figure)) for figure in figures},
            "boundary": {name: asdict(one) for name, one in self.boundaries(kind).items()} or None,
            "calibration": asdict(self.calibration(kind)),
            "by_category": {name: asdict(one) for name, one in self.by("category", kind).items()},
            "by_size": {name: asdict(one) for name, one in self.by("size", kind).items()},
        }


def _summary(values: Sequence[float], groups: Sequence[str], bounds: tuple[float, float] = SHARE) -> Summary:
    found = summarize(values, groups, bounds=bounds)
    assert found is not None  # an evaluation without objects is refused before it is made
    return found


_FILE = TypeAdapter(Evaluation)


def _checked(found: Evaluation) -> Evaluation:
    """What types alone do not say."""
    if not found.objects:
        raise ValueError("no objects")
    for one in found.objects:
        if not set(KINDS) <= set(one.answers) or any(one.answers[kind].best_of_three is None for kind in KINDS):
            raise ValueError(f"object {one.annotation_id!r} without all its answers")
        if set(one.answers) != set(found.objects[0].answers):
            raise ValueError(f"object {one.annotation_id!r} with answers to other prompts")
        if len(one.clicks) != len(found.objects[0].clicks):
            raise ValueError(f"object {one.annotation_id!r} with another number of clicks")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name}")


def kind_title(kind: str) -> str:
    """A kind of prompt for people."""
    if kind.startswith("box_jitter_"):
        return f"box ±{float(kind.removeprefix('box_jitter_')):.0%}"
    return {"box": "exact box", "point": "one click", MASK: "rough outline"}.get(kind, kind)


def _three_guesses(first: float, best: float) -> str:
    return f"  three guesses    the model's first {first:.3f}, the best by the truth {best:.3f}"


def _edges(found: Mapping[str, Summary]) -> list[str]:
    """One line about edges, where they were measured."""
    figures = [f"{title} {found[name].mean:.3f}" for name, title in BOUNDARIES.items() if name in found]
    return [f"  edges            {', '.join(figures)} px"] if figures else []


def _line(name: str, iou: Summary, dice: Summary) -> str:
    return f"{name:<16} IoU {iou}, median {iou.median:.3f}, Dice {dice.mean:.3f}"
