"""What real exporters write, one habit a test: it is read as it is meant, or reported by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.checks.doctor import audit
from samtune.data.prepare.prepare import prepare
from samtune.data.readers import read
from samtune.types import Split

TRIANGLE = [10.0, 10.0, 30.0, 10.0, 10.0, 30.0]


def annotation(**changes):
    return {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [TRIANGLE], "bbox": [10, 10, 20, 20]} | changes


def source_with(folder: Path, **changes) -> Path:
    """A COCO set of one image, with a test split so that no new split is made."""
    (folder / "test").mkdir(parents=True)
    Image.new("RGB", (60, 40), (90, 120, 60)).save(folder / "test/a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [annotation()],
    } | changes
    (folder / "test/_annotations.coco.json").write_text(json.dumps(content))
    return folder


def codes(source: Path) -> list[str]:
    return [issue.code for issue in audit(source).issues]


@pytest.mark.parametrize("name", ["things", "thing"])
def test_the_placeholder_category_is_dropped_even_if_it_bears_a_real_name(tmp_path, name):
    source = source_with(tmp_path / "s", categories=[{"id": 0, "name": name}, {"id": 1, "name": "thing"}])
    assert codes(source) == ["category-placeholder"]
    report = prepare(source, tmp_path / "d", PrepareConfig())
    assert json.loads((tmp_path / "d/dataset.json").read_text())["categories"] == ["thing"]
    assert sum(report.objects.values()) == 1


def test_the_area_is_the_masks_whatever_is_stated(tmp_path):
    """Roboflow states the box's area, which is no finding; a number that is neither is a note."""
    of_box = source_with(tmp_path / "box", annotations=[annotation(area=400.0)])
    assert codes(of_box) == []
    (image,) = prepare(of_box, tmp_path / "d", PrepareConfig()).dataset.images
    assert 180 < image.objects[0].area < 220
    assert codes(source_with(tmp_path / "other", annotations=[annotation(area=7000)])) == ["area-differs"]


def test_the_box_is_the_masks_whatever_is_stated(tmp_path):
    source = source_with(tmp_path / "s", annotations=[annotation(bbox=[0, 0, 59, 39])])
    assert codes(source) == ["box-differs"]
    (image,) = prepare(source, tmp_path / "d", PrepareConfig()).dataset.images
    row = prepare(source, tmp_path / "d", PrepareConfig()).dataset.table.row(0, named=True)
    mask = np.asarray(Image.open(tmp_path / "d" / image.objects[0].mask_path))
    ys, xs = np.nonzero(mask)
    assert [row[side] for side in ("x0", "y0", "x1", "y1")] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_numbers_as_text_are_numbers_and_reported(tmp_path):
    entry = annotation(bbox=["10", 10, "20", "20.0"], segmentation=[[str(value) for value in TRIANGLE]])
    source = source_with(tmp_path / "s", annotations=[entry])
    assert codes(source) == ["numbers-as-text"] * 2
    plain = prepare(source_with(tmp_path / "p"), tmp_path / "d1", PrepareConfig()).dataset
    text = prepare(source, tmp_path / "d2", PrepareConfig()).dataset
    one, other = plain.images[0].objects[0], text.images[0].objects[0]
    assert np.array_equal(plain.read_mask(one), text.read_mask(other))


