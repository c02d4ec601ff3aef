"""The verdict on a tuned model: ship, ship for these prompts only, do not ship, or too little data to say.

It is decided from paired differences and guards, and each outcome comes with its reasons in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from samtune.evaluation.intervals import Summary
from samtune.evaluation.paired import NEGLIGIBLE, Guard, PairedDifference, interval_state

FEWEST_GROUPS, FEWEST_OBJECTS = 5, 20
"""With fewer independent groups of images, or fewer objects, there is no verdict (docs/decisions/0090)."""
ALL_TOGETHER = 0.96
"""Confidence of all intervals that a gain is looked for in: without a gain, 2 models in 100 are called better."""
NAMES = {"box": "boxes", "point": "clicks"}
"""What users call the prompt kinds that a gain is looked for in."""
ORDER = ("ship", "ship for these prompts only", "too little data to say", "do not ship")
"""Outcomes from best to worst, for ranking several models."""


class Outcome(StrEnum):
    """The four verdicts, best first where they can be ordered."""

    SHIP = "ship"
    SHIP_FOR_SOME = "ship for these prompts only"
    DO_NOT_SHIP = "do not ship"
    TOO_LITTLE = "too little data to say"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to use the tuned model, and why.

    Attributes:
        outcome: one of four.
        prompts: prompt kinds that the tuned model is surely better for and not damaged for.
        excluded: uses that a damaged guard rules out, in words.
        reasons: plain sentences, the most important first.
    """

    outcome: Outcome
    prompts: tuple[str, ...]
    excluded: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        if self.outcome is Outcome.SHIP_FOR_SOME:
            kinds = " and ".join(NAMES[kind] for kind in self.prompts)
            return f"Ship for {kinds} only" + (f", not for {', '.join(self.excluded)}" if self.excluded else "")
        return self.outcome.capitalize()

    def __str__(self) -> str:
        return f"{self.headline}: {self.reasons[0]}"

    def meets(self, required: str) -> bool:
        """Whether this is at least what a pipeline requires: `ship`, or `some`, which also takes some prompts only."""
        accepted = (Outcome.SHIP,) if required == "ship" else (Outcome.SHIP, Outcome.SHIP_FOR_SOME)
        return self.outcome in accepted

    def to_json(self) -> dict[str, Any]:
        """For `comparison.json`."""
        return {
            "outcome": self.outcome.value,
            "headline": self.headline,
            "prompts": list(self.prompts),
            "excluded": list(self.excluded),
            "reasons": list(self.reasons),
        }


def corrected_confidence(kinds: int, models: int = 1) -> float:
    """Confidence of each of several intervals so that all hold together with `ALL_TOGETHER` (Bonferroni).

    Args:
        kinds: prompt kinds that a gain is looked for in.
        models: tuned models compared with one base.
    """
    return 1 - (1 - ALL_TOGETHER) / (kinds * models)


def decide(
    differences: Mapping[str, PairedDifference],
    gains: Mapping[str, Summary],
    guards: Sequence[Guard],
    *,
    is_held_out: bool,
    is_unchanged: bool,
) -> Verdict:
    """The verdict.

    Args:
        differences: by prompt kind that a gain is looked for in, for the words.
        gains: by the same kinds, with intervals of `corrected_confidence`: these decide whether there is a gain.
        guards: everything else that was watched.
        is_held_out: the objects are not of the training split.
        is_unchanged: both models have the same weights.
    """
    seen = [f"{_capital(NAMES[kind])}: IoU {found}, {state_words(found)}." for kind, found in differences.items()]
    any_gain = next(iter(gains.values()))
    where = f"{any_gain.count} held-out objects from {groups_text(any_gain.groups)}"
    if is_unchanged:
        reason = "both models have the same weights; training kept the base model, or it was compared with itself."
        return Verdict(Outcome.DO_NOT_SHIP, (), (), (reason,))
    if not is_held_out:
        reason = "these are training images, which say nothing about new ones; compare on --split test. What was seen:"
        return Verdict(Outcome.TOO_LITTLE, (), (), (reason, *seen))
    if any_gain.groups < FEWEST_GROUPS or any_gain.count < FEWEST_OBJECTS:
        reason = (
            f"there are {where}, and a verdict needs {FEWEST_OBJECTS} objects from {FEWEST_GROUPS} groups; "
            "hold out more images. What was seen:"
        )
        return Verdict(Outcome.TOO_LITTLE, (), (), (reason, *seen))
    damaged = [guard for guard in guards if guard.is_damaged]
    better = [kind for kind, gain in gains.items() if interval_state(gain) == "better"]
    damages = tuple(damage_text(guard) for guard in damaged)
    if not better:
        return _without_gain(gains, differences, where, (*seen, *damages))
    limited = {guard.limits for guard in damaged}
    kept = tuple(kind for kind in better if kind not in limited)
    if not kept:
        reason = f"the gain for {' and '.join(NAMES[kind] for kind in better)} cost too much elsewhere."
        return Verdict(Outcome.DO_NOT_SHIP, (), tuple(sorted(limited)), (reason, *seen, *damages))
    gained = " and ".join(f"{NAMES[kind]}, IoU {differences[kind]}" for kind in kept)
    reason = f"better for {gained}, on {where}."
    others = [text for kind, text in zip(differences, seen, strict=True) if kind not in kept]
    excluded = tuple(NAMES.get(name, name) for name in sorted(limited))
    outcome = Outcome.SHIP_FOR_SOME if damaged else Outcome.SHIP
    return Verdict(outcome, kept, excluded, (reason, *damages, *others))


def _without_gain(
    gains: Mapping[str, Summary], differences: Mapping[str, PairedDifference], where: str, seen: tuple[str, ...]
) -> Verdict:
    """No prompt kind is surely better: the model is worse, or as good, or the data cannot tell."""
    worse = [kind for kind, found in differences.items() if found.is_worse]
    if worse:
        reason = f"worse for {' and '.join(NAMES[kind] for kind in worse)}, on {where}; use the base model."
        return Verdict(Outcome.DO_NOT_SHIP, (), (), (reason, *seen))
    most = max(gain.high if gain.high is not None else 1.0 for gain in gains.values())
    if most < NEGLIGIBLE:
        reason = f"no gain worth having: at most {most:+.3f}, on {where}; use the base model."
        return Verdict(Outcome.DO_NOT_SHIP, (), (), (reason, *seen))
    reason = f"no clear difference on {where}; the intervals include 0.{_groups_needed(gains)} What was seen:"
    return Verdict(Outcome.TOO_LITTLE, (), (), (reason, *seen))


def _groups_needed(gains: Mapping[str, Summary]) -> str:
    """How many groups would show a gain of the size seen, where it is one worth having."""
    best = max(gains.values(), key=lambda gain: gain.mean)
    if best.low is None or best.mean < NEGLIGIBLE:
        return ""
    needed = math.ceil(best.groups * ((best.mean - best.low) / best.mean) ** 2)
    return f" If the gain is as large as seen, about {needed} groups would show it."


def damage_text(guard: Guard) -> str:
    """One sentence about a damaged guard, and what to do."""
    return f"{guard.title} got worse: {guard.base:.3f} -> {guard.tuned:.3f}. {guard.advice}"


def state_words(found: PairedDifference) -> str:
    """The state of a difference for people."""
    return {"better": "better", "worse": "worse", "unclear": "no clear difference"}[found.state]


def groups_text(count: int) -> str:
    """A number of groups for people."""
    return f"{count} independent groups of images" if count != 1 else "a single group of images"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
