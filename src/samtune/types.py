"""Frozen values that travel between the layers. Nothing here does work, and nothing here imports torch.

Coordinates are pixels of the original image with the origin at the upper left corner of the upper left pixel; boxes are
`xyxy` with exclusive right and lower edges, so that a box's width is `x1 - x0`. Masks are boolean arrays `[H, W]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from samtune.errors import SamtuneError, UsageError

Box: TypeAlias = tuple[float, float, float, float]
"""xyxy in pixels of the original image."""

Window: TypeAlias = tuple[int, int, int, int]
"""A part of an image: x0, y0, x1, y1 in whole pixels, right and lower exclusive."""

SourceFormat: TypeAlias = Literal[
    "auto",
    "coco",
    "yolo",
    "labelme",
    "via",
    "label-studio",
    "coco-panoptic",
    "cityscapes",
    "supervisely",
    "datumaro",
    "darwin",
    "isat",
    "geojson",
    "sa1b",
    "mask-folder",
]
"""Every format that is read, and `auto`, which recognises it."""


class Split(StrEnum):
    """The three roles an image can have. Readers map `val` and `validation` to `VALID`."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Polygons:
    """An object as polygons whose union is the mask, COCO style: each ring is `[x0, y0, x1, y1, ...]`.

    Attributes:
        rings: outer rings, each of at least three points, in pixels of the image.
        holes: rings cut out of the union of `rings`, for formats that can say so; COCO cannot.
    """

    rings: tuple[tuple[float, ...], ...]
    holes: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class RunLengths:
    """COCO run lengths: column-major, starting with the number of zeros. `counts` sums to `height * width`."""

    counts: tuple[int, ...]
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class MaskFile:
    """An object as those pixels of an image file that hold one value.

    Attributes:
        path: the mask image.
        value: the pixel value, an integer for gray and palette files, an RGB triple for colour-coded ones; None means
            every pixel that is not zero.
        component: 1-based number of the 8-connected component among those pixels, in scan order; None means all.
        page: of a file with several, counted from 1.
    """

    path: Path
    value: int | tuple[int, int, int] | None = None
    component: int | None = None
    page: int = 1


Segmentation: TypeAlias = Polygons | RunLengths | MaskFile


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotated object as its source file has it, schema checked but not yet rasterised.

    Attributes:
        annotation_id: the source's id as text, or one made from the position when the source has none.
        category: category name.
        segmentation: None when the source gives only a box, which samtune reports and does not use.
        box: the box as the source states it, or None. Never trusted: the table's box is computed from the mask.
        area: the area as the source states it, or None. Never trusted either.
        iscrowd: the region covers a group of objects; kept in the table, not used as a prompt by default.
        where: how to find the annotation in its file, for messages, such as `annotations[17]`.
    """

    annotation_id: str
    category: str
    segmentation: Segmentation | None
    box: Box | None = None
    area: float | None = None
    iscrowd: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its objects, as a reader yields them.

    Attributes:
        image_id: the source's id as text; unique within a split.
        path: where the image file should be; readers confine it to the source's root.
        width, height: pixels as the annotation file states them; 0 when it does not say.
        split: the split the source puts the image in.
        annotations: its objects; empty for a negative image.
        group: images that must never be split apart share it (the stem before `.rf.` for Roboflow).
        source: the annotation file, for messages.
        unread: objects the source lists for it that the reader had to leave out.
        embedded: the image was taken out of the annotation file; its path is gone when the program ends.
        page: of a file with several, counted from 1; None where that is chosen for all images alike.
    """

    image_id: str
    path: Path
    width: int
    height: int
    split: Split
    annotations: tuple[Annotation, ...]
    group: str
    source: Path
    unread: int = 0
    embedded: bool = False
    page: int | None = None