def test_annotations_in_any_order_with_any_ids(tmp_path):
    squares = [[float(x), 5.0, x + 8.0, 5.0, x + 8.0, 15.0, float(x), 15.0] for x in (5, 20, 35)]
    entries = [
        annotation(id=number, segmentation=[ring], bbox=None)
        for number, ring in zip((900, 3, 41), squares, strict=True)
    ]
    source = source_with(tmp_path / "s", annotations=entries)
    (image,) = prepare(source, tmp_path / "d", PrepareConfig()).dataset.images
    assert {found.annotation_id: found.box[0] for found in image.objects} == {"900": 5, "3": 20, "41": 35}


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "I;16"])
def test_images_of_every_mode_are_prepared(tmp_path, mode):
    source = source_with(tmp_path / "s")
    gray = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    converted = Image.fromarray(gray.astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    converted.save(source / "test/a.png")
    with Image.open(source / "test/a.png") as saved:
        assert saved.mode == mode
    report = prepare(source, tmp_path / "d", PrepareConfig())
    assert report.issues == ()
    pixels = report.dataset.read_image(report.dataset.images[0])
    assert pixels.shape == (40, 60, 3)
    assert pixels.std() > 10


@pytest.mark.parametrize(
    "lost",
    [
        annotation(segmentation=[], bbox=[10, 10, 20, 20]),
        annotation(category_id=9),
        annotation(segmentation=[[90.0, 90.0, 95.0, 90.0, 95.0, 95.0]]),
        annotation(segmentation={"size": [40, 60], "counts": [7]}),
    ],
    ids=["box only", "no such category", "outside", "counts too short"],
)
def test_an_image_whose_objects_are_all_lost_is_no_negative(tmp_path, lost):
    """It would teach that what it shows is background; only an image without annotations is a negative."""
    listed = [{"id": n, "file_name": f"{name}.png", "width": 60, "height": 40} for n, name in enumerate("abc", 1)]
    entries = [annotation(), lost | {"id": 2, "image_id": 2}]
    source = source_with(tmp_path / "s", images=listed, annotations=entries)
    for name, shade in (("b", 30), ("c", 200)):
        Image.new("RGB", (60, 40), (shade, 90, 20)).save(source / f"test/{name}.png")
    report = prepare(source, tmp_path / "d", PrepareConfig(on_error="skip"))
    assert [(Path(image.image_path).name, len(image.objects)) for image in report.dataset.images] == [
        ("a.png", 1),
        ("c.png", 0),
    ]
    assert not (tmp_path / "d/masks/b").exists()
    told = [issue for issue in report.issues if issue.code == "no-usable-object"]
    assert [issue.image for issue in told] == ["b.png"]
    found = audit(source)
    assert [issue.image for issue in found.issues if issue.code == "no-usable-object"] == ["b.png"]
    assert (found.summary.unusable_images, found.summary.splits["test"].without_objects) == (1, 1)


def test_a_mask_that_cannot_be_read_makes_no_negative(tmp_path):
    source = tmp_path / "s"
    source.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (60, 40), (90, ord(name), 60)).save(source / f"{name}.png")
    mask = np.zeros((40, 60), np.uint8)
    Image.fromarray(mask).save(source / "a_mask.png")  # says that nothing is there
    (source / "b_mask.png").write_bytes((source / "a_mask.png").read_bytes()[:50])
    mask[5:20, 5:20] = 255
    Image.fromarray(mask).save(source / "c_mask.png")
    report = prepare(source, tmp_path / "d", PrepareConfig(on_error="skip"))
    assert [Path(image.image_path).name for image in report.dataset.images] == ["a.png", "c.png"]
    assert [issue.code for issue in report.issues if issue.image == "b.png"] == ["mask-unreadable", "no-usable-object"]


def test_an_empty_mask_of_another_size_is_a_warning(tmp_path):
    source = tmp_path / "s"
    source.mkdir()
    for name, size in (("a", (30, 20)), ("b", (60, 40))):
        Image.new("RGB", (60, 40), (90, ord(name), 60)).save(source / f"{name}.png")
        Image.new("L", size, 0).save(source / f"{name}_mask.png")
    Image.new("L", (60, 40), 255).save(source / "b_mask.png")
    found = {issue.image: issue.severity for issue in audit(source).issues if issue.code == "image-size-differs"}
    assert found == {"a.png": "warning"}


@pytest.mark.parametrize("name", ["valid", "val", "validation", "Valid"])
def test_every_name_of_the_validation_split(tmp_path, name):
    source = source_with(tmp_path / "s")
    (source / "test").rename(source / name)
    assert [record.split for record in read(source)] == [Split.VALID]


@pytest.mark.parametrize(
    ("json_at", "image_at"),
    [("a.json", "a.png"), ("a.json", "images/a.png"), ("annotations/instances_test.json", "images/test/a.png"),
     ("annotations/instances_test.json", "test/a.png"), ("test/labels.json", "test/images/a.png")],
)  # fmt: skip
def test_images_beside_below_or_outside_the_folder_of_the_json(tmp_path, json_at, image_at):
    made = source_with(tmp_path / "made")
    root = tmp_path / "s"
    for here, there in ((json_at, "test/_annotations.coco.json"), (image_at, "test/a.png")):
        (root / here).parent.mkdir(parents=True, exist_ok=True)
        (made / there).rename(root / here)
    (record,) = read(root)
    assert record.path == root / image_at
