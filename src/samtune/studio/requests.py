"""What the page sends, as values: unknown names, wrong types, NaN and numbers out of range are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Id = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,11}$")]
Key = Annotated[str, Field(min_length=1, max_length=64)]
Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Pixel = Annotated[int, Field(ge=0, le=1_000_000)]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Nothing(Body):
    """`{}`."""


class PredictBody(Body):
    """A question about one object."""

    model: Key
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    points: list[tuple[Coordinate, Coordinate]] = Field(default=[], max_length=1000)
    labels: list[Literal[0, 1]] = Field(default=[], max_length=1000)
    previous: Annotated[str, Field(max_length=64)] | None = None
    multimask: bool = False

    @model_validator(mode="after")
    def _is_a_question(self) -> PredictBody:
        if len(self.labels) != len(self.points):
            raise ValueError("labels are as many as points")
        if self.box is None and not self.points:
            raise ValueError("a box or at least one point is asked for")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("a box is x0, y0, x1, y1 with x1 above x0 and y1 above y0")
        return self


class ModelBody(Body):
    """The key of a model."""

    model: Key


class MaskBody(Body):
    """A mask: `bbox` xywh in pixels of the image, and a PNG of that size in base64."""

    bbox: tuple[Pixel, Pixel, Pixel, Pixel]
    png: str


class AcceptedBody(Body):
    """An object that the person accepts."""

    category_id: int
    mask: MaskBody
    clicks: Annotated[int, Field(ge=0, le=100_000)] = 0
    seconds: Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)] = 0.0
    iou: Share | None = None
    source: Literal["person", "import", "proposal"] = "person"
    model: Key | None = None


class ObjectsBody(Body):
    """A change of one image's objects, or of its status."""

    action: Literal["accept", "delete", "update", "restore", "status"]
    object: AcceptedBody | None = None
    id: Id | None = None
    category_id: int | None = None
    mask: MaskBody | None = None
    status: Literal["new", "open", "done"] | None = None
    revision: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _says_what(self) -> ObjectsBody:
        needed = {"accept": "object", "status": "status"}.get(self.action, "id")
        if getattr(self, needed) is None:
            raise ValueError(f"{self.action} needs {needed}")
        return self


class ClassBody(Body):
    """A new class."""

    name: Annotated[str, Field(max_length=10_000)]


class ExportBody(Body):
    """What to export, and how far outlines may be simplified, in pixels; 0 keeps them."""

    format: Literal["coco", "yolo", "masks"]
    tolerance: Annotated[float, Field(ge=0.0, le=100.0, allow_inf_nan=False)] = 0.0


class TuneBody(Body):
    """How many steps; None leaves it to the server."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
