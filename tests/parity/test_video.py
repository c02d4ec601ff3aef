"""Clips held to the official video predictor: later objects, corrections, backwards. Run by `make parity`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from samtune.exports.official_package import write_official
from samtune.inference.video.clips import open_clip
from samtune.inference.video.prompts import ClipPrompt
from samtune.inference.video.track import track
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.model.preprocess import upscale_masks
from samtune.model.video import video_model
from samtune.types import Prompt
from tests.parity.test_parity import config_of, official, pytestmark, random_image, tuned

__all__ = ["pytestmark"]

SIDE, FRAMES = 1024, 7
"""Frames of the model's own size: the official video predictor resizes with Pillow, which is not our preprocessing."""
PROMPTS = [
    {"frame": 0, "object": 1, "box": [180.0, 300.0, 560.0, 720.0]},
    {"frame": 4, "object": 1, "points": [[430.0, 500.0], [900.0, 100.0]], "labels": [1, 0]},
    {"frame": 3, "object": 2, "points": [[512.0, 512.0]], "labels": [1]},
    {"frame": 5, "object": 2, "points": [[600.0, 500.0]], "labels": [1]},
    {"frame": 2, "object": 3},
]


def given_mask() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return (x - 600) ** 2 + (y - 420) ** 2 < 150**2


def ours(prompt: dict) -> ClipPrompt:
    place = prompt["frame"], prompt["object"]
    if "box" in prompt:
        return ClipPrompt(*place, Prompt.box(*prompt["box"]))
    if "points" in prompt:
        return ClipPrompt(*place, Prompt.clicks(prompt["points"], prompt["labels"]))
    return ClipPrompt(*place, mask=given_mask())


@pytest.mark.parametrize("version", ["sam2.1", "sam2"])
def test_clips_are_followed_as_the_official_predictor_does(version: str, tmp_path: Path) -> None:
    config = config_of(version, "tiny")
    official("weights", config, 0, 100, tmp_path / "official.pt")
    save_model(tuned(load_model(tmp_path / "official.pt"), 1), tmp_path / "tuned")
    loaded = load_model(tmp_path / "tuned")
    write_official(loaded, tmp_path / "back.pt")
    (tmp_path / "frames").mkdir()
    for frame in range(FRAMES):
        image = np.roll(random_image(SIDE, SIDE, 1).numpy(), 24 * frame, axis=1)
        Image.fromarray(image).save(tmp_path / "frames" / f"{frame:05}.jpg", quality=95)
    theirs = [one if len(one) > 2 else one | {"mask": given_mask().astype(int).tolist()} for one in PROMPTS]
    (tmp_path / "prompts.json").write_text(json.dumps(theirs))
    files = (tmp_path / "back.pt", tmp_path / "frames", tmp_path / "prompts.json", tmp_path / "clip.safetensors")
    official("clip", config, *files)
    expected = load_file(tmp_path / "clip.safetensors")

    prompts = [ours(one) for one in PROMPTS]
    clip = open_clip(tmp_path / "frames")
    compared, worst = set(), 0.0
    for found in track(video_model(loaded), clip, prompts, backwards=True):
        for object_id, low_res in found.low_res.items():
            name = f"{object_id}/{found.number}"
            logits, reference = upscale_masks(low_res, clip.size), expected[name]
            differing = float(((logits > 0) != (reference > 0)).float().mean())
            print(f"{version} object {object_id} frame {found.number}: {differing:.1e} of the pixels differ, "
                  f"{float((reference > 0).float().mean()):.3f} set")  # fmt: skip
            compared.add(name)
            worst = max(worst, differing)
    assert compared == set(expected)
    assert worst <= 1e-4
    assert any(0 < (expected[name] > 0).float().mean() < 1 for name in compared if torch.is_tensor(expected[name]))
