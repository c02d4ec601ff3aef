"""Hostile annotations through the whole of doctor and prepare: found by name, and nothing outside is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.checks.doctor import audit
from samtune.data.prepare.prepare import prepare
from samtune.data.readers.coco_shapes import run_box, run_pitch
from samtune.types import RunLengths

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]
SIZE = [40, 60]


def source_with(folder: Path, segmentation, name: str = "thing") -> Path:
    """One sound object and one with this shape."""
    folder.mkdir(parents=True)
    Image.new("RGB", (60, 40), (90, 120, 60)).save(folder / "a.png")
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": shape}
        for number, shape in enumerate(([SQUARE], segmentation), start=1)
    ]
    image = {"id": 1, "file_name": "a.png", "width": 60, "height": 40}
    content = {"images": [image], "categories": [{"id": 1, "name": name}], "annotations": entries}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


NAN, INFINITY = float("nan"), float("inf")
SHAPES = {
    "NaN": ([[NAN, 1, 5, 5, 9, 1]], "polygon-coordinates"),
    "infinity": ([[INFINITY, 1, 5, 5, 9, 1]], "polygon-coordinates"),
    "1e30": ([[1e30, 1, 5, 5, 9, 1]], "polygon-coordinates"),
    "1e400 as a whole number": ([[10**400, 1, 5, 5, 9, 1]], "polygon-coordinates"),
    "an outline of millions of pixels": ([[0, 0, 9e5, 9e5] * 40], "polygon-too-long"),
    "size 2^31, text": ({"size": [2**31, 2**31], "counts": "0"}, "image-size"),
    "size 2^31, list": ({"size": [2**31, 2**31], "counts": [2**62]}, "rle-size"),
    "size 0": ({"size": [0, 0], "counts": []}, "rle-size"),
    "counts too short": ({"size": SIZE, "counts": [5, 5]}, "rle-sum"),
    "counts too long": ({"size": SIZE, "counts": [5, 5, 9000]}, "rle-sum"),
    "negative counts": ({"size": SIZE, "counts": [-5, 2405]}, "rle-negative"),
    "counts beyond 64 bits": ({"size": SIZE, "counts": [2**63, -(2**63), 2400]}, "rle-negative"),
    "text too short": ({"size": SIZE, "counts": "0"}, "rle-sum"),
    "text too long": ({"size": SIZE, "counts": "o" * 5 + "0"}, "rle-sum"),
    "text cut off": ({"size": SIZE, "counts": "PPPP"}, "rle-text"),
    "text of other characters": ({"size": SIZE, "counts": "~~"}, "rle-text"),
    "text beyond ASCII": ({"size": SIZE, "counts": "\u2603"}, "rle-sum"),
}


@pytest.mark.parametrize(("shape", "code"), SHAPES.values(), ids=SHAPES)
def test_hostile_shapes_are_found_by_name_and_the_rest_is_used(tmp_path, shape, code):
    source = source_with(tmp_path / "s", shape)
    found = [issue for issue in audit(source).issues if issue.severity == "error"]
    assert [(issue.code, issue.annotation) for issue in found] == [(code, "2")]
    assert found[0].where.startswith("annotations[1]")
    report = prepare(source, tmp_path / "d", PrepareConfig(on_error="skip"))
    assert [issue.code for issue in report.issues if issue.severity == "error"] == [code]
    assert sum(report.objects.values()) == 1


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "C:\\evil", "..", "a\0b", "CON", "e" * 400, "\u7532" * 200]
)
@pytest.mark.parametrize("merge", ["category", "image"])
def test_a_category_name_makes_no_path(tmp_path, name, merge):
    source = source_with(tmp_path / "s", [SQUARE], name)
    prepare(source, tmp_path / "deep/er/d", PrepareConfig(merge=merge))
    inside = tmp_path / "deep/er/d"
    assert {path.name for path in tmp_path.iterdir()} == {"s", "deep"}
    assert [path for path in (tmp_path / "deep").rglob("*") if path != inside and inside not in path.parents] == [
        tmp_path / "deep/er"
    ]
    assert len(list((inside / "merged").rglob("*.png"))) == 1


def test_nothing_is_written_into_the_source(tmp_path):
    source = source_with(tmp_path / "s", [SQUARE])
    before = {path: path.stat().st_mtime_ns for path in [source, *source.rglob("*")]}
    audit(source)
    prepare(source, tmp_path / "d", PrepareConfig())
    assert {path: path.stat().st_mtime_ns for path in [source, *source.rglob("*")]} == before


@pytest.mark.parametrize("counts", [(2**63, -(2**63), 2400), (-1, 2401), (10**400, 5), (0, 2**62, 2**62)])
def test_run_lengths_that_no_image_has_have_no_box(counts):
    """Boxes are compared with what shapes cover before any shape is checked."""
    assert run_box(RunLengths(counts, 40, 60)) is None
    assert run_pitch(RunLengths(counts, 40, 60)) is None
