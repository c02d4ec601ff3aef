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
from tests.parity.test_parity import HERE, config_of, official, pytestmark, random_image
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
    weights = tmp_path / "official.pt"
    official("weights", HERE / "tiny_video.yaml", 0, sharpness, weights)
    state = torch.load(weights, weights_only=True)["model"]
    torch.save({"model": state, CONFIG_KEY: TINY_OFFICIAL_VIDEO}, tmp_path / "ours.pt")
    differing = follow_both(HERE / "tiny_video.yaml", weights, tmp_path / "ours.pt", PROMPTS, SIDE, FRAMES)
    # A mask that is given enters the official memory after a detour through its low-res version: object 3.
    assert max(share for name, share in differing.items() if not name.startswith("3/")) <= 1e-4
    assert max(differing.values()) <= 1e-3


def test_clips_are_followed_by_sam2_1_tiny_as_the_official_predictor_does(tmp_path: Path) -> None:
    """Its layout and its own 1024 px, with random weights."""
    config, weights = config_of("sam2.1", "tiny"), tmp_path / "official.pt"
    official("weights", config, 0, 100, weights)
    scaled = [one | {name: (np.array(one[name]) * 8).tolist() for name in ("box", "points") if name in one}
              for one in PROMPTS[:3]]  # fmt: skip
    prompts = [one | {"frame": one["frame"] // 3} for one in scaled]
    differing = follow_both(config, weights, weights, prompts, 1024, 4)
    assert max(differing.values()) <= 1e-4


def follow_both(
    config: object, weights: Path, ours_weights: Path, prompts: list[dict], side: int, frames: int
) -> dict[str, float]:
    """Follow objects with the official predictor and with ours; the share of pixels that differ by object and frame."""
    folder = weights.parent
    (folder / "frames").mkdir()
    for frame in range(frames):
        image = np.roll(random_image(side, side, 1).numpy(), side // 42 * frame, axis=1)
        Image.fromarray(image).save(folder / "frames" / f"{frame:05}.jpg", quality=95)
    theirs = [one if len(one) > 2 else one | {"mask": given_mask().astype(int).tolist()} for one in prompts]
    (folder / "prompts.json").write_text(json.dumps(theirs))
    official("clip", config, weights, folder / "frames", folder / "prompts.json", folder / "clip.safetensors")
    expected = load_file(folder / "clip.safetensors")

    clip, differing = open_clip(folder / "frames"), {}
    model = video_model(load_model(ours_weights))
    for found in track(model, clip, [ours(one) for one in prompts], backwards=True):
        for object_id, low_res in found.low_res.items():
            name = f"{object_id}/{found.number}"
            logits, reference = upscale_masks(low_res, clip.size), expected[name]
            differing[name] = float(((logits > 0) != (reference > 0)).float().mean())
            largest, share = float((logits - reference).abs().max()), float((reference > 0).float().mean())
            print(f"{name}: {differing[name]:.1e} of the pixels differ, logits {largest:.1e}, {share:.2f} set")
    assert differing.keys() == expected.keys()
    seen = [float((expected[name] > 0).float().mean()) for name in differing if not name.startswith("3/")]
    assert any(0.01 < share < 0.99 for share in seen), "no object is ever seen: the comparison says nothing"
    return differing
