"""The same real annotations in two formats give the same objects through two readers."""

from __future__ import annotations

import numpy as np
import pytest

from samtune.data.images import probe_image
from samtune.data.masks import rasterise
from samtune.data.readers import read
from tests.conftest import real_data


def masks_by_image(name):
    """Masks by split and image file, each bool `[H, W]`."""
    found = {}
    for record in read(real_data(name), on_issue=lambda issue: None):
        width, height = probe_image(record.path).upright_size
        shapes = (annotation.segmentation for annotation in record.annotations)
        found[record.split, record.path.name] = [rasterise(shape, height, width) for shape in shapes if shape]
    return found


def best_ious(one, other):
    """For each mask of `one` its best IoU with a mask of `other`."""
    return [max([(a & b).sum() / max((a | b).sum(), 1) for b in other], default=0.0) for a in one]


@pytest.mark.parametrize(
    ("one", "other", "count"), [("lens_yolo", "lens_coco", 304), ("nuts_labelme", "nuts_coco", 165)]
)
def test_polygon_twins_agree(one, other, count):
    ours, theirs = masks_by_image(one), masks_by_image(other)
    assert all(len(ours[key]) == len(theirs[key]) for key in ours)
    ious = [iou for key in ours for iou in best_ious(ours[key], theirs[key])]
    print(f"{one} = {other}: {len(ious)} objects, IoU median {np.median(ious):.4f}, lowest {min(ious):.4f}")
    assert len(ious) == count
    assert np.median(ious) >= 0.99


@pytest.mark.slow
def test_mask_twin_agrees():
    """The masks were drawn elsewhere, and touching objects are one component: unions are compared, then objects."""
    ours, theirs = masks_by_image("plants_masks"), masks_by_image("plants_coco")
    keys = [key for key in ours if ours[key] and theirs.get(key)]
    assert ours.keys() == theirs.keys()
    union = [best_ious([np.any(ours[key], axis=0)], [np.any(theirs[key], axis=0)])[0] for key in keys]
    objects = [iou for key in keys for iou in best_ious(theirs[key], ours[key])]
    print(f"plants: {len(keys)} images, IoU of unions median {np.median(union):.4f}, lowest {min(union):.4f}")
    low = sum(value < 0.5 for value in objects)
    print(f"plants: {len(objects)} objects, IoU median {np.median(objects):.4f}, {low} below 0.5")
    assert np.median(union) >= 0.94
    assert np.median(objects) >= 0.94
