"""Every layout that tools export, in a few lines each: the right objects, or the right words."""

from __future__ import annotations

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_api

from samtune.config import PrepareConfig
from samtune.data.checks.doctor import audit
from samtune.data.checks.page import render_html
from samtune.data.masks import rasterise
from samtune.data.prepare.prepare import prepare
from samtune.data.readers import ReadOptions, detect_format, read
from samtune.errors import DataError
from samtune.types import Severity
from tests.layouts import (
    HEIGHT,
    ONE,
    RINGS,
    TWO,
    WIDTH,
    base64_png,
    coco,
    draw,
    ids,
    labelme,
    mask_of,
    pack_brush,
    photo,
    points,
    rle,
    supervisely_bitmap,
    voc_palette,
    write,
    yolo_lines,
)

GREEN, RED, VOID = (0, 128, 0), (128, 0, 0), (224, 224, 192)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\none:0,128,0::\ntwo:128,0,0::\n"


def colored(one, two, border=None) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if border is not None:
        pixels[8:27, 8:32] = border
    pixels[mask_of(ONE)], pixels[mask_of(TWO)] = one, two
    return pixels


def inverted() -> np.ndarray:
    """Both objects as 0, all else 255."""
    return np.where(ids() == 0, 255, 0).astype(np.uint8)


