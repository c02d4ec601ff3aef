"""Preparing: which frame annotations live in, sizes that differ, and new splits that keep look-alikes together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.images import turn_upright
from samtune.data.prepare.prepare import prepare
from samtune.errors import DataError

WIDTH, HEIGHT = 60, 40
STORED = np.zeros((HEIGHT, WIDTH), bool)
STORED[5:15, 20:50] = STORED[15:20, 20:25] = True


def source_with(folder, name, write_image, mask, **image):
    """A COCO set of one image, with a test split so that no new split is made."""
    ys, xs = np.nonzero(mask)
    counts = _counts(mask)
    height, width = mask.shape
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [height, width], "counts": counts},
                  "bbox": [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]}  # fmt: skip
    entry = {"id": 1, "file_name": name, "width": width, "height": height} | image
    folder.mkdir(parents=True)
    write_image(folder / name)
    content = {"images": [entry], "categories": [{"id": 1, "name": "thing"}], "annotations": [annotation]}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def _counts(mask):
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(value) for value in np.diff(np.concatenate([[0], edges, [mask.size]]))]


@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_lie_on_the_upright_pixels_or_it_is_reported(tmp_path, orientation, frame):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.where(STORED[:, :, None], np.uint8(200), np.uint8(30)).repeat(3, axis=2)
    mask = STORED if frame == "stored" else turn_upright(STORED, orientation)
    source_with(tmp_path / "source/test", "a.png", lambda path: Image.fromarray(pixels).save(path, exif=exif), mask)
    report = prepare(tmp_path / "source", tmp_path / "out", PrepareConfig())
    (image,) = report.dataset.images
    shown = report.dataset.read_image(image)
    plain = np.asarray(Image.open(tmp_path / "out" / image.image_path))
    assert np.array_equal(shown, plain), "no decoder has to know of EXIF"
    agrees = np.array_equal(report.dataset.read_mask(image.objects[0]), shown[:, :, 0] > 100)
    unclear = "exif-orientation-unclear" in {issue.code for issue in report.issues}
    assert agrees or unclear
    assert unclear == (orientation in (2, 3, 4))
    assert agrees or frame == "stored"


def test_a_row_too_many_is_cut_and_another_resolution_is_left_out(tmp_path):
    def write_image(path):
        Image.new("RGB", (WIDTH, HEIGHT - 1)).save(path)

    source_with(tmp_path / "near/test", "a.png", write_image, STORED)
    report = prepare(tmp_path / "near", tmp_path / "one", PrepareConfig())
    (image,) = report.dataset.images
    assert np.array_equal(report.dataset.read_mask(image.objects[0]), STORED[:-1])
    assert [issue.code for issue in report.issues] == ["image-size-differs"]
    source_with(tmp_path / "far/test", "a.png", lambda path: Image.new("RGB", (90, 60)).save(path), STORED)
    with pytest.raises(DataError, match="another resolution"):
        prepare(tmp_path / "far", tmp_path / "two", PrepareConfig())


def test_a_new_split_keeps_copies_and_look_alikes_together(tmp_path):
    rng = np.random.default_rng(0)
    images, annotations = [], []
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(12):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        for copy, quality in enumerate((95, 60)):
            name = f"{number}-{copy}.jpg"
            small.save(folder / name, quality=quality)
            images.append({"id": len(images), "file_name": name, "width": 64, "height": 64})
            annotations.append({"id": len(annotations), "image_id": len(images) - 1, "category_id": 1,
                                "segmentation": [[5, 5, 30, 5, 30, 30, 5, 30]], "bbox": [5, 5, 25, 25]})  # fmt: skip
    content = {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}
    (folder / "a.json").write_text(json.dumps(content))
    dataset = prepare(folder, tmp_path / "out", PrepareConfig(split="0.5,0.25,0.25")).dataset
    splits = {}
    for image in dataset.images:
        splits.setdefault(image.image_path.rsplit("/", 1)[1].split("-")[0], set()).add(image.split)
    assert [len(found) for found in splits.values()] == [1] * 12
    assert len(set.union(*splits.values())) == 3


def test_a_negative_of_another_size_is_used_and_told(tmp_path):
    def write_image(path):
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
        Image.new("RGB", (90, 60)).save(path.with_name("negative.png"))

    source_with(tmp_path / "source/test", "a.png", write_image, STORED)
    file = tmp_path / "source/test/_annotations.coco.json"
    content = json.loads(file.read_text())
    content["images"].append({"id": 2, "file_name": "negative.png", "width": WIDTH, "height": HEIGHT})
    file.write_text(json.dumps(content))
    report = prepare(tmp_path / "source", tmp_path / "out", PrepareConfig())
    assert [(issue.code, issue.severity.value) for issue in report.issues] == [("image-size-differs", "warning")]
    assert [(image.width, image.height) for image in report.dataset.images] == [(WIDTH, HEIGHT), (90, 60)]
