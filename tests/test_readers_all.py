"""Readers: each format recognised by itself, what exporters write read right, the rest reported by name."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samtune.data.masks import rasterise
from samtune.data.readers import detect_format, read
from samtune.data.readers.common import split_named
from samtune.data.readers.stream import load_json, parts
from samtune.errors import DataError
from samtune.types import Severity, Split

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]


def draw_image(path: Path, width: int = 60, height: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 60)).save(path)
    return path


def labels(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def collect(source: Path, source_format: str = "auto", **more):
    issues = []
    return list(read(source, source_format, on_issue=issues.append, **more)), issues


def coco(**changes):
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [10, 10, 20, 15]}],
    } | changes


def make_coco(root):
    draw_image(root / "a.jpg")
    write(root / "annotations.json", coco())


def make_roboflow(root):
    for folder in ("train", "valid", "test"):
        draw_image(root / folder / "a.jpg")
        write(root / folder / "_annotations.coco.json", coco())


def make_coco_elsewhere(root):
    draw_image(root / "images/val2017/a.jpg")
    write(root / "annotations/instances_val2017.json", coco())


def make_yolo(root):
    draw_image(root / "train/images/a.jpg")
    write(root / "train/labels/a.txt", "0 0.1666667 0.25 0.5 0.25 0.5 0.625 0.1666667 0.625\n")
    write(root / "data.yaml", "names: [thing]\npath: C:\\gone\ntrain: ../train/images\nval: ../valid/images\n")


def make_yolo_the_other_way(root):
    draw_image(root / "images/train/a.jpg")
    write(root / "labels/train/a.txt", "0 0.1666667 0.25 0.5 0.25 0.5 0.625 0.1666667 0.625\n")
    write(root / "data.yaml", "names: {0: thing}\ntrain: /home/someone/images/train\n")


def make_masks(root):
    values = np.zeros((40, 60))
    values[10:25, 10:30] = 1
    draw_image(root / "train/a.jpg")
    labels(root / "train/a_mask.png", values)
    write(root / "train/_classes.csv", "Pixel Value, Class\n0, background\n1, thing\n")


def make_labelme(root):
    draw_image(root / "a.jpg")
    points = np.reshape(SQUARE, (-1, 2)).tolist()
    write(root / "a.json", {"imagePath": "..\\gone\\a.jpg", "shapes": [{"label": "thing", "points": points}]})


def make_via(root):
    draw_image(root / "a.jpg")
    shape = {"name": "polygon", "all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]}
    region = {"shape_attributes": shape, "region_attributes": {"note": "", "kind": "thing"}}
    write(root / "via.json", {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [region]}})


def make_sa1b(root):
    values = np.zeros((40, 60), bool)
    values[10:25, 10:30] = True
    from pycocotools import mask

    rle = mask.encode(np.asfortranarray(values.astype(np.uint8)))
    segmentation = {"size": [40, 60], "counts": rle["counts"].decode()}
    image = {"image_id": 7, "file_name": "a.jpg", "width": 60, "height": 40}
    draw_image(root / "a.jpg")
    write(root / "a.json", {"image": image, "annotations": [{"id": 1, "segmentation": segmentation}]})


FORMATS = {
    "coco": (make_coco, "coco"),
    "roboflow": (make_roboflow, "coco"),
    "coco elsewhere": (make_coco_elsewhere, "coco"),
    "yolo": (make_yolo, "yolo"),
    "yolo, images first": (make_yolo_the_other_way, "yolo"),
    "masks": (make_masks, "mask-folder"),
    "labelme": (make_labelme, "labelme"),
    "via": (make_via, "via"),
    "sa1b": (make_sa1b, "sa1b"),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize(("make", "name"), FORMATS.values(), ids=FORMATS)
def test_each_format_is_recognised_and_read(tmp_path, make, name):
    make(tmp_path)
    assert detect_format(tmp_path) == name
    records, issues = collect(tmp_path)
    assert [issue for issue in issues if issue.severity is Severity.ERROR] == []
    expected = np.zeros((40, 60), bool)
    expected[10:25, 10:30] = True
    for record in records:
        assert record.path.is_file()
        (annotation,) = record.annotations
        assert annotation.category == ("object" if name == "sa1b" else "thing")
        assert np.array_equal(rasterise(annotation.segmentation, 40, 60), expected)


def test_splits_come_from_folders(tmp_path):
    make_roboflow(tmp_path)
    (tmp_path / "valid").rename(tmp_path / "validation")
    assert [record.split for record in collect(tmp_path)[0]] == [Split.TRAIN, Split.VALID, Split.TEST]
    assert split_named("instances_val2017") is Split.VALID
    assert split_named("trainval") is None


def test_images_elsewhere_are_named(tmp_path):
    draw_image(tmp_path / "images/a.jpg")
    file = write(tmp_path / "labels.json", coco())
    (record,), _ = collect(file, images=tmp_path / "images")
    assert record.path == tmp_path / "images/a.jpg"
    with pytest.raises(DataError, match="--images"):
        collect(file, images=tmp_path / "nowhere")


def test_nothing_recognised_says_what_would_be(tmp_path):
    draw_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="--source-format"):
        collect(tmp_path)
    with pytest.raises(DataError, match="nothing"):
        collect(tmp_path / "gone")


LEADING_OUT = ["../a.jpg", "/etc/passwd", "C:\\a.jpg", "a\0.jpg", "..\\a.jpg", "", 5, None, "x/../../a.jpg"]


@pytest.mark.parametrize("name", LEADING_OUT, ids=repr)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    draw_image(tmp_path / "a.jpg")
    source = tmp_path / "source"
    write(source / "annotations.json", coco(images=[{"id": 1, "file_name": name, "width": 60, "height": 40}]))
    records, issues = collect(source)
    assert records == []
    assert [issue.code for issue in issues if issue.severity is Severity.ERROR] == ["image-path"] * 2


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    draw_image(tmp_path / "secret.jpg")
    source = tmp_path / "source"
    write(source / "annotations.json", coco())
    (source / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    records, issues = collect(source)
    assert records == []
    assert "image-path" in {issue.code for issue in issues}


def test_coco_ids_are_repaired_and_reported(tmp_path):
    one = coco()["annotations"][0]
    content = coco(
        images=[
            {"id": "1", "file_name": "a.jpg", "width": 60, "height": 40},
            {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40},
            {"id": 5, "file_name": "b.jpg", "width": "60", "height": 2**40},
        ],
        annotations=[one, one, one | {"id": None}, one | {"image_id": 99}, one | {"category_id": 3}, 7],
        categories=[{"id": 0, "name": "things"}, {"id": 1.0, "name": "thing"}],
    )
    draw_image(tmp_path / "a.jpg")
    draw_image(tmp_path / "b.jpg")
    write(tmp_path / "annotations.json", content)
    records, issues = collect(tmp_path)
    assert [len(record.annotations) for record in records] == [3, 0]
    assert [annotation.annotation_id for annotation in records[0].annotations] == ["1", "1-2", "2"]
    assert (records[1].width, records[1].height) == (0, 0)
    codes = sorted(issue.code for issue in issues)
    assert codes == sorted(
        ["image-id-duplicate", "image-size-invalid", "annotation-id", "annotation-id", "annotation-without-image",
         "category-unknown", "annotations-entry", "category-placeholder"]
    )  # fmt: skip


@pytest.mark.parametrize("name", ["a.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ('{"images": [1, 2', "line 1"),
        ('{\n"images": [],\n"annotations": [}', "line 3"),
        ('{"images": {}, "annotations": [], "categories": []}', "images"),
        ('{"images": [], "annotations": []}', "categories"),
        ("[1, 2]", "an object"),
        ('{"images": ' + "[" * 100_000, "deep|JSON|value"),
        ('{"images": [], "annotations": [1' + "0" * 5000 + "]}", "digits|JSON"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, text, message):
    write(tmp_path / name, text)
    with pytest.raises(DataError, match=message):
        collect(tmp_path / name, "coco")


def test_json_is_read_in_parts_whatever_falls_on_the_edge(tmp_path, monkeypatch):
    monkeypatch.setattr("samtune.data.readers.stream.CHUNK", 7)
    content = {"a": [{"name": "grün \u2603", "n": 12345}, 678901, [], "x"], "empty": [], "é": {"k": [1.5]}, "n": 12}
    file = tmp_path / "a.json"
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False, indent=1)):
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        found = list(parts(file))
        assert [part.value for part in found] == [*content["a"], [], content["é"], 12]
        data = file.read_bytes()
        assert [json.loads(data[part.start : part.end]) for part in found] == [part.value for part in found]
        assert load_json(file) == content


def test_half_a_surrogate_pair_becomes_text_that_can_be_written(tmp_path):
    draw_image(tmp_path / "a.jpg")
    write(tmp_path / "a.json", coco(categories=[{"id": 1, "name": "thing \ud83d"}]))
    (record,), _ = collect(tmp_path)
    assert record.annotations[0].category == "thing \ufffd"
    write(tmp_path / "a.json", coco(categories=[{"id": 1, "name": "thing \U0001f600"}]))
    (record,), _ = collect(tmp_path)
    assert record.annotations[0].category == "thing \U0001f600"


def test_yolo_lines_that_cannot_be_used_are_reported(tmp_path):
    make_yolo(tmp_path)
    lines = [
        "0 0.5 0.5 0.2 0.2",
        "0 0.1 0.1 0.2",
        "7 0.1 0.1 0.2 0.2 0.3 0.1",
        "0 x 0.1 0.2 0.2 0.3 0.1",
        "0 nan 0 1 1 1 0",
    ]
    write(tmp_path / "train/labels/a.txt", "\n".join(lines))
    write(tmp_path / "train/labels/lost.txt", "0 0.5 0.5 0.2 0.2")
    (record,), issues = collect(tmp_path)
    (box_only,) = record.annotations
    assert box_only.segmentation is None
    assert box_only.box == pytest.approx((24, 16, 36, 24))
    codes = [issue.code for issue in issues]
    assert codes == ["polygon-points", "category-unknown", "label-not-a-number", "label-not-a-number", "image-missing"]


def test_instance_masks_binary_masks_and_colours(tmp_path):
    ids = np.zeros((40, 60))
    ids[2:8, 2:8], ids[10:20, 10:20], ids[30:35, 40:50] = 1, 2, 9
    colours = np.zeros((40, 60, 3))
    colours[2:8, 2:8], colours[10:20, 10:20], colours[30:35, 40:50] = (255, 0, 0), (0, 255, 0), (255, 0, 0)
    for name, values in {"ids": ids, "binary": (ids > 0) * 255, "colours": colours, "none": ids * 0}.items():
        draw_image(tmp_path / f"images/{name}.jpg")
        labels(tmp_path / f"masks/{name}.png", values)
    draw_image(tmp_path / "images/unlabelled.jpg")
    assert detect_format(tmp_path) == "mask-folder"
    records, issues = collect(tmp_path)
    found = {record.image_id: [annotation.category for annotation in record.annotations] for record in records}
    assert found == {
        "ids": ["object"] * 3,
        "binary": ["object"] * 3,
        "colours": ["#00ff00", "#ff0000", "#ff0000"],
        "none": [],
    }
    assert [issue.code for issue in issues] == ["mask-missing"]


def test_soft_and_jpeg_masks_have_two_values(tmp_path):
    values = np.zeros((80, 80))
    values[20:50, 20:50] = 255
    soft = np.array(Image.fromarray(values.astype(np.uint8)).rotate(9, Image.Resampling.BICUBIC))
    draw_image(tmp_path / "images/soft.jpg", 80, 80)
    labels(tmp_path / "masks/soft.png", soft)
    draw_image(tmp_path / "images/jpeg.jpg", 80, 80)
    labels(tmp_path / "masks/jpeg.jpg", values)
    records, _ = collect(tmp_path)
    masks = {record.image_id: rasterise(record.annotations[0].segmentation, 80, 80) for record in records}
    assert [len(record.annotations) for record in records] == [1, 1]
    assert np.array_equal(masks["soft"], soft >= 128)
    assert np.array_equal(masks["jpeg"], values > 0)


def test_labelme_shapes(tmp_path):
    draw_image(tmp_path / "a.jpg")
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 6), 255, np.uint8)).save(buffer, "PNG")
    shapes = [
        {"label": "box", "shape_type": "rectangle", "points": [[30, 25], [10, 10]]},
        {"label": "disc", "shape_type": "circle", "points": [[20, 20], [30, 20]]},
        {"label": "parts", "group_id": 1, "points": [[1, 1], [5, 1], [5, 5]]},
        {"label": "parts", "group_id": 1, "points": [[11, 1], [15, 1], [15, 5]]},
        {"label": "paint", "shape_type": "mask", "points": [[3, 4], [8, 8]],
         "mask": base64.b64encode(buffer.getvalue()).decode()},
        {"label": "line", "shape_type": "line", "points": [[1, 1], [5, 5]]},
        {"label": "", "points": [[1, 1], [5, 1], [5, 5]]},
        {"label": "bad", "points": [[1, None], [5, 1], [5, 5]]},
    ]  # fmt: skip
    write(tmp_path / "a.json", {"imagePath": "a.jpg", "imageWidth": 60, "imageHeight": 40, "shapes": shapes})
    write(tmp_path / "b.json", '{"shapes": [')
    (record,), issues = collect(tmp_path)
    areas = {found.category: int(rasterise(found.segmentation, 40, 60).sum()) for found in record.annotations}
    assert areas["box"] == 300
    assert abs(areas["disc"] - 314) < 8
    assert areas["paint"] == 30
    assert list(areas) == ["box", "disc", "parts", "paint"]
    assert [issue.code for issue in issues] == [
        "shape-without-area", "category-unknown", "polygon-coordinates", "file-broken"]  # fmt: skip


def test_via_regions_without_a_category_are_reported(tmp_path):
    make_via(tmp_path)
    content = json.loads((tmp_path / "via.json").read_text())
    entry = content["a.jpg123"]
    circle = {"shape_attributes": {"name": "circle", "cx": 20, "cy": 20, "r": 10}, "region_attributes": {}}
    point = {"shape_attributes": {"name": "point", "cx": 20, "cy": 20}, "region_attributes": {"kind": "thing"}}
    entry["regions"] = {"0": entry["regions"][0], "1": circle, "2": point}
    write(tmp_path / "via.json", {"_via_settings": {}, "_via_img_metadata": content})
    (record,), issues = collect(tmp_path)
    assert [found.category for found in record.annotations] == ["thing", "object"]
    assert [issue.code for issue in issues] == ["category-missing", "shape-without-area"]


def test_gaps_in_category_ids_are_told(tmp_path):
    draw_image(tmp_path / "a.jpg")
    names = [{"id": number, "name": str(number)} for number in (1, 2, 5, 90)]
    write(tmp_path / "a.json", coco(categories=names))
    (gaps,) = [issue for issue in collect(tmp_path)[1] if issue.code == "category-id-gaps"]
    assert gaps.severity is Severity.INFO
    assert "from 1 to 90" in gaps.message
    assert "from 3 to 4" in gaps.message
    write(tmp_path / "a.json", coco(categories=names[:2]))
    assert "category-id-gaps" not in {issue.code for issue in collect(tmp_path)[1]}


def test_names_that_no_file_system_takes_are_missing_files(tmp_path):
    write(tmp_path / "a.json", coco(images=[{"id": 1, "file_name": "n" * 300 + ".jpg", "width": 60, "height": 40}]))
    (record,), _ = collect(tmp_path)
    assert record.path.name == "n" * 300 + ".jpg"
