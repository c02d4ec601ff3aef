"""Preparing: masks equal to an independent rasterisation, the same bytes each time, nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from polars.testing import assert_frame_equal
from pycocotools import mask as coco

from samtune.config import PrepareConfig
from samtune.data.prepare.prepare import prepare
from samtune.data.table import Dataset
from samtune.errors import ConfigError, DataError, StorageError
from samtune.synthetic.demo_export import write_demo_export
from samtune.types import Severity
from tests.conftest import real_data

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "export"
    write_demo_export(folder, seed=0)
    return folder


def write_source(folder: Path, annotations=None, images=None, **more) -> Path:
    """One image of 60 x 40 pixels and a COCO file; what is not given is right."""
    folder.mkdir(parents=True)
    Image.new("RGB", (60, 40), (90, 120, 60)).save(folder / "a.jpg")
    annotations = [annotation()] if annotations is None else annotations
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}] if images is None else images,
        "categories": [{"id": 0, "name": "things"}, {"id": 1, "name": "thing"}],
        "annotations": annotations,
    } | more
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def annotation(**changes):
    return {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [10, 10, 20, 15]} | changes


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def agrees_with_the_mask_api(source: Path, out: Path) -> int:
    """Every object's mask file equals pycocotools' rasterisation of its polygons; returns how many."""
    report = prepare(source, out, PrepareConfig())
    assert report.broken == 0
    checked = 0
    for split in ("train", "valid", "test"):
        file = source / split / "_annotations.coco.json"
        if not file.exists():
            continue
        content = json.loads(file.read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        truth = {str(entry["id"]): entry for entry in content["annotations"]}
        entries = [found for image in report.dataset.split(split).images for found in image.objects]
        assert len(entries) == len(truth)
        for entry in entries:
            source_entry = truth[entry.annotation_id]
            polygons = [[float(value) for value in ring] for ring in source_entry["segmentation"]]
            rle = coco.merge(coco.frPyObjects(polygons, *sizes[source_entry["image_id"]]))
            mask = report.dataset.read_mask(entry)
            assert np.array_equal(mask, coco.decode(rle).astype(bool))
            assert entry.area == coco.area(rle)
            checked += 1
    return checked


def test_masks_of_the_demo_equal_the_mask_api(export, tmp_path):
    assert agrees_with_the_mask_api(export, tmp_path / "out") > 1000


@pytest.mark.parametrize(
    ("name", "objects"),
    [("lens_coco", 337), ("plants_coco", 619), pytest.param("nanoshapes_coco", 9999, marks=pytest.mark.slow)],
)
def test_masks_of_real_sets_equal_the_mask_api(name, objects, tmp_path):
    assert agrees_with_the_mask_api(real_data(name), tmp_path / "out") == objects


def test_polars_and_pandas_read_the_same_rows(export, tmp_path):
    report = prepare(export, tmp_path / "out", PrepareConfig())
    ours = report.dataset.table
    parquet = pl.from_pandas(pd.read_parquet(tmp_path / "out/table.parquet"), schema_overrides=dict(ours.schema))
    assert_frame_equal(parquet, ours)
    text = {name: str for name, kind in ours.schema.items() if kind == pl.String}
    csv = pd.read_csv(tmp_path / "out/table.csv", dtype=text)
    assert_frame_equal(pl.from_pandas(csv, schema_overrides=dict(ours.schema)), ours)


def test_twice_gives_the_same_bytes_with_any_number_of_processes(export, tmp_path):
    prepare(export, tmp_path / "one", PrepareConfig(workers=1))
    prepare(export, tmp_path / "two", PrepareConfig(workers=2))
    prepare(export, tmp_path / "two", PrepareConfig(workers=2))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_negatives_have_a_row_and_the_placeholder_category_has_none(export, tmp_path):
    table = prepare(export, tmp_path / "out", PrepareConfig()).dataset.table
    assert set(table["category"].drop_nulls()) == {"round", "spread"}
    negatives = table.filter(pl.col("mask_path").is_null())
    assert negatives.height == 3 * 2 + 1 + 2
    assert negatives["annotation_id"].null_count() == negatives.height


def test_a_zip_gives_the_same_masks_and_brings_its_images(export, tmp_path):
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(export.rglob("*")):
            file.write(path, path.relative_to(export))
    zipped = prepare(archive, tmp_path / "zipped", PrepareConfig()).dataset
    plain = prepare(export, tmp_path / "plain", PrepareConfig()).dataset
    assert_frame_equal(zipped.table.drop("image_path"), plain.table.drop("image_path"))
    assert all((zipped.root / image.image_path).resolve().is_relative_to(zipped.root) for image in zipped.images)


def test_a_dataset_with_copied_images_can_be_moved(export, tmp_path):
    prepare(export, tmp_path / "out", PrepareConfig(copy_images=True))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").rename(tmp_path / "elsewhere/moved")
    dataset = Dataset.open(tmp_path / "elsewhere/moved")
    image = dataset.images[0]
    assert dataset.read_image(image).shape == (image.height, image.width, 3)


@pytest.mark.parametrize(("merge", "count"), [("image", 1), ("category", 2)])
def test_merged_masks_are_the_union(tmp_path, merge, count):
    other = annotation(id=2, category_id=0, segmentation=[[20.0, 20, 40, 20, 40, 35, 20, 35]])
    source = write_source(tmp_path / "source", [annotation(), other])
    dataset = prepare(source, tmp_path / "out", PrepareConfig(merge=merge, split="1,0,0")).dataset
    merged = sorted((tmp_path / "out/merged").rglob("*.png"))
    assert len(merged) == count
    union = np.any([np.asarray(Image.open(path)) for path in merged], axis=0)
    singles = np.any([dataset.read_mask(found) for found in dataset.images[0].objects], axis=0)
    assert np.array_equal(union, singles)


def test_jpeg_masks_are_read_back_with_a_threshold(export, tmp_path):
    exact = prepare(export, tmp_path / "png", PrepareConfig()).dataset
    lossy = prepare(export, tmp_path / "jpg", PrepareConfig(mask_format="jpg")).dataset
    for ours, theirs in zip(exact.images[:5], lossy.images[:5], strict=True):
        for one, other in zip(ours.objects, theirs.objects, strict=True):
            masks = exact.read_mask(one), lossy.read_mask(other)
            assert np.asarray(Image.open(lossy.root / other.mask_path)).max() > 128
            assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.9


BROKEN = {
    "unknown image": (annotation(image_id=9), "annotation-without-image"),
    "unknown category": (annotation(category_id=9), "category-unknown"),
    "no outline": (annotation(segmentation=[]), "no-segmentation"),
    "two points": (annotation(segmentation=[[1, 1, 5, 5, 9]]), "polygon-points"),
    "text": (annotation(segmentation=[["a", 1, 5, 5, 9, 9]]), "polygon-coordinates"),
    "outside": (annotation(segmentation=[[100, 100, 120, 100, 120, 120]]), "empty-mask"),
    "line": (annotation(segmentation=[[5, 5, 9, 5, 7, 5]]), "empty-mask"),
    "short counts": (annotation(segmentation={"size": [40, 60], "counts": [5, 5]}), "rle-sum"),
}


@pytest.mark.parametrize(("entry", "code"), BROKEN.values(), ids=BROKEN)
def test_a_broken_object_is_listed_and_the_rest_is_used(tmp_path, entry, code):
    source = write_source(tmp_path / "source", [annotation(), entry | {"id": 2}])
    with pytest.raises(DataError, match="1 of 2"):
        prepare(source, tmp_path / "out", PrepareConfig())
    assert not (tmp_path / "out").exists()
    report = prepare(source, tmp_path / "out", PrepareConfig(on_error="skip"))
    errors = [issue for issue in report.issues if issue.severity is Severity.ERROR]
    assert [issue.code for issue in errors] == [code]
    listed = json.loads((tmp_path / "out/issues.json").read_text())["issues"]
    assert code in [issue["code"] for issue in listed]
    assert sum(report.objects.values()) == 1
    shown = "\n".join(report.lines())
    assert f"1 x {code}" in shown and f"found    {errors[0].message}" in shown
    assert all(part in shown for part in (errors[0].expected, errors[0].place, "to do    ", errors[0].do))


def test_exporters_habits_load_without_a_word(tmp_path):
    rle = coco.encode(np.asfortranarray(np.pad(np.ones((5, 6), np.uint8), ((3, 32), (4, 50)))))
    entries = [
        annotation(bbox=[10, "10", 20, "15"], iscrowd=True),
        annotation(id=2, segmentation=[SQUARE, [40.0, 5, 50, 5, 50, 15]]),
        annotation(id=3, segmentation={"size": [40, 60], "counts": rle["counts"].decode()}),
        annotation(id=4, segmentation={"size": [40, 60], "counts": [100, 20, 2280]}),
        annotation(id=5, segmentation=[[10, 10, 20, 15]]),
        annotation(id=6, segmentation=[[-20.0, -20, 30, -20, 30, 25, -20, 25]]),
        annotation(id=6),
    ]
    report = prepare(write_source(tmp_path / "source", entries), tmp_path / "out", PrepareConfig())
    assert report.broken == 0
    (image,) = report.dataset.images
    assert [found.iscrowd for found in image.objects] == [True] + [False] * 6
    assert [found.area for found in image.objects][2:4] == [30, 20]
    assert len({found.annotation_id for found in image.objects}) == 7


BAD_SOURCES = {
    "nothing there": lambda folder: None,
    "empty folder": lambda folder: folder.mkdir(),
    "no JSON": lambda folder: (write_source(folder) / "annotations.json").write_text("{"),
    "no COCO": lambda folder: (write_source(folder) / "annotations.json").write_text('{"images": 3}'),
    "no objects": lambda folder: write_source(folder, annotations=[]),
    "image missing": lambda folder: (write_source(folder) / "a.jpg").unlink(),
    "image truncated": lambda folder: (write_source(folder) / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0short"),
    "image outside": lambda folder: write_source(folder, images=[{"id": 1, "file_name": "../../etc/passwd"}]),
}


@pytest.mark.parametrize("make", BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_source_that_cannot_be_used_is_named_and_leaves_nothing(tmp_path, make):
    make(tmp_path / "source")
    with pytest.raises(DataError, match="expected"):
        prepare(tmp_path / "source", tmp_path / "out", PrepareConfig())
    assert [path.name for path in tmp_path.iterdir() if path.name != "source"] == []


def test_a_folder_with_something_else_in_it_is_left_alone(export, tmp_path):
    (tmp_path / "thesis.txt").write_text("keep")
    with pytest.raises(ConfigError, match="something else"):
        prepare(export, tmp_path, PrepareConfig())
    assert (tmp_path / "thesis.txt").read_text() == "keep"


def test_no_space_left_is_named_and_leaves_nothing(export, tmp_path, monkeypatch):
    def full(self, *_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="free some space"):
        prepare(export, tmp_path / "out", PrepareConfig(workers=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_half_dataset(export, tmp_path, number):
    code = (
        "import signal, sys; from pathlib import Path; from samtune.config import PrepareConfig; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs ignore it
        "from samtune.data.prepare.prepare import prepare; "
        "[prepare(Path(sys.argv[1]), Path(sys.argv[2]), PrepareConfig(workers=1), "
        "progress=lambda done, total: print(done, flush=True)) for _ in range(1000)]"
    )
    arguments = [sys.executable, "-c", code, str(export), str(tmp_path / "out")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)]  # some images are written
    process.send_signal(number)
    process.communicate(timeout=60)
    if (tmp_path / "out").exists():
        assert sum(len(image.objects) for image in Dataset.open(tmp_path / "out").images) > 1000
