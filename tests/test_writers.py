"""Writers: what is written is read back as the same objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.extra.numpy import arrays

from samtune.config import PrepareConfig
from samtune.data.masks import rasterise
from samtune.data.prepare.prepare import prepare
from samtune.data.writers.coco import write_coco
from samtune.data.writers.yolo import mask_to_ring, write_yolo
from samtune.errors import ConfigError
from samtune.types import Polygons
from tests.small import make_dataset


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_round_trip(tmp_path, write):
    dataset = make_dataset(tmp_path / "dataset")
    write(dataset, tmp_path / "export")
    again = prepare(tmp_path / "export", tmp_path / "again", PrepareConfig(workers=1))
    assert again.broken == 0
    assert len(again.dataset.images) == len(dataset.images)
    for before, after in zip(dataset.images, again.dataset.images, strict=True):
        assert (before.split, before.width, before.height) == (after.split, after.width, after.height)
        assert [found.category for found in before.objects] == [found.category for found in after.objects]
        assert np.array_equal(dataset.read_image(before), again.dataset.read_image(after))
        for one, other in zip(before.objects, after.objects, strict=True):
            assert np.array_equal(dataset.read_mask(one), again.dataset.read_mask(other))


def test_a_ring_covers_the_parts_it_joins():
    mask = np.zeros((50, 60), bool)
    mask[5:20, 5:20] = mask[30:45, 30:33] = mask[10, 50] = True
    ring = tuple(value for point in mask_to_ring(mask) for value in point)
    assert iou(rasterise(Polygons((ring,)), 50, 60), mask) == 1.0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines may be busy
@given(arrays(bool, (12, 14)))
def test_a_ring_with_holes_covers_the_same_pixels(mask):
    assume(mask.any())
    ring = tuple(value for point in mask_to_ring(mask, holes=True) for value in point)
    assert np.array_equal(rasterise(Polygons((ring,)), 12, 14), mask)


def test_a_tolerance_takes_corners_and_few_pixels():
    y, x = np.mgrid[:80, :90]
    mask = (x - 45) ** 2 + (y - 40) ** 2 < 30**2
    whole, simple = mask_to_ring(mask), mask_to_ring(mask, 1.0)
    assert len(simple) < len(whole) / 3
    ring = tuple(value for point in simple for value in point)
    assert iou(rasterise(Polygons((ring,)), 80, 90), mask) > 0.95
    assert len(mask_to_ring(mask[30:33, 40:43], 50.0)) >= 3, "never fewer points than a polygon needs"


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    for write in (write_coco, write_yolo):
        with pytest.raises(ConfigError, match="something in it"):
            write(dataset, tmp_path / "dataset")
