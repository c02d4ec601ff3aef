"""Pre-training on real images: what is drawn, what a view shows, what is refused, and resuming."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.nn import functional as F

from samtune import api
from samtune.config import LossConfig, PrepareConfig, PretrainConfig, PretrainStage
from samtune.data.masks import Region
from samtune.errors import ConfigError, DataError, StorageError
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.nano import augment
from samtune.nano.architecture import untrained_nano
from samtune.nano.augment import SMALLEST, TrainingView, Window, choose_window, crop_image, crop_mask, crop_view, paste
from samtune.nano.batches import BACKGROUND_CLICKS, made_ahead, make_batch, small_ellipses
from samtune.nano.neighbours import OFFSETS, NeighbourHead, neighbour_loss, neighbours
from samtune.nano.pretraining import measure, pretrain, step_generator
from samtune.nano.real_images import open_images
from samtune.nano.scenes import SceneBank, draw_scenes


def write_set(folder: Path, images: int, objects: int, *, side: int = 96, masks: bool = True) -> Path:
    """A COCO set of dark images with bright squares, one gray level per object."""
    (folder / "images").mkdir(parents=True)
    listed, annotations = [], []
    for image in range(images):
        blocks = np.random.default_rng(image).integers(0, 90, (4, 4, 3), np.uint8)  # so that no two images are alike
        pixels = np.kron(blocks, np.ones((side // 4, side // 4, 1), np.uint8))
        listed.append({"id": image, "file_name": f"images/{image}.png", "width": side, "height": side})
        for number in range(objects):
            x, y = 6 + 30 * (number % 3), 6 + 30 * (number // 3)
            pixels[y : y + 20, x : x + 20] = 100 + 40 * number
            ring = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
            shape = {"segmentation": [ring]} if masks else {}
            annotations.append(
                {"id": len(annotations), "image_id": image, "category_id": 1, "bbox": [x, y, 20, 20], "area": 400}
                | {"iscrowd": 0}
                | shape
            )
        cv2.imwrite(str(folder / f"images/{image}.png"), pixels)
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A folder of three sets that differ in numbers of images and objects."""
    root = tmp_path / "corpus"
    for name, images, objects in (("few", 1, 1), ("many", 6, 4), ("unseen", 2, 2)):
        write_set(root / name, images, objects)
    return root


def tiny(corpus: Path, out: Path, **changes) -> PretrainConfig:
    """Four steps on real images and scenes, small ones among them."""
    sharp = LossConfig(focal=20.0, area_bce=0.3, scale=2)
    shape = {"size": 128, "small_share": 0.5, "steps": 4, "images": 1, "objects": 3}
    stage = PretrainStage(**shape, paste=0.5, degrade=True, neighbours=1.0, neighbour_objects=4, loss=sharp)
    given = {
        "out": out,
        "images": (corpus,),
        "hold_out": ("unseen",),
        "background": ("few",),
        "scenes": 2,
        "scene_size": 96,
        "held_out": 1,
        "workers": 1,
        "save_every": 1,
        "measure_every": 4,
        "stages": (stage,),
    }
    return PretrainConfig.model_validate(given | changes)


# What is drawn.


def test_sets_are_drawn_evenly_whatever_their_size(corpus, tmp_path):
    real = open_images(tiny(corpus, tmp_path / "run"))
    (source,) = real.sources
    assert [chosen.name for chosen in source] == ["few", "many"]
    assert [chosen.name for chosen in real.held_out] == ["unseen"]
    assert [chosen.complete for chosen in source] == [True, False]
    rng, stage = np.random.default_rng(0), PretrainStage(size=64, steps=1, objects=4)
    complete = [real.view(rng, 0, stage).occupied is not None for _ in range(300)]
    assert 0.4 < np.mean(complete) < 0.6


def test_shares_decide_between_sources_and_scenes(corpus, tmp_path):
    other = write_set(tmp_path / "other", 2, 1)
    config = tiny(corpus, tmp_path / "run", images=(corpus, other), shares=(0.5, 0.2))
    real = open_images(config)
    rng = np.random.default_rng(0)
    drawn = [real.draw(rng) for _ in range(2000)]
    assert [drawn.count(source) / 2000 for source in (0, 1, None)] == pytest.approx([0.5, 0.2, 0.3], abs=0.05)
    even = open_images(tiny(corpus, tmp_path / "run", images=(corpus, other), real_share=0.8))
    assert even.shares == pytest.approx((0.6, 0.2))


