"""Views of an image: masks, boxes and pixels must move together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samtune.config import EmbedConfig, PromptPolicy, TrainConfig
from samtune.data.low_res import LowResTargets, low_res_targets
from samtune.data.masks import mask_box
from samtune.data.views import AS_IS, Change, change_of
from samtune.embeddings.dataset import embed_dataset
from samtune.training.batches import OBJECT, Sampling, TrainingBatches
from samtune.training.run import new
from tests.small import make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set")


def changes():
    crops = st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(12, 20), st.integers(10, 16))
    return st.builds(Change, crops, st.integers(0, 5), st.integers(0, 3), st.booleans())


@given(changes(), st.integers(0, 1000))
def test_a_mask_moves_with_the_pixels_it_marks(change, seed):
    """The pixels that a mask marks are those it marks after the change, whatever the change is."""
    mask = np.random.default_rng(seed).random((16, 20)) < 0.3
    image = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
    seen = replace(change, colour=0).pixels(image)
    assert np.array_equal(seen[..., 0] > 0, change.mask(mask))
    assert change.pixels(image).shape[:2] == change.mask(mask).shape


@given(changes(), st.integers(0, 1000))
def test_boxes_move_with_masks(change, seed):
    """The box of a changed mask is the changed box of the mask; held to the mask's own tight box."""
    change = replace(change, crop=None)
    mask = np.zeros((16, 16), bool)
    rng = np.random.default_rng(seed)
    (x0, x1), (y0, y1) = np.sort(rng.integers(0, 15, 2)), np.sort(rng.integers(0, 15, 2))
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    boxes = change.boxes(np.array([mask_box(mask)], np.float32), 16)
    assert tuple(boxes[0]) == mask_box(change.mask(mask))


def test_recolouring_leaves_the_shape_and_is_the_same_each_time():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    first, again = (Change(colour=7).pixels(image) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, image)
    assert not np.array_equal(first, Change(colour=8).pixels(image))


@pytest.mark.parametrize("number", range(6))
def test_views_show_an_object_and_have_names_of_their_own(dataset, number):
    images = [image for image in dataset.images if image.single_objects]
    for image in images:
        change = change_of(image, number)
        assert change == change_of(image, number)
        assert any(change.shows(found.box) for found in image.single_objects)
        assert Change(crop=change.crop).mask(dataset.read_mask(image.single_objects[0])).size
    assert (change_of(images[0], number).key == "") == (number == 0)
    assert len({change_of(images[0], other).key for other in range(6)}) == 6


def test_low_res_targets_are_those_of_the_changed_mask(dataset):
    image = dataset.images[0]
    targets = LowResTargets(dataset, 16)
    for number in range(6):
        change = change_of(image, number)
        masks = [change.mask(dataset.read_mask(found)) for found in image.objects]
        shown = [place for place, mask in enumerate(masks) if mask.any()]
        found, boxes = targets.of(image.objects, change), targets.boxes(image.objects, image, change)
        expected = low_res_targets([masks[place] for place in shown], 16)
        assert np.abs(found[shown].astype(int) - expected).max() <= 1  # areas are rounded
        for place in shown:
            height, width = masks[place].shape
            scaled = np.array(mask_box(masks[place])) * np.array([16 / width, 16 / height] * 2)
            assert boxes[place] == pytest.approx(scaled, abs=1e-4)


def test_batches_use_all_views_and_their_objects_lie_in_their_boxes(dataset):
    batches = TrainingBatches(
        dataset.split("train"), Sampling(16, 1, 8, False, 1, PromptPolicy(preset="mixture"), views=6)
    )
    seen = set()
    for step in range(60):
        batch = batches[step]
        seen.add(batch.views[0].change.key)
        for target, box, kind in zip(batch.targets, batch.boxes, batch.kinds, strict=True):
            if kind == OBJECT:
                rows, columns = torch.nonzero(target).unbind(1)
                assert columns.min() >= box[0].floor()
                assert columns.max() < box[2].ceil()
                assert rows.min() >= box[1].floor()
                assert rows.max() < box[3].ceil()
    assert len(seen) > 12


def test_one_view_is_what_there_was_before(dataset):
    one = TrainingBatches(dataset.split("train"), Sampling(16, 2, 8, False, 1, PromptPolicy()))
    assert {view.change for step in range(6) for view in one.views(step)} == {AS_IS}


def test_views_are_embedded_once_and_ahead(dataset, tiny_folder, tmp_path):
    cache = tmp_path / "cache"
    report = embed_dataset(
        dataset.root, EmbedConfig(model=str(tiny_folder), split="train", views=3, device="cpu", cache_dir=cache)
    )
    assert report.encoded == 3 * len(dataset.split("train").images)
    config = TrainConfig(
        model=str(tiny_folder), out=tmp_path / "run", views=3, device="cpu", steps=1, precision="auto", cache_dir=cache
    )
    run = new(dataset.root, config)
    for step in range(10):
        run.embed_step(run.batches[step])
    assert run.embeddings.cache is not None
    assert run.embeddings.cache.counts.encoded == 0


@pytest.mark.parametrize("kind", [TrainConfig, EmbedConfig])
def test_mirrored_images_are_not_asked_for_twice(kind):
    with pytest.raises(ValueError, match="flip or views, not both"):
        kind(flip=True, views=2)