def bordered() -> np.ndarray:
    """Objects 1 and 2 with VOC's void around the first."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[8:27, 8:32] = 255
    values[mask_of(ONE)], values[mask_of(TWO)] = 1, 2
    return values


def crowds(count: int) -> list[dict]:
    """Annotations as CVAT writes painted masks."""
    found = coco([f"{n}.png" for n in range(count)], [rle(mask_of(ring)) for ring in RINGS])["annotations"]
    return [entry | {"iscrowd": 1} for entry in found]


# COCO and where its images are -----------------------------------------------------------


def cvat_coco(root, above="images/default/"):
    photo(root / f"{above}a.png")
    write(root / "annotations/instances_default.json", coco())


def cvat_subsets(root):
    for subset in ("Train", "Validation"):
        photo(root / f"images/{subset}/a.png")
        write(root / f"annotations/instances_{subset}.json", coco())


def foreign(name, real="pics/a.png"):
    def build(root):
        photo(root / real)
        write(root / "result.json", coco([name]))

    return build


def coco_2017(root):
    photo(root / "val2017/a.png")
    write(root / "annotations/instances_val2017.json", coco())
    write(root / "annotations/person_keypoints_val2017.json", coco())
    write(root / "annotations/captions_val2017.json", {"images": [], "annotations": [{"image_id": 1, "caption": "x"}]})


def backup(root, content=None):
    photo(root / "a.png")
    write(root / "annotations.json", coco())
    write(root / "annotations_backup.json", coco() if content is None else content)


def older_backup(root):
    content = coco()
    backup(root, content | {"annotations": [content["annotations"][0] | {"segmentation": [TWO]}]})


def all_and_splits(root):
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        photo(root / "images" / name)
    for file, those in {"train": names[:3], "val": names[3:], "all": names}.items():
        write(root / f"{file}.json", coco(those))


def a_file_per_class(root):
    photo(root / "a.png")
    whole = coco()
    for number, name in enumerate(("one", "two")):
        write(root / f"{name}.json", whole | {"annotations": whole["annotations"][number : number + 1]})


def stray_yaml(root):
    photo(root / "a.png")
    write(root / "annotations.json", coco())
    write(root / "dvc.yaml", "stages:\n  train:\n    cmd: python train.py\n")
    write(root / "docker-compose.yml", "services: {web: {image: x}}\n")


def via_coco(root):
    content = coco(categories=[])
    photo(root / "a.png")
    for entry in content["annotations"]:
        entry |= {"segmentation": entry["segmentation"][0], "image_id": "1"}
    write(root / "via_project_coco.json", content)


def painted(root):
    for number in range(4):
        photo(root / f"images/{number}.png")
    content = coco([f"{number}.png" for number in range(4)])
    write(root / "annotations/instances_default.json", content | {"annotations": crowds(4)})


def corners(root):
    photo(root / "a.png")
    content = coco()
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    write(root / "a.json", content)


def wrapped(root):
    cvat_coco(root / "job_12/export")
    write(root / "README.md", "an export")


# YOLO ------------------------------------------------------------------------------------

NAMES = "names: [one, two]\n"


def yolo(image="images/train/a.png", label="labels/train/a.txt", settings="data.yaml", text="", lines=None):
    def build(root):
        photo(root / image)
        write(root / label, yolo_lines() if lines is None else lines)
        if settings:
            write(root / settings, text or NAMES + "path: /content/set\ntrain: images/train\n")

    return build


def yolo_with_mark(root):
    yolo()(root)
    (root / "labels/train/a.txt").write_bytes(b"\xef\xbb\xbf" + yolo_lines().encode())
    for name in ("._a.txt", ".ipynb_checkpoints/a.txt", ".DS_Store"):
        write(root / "labels/train" / name, "0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    photo(root / "images/train/.ipynb_checkpoints/a.png")
    (root / "images/train/._a.png").write_bytes(b"\0\5\26\7")
    (root / "images/train/Thumbs.db").write_bytes(b"\0")


def yolo_pixels(root):
    yolo()(root)
    lines = (" ".join(map(str, [number, *ring])) for number, ring in enumerate(RINGS))
    write(root / "labels/train/a.txt", "\n".join(lines))


def yolo_confidence(root):
    yolo()(root)
    write(root / "labels/train/a.txt", "".join(f"{line} 0.875\n" for line in yolo_lines().splitlines()))


# Masks -----------------------------------------------------------------------------------


def pair(image, mask, values=None, **options):
    def build(root):
        photo(root / image)
        draw(root / mask, ids() if values is None else values, **options)

    return build


def habit(image="images/img_{}.png", mask="masks/mask_{}.png", count=3):
    def build(root):
        for number in range(count):
            photo(root / image.format(number))
            draw(root / mask.format(number), ids())

    return build


def bowl(root):
    for image in ("00ae65", "0acd2c"):
        photo(root / f"stage1_train/{image}/images/{image}.png")
        for number, ring in enumerate(RINGS):
            draw(root / f"stage1_train/{image}/masks/{number}e6b{image}.png", mask_of(ring) * np.uint8(255))


def a_mask_per_class(root):
    for image in ("a", "b"):
        photo(root / f"images/{image}.png")
        for name, ring in zip(("one", "two"), RINGS, strict=True):
            draw(root / f"masks/{image}/{name}.png", mask_of(ring) * np.uint8(255))


def cellpose(root):
    photo(root / "p0.tif")
    draw(root / "p0_cp_masks.png", ids().astype(np.uint16))
    photo(root / "p0_flows.tif")
    draw(root / "p0_cp_outlines.png", ids())
    np.save(root / "p0_seg.npy", np.array({"masks": ids()}, dtype=object), allow_pickle=True)


def plain_array(root):
    photo(root / "p0.tif")
    np.save(root / "p0_masks.npy", ids().astype(np.int32))


def voc(root, palette=True):
    photo(root / "JPEGImages/a.jpg")
    kinds = bordered()  # class 2 and class 1, so that values of objects and classes do not agree by chance
    classes = np.array([0, 2, 1], np.uint8)[np.where(kinds == 255, 0, kinds)]
    classes[kinds == 255] = 255
    draw(root / "SegmentationObject/a.png", bordered(), voc_palette())
    draw(root / "SegmentationClass/a.png", classes, voc_palette())
    write(root / "class_names.txt", "_background_\ntwo\none\n")


def cvat_masks(root, above=""):
    photo(root / "JPEGImages/a.png")
    draw(root / "SegmentationObject/a.png", colored(RED, GREEN, VOID))
    draw(root / "SegmentationClass/a.png", colored(GREEN, RED))
    write(root / "labelmap.txt", LABELMAP)
    write(root / "ImageSets/Segmentation/default.txt", "a\n")


def cvat_palette_masks(root):
    cvat_masks(root)
    palette = [0, 0, 0, 0, 128, 0, 128, 0, 0]
    draw(root / "SegmentationClass/a.png", ids(), palette)
    draw(root / "SegmentationObject/a.png", ids(), [0, 0, 0, 128, 0, 0, 0, 128, 0])


def class_colors(root):
    photo(root / "images/a.png")
    draw(root / "masks/a.png", ids(), [0, 0, 0, 0, 128, 0, 128, 0, 0])
    write(root / "labelmap.txt", LABELMAP)


def hidden_masks(root):
    pair("images/a.png", "masks/a.png")(root)
    draw(root / "masks/.ipynb_checkpoints/a-checkpoint.png", ids())
    (root / "masks/._a.png").write_bytes(b"\0\5\26\7")


# LabelMe and its kin ---------------------------------------------------------------------


def labels_beside(root):
    photo(root / "images/p0.png")
    write(root / "labels/p0.json", labelme("..\\images\\p0.png"))


def nested_labelme(root):
    for camera in ("cam1", "cam2"):
        photo(root / f"images/{camera}/0001.png")
        write(root / f"labels/{camera}/0001.json", labelme("0001.png"))


def embedded(root):
    rng = np.random.default_rng(5)
    data = base64_png(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    write(root / "a.json", labelme("gone.png", imageData=data))


def rotation(root):
    photo(root / "a.png")
    content = labelme()
    for shape in content["shapes"]:
        shape |= {"shape_type": "rotation", "direction": 1.5}
    write(root / "a.json", content | {"version": "2.4.0"})


def label_studio_region(kind, label, **value):
    return {"original_width": WIDTH, "original_height": HEIGHT, "type": kind, "id": label,
            "value": {kind: [label], **value}}  # fmt: skip


def label_studio(root):
    photo(root / "images/a.png")
    percent = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in points(ONE)]
    x, y, width, height = 40 / 0.6, 5 / 0.4, 10 / 0.6, 10 / 0.4
    result = [
        label_studio_region("polygonlabels", "one", points=percent),
        label_studio_region("rectanglelabels", "two", x=x, y=y, width=width, height=height, rotation=0),
    ]
    task = {"id": 7, "data": {"image": "/data/upload/3/1f2e3d4c-a.png"}, "annotations": [{"result": result}]}
    write(root / "project-3.json", [task])


def label_studio_brushes(root):
    photo(root / "a.png")
    result = [
        label_studio_region("brushlabels", "one", format="rle", rle=pack_brush(mask_of(ONE))),
        label_studio_region("brushlabels", "two", format="rle", rle=pack_brush(mask_of(TWO), plain=True)),
    ]
    write(root / "a.json", [{"id": 1, "data": {"image": "s3://bucket/x/a.png"}, "annotations": [{"result": result}]}])


def label_studio_min(root):
    photo(root / "a.png")
    regions = [
        {"points": [[x / 0.6, y / 0.4] for x, y in points(ring)], "polygonlabels": [label], "original_width": WIDTH,
         "original_height": HEIGHT}
        for label, ring in zip(("one", "two"), RINGS, strict=True)
    ]  # fmt: skip
    write(root / "min.json", [{"id": 1, "image": "/data/upload/1/a.png", "label": regions}])


def feature(ring, name, sign=1, key="classification"):
    closed = [[x, sign * y] for x, y in [*points(ring), ring[:2]]]
    value = {"name": name, "color": [1, 2, 3]} if key == "classification" else name
    return {"type": "Feature", "id": name, "geometry": {"type": "Polygon", "coordinates": [closed]},
            "properties": {"objectType": "annotation", key: value}}  # fmt: skip


def qupath(root):
    photo(root / "slide.tif")
    write(root / "slide.geojson", {"type": "FeatureCollection", "features": [feature(ONE, "one"), feature(TWO, "two")]})


def qgis(root):
    photo(root / "a.png")
    features = [feature(ring, name, -1, "class") for ring, name in zip(RINGS, ("one", "two"), strict=True)]
    write(root / "a.geojson", {"type": "FeatureCollection", "name": "a", "features": features})


def supervisely(root):
    photo(root / "ds0/img/a.png")
    exterior = {"exterior": points(ONE), "interior": []}
    bitmap = {"data": supervisely_bitmap(np.ones((10, 10), bool)), "origin": [40, 5]}
    objects = [{"classTitle": "one", "geometryType": "polygon", "points": exterior},
               {"classTitle": "two", "geometryType": "bitmap", "bitmap": bitmap}]  # fmt: skip
    write(root / "ds0/ann/a.png.json", {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects})
    write(root / "meta.json", {"classes": [{"title": "one", "shape": "polygon"}], "tags": []})


def datumaro(root):
    photo(root / "images/default/a.png")
    annotations = [{"id": 0, "type": "polygon", "label_id": 0, "points": ONE, "group": 0},
                   {"id": 0, "type": "mask", "label_id": 1, "rle": rle(mask_of(TWO)), "group": 0}]  # fmt: skip
    item = {"id": "a", "annotations": annotations, "image": {"path": "a.png", "size": [HEIGHT, WIDTH]}}
    categories = {"label": {"labels": [{"name": "one", "parent": ""}, {"name": "two", "parent": ""}]}}
    write(root / "annotations/default.json", {"info": {}, "categories": categories, "items": [item]})


def darwin(root):
    photo(root / "images/a.png")
    path = [{"x": x, "y": y} for x, y in points(ONE)]
    dense = np.where(mask_of(TWO), 3, 0).ravel()
    edges = np.flatnonzero(np.diff(dense)) + 1
    runs = [int(v) for start, stop in zip([0, *edges], [*edges, dense.size], strict=True)
            for v in (dense[start], stop - start)]  # fmt: skip
    annotations = [
        {"id": "p", "name": "one", "polygon": {"paths": [path]}},
        {"id": "m", "name": "two", "mask": {}},
        {"id": "r", "name": "__raster_layer__",
         "raster_layer": {"dense_rle": runs, "mask_annotation_ids_mapping": {"m": 3}, "total_pixels": WIDTH * HEIGHT}},
    ]  # fmt: skip
    item = {"name": "a.png", "path": "/", "slots": [{"width": WIDTH, "height": HEIGHT}]}
    write(root / "annotations/a.json", {"version": "2.0", "item": item, "annotations": annotations})


def isat(root):
    photo(root / "a.png")
    info = {"description": "ISAT", "folder": "/home/u/set", "name": "a.png", "width": WIDTH, "height": HEIGHT}
    objects = [{"category": name, "group": number, "segmentation": points(ring), "layer": 1.0, "iscrowd": False}
               for number, (name, ring) in enumerate(zip(("one", "two"), RINGS, strict=True), start=1)]  # fmt: skip
    write(root / "a.json", {"info": info, "objects": objects})


def panoptic(root):
    photo(root / "val2017/a.jpg")
    numbers = np.where(mask_of(ONE), 70_001, np.where(mask_of(TWO), 300, 5))
    draw(root / "annotations/panoptic_val2017/a.png",
         np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=2).astype(np.uint8))  # fmt: skip
    segments = [{"id": 70_001, "category_id": 1, "iscrowd": 0}, {"id": 300, "category_id": 2, "iscrowd": 0},
                {"id": 5, "category_id": 3, "iscrowd": 0}]  # fmt: skip
    write(root / "annotations/panoptic_val2017.json", {
        "images": [{"id": 9, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "one", "isthing": 1}, {"id": 2, "name": "two", "isthing": 1},
                       {"id": 3, "name": "sky", "isthing": 0}],
        "annotations": [{"image_id": 9, "file_name": "a.png", "segments_info": segments}],
    })  # fmt: skip


def cityscapes(root):
    photo(root / "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png")
    values = np.where(mask_of(ONE), 26_000, np.where(mask_of(TWO), 24_003, 7)).astype(np.uint16)
    draw(root / "gtFine/train/ulm/ulm_0_gtFine_instanceIds.png", values)
    draw(root / "gtFine/train/ulm/ulm_0_gtFine_labelIds.png", ids())
    draw(root / "gtFine/train/ulm/ulm_0_gtFine_color.png", colored(RED, GREEN))


CATEGORIES = ("one", "two")
READ = {
    "CVAT COCO 1.0": (cvat_coco, "coco", CATEGORIES),
    "CVAT COCO, images without a subset": (lambda root: cvat_coco(root, "images/"), "coco", CATEGORIES),
    "CVAT COCO, images deeper": (lambda root: cvat_coco(root, "images/cam1/day 2/"), "coco", CATEGORIES),
    "CVAT COCO, two subsets of one name": (cvat_subsets, "coco", CATEGORIES),
    "Label Studio's images/1/": (foreign("images/1/a.png", "images/a.png"), "coco", CATEGORIES),
    "Label Studio's upload": (foreign("..\\..\\label-studio\\media\\upload\\4\\a.png"), "coco", CATEGORIES),
    "upload's prefix": (foreign("/data/upload/4/1f2e3d4c-a.png"), "coco", CATEGORIES),
    "somebody's home": (foreign("/home/u/d/a.png"), "coco", CATEGORIES),
    "a drive": (foreign("D:\\work\\a.png"), "coco", CATEGORIES),
    "a web address": (foreign("https://host/x/a.png?sig=1#f"), "coco", CATEGORIES),
    "a local-files address": (foreign("/data/local-files/?d=set/a.png"), "coco", CATEGORIES),
    "percent signs": (foreign("gr%C3%BCn%20a.png", "grün a.png"), "coco", CATEGORIES),
    "composed and decomposed": (foreign(unicodedata.normalize("NFD", "grün.png"), "grün.png"), "coco", CATEGORIES),
    "UTF-8 as a code page": (foreign("gr├╝n.png", "grün.png"), "coco", CATEGORIES),
    "upper case": (foreign("A.PNG", "a.png"), "coco", CATEGORIES),
    "COCO 2017": (coco_2017, "coco", CATEGORIES),
    "a backup": (backup, "coco", CATEGORIES),
    "an older backup": (older_backup, "coco", CATEGORIES),
    "train, val and all": (all_and_splits, "coco", CATEGORIES),
    "a file per class": (a_file_per_class, "coco", CATEGORIES),
    "a stray YAML": (stray_yaml, "coco", CATEGORIES),
    "VIA's COCO": (via_coco, "coco", ("1", "2")),
    "painted masks": (painted, "coco", CATEGORIES),
    "boxes by corners": (corners, "coco", CATEGORIES),
    "folders around it": (wrapped, "coco", CATEGORIES),
    "YOLO, nested": (yolo("images/train/cam1/a.png", "labels/train/cam1/a.txt"), "yolo", CATEGORIES),
    "YOLO, data.yaml above": (yolo("set/images/train/a.png", "set/labels/train/a.txt"), "yolo", CATEGORIES),
    "YOLO, data.yaml below": (yolo(settings="config/data.yaml"), "yolo", CATEGORIES),
    "YOLO, one folder": (yolo("a.png", "a.txt", "classes.txt", "one\ntwo\n"), "yolo", CATEGORIES),
    "YOLO, one folder a split": (
        yolo("train/a.png", "train/a.txt", "data.yaml", NAMES + "train: train\n"), "yolo", CATEGORIES),
    "YOLO, classes.txt": (yolo("images/a.png", "labels/a.txt", "classes.txt", "one\ntwo\n"), "yolo", CATEGORIES),
    "YOLO, classes.txt with the labels": (
        yolo("images/a.png", "labels/a.txt", "labels/classes.txt", "one\ntwo\n"), "yolo", CATEGORIES),
    "YOLO, no names": (yolo("images/a.png", "labels/a.txt", ""), "yolo", ("0", "1")),
    "YOLO, other names of folders": (
        yolo("photos/a.png", "labels/a.txt", "obj.names", "one\ntwo\n"), "yolo", CATEGORIES),
    "YOLO, byte order mark and hidden files": (yolo_with_mark, "yolo", CATEGORIES),
    "YOLO, pixels": (yolo_pixels, "yolo", CATEGORIES),
    "YOLO, confidence": (yolo_confidence, "yolo", CATEGORIES),
    "2018 Data Science Bowl": (bowl, "mask-folder", ("object",) * 2),
    "a mask per class": (a_mask_per_class, "mask-folder", CATEGORIES),
    "p0.tif, p0_masks.tif": (pair("p0.tif", "p0_masks.tif"), "mask-folder", ("object",) * 2),
    "p0.png, p0-mask.png": (pair("p0.png", "p0-mask.png"), "mask-folder", ("object",) * 2),
    "p0.jpg, p0.png": (pair("x/p0.jpg", "y/p0.png"), "mask-folder", ("object",) * 2),
    "cellpose": (cellpose, "mask-folder", ("object",) * 2),
    "an array": (plain_array, "mask-folder", ("object",) * 2),
    "GIF": (pair("images/21_training.tif", "1st_manual/21_manual1.gif"), "mask-folder", ("object",) * 2),
    "mask_0 for img_0": (habit(), "mask-folder", ("object",) * 2),
    "mask_0 for img_0, one": (habit(count=1), "mask-folder", ("object",) * 2),
    "other zeros": (habit("images/frame_00{}.png", "masks/{}.tif"), "mask-folder", ("object",) * 2),
    "a long ending": (habit("img/{}_rgb.png", "gt/{}_label_ground-truth.png"), "mask-folder", ("object",) * 2),
    "train and train_masks": (pair("train/a.png", "train_masks/a_mask.gif"), "mask-folder", ("object",) * 2),
    "trainannot": (pair("train/a.png", "trainannot/a.png"), "mask-folder", ("object",) * 2),
    "masks of hidden files": (hidden_masks, "mask-folder", ("object",) * 2),
    "VOC": (voc, "mask-folder", CATEGORIES),
    "CVAT Segmentation mask 1.1": (cvat_masks, "mask-folder", CATEGORIES),
    "CVAT masks with palettes": (cvat_palette_masks, "mask-folder", CATEGORIES),
    "classes by palette": (class_colors, "mask-folder", CATEGORIES),
    "void in gray ids": (pair("images/a.png", "masks/a.png", bordered()), "mask-folder", ("object",) * 2),
    "LabelMe beside images": (labels_beside, "labelme", CATEGORIES),
    "LabelMe, nested": (nested_labelme, "labelme", CATEGORIES),
    "LabelMe with the image in it": (embedded, "labelme", CATEGORIES),
    "X-AnyLabeling's rotation": (rotation, "labelme", CATEGORIES),
    "Label Studio": (label_studio, "label-studio", CATEGORIES),
    "Label Studio's brushes": (label_studio_brushes, "label-studio", CATEGORIES),
    "Label Studio's minimal JSON": (label_studio_min, "label-studio", CATEGORIES),
    "QuPath": (qupath, "geojson", CATEGORIES),
    "QGIS": (qgis, "geojson", CATEGORIES),
    "Supervisely": (supervisely, "supervisely", CATEGORIES),
    "Datumaro": (datumaro, "datumaro", CATEGORIES),
    "Darwin": (darwin, "darwin", CATEGORIES),
    "ISAT": (isat, "isat", CATEGORIES),
    "COCO panoptic": (panoptic, "coco-panoptic", CATEGORIES),
    "Cityscapes": (cityscapes, "cityscapes", ("car", "person")),
}  # fmt: skip


def collect(source, **more):
    issues = []
    return list(read(source, on_issue=issues.append, **more)), issues


def truth(ring) -> np.ndarray:
    """A ring's mask by the COCO mask API."""
    return coco_api.decode(coco_api.frPyObjects([ring], HEIGHT, WIDTH))[:, :, 0].astype(bool)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize(("build", "name", "categories"), READ.values(), ids=READ)
