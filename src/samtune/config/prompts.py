"""How prompts are made from masks: one policy for training and validation, with presets by name."""

from __future__ import annotations

import difflib
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from samtune.config.base import Config, Fraction

WEIGHTS = ("box", "point", "points")
"""The fields that weigh kinds of first prompts against each other."""
_PLAIN: dict[str, Any] = {
    "box": 0.0,
    "point": 0.0,
    "points": 0.0,
    "box_tight": 0.0,
    "point_at": "random",
    "mask_steps": 0.0,
    "correction_clicks": 0,
    "correction_steps": 1.0,
    "negative": 0.0,
    "negative_boxes": 0.0,
    "per_object": 1,
    "boxes_last": 0.0,
}
"""Nothing but what is named: where weights of one's own start."""
_CORRECTED: dict[str, Any] = {"correction_clicks": 3, "point_at": "mixed"}
PRESETS: dict[str, dict[str, Any]] = {
    "mixture": _PLAIN
    | _CORRECTED
    | {"box": 0.5, "point": 0.3, "points": 0.2, "per_object": 2, "box_tight": 0.3, "mask_steps": 0.05}
    | {"correction_steps": 0.1, "negative": 0.05, "negative_boxes": 0.3, "boxes_last": 0.3},
    "boxes": _PLAIN | {"box": 1.0},
    "clicks": _PLAIN | _CORRECTED | {"point": 0.6, "points": 0.4, "correction_steps": 0.3, "negative": 0.1},
    "interactive": _PLAIN
    | _CORRECTED
    | {"box": 0.3, "point": 0.4, "points": 0.3, "box_tight": 0.3, "mask_steps": 0.1}
    | {"correction_steps": 0.5, "negative": 0.05, "negative_boxes": 0.3},
    "automatic": _PLAIN | {"point": 1.0, "negative": 0.2},
}
"""Presets by name: a mixture of everything; the plain recipe, boxes; and what is meant for one use."""
DEFAULT_PRESET = "mixture"
"""What the fields of `PromptPolicy` have by themselves. Changed only with evidence, see docs/results.md."""
_DEFAULT = PRESETS[DEFAULT_PRESET]


class PromptPolicy(Config):
    """How prompts are made from masks. Training and validation use the same policy type with different values.

    A preset gives every value that is not given beside it. Weights of one's own (`box`, `point`, `points`) are instead
    of a preset, and what is not named then is left out: `PromptPolicy(box=1)` makes boxes and nothing else.

    Source of the noise and the corrections: the official SAM 2 training recipe (box noise of 10 % of the side, at most
    20 px at 1024; correction clicks from the error region, 10 % of them from the object itself).
    """

    preset: Literal["mixture", "boxes", "clicks", "interactive", "automatic"] | None = Field(
        default=None,
        exclude=True,
        description="Preset: mixture (of everything below), boxes, clicks, interactive (clicks and corrections) or "
        "automatic (single clicks and background, for masks without prompts).",
    )
    box: float = Field(default=_DEFAULT["box"], ge=0.0, description="Weight of box prompts.")
    point: float = Field(default=_DEFAULT["point"], ge=0.0, description="Weight of single positive clicks.")
    points: float = Field(
        default=_DEFAULT["points"],
        ge=0.0,
        description="Weight of two to four clicks, negative ones beside the object among them.",
    )
    box_tight: Fraction = Field(
        default=_DEFAULT["box_tight"], description="Share of the boxes that are exact, without noise."
    )
    box_jitter: Fraction = Field(
        default=0.1, description="Box noise: each edge moves by up to this share of the side, 0 to 1."
    )
    box_jitter_max: float = Field(
        default=20 / 1024, ge=0.0, le=1.0, description="Largest box noise, as a share of the model's input side."
    )
    point_at: Literal["random", "center", "mixed"] = Field(
        default=_DEFAULT["point_at"],
        description="Clicks anywhere in the region, at its deepest pixel, or mixed: both, and near the border.",
    )
    mask_steps: Fraction = Field(
        default=_DEFAULT["mask_steps"],
        description="Share of the steps whose prompts come with a rough mask of the object.",
    )
    correction_clicks: int = Field(
        default=_DEFAULT["correction_clicks"],
        ge=0,
        le=15,
        description="Correction clicks after the first prompt, each with the mask before it.",
    )
    correction_steps: Fraction = Field(
        default=_DEFAULT["correction_steps"], description="Share of the steps that make correction clicks."
    )
    correction_from_object: Fraction = Field(
        default=0.1, description="Share of correction clicks drawn from the object, not the error."
    )
    negative: Fraction = Field(
        default=_DEFAULT["negative"], description="Share of prompts on background, whose answer is 'no object'."
    )
    negative_boxes: Fraction = Field(
        default=_DEFAULT["negative_boxes"],
        description="Share of these that are boxes around nothing annotated, where there is room.",
    )

    per_object: int = Field(
        default=_DEFAULT["per_object"],
        ge=1,
        le=8,
        description="Prompts about each object in a step, spread over the kinds: with 2, and boxes for half of them, "
        "every object is asked for with a box and with clicks.",
    )
    boxes_last: Fraction = Field(
        default=_DEFAULT["boxes_last"],
        description="Share of the steps, at the end of a run, in which every object is asked for with boxes: what "
        "they lost to the other kinds comes back.",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"preset": data}
        if not isinstance(data, dict):
            return data
        given = cast("dict[str, Any]", data)
        name, weights = given.get("preset"), [weight for weight in WEIGHTS if weight in given]
        if name is None:
            return {**(_PLAIN if weights else {}), **given}
        if name not in PRESETS:
            close = difflib.get_close_matches(str(name), PRESETS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"expected a preset, one of {', '.join(PRESETS)}{hint}")
        if weights:
            own = ", ".join(f"prompts.{weight}" for weight in weights)
            raise ValueError(f"prompts has the preset {name!r} and weights of your own ({own}): give one of them")
        return {**PRESETS[name], **given, "preset": None}

    @model_validator(mode="after")
    def _some_kind(self) -> PromptPolicy:
        if self.box + self.point + self.points <= 0:
            raise ValueError("prompts.box, prompts.point and prompts.points are all 0: give one of them a weight")
        if self.boxes_last > 0 and self.box == 0:
            raise ValueError("prompts.boxes_last goes with boxes, and prompts.box is 0: give it a weight")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """What validation measures of it: `box`, `point`, or both."""
        return tuple(kind for kind, weight in (("box", self.box), ("point", self.point + self.points)) if weight > 0)

    @property
    def turns(self) -> float:
        """How often a step asks the decoder about an object, on average over the steps."""
        again = self.correction_steps * self.correction_clicks if self.mask_steps < 1 else 0.0
        return self.per_object * (1 + again)

    @property
    def max_clicks(self) -> int:
        """The most clicks of a first prompt."""
        return MOST_CLICKS if self.points > 0 else int(self.point > 0)


MOST_CLICKS = 4
"""Clicks of a first prompt at most."""
