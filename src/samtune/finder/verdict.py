"""An honest word: whether a finder is of use, and what holds it back where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from samtune.finder.results import Finder, Quality
from samtune.utils.results import Result

FEWEST_OBJECTS = 30
"""With fewer held-out objects nobody can tell a good finder from a lucky one."""
LEAST_F1 = 0.5
"""A finder with a lower F1 costs more corrections than it saves prompts."""
LEAST_SHARE = 0.7
"""Share of the objects that must be found, outlined or named; below, this is what holds the finder back."""
LARGEST_GAP = 0.25
"""Train F1 minus held-out F1 of boxes from which on the network remembers more than it learned."""


@dataclass(frozen=True, slots=True)
class Usefulness(Result):
    """Whether a finder is of use.

    Attributes:
        is_usable: it may be relied on for images like the held-out ones.
        reasons: why not, or what to keep in mind; in words.
    """

    is_usable: bool
    reasons: tuple[str, ...]

    def lines(self) -> list[str]:
        """What to tell the user."""
        head = "usable" if self.is_usable else "not usable: keep prompting"
        return [f"finder     {head}", *(f"           {reason}" for reason in self.reasons)]


def judge(finder: Finder) -> Usefulness:
    """Judge a finder by what was measured when it was made."""
    quality = finder.quality
    if quality is None:
        return Usefulness(False, ("nothing was held out, so nobody knows what it finds in new images", *_rare(finder)))
    few = quality.objects < FEWEST_OBJECTS
    poor = quality.point.f1 < LEAST_F1 or _is_no_better_than_a_grid(quality)
    reasons = list(_reasons(quality)) if poor else [_figures(quality)]
    if few:
        reasons.append(f"only {quality.objects} held-out objects, fewer than {FEWEST_OBJECTS}: too few to know")
    return Usefulness(not (few or poor), (*reasons, *_rare(finder)))


def _reasons(quality: Quality) -> Iterator[str]:
    """What holds a poor finder back; its figures alone where no part of it stands out."""
    yield _figures(quality)
    if _is_no_better_than_a_grid(quality):
        yield f"no better than a grid of clicks (predict --everything), whose F1 there is {quality.grid_f1:.2f}"
    if quality.outlined < LEAST_SHARE:
        yield f"cannot outline: asked with true boxes, the decoder draws {quality.outlined:.0%} of the objects right"
    if quality.found < LEAST_SHARE:
        yield f"cannot find: its boxes meet {quality.found:.0%} of the objects"
    if quality.named is not None and quality.named < LEAST_SHARE:
        yield (
            f"cannot name: asked with true boxes it names {quality.named:.0%} of the objects right; "
            "--find-classes none finds without names"
        )
    if quality.train_f1 - quality.valid_f1 > LARGEST_GAP:
        yield (
            f"overfits: boxes have an F1 of {quality.train_f1:.2f} on training images and {quality.valid_f1:.2f} on "
            "held-out ones; more images help"
        )


def _is_no_better_than_a_grid(quality: Quality) -> bool:
    """Whether a grid of clicks finds as well what has no names anyway."""
    return quality.named is None and quality.grid_f1 is not None and quality.point.f1 <= quality.grid_f1


def _figures(quality: Quality) -> str:
    point = quality.point
    return (
        f"precision {point.precision:.2f}, recall {point.recall:.2f}, F1 {point.f1:.2f} on {quality.objects} objects "
        f"in {quality.images} images, from a score of {point.threshold:.2f} on"
    )


def _rare(finder: Finder) -> Sequence[str]:
    return [f"too rare to learn: {name}, {count} training objects" for name, count in finder.rare]
