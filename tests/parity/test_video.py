"""Clips held to the official video predictor: later objects, corrections, backwards. Run by `make parity`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from samtune.inference.video.clips import open_clip
from samtune.inference.video.prompts import ClipPrompt
from samtune.inference.video.track import track
from samtune.model.io.load import load_model
from samtune.model.io.official_layout import CONFIG_KEY
from samtune.model.preprocess import upscale_masks
from samtune.model.video import video_model
from samtune.types import Prompt
from tests.parity.test_parity import HERE, official, pytestmark, random_image
from tests.tiny_official import TINY_OFFICIAL_VIDEO

__all__ = ["pytestmark"]

SIDE, FRAMES = 128, 12
"""Frames of the model's own size: the official video predictor resizes with Pillow, which is not our preprocessing."""
PROMPTS = [
    {"frame": 0, "object": 1, "box": [22.0, 37.0, 70.0, 90.0]},
    {"frame": 6, "object": 1, "points": [[54.0, 62.0], [112.0, 12.0]], "labels": [1, 0]},
    {"frame": 5, "object": 2, "points": [[64.0, 64.0]], "labels": [1]},
    {"frame": 9, "object": 2, "points": [[75.0, 62.0]], "labels": [1]},
    {"frame": 3, "object": 3},
]


def given_mask() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return (x - 75) ** 2 + (y - 52) ** 2 < 19**2


def ours(prompt: dict) -> ClipPrompt:
    place = prompt["frame"], prompt["object"]
    if "box" in prompt:
        return ClipPrompt(*place, Prompt.box(*prompt["box"]))
    if "points" in prompt:
        return ClipPrompt(*place, Prompt.clicks(prompt["points"], prompt["labels"]))
    return ClipPrompt(*place, mask=given_mask())


@pytest.mark.parametrize("sharpness", [30, 100])
def test_clips_are_followed_as_the_official_predictor_does(sharpness: int, tmp_path: Path) -> None:
    config, weights = HERE / "tiny_video.yaml", tmp_path / "official.pt"
    official("weights", config, 0, sharpness, weights)
    state = torch.load(weights, weights_only=True)["model"]
    torch.save({"model": state, CONFIG_KEY: TINY_OFFICIAL_VIDEO}, tmp_path / "ours.pt")
    (tmp_path / "frames").mkdir()
    for frame in range(FRAMES):
        image = np.roll(random_image(SIDE, SIDE, 1).numpy(), 3 * frame, axis=1)
        Image.fromarray(image).save(tmp_path / "frames" / f"{frame:05}.jpg", quality=95)
    theirs = [one if len(one) > 2 else one | {"mask": given_mask().astype(int).tolist()} for one in PROMPTS]
    (tmp_path / "prompts.json").write_text(json.dumps(theirs))
    official("clip", config, weights, tmp_path / "frames", tmp_path / "prompts.json", tmp_path / "clip.safetensors")
    expected = load_file(tmp_path / "clip.safetensors")

    clip, differing, largest = open_clip(tmp_path / "frames"), {}, {}
    model = video_model(load_model(tmp_path / "ours.pt"))
    for found in track(model, clip, [ours(one) for one in PROMPTS], backwards=True):
        for object_id, low_res in found.low_res.items():
            name = f"{object_id}/{found.number}"
            logits, reference = upscale_masks(low_res, clip.size), expected[name]
            differing[name] = float(((logits > 0) != (reference > 0)).float().mean())
            largest[name] = float((logits - reference).abs().max())
            share = float((reference > 0).float().mean())
            print(f"{name}: {differing[name]:.1e} of the pixels differ, logits {largest[name]:.1e}, {share:.2f} set")
    assert differing.keys() == expected.keys()
    # A mask that is given enters the official memory after a detour through its low-res version: object 3.
    assert max(share for name, share in differing.items() if not name.startswith("3/")) <= 1e-4
    assert max(differing.values()) <= 1e-3
    seen = [float((expected[name] > 0).float().mean()) for name in differing if not name.startswith("3/")]
    assert any(0.01 < share < 0.99 for share in seen), "no object is ever seen: the comparison says nothing"