def test_it_is_read_as_anybody_would(tmp_path, build, name, categories):
    build(tmp_path)
    assert detect_format(tmp_path) == name
    records, issues = collect(tmp_path)
    assert [issue for issue in issues if issue.severity is Severity.ERROR] == []
    assert records
    assert len({record.path for record in records}) == len(records)
    for record in records:
        with Image.open(record.path) as image:
            assert image.size == (WIDTH, HEIGHT)
        found = {one.category: rasterise(one.segmentation, HEIGHT, WIDTH) for one in record.annotations}
        masks = [rasterise(one.segmentation, HEIGHT, WIDTH) for one in record.annotations]
        assert sorted(one.category for one in record.annotations) == sorted(categories)
        assert not any(one.iscrowd for one in record.annotations)
        for category, ring in zip(categories, RINGS, strict=True):
            expected = truth(ring)
            chosen = masks if len(set(categories)) == 1 else [found[category]]
            assert any(np.array_equal(mask, expected) for mask in chosen), category


@pytest.mark.parametrize("name", ["CVAT COCO 1.0", "painted masks", "VOC", "COCO 2017", "Label Studio's brushes"])
def test_doctor_and_prepare_agree_also_about_a_zip(tmp_path, name):
    READ[name][0](tmp_path / "source")
    archive = shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "source")
    for source in (tmp_path / "source", tmp_path / "export.zip"):
        found = audit(source)
        report = prepare(source, tmp_path / "out", PrepareConfig(split="1,0,0", workers=1))
        objects = sum(split.objects for split in found.summary.splits.values())
        assert objects == sum(report.objects.values()) >= 2
        assert found.exit_code == 0
        assert sum(len(image.single_objects) for image in report.dataset.images) == objects
    assert archive


