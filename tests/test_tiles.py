"""Large images in tiles: every pixel and object in its place, no fragment taken for background, nothing copied."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from samtune.config import PrepareConfig
from samtune.data.masks import Region
from samtune.data.prepare.prepare import prepare
from samtune.data.prepare.tiling import crop
from samtune.data.table import Dataset
from samtune.data.tiles import TileGrid
from samtune.errors import DataError

SIDE, HALO = 128, 16
GRIDS = st.builds(
    lambda width, height, side, halo: TileGrid(width, height, side, halo * side // 100),
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(64, 300),
    st.integers(0, 25),
)


@settings(max_examples=60, deadline=None)
@given(GRIDS)
def test_cores_cover_the_image_once_and_tiles_have_one_size(grid):
    covered = np.zeros((grid.height, grid.width), int)
    for tile in grid:
        (x0, y0, x1, y1), (left, top, right, bottom) = tile.window, tile.core
        assert (x1 - x0, y1 - y0) == (min(grid.side, grid.width), min(grid.side, grid.height))
        assert 0 <= x0 <= left < right <= x1 <= grid.width
        assert 0 <= y0 <= top < bottom <= y1 <= grid.height
        covered[top:bottom, left:right] += 1
        assert grid.owner((left + right) / 2, (top + bottom) / 2) == (tile.row, tile.column)
    assert (covered == 1).all()


@settings(max_examples=60, deadline=None)
@given(GRIDS, st.data())
def test_small_objects_lie_whole_in_the_tile_that_holds_their_centre(grid, data):
    most = max(1, 2 * grid.halo)
    width, height = (data.draw(st.integers(1, min(most, size))) for size in (grid.width, grid.height))
    x0, y0 = data.draw(st.integers(0, grid.width - width)), data.draw(st.integers(0, grid.height - height))
    row, column = grid.owner(x0 + width / 2, y0 + height / 2)
    tile = next(tile for tile in grid if (tile.row, tile.column) == (row, column))
    a, b, c, d = tile.window
    assert a <= x0 and x0 + width <= c
    assert b <= y0 and y0 + height <= d


@settings(max_examples=60, deadline=None)
@given(GRIDS, st.tuples(*[st.floats(-20, 720)] * 4))
def test_touching_names_every_tile_that_a_box_overlaps(grid, numbers):
    (x0, x1), (y0, y1) = sorted(numbers[:2]), sorted(numbers[2:])
    found = {(tile.row, tile.column) for tile in grid.touching((x0, y0, x1, y1))}
    assert found == {
        (tile.row, tile.column)
        for tile in grid
        if tile.window[0] < x1 and x0 < tile.window[2] and tile.window[1] < y1 and y0 < tile.window[3]
    }


def test_a_crop_is_what_the_window_shows():
    rng = np.random.default_rng(0)
    region = Region(rng.random((20, 30)) < 0.2, 40, 50)
    whole = region.paste(120, 130)
    for x0, y0 in rng.integers(20, 80, (40, 2)).tolist():
        window = whole[y0 : y0 + 25, x0 : x0 + 35]
        part = crop(region, (x0, y0, x0 + 35, y0 + 25))
        assert np.array_equal(window, np.zeros_like(window) if part is None else part.paste(25, 35))


def sheet(folder, *, side=500, objects=60, seed=0, crowd=False, broken=()):
    """A COCO set of one large TIFF with bright rectangles; returns the image and the objects' boxes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    image = rng.integers(20, 60, (side, side, 3), np.uint8)
    annotations, boxes = [], []
    for number in range(objects):
        width, height = (int(value) for value in rng.integers(6, 2 * HALO, 2))
        x, y = int(rng.integers(0, side - width)), int(rng.integers(0, side // 2 - height))
        image[y : y + height, x : x + width] = rng.integers(150, 250, 3)
        ring = [x, y, x + width, y, x + width, y + height, x, y + height]
        if number in broken:
            ring = [x, y, float("1e9"), y, x + width, y + height]
        boxes.append((x, y, x + width, y + height))
        annotations.append(
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, y, width, height], "segmentation": [ring]}
        )
    tifffile.imwrite(folder / "sheet.tif", image, photometric="rgb", tile=(64, 64))
    content = {
        "images": [{"id": 1, "file_name": "sheet.tif", "width": side, "height": side}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": annotations,
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return image, boxes


@pytest.fixture
def prepared(tmp_path):
    image, boxes = sheet(tmp_path / "source")
    report = prepare(tmp_path / "source", tmp_path / "out", PrepareConfig(tile=SIDE, halo=HALO))
    return image, boxes, report


def test_tiles_show_the_pixels_of_the_file_and_nothing_is_copied(prepared, tmp_path):
    image, _, report = prepared
    grid = list(TileGrid(500, 500, SIDE, HALO))
    entries = report.dataset.images
    assert sorted(entry.window for entry in entries) == sorted(tile.window for tile in grid)
    for entry in entries:
        x0, y0, x1, y1 = entry.window
        assert np.array_equal(report.dataset.read_image(entry), image[y0:y1, x0:x1])
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        ".png",
        ".json",
        ".parquet",
        ".csv",
    }
    assert not (tmp_path / "out/images").exists()


def test_every_object_is_learned_in_one_tile_and_known_in_all(prepared):
    _, boxes, report = prepared
    dataset = report.dataset
    found = {}
    known = np.zeros((500, 500), bool)
    for entry in dataset.images:
        x0, y0, _, _ = entry.window
        occupied = np.zeros((entry.height, entry.width), bool)
        for one in entry.objects:
            mask = dataset.read_mask(one)
            a, b, c, d = one.box
            assert mask.shape == (entry.height, entry.width)
            assert mask[b:d, a:c].all() and mask.sum() == one.area
            occupied |= mask
            if not one.is_fragment:
                assert one.annotation_id not in found, "in two tiles"
                found[one.annotation_id] = (a + x0, b + y0, c + x0, d + y0)
        truth = np.zeros((500, 500), bool)
        for x, y, right, bottom in boxes:
            truth[y:bottom, x:right] = True
        window = truth[y0 : y0 + entry.height, x0 : x0 + entry.width]
        assert np.array_equal(occupied, window), "a fragment could be taken for background"
        known[y0 : y0 + entry.height, x0 : x0 + entry.width] |= occupied
    assert found == {str(number): box for number, box in enumerate(boxes)}
    assert sum(report.objects.values()) == len(boxes), "fragments were counted"


def test_one_image_is_split_in_blocks_and_that_is_said(prepared):
    _, _, report = prepared
    assert all(count > 0 for count in report.images.values())
    assert report.objects["train"] > 0
    assert ("warning", "split-within-images") in report.found
    splits = {}
    for entry in report.dataset.images:
        assert splits.setdefault(entry.group, entry.split) == entry.split


def test_tiles_of_several_images_stay_together(tmp_path):
    for number in range(4):
        sheet(tmp_path / f"s/{number}", seed=number, side=300)
        (tmp_path / f"s/{number}/sheet.tif").rename(tmp_path / f"s/{number}.tif")
    images, annotations = [], []
    for number in range(4):
        content = json.loads((tmp_path / f"s/{number}/_annotations.coco.json").read_text())
        images.append(content["images"][0] | {"id": number, "file_name": f"{number}.tif"})
        annotations += [one | {"id": 100 * number + one["id"], "image_id": number} for one in content["annotations"]]
        (tmp_path / f"s/{number}/_annotations.coco.json").unlink()
    content = {"images": images, "categories": content["categories"], "annotations": annotations}
    (tmp_path / "s/_annotations.coco.json").write_text(json.dumps(content))
    report = prepare(tmp_path / "s", tmp_path / "out", PrepareConfig(tile=SIDE, halo=HALO))
    by_file: dict[str, set[str]] = {}
    for entry in report.dataset.images:
        by_file.setdefault(entry.image_path, set()).add(entry.split)
    assert len(by_file) == 4
    assert all(len(splits) == 1 for splits in by_file.values())
    assert not any(code == "split-within-images" for _, code in report.found)


def test_tiles_where_a_broken_object_may_lie_are_no_background(tmp_path):
    _, boxes = sheet(tmp_path / "source", objects=12, broken=(3,))
    report = prepare(
        tmp_path / "source", tmp_path / "out", PrepareConfig(tile=SIDE, halo=HALO, on_error="skip", split="1,0,0")
    )
    x0, y0, x1, y1 = boxes[3]
    empty = [entry.window for entry in report.dataset.images if not entry.objects]
    assert empty, "no tile shows background"
    assert not any(a < x1 and x0 < c and b < y1 and y0 < d for a, b, c, d in empty)


def test_objects_larger_than_their_tile_are_cut_and_named(tmp_path):
    folder = tmp_path / "source"
    sheet(folder, objects=1)
    content = json.loads((folder / "_annotations.coco.json").read_text())
    content["annotations"][0] |= {"segmentation": [[20, 20, 400, 20, 400, 60, 20, 60]], "bbox": [20, 20, 380, 40]}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    report = prepare(folder, tmp_path / "out", PrepareConfig(tile=SIDE, halo=HALO, split="1,0,0"))
    assert ("warning", "object-cut-by-tile") in report.found
    own = [one for entry in report.dataset.images for one in entry.single_objects]
    fragments = [one for entry in report.dataset.images for one in entry.objects if one.is_fragment]
    assert len(own) == 1
    assert len(fragments) >= 3


def test_small_images_stay_whole(tmp_path):
    sheet(tmp_path / "source", side=100, objects=3)
    report = prepare(tmp_path / "source", tmp_path / "out", PrepareConfig(tile=SIDE, halo=HALO))
    assert [entry.window for entry in report.dataset.images] == [None]


def test_deep_tiles_share_the_stretch_of_their_image_or_set(tmp_path):
    rng = np.random.default_rng(1)
    sheet(tmp_path / "source", objects=5)
    deep = (rng.normal(3000, 500, (500, 500))).astype(np.uint16)
    deep[400:] += 20_000
    tifffile.imwrite(tmp_path / "source/sheet.tif", deep)
    for stretch in ("image", "set"):
        out = tmp_path / stretch
        dataset = prepare(tmp_path / "source", out, PrepareConfig(tile=SIDE, halo=HALO, stretch=stretch)).dataset
        low, high = np.percentile(deep, (0.1, 99.9))
        expected = ((deep - low) * (255 / (high - low))).clip(0, 255)
        for entry in dataset.images[::5]:
            x0, y0, x1, y1 = entry.window
            assert np.abs(dataset.read_image(entry)[:, :, 0] - expected[y0:y1, x0:x1]).max() < 1.1
        stated = json.loads((out / "dataset.json").read_text())["reading"]
        assert stated["percentiles"] == [0.1, 99.9]
        assert (stated["limits"] is None) == (stretch == "image")


def test_views_differ_by_window_bands_and_stretch(tmp_path):
    """What embeddings are kept under: two tiles, or two ways to read one, never share them."""
    sheet(tmp_path / "source", objects=5)
    views = set()
    for number, settings_ in enumerate(({}, {"bands": "3,2,1"}, {"channel": 2}, {"percentiles": "1,99"})):
        config = PrepareConfig(tile=SIDE, halo=HALO, **settings_)
        dataset = prepare(tmp_path / "source", tmp_path / f"out{number}", config).dataset
        views |= {dataset.view_of(entry) for entry in dataset.images}
    assert len(views) == 4 * len(list(TileGrid(500, 500, SIDE, HALO)))
    assert all("window" in view for view in views)


def test_bands_are_read_as_asked(tmp_path):
    image, _ = sheet(tmp_path / "source", objects=5)
    dataset = prepare(tmp_path / "source", tmp_path / "out", PrepareConfig(bands="3,1,2")).dataset
    assert np.array_equal(dataset.read_image(dataset.images[0]), image[:, :, [2, 0, 1]])
    with pytest.raises(DataError, match="an image with bands 3,2,7"):
        prepare(tmp_path / "source", tmp_path / "none", PrepareConfig(bands="3,2,7"))
    assert not (tmp_path / "none").exists()


WRONG = [
    {"bands": "1,2"},
    {"bands": "0"},
    {"bands": "red"},
    {"bands": "1", "channel": 1},
    {"percentiles": "5"},
    {"percentiles": "99,1"},
    {"tile": 32},
    {"tile": 256, "halo": 100},
    {"tile": 256, "halo": 16, "merge": "image"},
    {"page": 0},
]


@pytest.mark.parametrize("settings_", WRONG, ids=str)
def test_settings_that_make_no_sense_are_refused(settings_):
    with pytest.raises(ValidationError):
        PrepareConfig(**settings_)


def test_datasets_of_earlier_versions_open(tmp_path):
    sheet(tmp_path / "source", side=100, objects=3)
    dataset = prepare(tmp_path / "source", tmp_path / "out", PrepareConfig()).dataset
    earlier = dataset.table.drop("is_fragment", "page", "window_x", "window_y")
    earlier.write_parquet(tmp_path / "out/table.parquet")
    (tmp_path / "out/dataset.json").unlink()
    assert Dataset.open(tmp_path / "out").images == dataset.images
    assert isinstance(earlier, pl.DataFrame)
