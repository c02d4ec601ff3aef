"""Clips measured: J and F held to vos-benchmark's figures and to pixel loops, folders of DAVIS, drawn clips."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import distance_transform_edt

import samtune
from samtune.cli import main
from samtune.config import EvalConfig
from samtune.data.masks.palette import read_label_image, write_label_image
from samtune.errors import DataError
from samtune.evaluation.clips.davis import annotated_clips, is_clip_set
from samtune.evaluation.clips.guard import CLIPS, FRAMES, SIDE
from samtune.evaluation.clips.measures import clip_scores, edge_map, edge_measure, region_measure
from samtune.evaluation.clips.protocol import follow_clips, labels_of, stand_still
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.model.video import video_model
from samtune.synthetic.clips import SMALLEST, draw_clip, write_clips
from tests.clips import moving_discs
from tests.small import make_dataset
from tests.tiny_video import tiny_video

VOS_BENCHMARK = {1: (0.671641791, 0.402777778), 2: (0.530265216, 0.442549261)}
"""J and F of `disturbed_discs`, from vos-benchmark 0.1.0 (the clip's first and last frame skipped there)."""


def disturbed_discs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Found and true object numbers of ten frames: shifted, cut, missing on two frames, and one object too many."""
    _, truth = moving_discs(10)
    found = np.roll(truth, 2, axis=2)
    found[:, 30:] = 0
    found[4:6][found[4:6] == 2] = 0
    found[7:, :4, :4] = 3
    return list(zip(found, truth, strict=True))


def test_figures_are_those_of_vos_benchmark():
    scores = clip_scores(disturbed_discs()[1:-1])
    assert set(scores) == {1, 2}, "what is not in the truth has no score"
    for number, (j, f) in VOS_BENCHMARK.items():
        assert scores[number].j == pytest.approx(j, abs=1e-8)
        assert scores[number].f == pytest.approx(f, abs=1e-8)
        assert scores[number].jf == pytest.approx((j + f) / 2, abs=1e-8)


masks = st.tuples(st.integers(2, 24), st.integers(2, 40), st.integers(0, 10**6))


def random_mask(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.random((math.ceil(height / 4), math.ceil(width / 4))) < rng.uniform(0, 1)
    return np.kron(coarse, np.ones((4, 4), bool))[:height, :width].astype(bool)


@given(masks, masks)
@settings(max_examples=60, deadline=None)
def test_edges_match_within_the_tolerance_by_true_distance(first, second):
    """The dilation by a disc against exact Euclidean distances, and a pixel loop for the edges."""
    height, width, seed = first
    found, truth = random_mask(height, width, seed), random_mask(height, width, second[2])
    edges = [loop_edges(mask) for mask in (found, truth)]
    np.testing.assert_array_equal(edge_map(found), edges[0])
    if edges[0].any() and edges[1].any():
        radius = math.ceil(0.008 * math.hypot(height, width))
        near = [distance_transform_edt(~edge) <= radius for edge in edges]
        precision, recall = (edges[0] & near[1]).sum() / edges[0].sum(), (edges[1] & near[0]).sum() / edges[1].sum()
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    else:
        expected = float(not edges[0].any() and not edges[1].any())
    assert edge_measure(found, truth) == pytest.approx(expected)
    assert edge_measure(found, found) == region_measure(found, found) == 1


def loop_edges(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    edges = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            others = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (1, 1))]
            edges[y, x] = any(mask[y, x] != mask[b, a] for b, a in others if b < height and a < width)
    return edges


def write_set(root, labels, names=("one",), lists=None):
    for name in names:
        for kind in ("JPEGImages/480p", "Annotations/480p"):
            (root / kind / name).mkdir(parents=True)
        for number, frame in enumerate(labels):
            image = np.repeat(frame[..., None] * np.uint8(100), 3, axis=2)
            Image.fromarray(image).save(root / f"JPEGImages/480p/{name}/{number:05}.jpg")
            write_label_image(root / f"Annotations/480p/{name}/{number:05}.png", frame)
    for split, listed in (lists or {}).items():
        (root / "ImageSets/2017").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/2017/{split}.txt").write_text("\n".join(listed) + "\n")
    return root


def test_splits_are_those_of_the_lists(tmp_path):
    _, labels = moving_discs(3)
    root = write_set(tmp_path / "davis", labels, ("a", "b", "c"), {"train": ["a", "c"], "val": ["b"]})
    assert is_clip_set(root) and not is_clip_set(tmp_path)
    assert [clip.name for clip in annotated_clips(root, "train")] == ["a", "c"]
    assert [clip.name for clip in annotated_clips(root, "valid")] == ["b"]
    with pytest.raises(DataError, match="train, val"):
        annotated_clips(root, "test")
    (root / "ImageSets/2017/val.txt").write_text("../../etc\n")
    with pytest.raises(DataError, match="names of clips"):
        annotated_clips(root, "valid")
    assert [clip.name for clip in annotated_clips(write_set(tmp_path / "plain", labels), "test")] == ["one"]
    (tmp_path / "own").mkdir()
    write_set(tmp_path / "own/val", labels, ("x",))
    assert [clip.name for clip in annotated_clips(tmp_path / "own", "valid")] == ["x"]


@pytest.fixture(scope="module")
def loaded():
    return tiny_video(seed=0)


def test_a_mask_that_is_given_on_every_counted_frame_would_be_perfect(tmp_path, loaded):
    """Objects appear when their truth does: nothing is found, and nothing is counted, before."""
    _, labels = moving_discs(6)
    labels[:3][labels[:3] == 2] = 0
    (clip,) = annotated_clips(write_set(tmp_path / "set", labels), "test")
    pairs = list(labels_of(video_model(loaded), clip, "mask"))
    assert len(pairs) == 4
    assert all(2 not in found for found, _ in pairs[:2])
    found, truth = pairs[2]  # the third frame is where object 2 was given as its mask
    assert region_measure(found == 2, truth == 2) > 0.6  # low-res masks are 16 x 16
    assert clip_scores(pairs)[2].frames == 2


def test_evaluate_puts_base_and_tuned_side_by_side(tmp_path, loaded, capsys):
    _, labels = moving_discs(5)
    write_set(tmp_path / "set", labels, ("a", "b", "c"))
    save_model(loaded, tmp_path / "base")
    with torch.no_grad():
        other = tiny_video(seed=0)
        other.model.mask_decoder.mask_tokens.weight.mul_(1.5)
    save_model(other, tmp_path / "tuned")
    arguments = ["evaluate", tmp_path / "set", "--model", tmp_path / "tuned", "--base", tmp_path / "base", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--out", str(tmp_path / "found.json"), "--clip-prompt", "box"])
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    assert "6 objects in 3 clips of test, given by their box" in shown and "J&F" in shown and "difference" in shown
    written = json.loads((tmp_path / "found.json").read_text())
    clips = annotated_clips(tmp_path / "set", "test")
    for folder, key in (("tuned", None), ("base", "base")):
        again = follow_clips(video_model(load_model(tmp_path / folder)), clips, "box")
        for row in written["objects"]:
            figures = row if key is None else row[key]
            assert figures["j_and_f"] == pytest.approx(again[row["clip"]][row["object"]].jf, abs=1e-3)
    assert "to beat" in shown and written["still"]["j_and_f"]["count"] == 6
    mean = np.mean([row["j_and_f"] - row["base"]["j_and_f"] for row in written["objects"]])
    assert written["differences"]["j_and_f"]["change"]["mean"] == pytest.approx(mean)
    assert written["differences"]["j_and_f"]["change"]["groups"] == 3


def test_masks_that_stand_still_are_the_line_to_beat(tmp_path):
    """Against a loop of its own; object 2 appears on the second frame, and stays where it appeared."""
    _, labels = moving_discs(6)
    labels[0][labels[0] == 2] = 0
    clips = annotated_clips(write_set(tmp_path / "set", labels), "test")
    still = stand_still(clips)["one"]
    for number, start in ((1, 0), (2, 1)):
        left = (labels[start] == number) & ~((labels[0] == 1) & (number == 2) & (labels[start] != 2))
        expected = np.mean([region_measure(left, frame == number) for frame in labels[1:-1]])
        assert still[number].j == pytest.approx(expected)
    assert still[1].j < 0.5
    never = annotated_clips(write_set(tmp_path / "same", labels[[2] * 5]), "test")
    assert [one.jf for one in stand_still(never)["one"].values()] == [1.0, 1.0]


def test_the_verdict_looks_at_clips_where_both_models_can_follow(tmp_path, loaded, tiny_folder):
    data = make_dataset(tmp_path / "data", train=1, valid=1, test=3).root
    other = tiny_video(seed=1)
    asked = EvalConfig(max_objects=2, jitter=(), mask_prompt=False, clicks=0, background_clicks=0, device="cpu")
    found = samtune.compare(data, loaded, other, tmp_path / "out", asked, guard_scenes=1, quiet=True)
    guard = next(guard for guard in found.guards if guard.name == "clips")
    clips = annotated_clips(write_clips(tmp_path / "drawn", CLIPS, FRAMES, size=SIDE), "test")
    for model, mean in ((loaded, guard.base), (other, guard.tuned)):
        again = follow_clips(video_model(model), clips, "box")
        assert mean == pytest.approx(np.mean([one.jf for objects in again.values() for one in objects.values()]))
    assert guard.change.groups == CLIPS and guard.base != guard.tuned
    without = samtune.compare(data, tiny_folder, other, tmp_path / "out", asked, guard_scenes=1, quiet=True)
    assert "clips" not in {guard.name for guard in without.guards}


def test_annotations_that_do_not_fit_are_named(tmp_path, loaded):
    _, labels = moving_discs(4)
    root = write_set(tmp_path / "set", labels)
    file = root / "Annotations/480p/one/00002.png"
    write_label_image(file, labels[2][:, :30])
    (clip,) = annotated_clips(root, "test")
    with pytest.raises(DataError, match="30 x 48") as raised:
        list(labels_of(video_model(loaded), clip, "mask"))
    assert str(file) in str(raised.value)
    for number in (2, 3):
        (root / f"Annotations/480p/one/{number:05}.png").unlink()
    with pytest.raises(DataError, match="three annotated frames"):
        annotated_clips(root, "test")


def test_drawn_clips_show_what_their_labels_say(tmp_path):
    clips = [draw_clip(np.random.default_rng(seed), 8, 96) for seed in range(6)]
    again = draw_clip(np.random.default_rng(3), 8, 96)
    np.testing.assert_array_equal(clips[3].frames, again.frames)
    hidden = 0
    for clip in clips:
        assert clip.frames.shape == (8, 96, 96, 3) and clip.labels.shape == (8, 96, 96)
        areas = np.stack([np.bincount(labels.ravel(), minlength=5) for labels in clip.labels])[:, 1:]
        count = clip.labels.max()
        assert (areas[0, :count] >= SMALLEST).all() and 2 <= count <= 4
        centers = [np.argwhere(labels == 1).mean(0) for labels in clip.labels[[0, -1]] if (labels == 1).any()]
        assert len(centers) < 2 or np.abs(centers[0] - centers[1]).max() > 0.2
        hidden += int((areas[:, :count].min(0) < 0.5 * areas[0, :count]).sum())
    assert hidden >= 2, "objects pass behind each other"
    root = write_clips(tmp_path / "drawn", 2, 3, size=64)
    first, _ = annotated_clips(root, "test")
    drawn = draw_clip(np.random.default_rng((0, 0)), 3, 64)
    np.testing.assert_array_equal(read_label_image(first.truth["00001"]), drawn.labels[1])