# What is named ---------------------------------------------------------------------------


def by_rows(root):
    photo(root / "a.png")
    shapes = []
    for ring in RINGS:
        flat = mask_of(ring).ravel()
        edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
        shapes.append({"size": [HEIGHT, WIDTH], "counts": [int(n) for n in np.diff(edges)]})
    write(root / "a.json", coco(shapes=shapes))


def elsewhere_boxes(root):
    photo(root / "a.png")
    content = coco([f"{number}.png" for number in range(6)])
    write(root / "a.json", content | {"annotations": [one | {"bbox": [1, 30, 4, 4]} for one in content["annotations"]]})


def lost_split(root):
    yolo()(root)
    for number in range(2):
        photo(root / f"images/val/{number}.png")


def no_labels(root):
    photo(root / "images/train/a.png")
    write(root / "data.yaml", NAMES + "train: images/train\n")


def no_objects(root):
    photo(root / "a.png")
    write(root / "a.json", coco(annotations=[]))


def pose(root):
    lines = "0 0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.6 0.5 0.5\n"
    yolo(text=NAMES + "kpt_shape: [3, 2]\ntrain: images/train\n", lines=lines)(root)


def silent_pose(root):
    line = "0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.6 2 0.5 0.5 1 0.45 0.55 2\n"
    yolo(lines=line * 4)(root)


