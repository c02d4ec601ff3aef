"""A comparison with what the tuned model's finder finds without prompts, where it has one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from samtune.evaluation.comparison import Comparison
from samtune.finder.evaluation import FindEvaluation


@dataclass(frozen=True)
class Compared(Comparison):
    """A comparison as `samtune compare` makes it.

    Attributes:
        finds: what the finder of the tuned model finds; no part of the verdict.
        no_finds: why the finder that stands in the run was not measured, in words; empty otherwise.
        others: the other tuned models that were compared with the same base, the better first.
    """

    finds: FindEvaluation | None = None
    no_finds: str = ""
    others: tuple[Comparison, ...] = ()

    @classmethod
    def of(cls, comparison: Comparison, finds: FindEvaluation | None, no_finds: str = "") -> Compared:
        """A comparison with finds."""
        of_comparison = {one.name: getattr(comparison, one.name) for one in fields(Comparison)}
        return cls(**of_comparison, finds=finds, no_finds=no_finds)

    def lines(self) -> list[str]:
        """What to tell the user."""
        words = self.finds.in_short() if self.finds else self.no_finds
        caveats = self.finds.caveats if self.finds else ()
        finder = [f"{'finder':<14} {words}"] if words else []
        which = [f"{f'best of {1 + len(self.others)}':<14} {self.tuned.model}"] if self.others else []
        others = [
            f"{'then':<14} {one.tuned.model}: {one.verdict.headline}; boxes {one.box.change.mean:+.3f}, "
            f"clicks {one.point.change.mean:+.3f}"
            for one in self.others
        ]
        return [*which, *super().lines(), *finder, *(f"{'':<14} {caveat}" for caveat in caveats), *others]

    def to_json(self) -> dict[str, Any]:
        """The figures, as in docs/evaluation.md."""
        return {**super().to_json(), "finds": None if self.finds is None else self.finds.to_json()}
