"""What is measured of finds: AP equal to pycocotools', counts, confusion and what crowd regions forgive."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from samtune.data.table import ImageEntry
from samtune.evaluation.intervals import jackknife_interval
from samtune.finder.coco import coco_precision, coco_results, coco_truth
from samtune.finder.measure import (
    MOST,
    FoundImage,
    TrueImage,
    compress,
    decompress,
    judged,
    matched,
    right_finds,
)
from samtune.types import Split

SIDE = 160


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def true_image(number: int, objects, crowd=()) -> TrueImage:
    entry = ImageEntry(f"{number}.png", str(number), Split.TEST, SIDE, SIDE, f"group {number}", ())
    masks, classes = [compress(mask) for mask, _ in objects], np.array([name for _, name in objects], np.int64)
    return TrueImage(entry, masks, classes, [compress(mask) for mask in crowd])


def found_image(finds) -> FoundImage:
    finds = sorted(finds, key=lambda one: -one[2])
    return FoundImage(
        [compress(mask) for mask, _, _ in finds],
        np.array([name for _, name, _ in finds], np.int64),
        np.array([score for _, _, score in finds], np.float64),
    )


def scenes(seed: int, images: int = 5, classes: int = 3):
    """Objects, and finds that are a little off, missing, twice there, wrongly named or made up."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(images):
        places = rng.uniform(20, SIDE - 20, (6, 2))
        objects = [
            (disc(*place, rng.uniform(6, 60 if one == 0 else 15)), one % classes) for one, place in enumerate(places)
        ]
        finds = []
        for mask, name in objects:
            for _ in range(rng.integers(0, 3)):
                moved = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
                finds.append((moved, name if rng.random() < 0.8 else rng.integers(classes), rng.random()))
        finds.append((disc(*rng.uniform(20, SIDE - 20, 2), 9), rng.integers(classes), rng.random()))
        truth.append(true_image(number, objects, [disc(80, 80, 12)] if number == 1 else []))
        found.append(found_image(finds))
    return truth, found


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_pycocotools(seed, named):
    truth, found = scenes(seed)
    ours = coco_precision(truth, found, named=named)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = coco_truth(truth, named=named)
        coco.createIndex()
        reference = COCOeval(coco, coco.loadRes(coco_results(found, named=named)), "segm")
        reference.params.maxDets = [1, 10, MOST]
        reference.evaluate()
        reference.accumulate()
    precision, recall = reference.eval["precision"], reference.eval["recall"]
    table = precision[:, :, :, 0, 2]
    assert ours.ap == pytest.approx(table[table > -1].mean(), abs=1e-9)
    for at, value in ((0, ours.ap50), (5, ours.ap75)):
        assert value == pytest.approx(table[at][table[at] > -1].mean(), abs=1e-9)
    for area, value in enumerate((ours.ar, ours.ar_small, ours.ar_medium, ours.ar_large)):
        expected = recall[:, :, area, 2]
        there = expected[expected > -1]
        assert value == (pytest.approx(there.mean(), abs=1e-9) if there.size else None)
    assert 0.1 < ours.ap < 0.9


def test_nothing_found_is_no_precision():
    truth, _ = scenes(0)
    assert coco_precision(truth, [found_image([]) for _ in truth], named=True).ap == 0


def test_counts_confusion_and_crowds():
    one, two, far = disc(40, 40, 12), disc(100, 40, 12), disc(40, 120, 12)
    crowd = disc(120, 120, 30)
    truth = [true_image(0, [(one, 0), (two, 1), (far, 1)], [crowd]), true_image(1, [])]
    inside = disc(115, 118, 8)
    found = [
        found_image([(one, 0, 0.9), (two, 0, 0.8), (inside, 1, 0.7), (disc(80, 90, 9), 1, 0.6), (far, 1, 0.1)]),
        found_image([(one, 0, 0.55)]),
    ]
    right, counted = right_finds(truth[0], found[0])
    assert right.tolist() == [True, False, False, False, True]
    assert counted.tolist() == [True, True, False, True, True]
    all_of_one = right_finds(truth[0], found[0], named=False)[0]
    assert all_of_one.tolist() == [True, True, False, False, True]
    figures = matched(truth, found, 2, 0.5)
    assert (figures.point.precision, figures.point.recall) == (1 / 4, 1 / 3)
    assert figures.confusion.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert figures.counts.tolist() == [[1, 3], [2, 1]]
    assert figures.count_error.mean == pytest.approx((0 + 1) / 2)
    assert figures.count_error.groups == 2 and figures.relative_count_error.mean == pytest.approx((0 + 1) / 2)


def test_the_finds_of_an_image_are_judged_one_by_one():
    one, two, far = disc(40, 40, 12), disc(100, 40, 12), disc(40, 120, 12)
    truth = true_image(0, [(one, 0), (two, 1), (far, 1)], [disc(120, 120, 30)])
    seen = [(one, 1, 0.9), (two, 1, 0.8), (disc(115, 118, 8), 1, 0.7), (disc(80, 90, 9), 0, 0.6)]
    found = found_image([*seen, (disc(40, 40, 8), 0, 0.5)])  # the last one is a part of the first
    verdict = judged(truth, found)
    assert verdict.owner.tolist() == [0, 1, -1, -1, -1] and verdict.missed.tolist() == [2]
    assert verdict.misnamed.tolist() == [True, False, False, False, False]
    assert verdict.false.tolist() == [False, False, False, True, True]
    assert verdict.unannotated.tolist() == [False, False, False, True, False]
    nothing = judged(true_image(1, []), found)
    assert nothing.false.all() and nothing.unannotated.all()
    assert (decompress(truth.masks[2]) == far).all()
    point = matched([truth.unnamed()], [found_image([(one, 0, 0.9), (two, 0, 0.8)])], 1, 0.0).point
    assert (point.precision, point.recall) == (1.0, 2 / 3)


def test_average_precision_has_the_interval_of_a_jackknife_over_groups():
    truth, found = scenes(0)
    truth[1] = replace(truth[1], image=replace(truth[1].image, group=truth[0].image.group))
    ours = coco_precision(truth, found, named=True)
    without = [
        coco_precision([truth[place] for place in rest], [found[place] for place in rest], named=True).ap
        for rest in ([2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3])
    ]
    assert ours.ap_interval == pytest.approx(jackknife_interval(ours.ap, without), abs=1e-12)
    assert ours.ap_interval is not None and 0 <= ours.ap_interval[0] < ours.ap < ours.ap_interval[1] <= 1
    assert coco_precision(truth[:2], found[:2], named=True).ap_interval is None
    assert f"AP {100 * ours.ap:.1f} [" in ours.in_short()


def test_the_interval_of_a_small_count_error_holds_it():
    truth = [true_image(number, [(disc(40, 40, 12), 0)]) for number in range(17)]
    found = [found_image([(disc(40, 40, 12), 0, 0.9)]) for _ in truth[1:]]
    error = matched(truth, [*found, found_image([])], 1, 0.5).count_error
    assert error.low is not None and error.high is not None
    assert error.mean == pytest.approx(1 / 17) and error.low < error.mean < error.high < 1