def two_versions(root):
    photo(root / "a.png")
    write(root / "first.json", coco())
    write(root / "second.json", coco(shapes=[TWO, ONE]))


def two_candidates(root):
    photo(root / "x/a.png")
    photo(root / "y/a.png")
    write(root / "a.json", coco(["/home/u/a.png"]))


def one_for_two(root):
    photo(root / "a.png")
    write(root / "a.json", coco(["cam1/a.png", "cam2/a.png"]))


def no_match(root):
    for number in range(2):
        photo(root / f"images/p{number}.png")
        draw(root / f"masks/q_{'ab'[number]}x.png", ids())


def pickled(root):
    photo(root / "p0.tif")
    np.save(root / "p0_seg.npy", np.array({"masks": ids()}, dtype=object), allow_pickle=True)


def on_a_map(root):
    photo(root / "a.png")
    moved = [value + 500_000 for value in ONE]
    write(root / "a.geojson", {"type": "FeatureCollection", "features": [feature(moved, "one")]})


def boxes_only(root):
    photo(root / "a.png")
    content = coco()
    write(root / "a.json", content | {"annotations": [one | {"segmentation": []} for one in content["annotations"]]})


def cvat_xml(root):
    photo(root / "a.png")
    write(root / "annotations.xml", "<?xml version='1.0'?><annotations><version>1.1</version></annotations>")


