"""Predictions on images that are looked at in tiles: every prompt in a tile that shows it whole, every find once."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from samtune.config import PredictConfig, PrepareConfig
from samtune.data.images import Reading
from samtune.data.masks import (
    Region,
    encode_region,
    encode_rle,
    format_counts,
    parse_counts,
    rasterise_region,
    region_of,
)
from samtune.data.prepare.prepare import prepare
from samtune.data.tiles import TileGrid
from samtune.errors import DataError
from samtune.inference.files import predict_files
from samtune.inference.predictor import Predictor
from samtune.inference.reading import reading_for
from samtune.inference.tiles import LargeImage, TileAnswer, ask_in_tiles, merged
from samtune.model.io.load import load_model
from samtune.synthetic.sheet import write_sheet
from samtune.types import Prompt

SIDE, HALO = 128, 16


@pytest.fixture(scope="module")
def predictor(tiny_folder):
    return Predictor(load_model(tiny_folder))


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheet") / "source"
    return folder, write_sheet(folder, 512, 30)


@pytest.fixture(scope="module")
def image(sheet):
    return LargeImage(sheet[0] / "sheet.tif", 512, 512, Reading(in_tiles=True), SIDE, HALO)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.floats(0, 1))
def test_run_lengths_of_a_part_are_those_of_the_whole_mask(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert encode_region(region_of(mask), height, width) == encode_rle(mask)


def test_run_lengths_of_very_large_images_come_back_from_their_text():
    part = Region(np.ones((3, 2), bool), 29_000, 20_000)
    runs = encode_region(part, 30_000, 30_000)
    assert parse_counts(format_counts(runs), 30_000, 30_000) == runs
    found = rasterise_region(runs, 30_000, 30_000)
    assert found is not None
    assert (found.box, found.mask.all()) == (part.box, True)


def place_of(box):
    """Scale and window in which a box is asked, as the documentation says it."""
    x0, y0, x1, y1 = box
    scale = 1
    while max(x1 - x0, y1 - y0) > 0.8 * SIDE * scale and SIDE * scale < 512:
        scale *= 2
    side = SIDE * scale
    grid = TileGrid(512, 512, side, HALO * scale)
    tile = next(tile for tile in grid if (tile.row, tile.column) == grid.owner((x0 + x1) / 2, (y0 + y1) / 2))
    a, b, c, d = tile.core
    if side >= 512 or (a <= x0 and b <= y0 and x1 <= c and y1 <= d):
        return scale, tile.window, "inside"
    left, top = (int(np.clip(middle - side / 2, 0, 512 - side)) for middle in ((x0 + x1) / 2, (y0 + y1) / 2))
    return scale, (left, top, left + side, top + side), "seam"


def test_an_answer_is_that_of_the_tile_or_at_a_seam_of_the_object_cut_out_alone(predictor, image, sheet):
    whole = tifffile.imread(sheet[0] / "sheet.tif")
    boxes = [one.box for one in sheet[1]]
    answers = ask_in_tiles(predictor, image, [Prompt.box(*box) for box in boxes])
    seen = set()
    for box, answer in zip(boxes, answers, strict=True):
        scale, (a, b, c, d), where = place_of(box)
        seen.add((where, scale == 1))
        window = cv2.resize(whole[b:d, a:c], None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        embedded = predictor.embed(np.repeat(window[:, :, None], 3, axis=2))
        (expected,) = predictor.predict(embedded, [Prompt.box(*((np.array(box) - [a, b, a, b]) / scale))])
        assert answer.score == pytest.approx(float(expected.iou_scores.max()), abs=1e-4)
        shown = cv2.resize(expected.best.astype(np.float32), (c - a, d - b), interpolation=cv2.INTER_LINEAR) >= 0.5
        found = np.zeros((512, 512), bool) if answer.region is None else answer.region.paste(512, 512)
        assert not found[:b].any() and not found[d:].any() and not found[:, :a].any() and not found[:, c:].any()
        if scale == 1:
            assert np.array_equal(found[b:d, a:c], shown)
        assert (found[b:d, a:c] != shown).mean() < 0.002
    assert {("inside", True), ("seam", True)} <= seen


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.floats(-20, 700)] * 4), st.integers(64, 300), st.integers(0, 75), st.integers(1, 700),
    st.integers(1, 500),
)  # fmt: skip
def test_every_box_is_seen_whole_with_room_around_it(corners, side, halo, width, height):
    seen = []

    class Seen(LargeImage):
        __slots__ = ()

        def read(self, window, scale=1):
            seen.append((window, scale))
            return np.zeros((1, 1, 3), np.uint8)

    class Nothing:
        def embed(self, pixels):
            raise StopIteration

    x0, x1 = sorted(corners[::2])
    y0, y1 = sorted(corners[1::2])
    image = Seen(Path("none"), width, height, Reading(), side, min(halo, side // 4))
    with pytest.raises(StopIteration):
        ask_in_tiles(Nothing(), image, [Prompt.box(x0, y0, x1 + 1, y1 + 1)])
    (((a, b, c, d), scale),) = seen
    assert 0 <= a < c <= width
    assert 0 <= b < d <= height
    assert max(c - a, d - b) <= side * scale
    room = 0.1 * side * scale - 1
    if max(width, height) > side * scale:
        for low, high, first, last, size in ((x0, x1 + 1, a, c, width), (y0, y1 + 1, b, d, height)):
            low, high = min(max(low, 0), size - 1), min(max(high, 1), size)
            assert first == 0 or low - room >= first
            assert last == size or high + room <= last


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_coarser_look_averages_the_pixels(image, sheet, scale):
    whole = tifffile.imread(sheet[0] / "sheet.tif").astype(float)
    small = image.read((0, 0, 512, 512), scale)[:, :, 0]
    expected = whole.reshape(512 // scale, scale, 512 // scale, scale).mean((1, 3))
    assert np.abs(small - expected).max() <= 0.51


@pytest.mark.parametrize("seed", range(6))
def test_what_several_tiles_show_is_found_once_and_whole(seed):
    """Objects as each tile shows them, also with ragged borders, become the objects of the whole image."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((500, 640), np.int32)
    for number in range(1, 40):
        x, y = rng.integers(10, (630, 490))
        size = tuple(rng.integers(4, 90, 2).tolist())
        fresh = np.zeros_like(labels, np.uint8)
        cv2.ellipse(fresh, (int(x), int(y)), size, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        if not labels[cv2.dilate(fresh, np.ones((7, 7), np.uint8)) > 0].any():
            labels[fresh > 0] = number
    grid = TileGrid(640, 500, 160, 30)

    def shown():
        for tile in grid:
            x0, y0, x1, y1 = tile.window
            part = labels[y0:y1, x0:x1]
            answers = []
            for number in np.unique(part[part > 0]):
                whole = np.zeros(labels.shape, bool)
                whole[y0:y1, x0:x1] = part == number
                if rng.random() < 0.5:
                    whole[y0:y1, x0:x1] &= rng.random(part.shape) < 0.97
                answers.append(TileAnswer(region_of(whole), float(rng.random()), 1.0))
            yield tile, answers

    found = [answer.region.paste(*labels.shape) for answer in merged(grid, shown())]
    truth = [labels == number for number in np.unique(labels[labels > 0])]
    assert len(found) == len(truth)
    for mask in truth:
        assert max((mask & other).sum() / (mask | other).sum() for other in found) > 0.9


def test_neighbours_that_touch_in_the_margin_stay_two():
    grid = TileGrid(300, 100, 160, 30)
    left, right = np.zeros((100, 300), bool), np.zeros((100, 300), bool)
    left[20:80, 100:150], right[20:80, 150:200] = True, True

    def shown():
        for tile in grid:
            x0, y0, x1, y1 = tile.window
            answers = []
            for mask in (left, right):
                part = np.zeros_like(mask)
                part[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
                answers.append(TileAnswer(region_of(part), 0.9, 1.0))
            yield tile, answers

    assert sorted(answer.region.box for answer in merged(grid, shown())) == [(100, 20, 150, 80), (150, 20, 200, 80)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_files_are_predicted_in_tiles(predictor, sheet, tmp_path):
    folder, drawn = sheet
    config = PredictConfig(boxes=folder / "_annotations.coco.json", tile=SIDE, halo=HALO)
    report = predict_files(folder / "sheet.tif", predictor, tmp_path / "out", config)
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert report.objects == len(results) == len(drawn)
    for number, result in enumerate(results):
        mask = coco.decode(result["segmentation"])
        assert mask.shape == (512, 512)
        assert mask.sum() == result["area"]
        file = cv2.imread(str(tmp_path / f"out/masks/sheet.tif-{number:03}.png"), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(file > 0, mask > 0)
    assert (tmp_path / "out/overlays/sheet.tif.png").is_file()


def test_everything_is_found_in_tiles(predictor, sheet, tmp_path):
    config = PredictConfig(
        everything=True,
        tile=256,
        halo=32,
        automatic={"points_per_side": 3, "min_iou_score": 0, "min_stability": 0},
    )
    report = predict_files(sheet[0] / "sheet.tif", predictor, tmp_path / "out", config)
    assert report.images == 1


def test_images_are_read_as_the_model_saw_them(sheet, tmp_path):
    dataset = tmp_path / "dataset"
    prepare(sheet[0], dataset, PrepareConfig(channel=1, percentiles="2,98", tile=SIDE, halo=HALO))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"dataset: {dataset}\n")
    expected = Reading(bands=(1,), percentiles=(2, 98))
    assert reading_for(run, PredictConfig(box=("1,1,9,9",))) == expected
    assert reading_for(None, PredictConfig(box=("1,1,9,9",), like=dataset)) == expected
    assert reading_for(run, PredictConfig(box=("1,1,9,9",), bands="1")) == Reading(bands=(1,)), "an option counts first"
    assert reading_for(None, PredictConfig(box=("1,1,9,9",))) == Reading()
    (run / "config.yaml").write_text("dataset: nowhere\n")
    assert reading_for(run, PredictConfig(box=("1,1,9,9",))) == Reading()
    with pytest.raises(DataError, match="a prepared dataset"):
        reading_for(None, PredictConfig(box=("1,1,9,9",), like=run))
