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
    """

    finds: FindEvaluation | None = None

    @classmethod
    def of(cls, comparison: Comparison, finds: FindEvaluation | None) -> Compared:
        """A comparison with finds."""
        return cls(**{one.name: getattr(comparison, one.name) for one in fields(Comparison)}, finds=finds)

    def lines(self) -> list[str]:
        """What to tell the user."""
        return [*super().lines(), *([f"{'finder':<14} {self.finds.in_short()}"] if self.finds else [])]

    def to_json(self) -> dict[str, Any]:
        """The figures, as in docs/evaluation.md."""
        return {**super().to_json(), "finds": None if self.finds is None else self.finds.to_json()}