def test_a_prepared_dataset_gives_its_train_split_alone(corpus, tmp_path):
    prepared = tmp_path / "prepared"
    api.prepare(corpus / "many", prepared, PrepareConfig(split="0.5,0.5,0"), quiet=True)
    found = open_images(tiny(prepared, tmp_path / "run", hold_out=(), background=()))
    assert len(found.sources[0][0].images) == 3
    pixels, regions = found.decoded(found.sources[0][0].images[0])
    assert pixels.shape == (96, 96, 3) and [region.area for region in regions] == [400] * 4


def test_large_images_are_kept_small_with_masks_that_fit(tmp_path):
    write_set(tmp_path / "large", 1, 2, side=1280)
    real = open_images(tiny(tmp_path / "large", tmp_path / "run", hold_out=(), background=()))
    pixels, regions = real.decoded(real.sources[0][0].images[0])
    assert pixels.shape == (640, 640, 3)
    assert [region.box for region in regions] == [(3, 3, 13, 13), (18, 3, 28, 13)]


@given(
    seed=st.integers(0, 10_000),
    height=st.integers(20, 400),
    width=st.integers(20, 400),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    extent=st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)),
)
@settings(max_examples=150, deadline=None)
def test_a_window_lies_in_the_image_and_shows_its_object(seed, height, width, corner, extent):
    x0, y0 = int(corner[0] * width), int(corner[1] * height)
    box = (x0, y0, min(width, x0 + max(1, int(extent[0] * width))), min(height, y0 + max(1, int(extent[1] * height))))
    window = choose_window(np.random.default_rng(seed), height, width, box, 128, whole_share=0.0)
    assert 0 <= window.x0 < window.x1 <= width and 0 <= window.y0 < window.y1 <= height
    # The longer side always fits; a stretched window may cut off a little of the object.
    assert window.x0 < box[2] and box[0] < window.x1 and window.y0 < box[3] and box[1] < window.y1


def test_small_objects_are_seen_large_and_whole_images_small(corpus, tmp_path):
    real = open_images(tiny(corpus, tmp_path / "run"))
    rng = np.random.default_rng(0)

    def sides(stage: PretrainStage) -> list[float]:
        return [mask.sum() ** 0.5 for _ in range(200) for mask in real.view(rng, 0, stage).masks]

    drawn = sides(PretrainStage(size=128, steps=1, objects=1))
    assert min(drawn) < 20 and max(drawn) > 80  # 27 px in the whole image at 128 px
    whole = sides(PretrainStage(size=128, steps=1, objects=1, whole=1.0))
    assert max(whole) < 30


@given(seed=st.integers(0, 999), size=st.sampled_from([64, 128, 384]))
@settings(max_examples=30, deadline=None)
def test_small_boxes_hold_their_ellipses(seed, size):
    boxes, covered = small_ellipses(6, size, torch.Generator().manual_seed(seed))
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 3.99 and sides.max() < 24.01
    assert boxes.min() >= 0 and boxes.max() <= size
    torch.testing.assert_close(covered.sum((1, 2)), sides.prod(1) * np.pi / 4, rtol=0.12, atol=0.0)
    pixel = torch.arange(size) + 0.5
    middle = torch.stack([(covered.sum(1) * pixel).sum(1), (covered.sum(2) * pixel).sum(1)], 1)
    torch.testing.assert_close(
        middle / covered.sum((1, 2))[:, None], (boxes[:, :2] + boxes[:, 2:]) / 2, rtol=0.0, atol=0.1
    )


def test_small_boxes_are_asked_for_in_every_view(corpus, tmp_path):
    config = tiny(corpus, tmp_path / "run", real_share=1.0, background=())
    real, bank = open_images(config), draw_scenes(config)
    stage = config.stages[0].model_copy(update={"images": 2, "small_boxes": 5})
    batch = make_batch(bank, real, stage, torch.Generator().manual_seed(1))
    without = make_batch(bank, real, stage.model_copy(update={"small_boxes": 0}), torch.Generator().manual_seed(1))
    assert len(batch.prompts) == len(without.prompts) + 10
    assert len(batch.targets) == len(batch.fine) == len(batch.prompts)
    assert (batch.targets.flatten(1).amax(1) > 0).all()


def test_a_stage_of_the_decoder_leaves_the_encoder_as_it_is(corpus, tmp_path):
    config = tiny(corpus, tmp_path / "run", ema=0.0)
    stage = config.stages[0].model_copy(update={"learns": "decoder", "steps": 2})
    folder = pretrain(config.model_copy(update={"stages": (stage,)}))
    before, after = untrained_nano(config.seed).half().state_dict(), load_file(folder / "model.safetensors")
    learned = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert learned == {"mask_decoder", "prompt_encoder"}


