"""Figures of automatic masks, those found by a grid of clicks without any prompt; measured by `report/automatic.py`."""

from __future__ import annotations

from dataclasses import dataclass

from samtune.evaluation.intervals import Summary


@dataclass(frozen=True, slots=True)
class AutomaticFigures:
    """What one model finds on a split.

    Attributes:
        ap, ap50, ap75: COCO's average precision of masks, all of one class, 0 to 1.
        ar: average recall over the same IoUs, 0 to 1.
        found, annotated: masks and objects on all images.
        count_error: |found - annotated| of each image, with an interval over groups.
    """

    ap: float
    ap50: float
    ap75: float
    ar: float
    found: int
    annotated: int
    count_error: Summary


@dataclass(frozen=True, slots=True)
class AutomaticComparison:
    """Base and tuned model on the same images; objects that nobody annotated count as mistakes of both."""

    base: AutomaticFigures
    tuned: AutomaticFigures

    def lines(self) -> list[str]:
        """What to tell the user."""
        b, t = self.base, self.tuned
        return [
            f"{'automatic':<14} AP {b.ap:.3f} -> {t.ap:.3f}, AR {b.ar:.3f} -> {t.ar:.3f}, "
            f"count off by {b.count_error.mean:.1f} -> {t.count_error.mean:.1f} an image"
        ]
