"""`--page all`: every page of a stack is an image of its own, with the objects of the same page of its mask."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from samtune import api
from samtune.config import PredictConfig, PrepareConfig, ReadingConfig
from samtune.data.checks.doctor import audit
from samtune.data.images import Reading, read_image
from samtune.errors import ConfigError, DataError
from samtune.types import Split
from tests.layouts import HEIGHT, ONE, TWO, WIDTH, coco, draw, ids, mask_of, write

ALL = PrepareConfig(page="all", split="1,0,0", workers=1)


def stack(path, pages, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others, **options)
    return path


def slices(count=3, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return [rng.integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH), dtype=dtype) for _ in range(count)]


def labels():
    """Both objects, none, and the second alone under another value."""
    return [ids(), ids() * 0, np.uint8(7) * mask_of(TWO)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_each_page_has_the_objects_of_its_own_mask(tmp_path, dtype):
    pages = slices(dtype=dtype)
    stack(tmp_path / "in/images/a.tif", pages)
    stack(tmp_path / "in/masks/a.tif", [page.astype(dtype) for page in labels()])
    dataset = api.prepare(tmp_path / "in", tmp_path / "out", ALL, quiet=True).dataset
    assert [(image.image_id, image.page) for image in dataset.images] == [(f"a@page-{n}", n) for n in (1, 2, 3)]
    assert len({image.group for image in dataset.images}) == 1
    expected = ([ONE, TWO], [], [TWO])
    for image, rings in zip(dataset.images, expected, strict=True):
        shown = read_image(tmp_path / "in/images/a.tif", reading=Reading(page=image.page))
        assert np.array_equal(dataset.read_image(image), shown)
        masks = [dataset.read_mask(one) for one in image.objects]
        assert len(masks) == len(rings)
        assert all(any(np.array_equal(mask, mask_of(ring)) for mask in masks) for ring in rings)
    found = audit(tmp_path / "in", options=_options(), reading=Reading())
    assert found.exit_code == 0
    assert sum(split.objects for split in found.summary.splits.values()) == 3
    assert "several-pages" not in {issue.code for issue in found.issues}


def _options():
    from samtune.data.readers import ReadOptions

    return ReadOptions(all_pages=True)


def test_one_page_is_read_as_before_and_the_way_to_all_is_told(tmp_path):
    stack(tmp_path / "in/images/a.tif", slices())
    stack(tmp_path / "in/masks/a.tif", labels())
    found = api.doctor(tmp_path / "in", quiet=True)
    told = {issue.code: issue.do for issue in found.issues}
    assert "--page all" in told["several-pages"]
    assert "--page all" in told["mask-pages"]


def test_a_mask_of_other_pages_is_refused_by_name(tmp_path):
    stack(tmp_path / "images/a.tif", slices())
    draw(tmp_path / "masks/a.tif", ids())
    found = api.doctor(tmp_path, reading=ReadingConfig(page="all"), quiet=True)
    assert {"mask-unreadable"} <= {issue.code for issue in found.issues}
    assert any("as many as its image" in issue.expected for issue in found.issues)


def test_outlines_do_not_say_their_page(tmp_path):
    stack(tmp_path / "in/a.tif", slices())
    write(tmp_path / "in/a.json", coco(["a.tif"]))
    found = api.doctor(tmp_path / "in", reading=ReadingConfig(page="all"), quiet=True)
    (issue,) = [issue for issue in found.issues if issue.code == "page-unsaid"]
    assert "--page 1" in issue.do
    with pytest.raises(DataError, match="page"):
        api.prepare(tmp_path / "in", tmp_path / "out", ALL, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_single_stack_is_split_by_blocks_of_pages(tmp_path):
    stack(tmp_path / "in/images/a.tif", slices(40))
    stack(tmp_path / "in/masks/a.tif", [ids()] * 40)
    report = api.prepare(tmp_path / "in", tmp_path / "out", PrepareConfig(page="all", workers=1), quiet=True)
    assert all(report.images[split.value] for split in Split)
    assert any(code == "split-within-images" for _, code in report.found)
    assert not any(code.startswith("leak") for _, code in report.found)


@pytest.mark.parametrize(("page", "rings"), [(1, [ONE, TWO]), (3, [TWO])])
def test_one_page_has_the_objects_of_the_same_page_of_its_mask(tmp_path, page, rings):
    stack(tmp_path / "in/images/a.tif", slices())
    stack(tmp_path / "in/masks/a.tif", labels())
    draw(tmp_path / "one/masks/a.tif", ids())
    stack(tmp_path / "one/images/a.tif", slices())
    config = PrepareConfig(page=page, split="1,0,0")
    report = api.prepare(tmp_path / "in", tmp_path / "out", config, quiet=True)
    (image,) = report.dataset.images
    assert [report.dataset.read_mask(one).tolist() for one in image.objects] == [mask_of(r).tolist() for r in rings]
    assert api.prepare(tmp_path / "one", tmp_path / "two", config, quiet=True).objects["train"] == 2


def test_doctor_takes_bands_and_tiles(tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (160, 200, 5), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    ring = [20, 20, 180, 20, 180, 140, 20, 140]
    image = {"id": 1, "file_name": "a.tif", "width": 200, "height": 160}
    content = coco(["a.tif"], [ring], images=[image])
    content["annotations"][0]["bbox"] = [20, 20, 160, 120]
    write(tmp_path / "a.json", content)

    def codes(**reading):
        return {issue.code for issue in api.doctor(tmp_path, reading=ReadingConfig(**reading), quiet=True).issues}

    assert "several-bands" in codes()
    assert "several-bands" not in codes(bands="4,3,2")
    assert "image-without-band" in codes(bands="7,3,2")
    assert "object-cut-by-tile" in codes(tile=64, halo=16, channel=1)


def test_predict_asks_every_page(tmp_path):
    images = stack(tmp_path / "a.tif", slices())
    settings = PredictConfig(box=("10,10,30,25", "40,5,50,15"), page="all")
    report = api.predict(images, "nano", tmp_path / "out", settings, quiet=True)
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    assert (report.images, report.objects) == (3, 6)
    assert [row["page"] for row in rows] == [1, 1, 2, 2, 3, 3]
    assert len(list((tmp_path / "out/masks").iterdir())) == 6
    one = api.predict(images, "nano", tmp_path / "one", settings.model_copy(update={"page": 3}), quiet=True)
    third = json.loads((tmp_path / "one/predictions.json").read_text())
    assert one.images == 1
    assert [row["segmentation"] for row in third] == [row["segmentation"] for row in rows[4:]]


@pytest.mark.parametrize("page", ["every", 0, "-1"])
def test_no_other_pages(page):
    with pytest.raises((ConfigError, ValueError), match="page"):
        ReadingConfig(page=page)