class Severity(StrEnum):
    """How bad a finding is. ERROR: cannot be used; WARNING: repaired or suspicious; INFO: good to know."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding about a dataset.

    Attributes:
        code: stable, kebab-case name of the kind of finding, such as `polygon-outside-image`.
        severity: see `Severity`.
        message: what was found and what it means, in one sentence.
        repair: what `prepare` does about it, in one sentence; empty when nothing.
        file: the annotation file or image the finding is about.
        image: file name of the image, when the finding is about one.
        annotation: annotation id, when the finding is about one.
        where: place within `file`, such as `annotations[17].segmentation[0]`.
        expected: what would have been usable; empty where the message says it.
        do: what the user can do about it; empty where nothing but to mend the source.
    """

    code: str
    severity: Severity
    message: str
    repair: str = ""
    file: str = ""
    image: str | None = None
    annotation: str | None = None
    where: str = ""
    expected: str = ""
    do: str = ""

    @property
    def place(self) -> str:
        """File, image and place within the file, in one line."""
        return ", ".join(part for part in (self.file, self.image, self.where) if part)

    def caused_by(self, error: SamtuneError) -> Issue:
        """The finding with what `error` expected and advises."""
        return replace(self, expected=error.expected, do=error.do or "")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a user asks about one object, in pixels of the original image. At least one part must be given.

    Attributes:
        input_points: float32 `[P, 2]`, xy.
        input_labels: int64 `[P]`, 1 positive click, 0 negative click; all positive where left out.
        input_box: float32 `[4]`, xyxy.
        input_mask: float32 `[1, h, w]`, low-res logits of an earlier prediction, a quarter of the model's input.

    Raises:
        UsageError: nothing given, labels without points or not one for each, another label, another shape.
    """

    input_points: NDArray[np.float32] | None = None
    input_labels: NDArray[np.int64] | None = None
    input_box: NDArray[np.float32] | None = None
    input_mask: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Hold the parts to their shapes; clicks without labels are positive."""
        points, labels = self.input_points, self.input_labels
        if points is not None and labels is None:
            labels = np.ones(np.shape(points)[:1], np.int64)
            object.__setattr__(self, "input_labels", labels)
        shapes = {
            "input_points": (points, (None, 2)),
            "input_labels": (labels, (0 if points is None else len(points),)),
            "input_box": (self.input_box, (4,)),
            "input_mask": (self.input_mask, (1, None, None)),
        }
        given = {name: (np.asarray(value), shape) for name, (value, shape) in shapes.items() if value is not None}
        if not given:
            raise UsageError.of(expected="a box, clicks or a mask", found="none of them", where="Prompt")
        for name, (value, shape) in given.items():
            fits = value.ndim == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
            if not fits:
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise UsageError.of(
                    expected=f"{name} of shape [{wanted}]", found=str(list(value.shape)), where="Prompt"
                )
        if labels is not None and not np.isin(labels, (0, 1)).all():
            raise UsageError.of(
                expected="1 (positive) or 0 (negative) for each click", found=str(labels), where="Prompt.input_labels"
            )

    @classmethod
    def box(cls, x0: float, y0: float, x1: float, y1: float) -> Prompt:
        """A box prompt, xyxy in pixels."""
        return cls(input_box=np.array([x0, y0, x1, y1], np.float32))

    @classmethod
    def clicks(cls, points: list[tuple[float, float]], labels: list[int] | None = None) -> Prompt:
        """A click prompt, xy in pixels; every click is positive when `labels` is left out."""
        labels = [1] * len(points) if labels is None else labels
        return cls(np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int64))


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's output for one prompt.

    Attributes:
        masks: bool `[M, H, W]`, M = 1, or 3 with `multimask_output`, at the image's own size.
        iou_scores: float32 `[M]`, the model's own estimate of each mask's IoU, 0 to 1.
        low_res_masks: float32 `[M, h, w]` logits before resizing, usable as `Prompt.input_mask`.
        object_score: logit that an object is there at all; below 0 the model says no.
    """

    masks: NDArray[np.bool_]
    iou_scores: NDArray[np.float32]
    low_res_masks: NDArray[np.float32]
    object_score: float

    @property
    def best(self) -> NDArray[np.bool_]:
        """The mask with the highest predicted IoU, bool `[H, W]`."""
        return self.masks[int(self.iou_scores.argmax())]