def voc_xml(root):
    photo(root / "a.png")
    write(root / "a.xml", "<annotation><object><bndbox/></object></annotation>")


def masks_alone(root):
    draw(root / "SegmentationObject/a.png", colored(RED, GREEN))
    draw(root / "SegmentationClass/a.png", colored(GREEN, RED))
    write(root / "labelmap.txt", LABELMAP)


def one_color_twice(root):
    class_colors(root)
    write(root / "labelmap.txt", LABELMAP + "three:0,128,0::\n")


def mask_of_pages(root):
    photo(root / "images/a.png")
    draw(root / "masks/a.tif", ids(), save_all=True, append_images=[Image.fromarray(ids())])


def masks_of_one_split(root):
    for split in ("train", "val"):
        photo(root / f"images/{split}/{split}.png")
    draw(root / "masks/train/train.png", ids())


def coco_of_one_split(root):
    photo(root / "valid/b.png")
    photo(root / "train/a.png")
    write(root / "train/_annotations.coco.json", coco())


def labelme_twice(root):
    photo(root / "a.png")
    write(root / "a.json", labelme())
    write(root / "old/a.json", labelme())


def via_file(name="a.png"):
    regions = [
        {"shape_attributes": {"name": "polygon", "all_points_x": ring[::2], "all_points_y": ring[1::2]},
         "region_attributes": {"kind": kind}}
        for ring, kind in zip(RINGS, ("one", "two"), strict=True)
    ]  # fmt: skip
    return {"a.png9": {"filename": name, "size": 9, "regions": regions}}


def via_twice(root):
    photo(root / "a.png")
    write(root / "via_region_data.json", via_file())
    write(root / "via_project.json", {"_via_settings": {}, "_via_img_metadata": via_file()})


def via_apart(root):
    photo(root / "images/a.png")
    write(root / "annotations/via.json", via_file("C:\\set\\a.png"))


def two_kinds_of_masks(root):
    photo(root / "human bladder/tissue images/h_01.png")
    draw(root / "human bladder/label masks/h_01.tif", ids().astype(np.int32))
    draw(root / "human bladder/mask binary/h_01.png", 255 - inverted())


def ignored_shape(root):
    photo(root / "a.png")
    content = labelme()
    content["shapes"].append({"label": "__ignore__", "points": points(ONE)})
    write(root / "a.json", content)


def companions(root):
    for eye in ("01L", "01R"):
        photo(root / f"Image_{eye}.jpg")
        draw(root / f"Image_{eye}_1stHO.png", ids())


def other_folder_names(root):
    for number in ("0001", "0002"):
        photo(root / f"ISBI2016_Part1_Training_Data/ISIC_{number}.jpg")
        draw(root / f"ISBI2016_Part1_Training_GroundTruth/ISIC_{number}_Segmentation.png", ids())


def darknet_list(root):
    yolo("obj_train_data/a.png", "obj_train_data/a.txt", "obj.names", "one\ntwo\n")(root)
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    write(root / "train.txt", "data/obj_train_data/a.png\n")


def in_utf16(root):
    yolo()(root)
    (root / "labels/train/a.txt").write_bytes(yolo_lines().encode("utf-16"))


