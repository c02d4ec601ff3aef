"""Writers: what is written is read back as the same objects."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    for write in (write_coco, write_yolo):
        with pytest.raises(ConfigError, match="something in it"):
            write(dataset, tmp_path / "dataset")
