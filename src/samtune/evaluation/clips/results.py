"""What an evaluation of clips found: J, F and J&F of every object, of one model or of base and tuned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from samtune.evaluation.clips.measures import ObjectScore
from samtune.evaluation.clips.protocol import ClipScores
from samtune.evaluation.intervals import Summary, summarize
from samtune.evaluation.paired import PairedDifference
from samtune.utils.results import Result
from samtune.utils.text import text_table

FORMAT = 1
MEASURES = {"j_and_f": "J&F", "j": "J", "f": "F"}
"""Names in the file, and for people."""


@dataclass(frozen=True)
class ClipEvaluation(Result):
    """How well objects were followed.

    Attributes:
        model: what it was asked for by.
        prompt: how objects were given: `mask`, `box` or `click`.
        split: of the clips.
        scores: by clip and object.
        still: the same of true masks that are left where objects are given; see `stand_still`.
        base: name of the model before tuning; empty where none was measured.
        base_scores: of the same clips and objects; empty where none was measured.
    """

    model: str
    prompt: str
    split: str
    scores: ClipScores
    still: ClipScores
    base: str = ""
    base_scores: ClipScores | None = None

    def summary(self, measure: str) -> Summary:
        """One of `MEASURES` over objects, with its 95 % interval over clips."""
        return self._summary(self.scores, measure)

    def _summary(self, scores: ClipScores, measure: str) -> Summary:
        found = summarize(values_of(scores, measure), self.groups)
        assert found is not None, "clips without objects were refused"
        return found

    @property
    def groups(self) -> list[str]:
        """The clip of each object."""
        return groups_of(self.scores)

    @property
    def differences(self) -> dict[str, PairedDifference]:
        """Tuned minus base for each of `MEASURES`; empty where no base was measured."""
        if self.base_scores is None:
            return {}
        return {
            name: PairedDifference.of(values_of(self.base_scores, name), values_of(self.scores, name), self.groups)
            for name in MEASURES
        }

    def lines(self) -> list[str]:
        """What to tell the user."""
        clips, objects = len(self.scores), len(self.groups)
        head = (
            f"{objects} objects in {clips} clips of {self.split}, given by their {self.prompt} where they first appear"
        )
        still = f"to beat    J&F {self._summary(self.still, 'j_and_f')} for true masks that stay where they are given"
        if self.base_scores is None:
            return [head, *(f"{title:<5} {self.summary(name)}" for name, title in MEASURES.items()), still]
        rows = [
            (title, f"{found.base:.3f}", f"{found.tuned:.3f}", found.change_text, found.state)
            for title, found in zip(MEASURES.values(), self.differences.values(), strict=True)
        ]
        return [head, *text_table(("", self.base, self.model, "difference", "is"), rows), still]

    def to_json(self) -> dict[str, Any]:
        """The figures, as in docs/video.md."""
        return {
            "format": FORMAT,
            "model": self.model,
            "base": self.base,
            "split": self.split,
            "prompt": self.prompt,
            "summary": {name: asdict(self.summary(name)) for name in MEASURES},
            "still": {name: asdict(self._summary(self.still, name)) for name in MEASURES},
            "differences": {name: asdict(one) | {"state": one.state} for name, one in self.differences.items()},
            "objects": [
                {"clip": clip, "object": number, **_figures(score)}
                | ({} if self.base_scores is None else {"base": _figures(self.base_scores[clip][number])})
                for clip, objects in self.scores.items()
                for number, score in objects.items()
            ],
        }


def values_of(scores: ClipScores, measure: str) -> list[float]:
    """One of `MEASURES` of every object, clip by clip."""
    name = "jf" if measure == "j_and_f" else measure
    return [getattr(score, name) for objects in scores.values() for score in objects.values()]


def groups_of(scores: ClipScores) -> list[str]:
    """The clip of every object; clips are what an interval rests on."""
    return [name for name, objects in scores.items() for _ in objects]


def _figures(score: ObjectScore) -> dict[str, float]:
    return {"j": score.j, "f": score.f, "j_and_f": score.jf, "frames": score.frames}