def test_a_stage_of_the_encoder_leaves_the_decoder_as_it_is(corpus, tmp_path):
    config = tiny(corpus, tmp_path / "run", ema=0.0)
    stage = config.stages[0].model_copy(update={"learns": "encoder", "steps": 2})
    folder = pretrain(config.model_copy(update={"stages": (stage,)}))
    before, after = untrained_nano(config.seed).half().state_dict(), load_file(folder / "model.safetensors")
    learned = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in learned} <= {"vision_encoder", "mask_decoder", "no_memory_embedding"}
    assert {name for name in learned if name.startswith("mask_decoder")} <= {
        f"mask_decoder.conv_s{level}.{kind}" for level in (0, 1) for kind in ("weight", "bias")
    }
    assert any("backbone.blocks.0" in name for name in learned)


def test_an_encoder_alone_needs_a_task():
    with pytest.raises(ValidationError, match="neighbours above 0"):
        PretrainStage(size=64, steps=1, learns="encoder")


@given(seed=st.integers(0, 999), objects=st.integers(0, 3), height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_neighbours_are_asked_for_as_the_masks_say(seed, objects, height, width):
    """Against a loop over pixels: the square root of an object's area is shared by its pixels, overlaps add up."""
    masks = torch.rand(objects, height, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    asked = neighbours([masks])
    weight, same = torch.zeros(2, len(OFFSETS), height, width)
    for mask in masks:
        for row, column in mask.nonzero().tolist():
            for place, (down, right) in enumerate(OFFSETS):
                if 0 <= row + down < height and 0 <= column + right < width:
                    share = float(mask.sum()) ** -0.5
                    weight[place, row, column] += share
                    same[place, row, column] += share * float(mask[row + down, column + right])
    torch.testing.assert_close(asked.weight[0], weight)
    torch.testing.assert_close(asked.same[0], same)


def test_the_loss_of_neighbours_is_small_for_right_answers_alone():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 1:4, 1:4] = masks[1, 5:, 2:7] = True
    asked = neighbours([masks, masks[:0]])
    right = torch.where(asked.same > 0, 9.0, -9.0)
    assert neighbour_loss(right, asked) < 1e-3 < 8 < neighbour_loss(-right, asked)
    assert neighbour_loss(right[1:], neighbours([masks[:0]])) == 0, "nothing is labelled"


def test_neighbours_can_be_learned_from_features():
    """Features in which each of two objects has a value of its own; the head learns what lies beside what."""
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 2:7, 2:7] = masks[1, 9:14, 4:14] = True
    generator = torch.Generator().manual_seed(0)
    embeddings = ImageEmbeddings(
        torch.randn(1, 32, 4, 4, generator=generator),
        (torch.randn(1, 4, 16, 16, generator=generator), torch.randn(1, 8, 8, 8, generator=generator)),
    )
    torch.manual_seed(0)
    head, asked = NeighbourHead(32), neighbours([masks])
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = neighbour_loss(head(embeddings), asked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_neighbours_are_of_more_objects_than_are_asked_for(corpus, tmp_path):
    config = tiny(corpus, tmp_path / "run", real_share=1.0, background=())
    real, bank = open_images(config), draw_scenes(config)
    stage = config.stages[0].model_copy(update={"objects": 1, "neighbours": 1.0, "whole": 1.0, "images": 8})
    batch = make_batch(bank, real, stage, torch.Generator().manual_seed(0))
    assert batch.neighbours is not None and len(batch.prompts) == 8, "one object of each view is asked for"
    objects = (batch.neighbours.weight[:, :8].amax(1) > 0).flatten(1).sum(1)
    targets = (batch.targets > 0.5).flatten(1).sum(1)
    assert (objects > 2 * targets).any(), "there are views with more"


def test_masks_lie_where_the_image_shows_the_object():
    """Squares of one gray level each: inside a mask is its level, whatever the window, the turn and the mirror."""
    image = np.zeros((90, 120, 3), np.uint8)
    regions = []
    for number, (x, y) in enumerate(((10, 10), (60, 15), (30, 50), (85, 60))):
        image[y : y + 24, x : x + 24] = 80 + 50 * number
        regions.append(Region(np.ones((24, 24), bool), x, y))
    for seed in range(30):
        rng = np.random.default_rng(seed)
        window = choose_window(rng, 90, 120, regions[seed % 4].box, 128, whole_share=0.3)
        view = crop_view(rng, image, regions, seed % 4, window, 128, 4, complete=True)
        assert view is not None and view.occupied is not None
        view = augment.turned(rng, view)
        for mask in view.masks:
            inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
            levels = view.image[inner][:, 0].astype(int)
            assert levels.size == 0 or np.ptp(levels) <= 12
            assert (view.occupied | ~mask).mean() > 0.99
    assert crop_mask(regions[0], Window(60, 0, 90, 30), 64).sum() == 0


def test_what_lies_outside_the_image_is_filled():
    seen = crop_image(np.full((10, 10, 3), 200, np.uint8), Window(-10, 0, 10, 20), 40, (1, 2, 3))
    assert (seen[5, 5] == (1, 2, 3)).all() and (seen[5, 35] == 200).all() and (seen[35, 35] == (1, 2, 3)).all()


def test_a_pasted_object_is_a_target_and_hides_what_is_below():
    below = np.zeros((1, 64, 64), bool)
    below[0, 4:60, 4:60] = True
    view = TrainingView(np.zeros((64, 64, 3), np.uint8), below, below[0])
    bright = np.full((30, 30, 3), 250, np.uint8)
    pasted = [
        paste(np.random.default_rng(seed), view, bright, Region(np.ones((30, 30), bool), 0, 0)) for seed in range(20)
    ]
    grown = [found for found in pasted if found is not view]
    assert len(grown) >= 10
    for found in grown:
        assert not (found.masks[0] & found.masks[1:]).any()
        assert found.occupied is not None and (found.occupied == (below[0] | found.masks[0])).all()
        inner = cv2.erode(found.masks[0].astype(np.uint8), np.ones((5, 5))) > 0
        assert (found.image[inner] >= 248).all() and found.masks[0].sum() >= SMALLEST


def test_background_is_asked_only_where_everything_is_labelled(corpus, tmp_path):
    config = tiny(corpus, tmp_path / "run", real_share=1.0)
    stage = config.stages[0].model_copy(update={"images": 6, "paste": 0.0})
    for chosen, expected in (("few", BACKGROUND_CLICKS), ("many", 0)):
        names = {"hold_out": (), "background": ("few",) if expected else ()}
        real = open_images(config.model_copy(update={"images": (corpus / chosen,)} | names))
        batch = make_batch(SceneBank(tmp_path, 0), real, stage, step_generator(0, 0))
        empty = batch.targets.flatten(1).amax(1) == 0
        assert [int(empty[batch.image_index == image].sum()) for image in range(6)] == [expected] * 6
        assert batch.pixels.shape == (6, 3, 128, 128) and batch.targets.shape[1:] == (32, 32)


def test_a_finer_loss_sees_the_same_targets_in_more_pixels(corpus, tmp_path):
    config = tiny(corpus, tmp_path / "run", real_share=1.0)
    loss = config.stages[0].loss
    plain, finer = (
        config.stages[0].model_copy(update={"images": 3, "loss": loss.model_copy(update={"scale": scale})})
        for scale in (1, 2)
    )
    one, two = (
        make_batch(SceneBank(tmp_path, 0), open_images(config), stage, step_generator(0, 0)) for stage in (plain, finer)
    )
    assert torch.equal(one.fine, one.targets) and torch.equal(one.targets, two.targets)
    assert two.fine.shape == (len(one.targets), 64, 64)
    assert torch.equal(F.avg_pool2d(two.fine, 2), two.targets)


def test_batches_made_ahead_come_in_order_and_bring_errors_to_their_item():
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    assert list(made_ahead([0, 2, 4, 6, 8], halve)) == [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4)]
    found = made_ahead([0, 2, 3, 4], halve)
    assert [next(found), next(found)] == [(0, 0), (2, 1)]
    with pytest.raises(ValueError, match="3"):
        next(found)


