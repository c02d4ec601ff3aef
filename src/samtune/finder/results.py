"""Values of the finder: the finder itself, what it finds in an image, what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samtune.config import FindConfig
from samtune.errors import ConfigError
from samtune.finder.calibration import ScoreCalibration
from samtune.finder.head import FinderHead
from samtune.finder.matching import OperatingPoint, with_precision, with_recall
from samtune.finder.naming import Namer

ONE_CLASS = "object"
"""What everything is called by a finder without classes."""


@dataclass(frozen=True)
class Finds:
    """What was found in one image: N objects, the surest first, no duplicates among them.

    Attributes:
        logits: float32 `[N, h, w]`, low-res mask logits as the decoder gave them.
        boxes: float32 `[N, 4]`, the boxes the decoder was asked with, xyxy in pixels of the image.
        classes: int64 `[N]`, number of the class.
        evidence: float64 `[N, 4]`, see `calibration.EVIDENCE`.
        scores: float64 `[N]`, calibrated, 0 to 1.
        object_scores: float32 `[N]`, the decoder's logits that there is an object.
        size: (H, W) of the image in pixels.
    """

    logits: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    evidence: NDArray[np.float64]
    scores: NDArray[np.float64]
    object_scores: NDArray[np.float32]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: NDArray[Any]) -> Finds:
        """Some of them, by number or by mask."""
        return Finds(
            logits=self.logits[rows],
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            evidence=self.evidence[rows],
            scores=self.scores[rows],
            object_scores=self.object_scores[rows],
            size=self.size,
        )

    def above(self, threshold: float) -> Finds:
        """Those scored at least `threshold`."""
        return self[self.scores >= threshold]


@dataclass(frozen=True, slots=True)
class Quality:
    """A finder on held-out images, with the masks of its decoder.

    Attributes:
        images, objects: how many.
        point: the threshold for a good F1, precision and recall there; right is a mask of IoU 0.5 and the right name.
        found: share of the objects that some proposed box meets with an IoU of 0.5.
        outlined: share of the objects whose mask, asked for with the true box, has an IoU of 0.5.
        named: share of the objects named right where the decoder is asked with their true boxes; None without classes.
        train_f1, valid_f1: of proposed boxes, see `training.box_f1`.
        calibration_error: of the scores, on the images they were fitted on.
        grid_f1: F1 of a grid of clicks on validation, where `samtune fit-grid` measured it before; it has no names.
    """

    images: int
    objects: int
    point: OperatingPoint
    found: float
    outlined: float
    named: float | None
    train_f1: float
    valid_f1: float
    calibration_error: float
    grid_f1: float | None = None


@dataclass(frozen=True)
class Finder:
    """A finder that is ready to use.

    Attributes:
        head: the network.
        classes: names in the order of their numbers; none for a finder that does not name.
        namer: what tells the classes from the network's class maps and the decoder's masks.
        most: peaks to look at in an image.
        looks: 1, or 2 for a finder that looks at the mirror image too.
        image_size: side of the model's input in pixels.
        encoder: fingerprint of the encoder whose embeddings it reads.
        decoder: fingerprint of the model whose decoder its scores and thresholds were made with.
        calibration: of its scores.
        points: what each threshold gave on validation, the strictest first.
        chosen_on: which images `calibration` and `points` come from, in words.
        rare: classes with too few examples to be learned, and how many they have.
        sides: smallest and largest width, smallest and largest height of the images it learned from, in pixels; empty
            where that is not known.
        quality: what was measured when it was made; None where nothing was held out.
        about: settings and history, for people.
    """

    head: FinderHead = field(repr=False)
    classes: tuple[str, ...]
    most: int
    image_size: int
    encoder: str
    decoder: str
    namer: Namer = field(default_factory=Namer, repr=False)
    looks: int = 1
    calibration: ScoreCalibration = field(default_factory=ScoreCalibration)
    points: tuple[OperatingPoint, ...] = ()
    chosen_on: str = "nothing"
    rare: tuple[tuple[str, int], ...] = ()
    sides: tuple[tuple[int, int], ...] = ()
    quality: Quality | None = None
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What a find may be called, in the order of class numbers."""
        return self.classes or (ONE_CLASS,)

    @property
    def threshold(self) -> float:
        """The least score to keep for a good F1, as validation has it; 0.5 where there was none."""
        return self.quality.point.threshold if self.quality else 0.5

    def chosen_threshold(self, wish: FindConfig) -> float:
        """The least score to keep, as the settings wish: given, or by precision or recall on validation, or a good F1.

        Raises:
            ConfigError: no threshold gives what is wished.
        """
        if wish.threshold is not None:
            return wish.threshold
        if wish.precision is not None:
            point, words = with_precision(self.points, wish.precision), f"a precision of {wish.precision:g}"
            reached = max((one.precision for one in self.points), default=0.0)
        elif wish.recall is not None:
            point, words = with_recall(self.points, wish.recall), f"a recall of {wish.recall:g}"
            reached = max((one.recall for one in self.points), default=0.0)
        else:
            return self.threshold
        if point is None:
            raise ConfigError.of(
                expected=f"{words} that some threshold gives on held-out images",
                found=f"at most {reached:.2f}, on {self.chosen_on}",
                do="ask for less, or give --threshold",
            )
        return point.threshold