def color_table(root):
    for split in ("train", "val"):
        photo(root / f"{split}/0001TP_{split}.png")
        draw(root / f"{split}_labels/0001TP_{split}_L.png", colored(GREEN, RED))
    write(root / "class_dict.csv", "name,r,g,b\none,0,128,0\ntwo,128,0,0\n")


def same_base_names(root):
    for camera in ("cam1", "cam2"):
        photo(root / f"{camera}/1.png")
    write(root / "a.json", coco(["C:\\d\\cam1\\1.png", "C:\\d\\cam2\\1.png"]))


def train_and_trainval(root):
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        photo(root / "JPEGImages" / name)
    for file, those in {"trainval": names, "train": names[:3], "val": names[3:]}.items():
        write(root / f"annotations/instances_{file}.json", coco(those))


def a_mask_per_object_beside(root):
    for image in "ab":
        photo(root / f"{image}.jpg")
        for number, ring in enumerate(RINGS):
            draw(root / f"{image}_mask_{number}.png", np.uint8(255) * mask_of(ring))


def labelme_dataset(root):
    for image in "ab":
        photo(root / f"{image}_json/img.png")
        draw(root / f"{image}_json/label.png", ids(), voc_palette())
        draw(root / f"{image}_json/label_viz.png", colored(RED, GREEN))
        write(root / f"{image}_json/label_names.txt", "_background_\none\ntwo\n")


def jpeg_and_png(root):
    for image in "abc":
        photo(root / f"train/{image}.jpg")
        draw(root / f"train/{image}.png", ids())


def pairs_of_points(root):
    photo(root / "a.png")
    write(root / "a.json", coco(shapes=[points(ring) for ring in RINGS]))


def deep_void(root):
    photo(root / "images/a.png")
    values = ids().astype(np.uint16)
    values[:2] = 65_535
    draw(root / "masks/a.png", values)


INVENTED = {
    "a mask per object beside": (a_mask_per_object_beside, "mask-folder", ("object",) * 2),
    "labelme_json_to_dataset": (labelme_dataset, "mask-folder", CATEGORIES),
    "a JPEG and a PNG of one name": (jpeg_and_png, "mask-folder", ("object",) * 2),
    "pairs of points": (pairs_of_points, "coco", CATEGORIES),
    "void in 16 bits": (deep_void, "mask-folder", ("object",) * 2),
    "VIA apart from its images": (via_apart, "via", CATEGORIES),
    "CHASE's second names": (companions, "mask-folder", ("object",) * 2),
    "ISIC's folders": (other_folder_names, "mask-folder", ("object",) * 2),
    "masks of labels and binary ones": (two_kinds_of_masks, "mask-folder", ("object",) * 2),
    "a list of darknet's": (darknet_list, "yolo", CATEGORIES),
    "labels in UTF-16": (in_utf16, "yolo", CATEGORIES),
    "a table of colours": (color_table, "mask-folder", CATEGORIES),
    "one base name, two folders": (same_base_names, "coco", CATEGORIES),
    "train, val and trainval": (train_and_trainval, "coco", CATEGORIES),
    "an ignored shape": (ignored_shape, "labelme", CATEGORIES),
    "two VIA files": (via_twice, "via", CATEGORIES),
    "two LabelMe files": (labelme_twice, "labelme", CATEGORIES),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize(("build", "name", "categories"), INVENTED.values(), ids=INVENTED)
def test_other_members_of_each_kind_are_read(tmp_path, build, name, categories):
    test_it_is_read_as_anybody_would(tmp_path, build, name, categories)


NAMED = {
    "run lengths row by row": (by_rows, "row by row"),
    "boxes elsewhere": (elsewhere_boxes, "box is elsewhere"),
    "no label files": (no_labels, "label files"),
    "pose": (pose, "pose"),
    "pose without a word": (silent_pose, "pose"),
    "two versions": (two_versions, "first.json"),
    "masks of another name": (no_match, "2 masks, none named like an image: q_ax.png, q_bx.png.*mask-pattern"),
    "CVAT's XML": (cvat_xml, "COCO 1.0"),
    "VOC's XML": (voc_xml, "no outlines"),
    "masks without images": (masks_alone, "no image"),
    "a map": (on_a_map, "pixels of the image"),
    "one colour for two classes": (one_color_twice, "one class for each value"),
}
REPORTED = {
    "a mask of pages": (mask_of_pages, "mask-unreadable", Severity.ERROR),
    "inverted masks": (
        pair("images/a.png", "masks/a.png", np.uint8(255) * (ids() == 0)),
        "mask-inverted",
        Severity.WARNING,
    ),
    "no background": (pair("images/a.png", "masks/a.png", ids() + 1), "mask-without-background", Severity.WARNING),
    "masks of one split only": (masks_of_one_split, "split-not-read", Severity.WARNING),
    "a split without its COCO file": (coco_of_one_split, "split-not-read", Severity.WARNING),
    "two LabelMe files of an image": (labelme_twice, "image-twice", Severity.WARNING),
    "two VIA files of an image": (via_twice, "image-twice", Severity.WARNING),
    "two kinds of masks": (two_kinds_of_masks, "mask-spare", Severity.INFO),
    "LabelMe's __ignore__": (ignored_shape, "shape-ignored", Severity.INFO),
    "no objects": (no_objects, "no-objects", Severity.ERROR),
    "boxes only": (boxes_only, "boxes-only", Severity.ERROR),
    "two candidates": (two_candidates, "image-name-ambiguous", Severity.ERROR),
    "one image for two names": (one_for_two, "image-name-ambiguous", Severity.ERROR),
    "cellpose's pickle": (pickled, "mask-unreadable", Severity.ERROR),
    "a split without labels": (lost_split, "labels-missing", Severity.WARNING),
    "void in gray ids": (READ["void in gray ids"][0], "mask-void", Severity.WARNING),
    "painted masks": (painted, "crowd-objects", Severity.WARNING),
    "a backup": (backup, "coco-files-overlap", Severity.WARNING),
    "a foreign name": (READ["somebody's home"][0], "image-by-name", Severity.INFO),
    "VIA's COCO": (via_coco, "categories-missing", Severity.WARNING),
}


@pytest.mark.parametrize(("build", "words"), NAMED.values(), ids=NAMED)
def test_what_has_two_readings_is_refused_by_name(tmp_path, build, words):
    build(tmp_path / "source")
    for work in (audit, lambda source: prepare(source, tmp_path / "out", PrepareConfig(workers=1))):
        with pytest.raises(DataError, match=f"(?s){words}") as caught:
            work(tmp_path / "source")
        assert caught.value.do
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("build", "code", "severity"), REPORTED.values(), ids=REPORTED)
def test_what_is_odd_is_reported(tmp_path, build, code, severity):
    build(tmp_path)
    try:
        _, issues = collect(tmp_path)
    except DataError as error:
        pytest.fail(str(error))
    assert (code, severity) in {(issue.code, issue.severity) for issue in issues}