# The whole recipe.


SITTING = """
if __name__ == "__main__":
    import os, signal, sys
    from samtune.config import PretrainConfig
    from samtune.nano.pretraining import pretrain
    kill = lambda line: os.kill(os.getpid(), signal.SIGKILL)
    pretrain(PretrainConfig.model_validate_json(sys.argv[1]), kill)
"""
"""A sitting that is killed when it writes its first line, after the step that `measure_every` says. Whatever draws its
scenes imports this file too, so that it imports nothing for them."""


def test_a_killed_sitting_ends_with_the_same_weights(corpus, tmp_path):
    """Killed after step 3, with step 2 on disk, and on from there: the weights of a sitting that was not interrupted.

    The two also measure at different steps, which must leave the random numbers of training alone.
    """
    lines: list = []
    whole = pretrain(tiny(corpus, tmp_path / "whole", save_every=2), lines.append)
    assert {"held_out_box", "unseen_box", "unseen_click", "sets_box", "sets_click"} <= set(lines[-1])
    config = tiny(corpus, tmp_path / "killed", save_every=2, measure_every=3)
    (tmp_path / "sitting.py").write_text(SITTING)
    command = [sys.executable, str(tmp_path / "sitting.py"), config.model_dump_json()]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert json.loads((config.out / "checkpoints/last/progress.json").read_text())["step"] == 2
    resumed = pretrain(config)
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert one.keys() == untrained_nano(0).state_dict().keys(), "the second task's head does not ship"
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    steps = [json.loads(line)["step"] for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3], "what was logged after the checkpoint is written once"


