"""More members of the kinds of `test_layouts`, made up when the readers were written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from samtune.types import Severity
from tests.layouts import (
    HEIGHT,
    RINGS,
    TWO,
    WIDTH,
    coco,
    draw,
    ids,
    labelme,
    mask_of,
    photo,
    points,
    write,
    yolo_lines,
)
from tests.test_layouts import CATEGORIES, NAMES, cvat_coco, foreign, label_studio_region, pair, via_file, yolo
from tests.test_layouts import test_it_is_read_as_anybody_would as check_read
from tests.test_layouts import test_what_has_two_readings_is_refused_by_name as check_named
from tests.test_layouts import test_what_is_odd_is_reported as check_reported

OBJECTS = ("object",) * 2


def painted_among_polygons(root, **more):
    """One brush mask per image beside polygons, as a mixed job of CVAT has them."""
    names = [f"{number}.png" for number in range(4)]
    content = coco(names)
    for entry in content["annotations"]:
        entry |= more
        if entry["category_id"] == 2:
            flat = mask_of(TWO).ravel(order="F")
            edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
            runs = {"size": [HEIGHT, WIDTH], "counts": np.diff(edges).tolist()}
            entry |= {"iscrowd": True, "segmentation": runs}
    for name in names:
        photo(root / "images/default" / name)
    write(root / "annotations/instances_default.json", content)


def empty_label_folder(root):
    yolo()(root)
    photo(root / "images/val/b.png")
    (root / "labels/val").mkdir()


def labels_of_other_names(root):
    yolo()(root)
    photo(root / "images/val/b.png")
    write(root / "labels/val/c.txt", yolo_lines())


def in_utf16(content, name="a.json"):
    def build(root):
        photo(root / "a.png")
        (root / name).write_bytes(json.dumps(content).encode("utf-16"))

    return build


def tasks(root):
    for number in (1, 2):
        cvat_coco(root / f"task_{number}")


def empty_coco_of_roboflow(root):
    yolo("train/images/a.png", "train/labels/a.txt", "data.yaml", NAMES + "train: train/images\n")(root)
    write(root / "train/_annotations.coco.json", coco(annotations=[]))


def boxes_beside_masks(root):
    pair("images/a.png", "masks/a.png")(root)
    write(root / "labels/a.txt", "0 0.3 0.4 0.3 0.3\n")
    write(root / "data.yaml", NAMES + "train: images\n")


def numbers_beside_labelme(root):
    photo(root / "a.png")
    write(root / "a.json", labelme())
    write(root / "times.txt", "0 0.5 0.5 0.3 0.3\n")


def settings_beside_via(root):
    photo(root / "a.png")
    write(root / "via.json", via_file())
    write(root / "config.yaml", "train: {epochs: 3}\nval: {n: 1}\nnames: x\n")


def of_each(image, mask, count=3, values=None):
    """Images and masks whose names hold a number."""

    def build(root):
        for number in range(count):
            photo(root / image.format(number))
            draw(root / mask.format(number), ids() if values is None else values)

    return build


def one_mask_each(image, mask):
    """Images p0 to p2 with a mask file per object."""

    def build(root):
        for name in ("p0", "p1", "p2"):
            photo(root / image.format(name))
            for number, ring in enumerate(RINGS):
                draw(root / mask.format(name, number), mask_of(ring) * np.uint8(255))

    return build


def cell_tracking(root):
    for number in range(3):
        photo(root / f"01/t00{number}.tif")
        draw(root / f"01_GT/SEG/man_seg00{number}.tif", ids().astype(np.uint16))
        draw(root / f"01_GT/TRA/man_track00{number}.tif", ids().astype(np.uint16))


def cellpose_outputs(root):
    for name in "ab":
        photo(root / f"{name}.tif")
        draw(root / f"{name}_cp_masks.tif", ids().astype(np.uint16))
        photo(root / f"{name}_cp_output.png")


def label_studio_task(shape):
    def build(root):
        photo(root / "a.png")
        result = [
            label_studio_region("polygonlabels", name, points=[[x / 0.6, y / 0.4] for x, y in points(ring)])
            for name, ring in zip(CATEGORIES, RINGS, strict=True)
        ]  # fmt: skip
        write(root / "17.json", shape(result))

    return build


DATA = {"id": 1, "data": {"image": "/data/upload/1/1f2e3d4c-a.png"}}
READ = {
    "a brush mask an image": (painted_among_polygons, "coco", CATEGORIES),
    "the same with CVAT's attributes": (
        lambda root: painted_among_polygons(root, attributes={"occluded": False}), "coco", CATEGORIES),
    "COCO in UTF-16": (in_utf16(coco()), "coco", CATEGORIES),
    "LabelMe in UTF-16": (in_utf16(labelme()), "labelme", CATEGORIES),
    "VIA in UTF-16": (in_utf16(via_file()), "via", CATEGORIES),
    "tasks of a project": (tasks, "coco", CATEGORIES),
    "percent signs twice": (foreign("gr%25C3%25BCn.png", "grün.png"), "coco", CATEGORIES),
    "percent signs in an address of local files": (
        foreign("/data/local-files/?d=set%2Fsub%2Fa.png"), "coco", CATEGORIES),
    "a question behind the name": (foreign("a.png?raw=1"), "coco", CATEGORIES),
    "another ending": (foreign("C:\\set\\a.jpg"), "coco", CATEGORIES),
    "no ending": (foreign("a"), "coco", CATEGORIES),
    "a space behind": (foreign("a.png "), "coco", CATEGORIES),
    "escaped twice": (foreign("gr\\u00fcn.png", "grün.png"), "coco", CATEGORIES),
    "uploaded twice": (foreign("/upload/1f2e3d4c-0a1b2c3d-a.png"), "coco", CATEGORIES),
    "a letter not decoded": (foreign("gr\ufffd\ufffdn.png", "grün.png"), "coco", CATEGORIES),
    "letters as question marks": (foreign("gr?n.png", "grün.png"), "coco", CATEGORIES),
    "as unzip wrote it": (foreign("grün.png", "x/gr#U00fcn.png"), "coco", CATEGORIES),
    "spaces as plus signs": (foreign("a+b.png", "x/a b.png"), "coco", CATEGORIES),
    "spaces and brackets replaced": (foreign("IMG_1__2_.jpg", "x/IMG 1 (2).JPG"), "coco", CATEGORIES),
    "an upload without its spaces": (foreign("images/1f2e3d4c-my_photo.png", "x/my photo.png"), "coco", CATEGORIES),
    "Roboflow's empty COCO file beside YOLO": (empty_coco_of_roboflow, "yolo", CATEGORIES),
    "YOLO's boxes beside masks": (boxes_beside_masks, "mask-folder", OBJECTS),
    "numbers beside LabelMe": (numbers_beside_labelme, "labelme", CATEGORIES),
    "settings beside VIA": (settings_beside_via, "via", CATEGORIES),
    "a_image and a_mask": (pair("a_image.png", "a_mask.png"), "mask-folder", OBJECTS),
    "image1 and mask1": (of_each("d/image{}.png", "d/mask{}.png"), "mask-folder", OBJECTS),
    "one image1 and mask1": (of_each("d/image{}.png", "d/mask{}.png", 1), "mask-folder", OBJECTS),
    "upper case": (pair("images/A1.PNG", "masks/a1_Mask.png"), "mask-folder", OBJECTS),
    "original and segmented": (pair("original/a.png", "segmented/a.png"), "mask-folder", OBJECTS),
    "a folder per image with instances": (of_each("{}/img.png", "{}/instances.png"), "mask-folder", OBJECTS),
    "a folder per image with counted masks": (one_mask_each("{}/image.png", "{}/mask_{}.png"), "mask-folder", OBJECTS),
    "a folder per image with folders": (one_mask_each("{0}/images/{0}.png", "{}/masks/{}.png"), "mask-folder", OBJECTS),
    "Cell Tracking Challenge": (cell_tracking, "mask-folder", OBJECTS),
    "cellpose's other outputs": (cellpose_outputs, "mask-folder", OBJECTS),
    "a task of Label Studio": (
        label_studio_task(lambda result: DATA | {"annotations": [{"result": result}]}), "label-studio", CATEGORIES),
    "a task of old": (
        label_studio_task(lambda result: DATA | {"completions": [{"result": result}]}), "label-studio", CATEGORIES),
    "an annotation with its task": (
        label_studio_task(lambda result: {"id": 5, "result": result, "task": DATA}), "label-studio", CATEGORIES),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize(("build", "name", "categories"), READ.values(), ids=READ)
def test_further_members_are_read(tmp_path, build, name, categories):
    check_read(tmp_path, build, name, categories)


def by_rows_without_boxes(root):
    photo(root / "a.png")
    shapes = []
    for ring in RINGS:
        flat = mask_of(ring).ravel()
        edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
        shapes.append({"size": [HEIGHT, WIDTH], "counts": np.diff(edges).tolist()})
    content = coco(shapes=shapes)
    for entry in content["annotations"]:
        del entry["bbox"]
    write(root / "a.json", content)


def beside_an_image(name, content):
    def build(root):
        photo(root / "a.png")
        write(root / name, content)

    return build


def channels_and_one_mask(root):
    for channel in ("DAPI", "FITC"):
        photo(root / f"w1_{channel}.tif")
    draw(root / "w1_masks.tif", ids())


def pose_without_a_third(root):
    lines = "".join("0 .5 .5 .4 .4 " + " ".join(f".{40 + k + n} .{45 + k}" for k in range(5)) + "\n" for n in range(4))
    yolo(lines=lines)(root)


def broken_coco_of_roboflow(root):
    empty_coco_of_roboflow(root)
    (root / "train/_annotations.coco.json").write_text('{"images": [{"id": 1, "file_na')


NAMED = {
    "Roboflow's COCO file cut off": (broken_coco_of_roboflow, "_annotations.coco.json, line 1"),
    "run lengths row by row, no boxes": (by_rows_without_boxes, "row by row"),
    "poses of two numbers a point": (pose_without_a_third, "pose"),
    "two channels and a mask": (channels_and_one_mask, "w1_masks.tif.*w1_DAPI.tif"),
    "results without images": (
        beside_an_image("p.json", [{"image_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]), "results list"),
    "SuperAnnotate": (beside_an_image("a.json", {"metadata": {}, "instances": [{"className": "x"}]}), "SuperAnnotate"),
    "Kili": (beside_an_image("k.json", [{"externalId": "a", "jsonResponse": {}}]), "Kili.*COCO"),
    "Scalabel": (beside_an_image("b.json", [{"name": "a.png", "labels": [{"poly2d": []}]}]), "Scalabel"),
    "Cityscapes' polygons": (
        beside_an_image("a.json", {"imgHeight": 40, "objects": [{"label": "car"}]}), "instanceIds"),
    "CVAT's XML without its head": (
        beside_an_image("a.xml", '<annotations><image><polygon points="1,2;3,4;5,6"/></image></annotations>'), "CVAT"),
    "ROI files in a zip": (beside_an_image("RoiSet.zip", "PK"), "label image"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "words"), NAMED.values(), ids=NAMED)
def test_further_members_are_named(tmp_path, build, words):
    check_named(tmp_path, build, words)


def two_nearly_alike(root):
    photo(root / "x/a b.png")
    photo(root / "x/a-b.png")
    write(root / "a.json", coco(["a_b.png"]))


def a_mask_is_no_image(root):
    draw(root / "masks/a.png", ids())
    write(root / "a.json", coco(["a.jpg"]))


def one_file_for_two_endings(root):
    photo(root / "a.png")
    write(root / "a.json", coco(["a.png", "b/a.jpg"]))


REPORTED = {
    "an empty folder of labels": (empty_label_folder, "labels-missing", Severity.WARNING),
    "labels of other names": (labels_of_other_names, "labels-missing", Severity.WARNING),
    "another ending": (foreign("a.jpg"), "image-by-name", Severity.INFO),
}


@pytest.mark.parametrize(("build", "code", "severity"), REPORTED.values(), ids=REPORTED)
def test_further_oddities_are_reported(tmp_path, build, code, severity):
    check_reported(tmp_path, build, code, severity)


@pytest.mark.parametrize("build", [two_nearly_alike, a_mask_is_no_image, one_file_for_two_endings])
def test_an_image_is_not_guessed(tmp_path, build):
    from samtune.data.checks.doctor import audit

    build(tmp_path)
    assert "image-file-missing" in {issue.code for issue in audit(tmp_path).issues}