def test_crowd_regions_as_coco_has_them_stay_regions_and_the_choice_is_free(tmp_path):
    names = [f"{number}.png" for number in range(3)]
    content = coco(names, [ONE, TWO, ONE, TWO])
    region = content["annotations"][0] | {"id": 99, "segmentation": rle(mask_of(ONE)), "iscrowd": 1}
    content["annotations"].append(region)
    for name in names:
        photo(tmp_path / name)
    write(tmp_path / "a.json", content)

    def marked(crowd):
        records, _ = collect(tmp_path, options=ReadOptions(crowd=crowd))
        return sum(one.iscrowd for record in records for one in record.annotations)

    assert [marked(crowd) for crowd in ("auto", "objects", "regions")] == [1, 0, 1]
    painted(tmp_path / "cvat")
    records, _ = collect(tmp_path / "cvat", options=ReadOptions(crowd="regions"))
    assert all(one.iscrowd for record in records for one in record.annotations)


@pytest.mark.parametrize("pattern", ["masks/q_{stem}x.png", "q_{stem}*.png", "masks\\q_{stem}x.*"])
def test_masks_follow_the_pattern_that_is_given(tmp_path, pattern):
    for name in ("a", "b"):
        photo(tmp_path / f"images/{name}.png")
        draw(tmp_path / f"masks/q_{name}x.png", ids())
    records, _ = collect(tmp_path, source_format="mask-folder", options=ReadOptions(mask_pattern=pattern))
    assert [len(record.annotations) for record in records] == [2, 2]


def test_the_choice_among_formats_is_explained(tmp_path):
    yolo()(tmp_path)
    for number in range(5):
        photo(tmp_path / f"images/train/{number}.png")
    write(tmp_path / "annotations.json", coco(["images/train/a.png"]))
    issues = []
    assert detect_format(tmp_path, issues.append) == "coco"
    (issue,) = issues
    assert issue.code == "several-formats"
    assert "yolo (data.yaml, 1 label files)" in issue.message
    assert "--source-format" in issue.repair
    for number in range(5):
        write(tmp_path / f"labels/train/{number}.txt", yolo_lines())
    assert detect_format(tmp_path) == "yolo"


def test_all_parts_of_a_finding_are_on_screen_and_objects_are_counted_apart(tmp_path):
    """What was expected and what to do is said by the doctor and by prepare; an image is no object."""
    source = tmp_path / "source"
    for folder in ("x", "y"):
        photo(source / folder / "b.png")
    photo(source / "a.png")
    content = coco(["a.png", "/home/u/b.png"])
    content["annotations"][0]["segmentation"] = rle(mask_of(ONE)) | {"size": [WIDTH, HEIGHT]}
    write(source / "all.json", content)
    found = audit(source)
    lines = found.to_text().splitlines()
    assert "  expected: run lengths of the image's size, 60 x 40" in lines
    assert "  to do: write file_name as a path in the source" in lines
    render_html(found, tmp_path / "page.html")
    assert "run lengths of the image&#39;s size" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(DataError) as caught:
        prepare(source, tmp_path / "out", PrepareConfig())
    assert "3 of 4 objects and 1 image or file (80%)" in caught.value.found


def test_a_source_without_a_usable_object_says_why(tmp_path):
    photo(tmp_path / "s/a.png")
    write(tmp_path / "s/all.json", coco(annotations=[]))
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "s", tmp_path / "out", PrepareConfig(on_error="skip"))
    error = caught.value
    assert error.found == "1 image without any usable one; the first error: The source has 1 image and no object."
    assert error.do is not None and "annotations were exported" in error.do