# What is refused.


def test_shares_over_one_are_refused(corpus, tmp_path):
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        tiny(corpus, tmp_path / "run", shares=(1.5,))
    with pytest.raises(ValidationError, match=r"add up to 1.2"):
        tiny(corpus, tmp_path / "run", images=(corpus, corpus), shares=(0.6, 0.6))
    with pytest.raises(ValidationError, match="1 numbers for 2 of images"):
        tiny(corpus, tmp_path / "run", images=(corpus, corpus), shares=(0.6,))


def test_an_incomplete_set_is_refused_for_background(corpus, tmp_path):
    with pytest.raises(ConfigError, match="'few', which is named as incomplete"):
        open_images(tiny(corpus, tmp_path / "run", incomplete=("few",)))


@pytest.mark.parametrize("option", ["hold_out", "background", "incomplete"])
def test_an_unknown_set_is_refused(corpus, tmp_path, option):
    with pytest.raises(ConfigError, match=f"(?s)few, many, unseen.*'fwe'.*--{option.replace('_', '-')}"):
        open_images(tiny(corpus, tmp_path / "run", **{option: ("fwe",)}))


def test_a_folder_without_masks_is_refused(corpus, tmp_path):
    write_set(corpus / "boxes", 2, 1, masks=False)
    with pytest.raises(DataError, match=r"(?s)no object with a mask.*boxes"):
        open_images(tiny(corpus, tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        open_images(tiny(tmp_path / "empty", tmp_path / "run", hold_out=(), background=()))
    with pytest.raises(DataError, match="nowhere"):
        open_images(tiny(tmp_path / "nowhere", tmp_path / "run", hold_out=(), background=()))


def test_holding_out_everything_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="none that is not held out"):
        open_images(tiny(corpus, tmp_path / "run", hold_out=("few", "many", "unseen")))


def test_an_image_of_another_size_is_named(corpus, tmp_path):
    cv2.imwrite(str(corpus / "few/images/0.png"), np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(DataError, match=r"(?s)96 x 96.*50 x 50.*0\.png"):
        pretrain(tiny(corpus, tmp_path / "run", real_share=1.0))


def test_a_disk_without_space_is_named_and_the_state_before_stays(corpus, tmp_path):
    """A real limit on file size, which the checkpoint does not fit into: the command line says so and exits with 2."""
    config = tiny(corpus, tmp_path / "run")
    pretrain(config.model_copy(update={"stages": (config.stages[0].model_copy(update={"steps": 1}),)}))
    before = (config.out / "checkpoints/last/progress.json").read_bytes()
    (tmp_path / "config.yaml").write_text(config.model_dump_json())

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    command = [sys.executable, "-m", "samtune", "pretrain", "--config", str(tmp_path / "config.yaml")]
    ended = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == StorageError.exit_code == 2
    assert "expected to be able to write" in ended.stderr and "Traceback" not in ended.stderr
    assert (config.out / "checkpoints/last/progress.json").read_bytes() == before


def test_the_command_line_takes_sources_and_names(corpus, tmp_path):
    command = [sys.executable, "-m", "samtune", "pretrain", "--images", str(corpus), "--images", str(corpus / "few")]
    command += ["--shares", "0.5", "--shares", "0.2", "--hold-out", "unseen", "--background", "fwe"]
    ended = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "'fwe'" in ended.stderr and "few, many, unseen" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_held_out_figures_do_not_depend_on_what_was_drawn(corpus, tmp_path):
    config = tiny(corpus, tmp_path / "run")
    bank, real, model = draw_scenes(config), open_images(config), untrained_nano(0, 128).eval()
    first = measure(model, bank, real, 1)
    real.view(np.random.default_rng(0), 0, PretrainStage(size=64, steps=1, objects=3, paste=1.0))
    assert measure(model, bank, real, 1) == first
    assert 0 <= first["unseen_click"] <= 1 and first["sets_box"] == first["unseen_box"]
