"""What the lines of YOLO label files hold, told from many of them: outlines, or poses, confidences, pixels.

YOLO's tasks share one kind of text file. A pose line, `class cx cy w h x y x y ...`, can be read as an outline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samtune.data.readers.common import OnIssue, number
from samtune.data.readers.text import read_text
from samtune.data.readers.yolo_layout import YoloSettings
from samtune.errors import DataError
from samtune.types import Issue, Severity

_FILES = 200
_LINES = 2_000
_HEAD = 1 << 20
_MOST = 0.5
_POSE = 0.95
_FEWEST_POSES = 3
_BEYOND = 2.0
"""Share of the image's side from which a number is a pixel, not a point that reaches out of the image."""


@dataclass(frozen=True, slots=True)
class Lines:
    """How lines are to be read.

    Attributes:
        confidence: a confidence stands behind the last point.
        pixels: coordinates are pixels, not shares.
    """

    confidence: bool = False
    pixels: bool = False


def look_at_lines(files: list[Path], settings: YoloSettings, on_issue: OnIssue) -> Lines:
    """Tell how the lines of a set are written, from a sample of its files.

    Raises:
        DataError: the files hold poses: boxes and keypoints, no outlines.
    """
    lines = _sample(files)
    if not lines:
        return Lines()
    if settings.keypoints:
        posed = sum(len(shares) == 4 + settings.keypoints for shares in lines)
        if posed > _MOST * len(lines):
            raise _poses(
                settings.file or files[0], f"kpt_shape in it, and {posed} of {len(lines)} lines of that length"
            )
    elif _are_poses(lines):
        raise _poses(files[0].parent, f"a box and points inside it in {len(lines)} lines looked at")
    confidence = all(len(shares) % 2 for shares in lines) and all(0 <= shares[-1] <= 1 for shares in lines)
    if confidence:
        text = "Every line holds a number more than its points, a confidence, as YOLO's predictions do."
        _report(on_issue, "label-confidence", text, files[0], "The confidence is not used.")
    pixels = sum(max(shares) > _BEYOND for shares in lines) > _MOST * len(lines)
    if pixels:
        text = "Coordinates are pixels, not shares of the image's width and height."
        _report(on_issue, "label-pixels", text, files[0], "They are read as pixels.")
    return Lines(confidence, pixels)


def _sample(files: list[Path]) -> list[list[float]]:
    """The numbers behind the class of lines that hold numbers only."""
    found: list[list[float]] = []
    for file in files[:: max(1, len(files) // _FILES)]:
        for line in read_text(file, _HEAD).splitlines():
            values = [number(word) for word in line.split()]
            shares = [value for value in values[1:] if value is not None]
            if len(values) > 4 and len(shares) == len(values) - 1 and len(found) < _LINES:
                found.append(shares)
    return found


def _are_poses(lines: list[list[float]]) -> bool:
    """Whether lines are poses by their numbers: one length, and points that lie within the box in front of them."""
    length = len(lines[0])
    if length < 8 or len(lines) < _FEWEST_POSES or any(len(shares) != length for shares in lines):
        return False
    for step in (2, 3):
        fits = (length - 4) % step == 0 and (length - 4) // step > 1
        if fits and sum(_is_pose(shares, step) for shares in lines) >= _POSE * len(lines):
            return True
    return False


def _is_pose(shares: list[float], step: int) -> bool:
    cx, cy, width, height = shares[:4]
    points = [shares[start : start + step] for start in range(4, len(shares), step)]
    if step == 3 and any(point[2] not in (0, 1, 2) for point in points):
        return False
    seen = [point for point in points if any(point[:2])]
    slack = 0.05
    inside = (abs(x - cx) <= (0.5 + slack) * width and abs(y - cy) <= (0.5 + slack) * height for x, y, *_ in seen)
    return bool(seen) and 0 < width <= 1 and 0 < height <= 1 and all(inside)


def _poses(where: Path, found: str) -> DataError:
    return DataError.of(
        expected="outlines, a line of points per object",
        found=f"pose labels: {found}",
        where=str(where),
        do="export for segmentation; boxes and keypoints hold no outline",
    )


def _report(on_issue: OnIssue, code: str, message: str, file: Path, repair: str) -> None:
    on_issue(Issue(code, Severity.WARNING, message, repair, str(file)))
