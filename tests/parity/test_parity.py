"""samtune and transformers held to the official implementation, every size, there and back. Run by `make parity`.

The official package runs in an environment of its own, in other processes (`official_side.py`), because it wants a
torchvision that torch's CPU build does not have. `SAMTUNE_PARITY_PYTHON` names that environment's Python.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from samtune.exports.official_package import write_official
from samtune.model.catalogue import NANO, NANO_FOLDER
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.save import save_model
from samtune.model.preprocess import to_model_input
from tests.answers import check_answers, our_answers, transformers_answers
from tests.conftest import REPO

PYTHON = Path(os.environ.get("SAMTUNE_PARITY_PYTHON", REPO / "build" / "parity" / "bin" / "python")).absolute()
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="the official package's environment is not there (make parity)"),
]

LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
MODELS = [
    ("sam2.1", "tiny", 1),
    ("sam2.1", "tiny", 100),
    ("sam2", "tiny", 100),
    ("sam2.1", "small", 100),
    ("sam2", "small", 10),
    ("sam2.1", "base-plus", 100),
    ("sam2", "base-plus", 10),
    ("sam2.1", "large", 100),
    ("sam2", "large", 10),
]
"""Version, size, and how sharp the random masks are: dull ones make the predictor fall back from token 0."""


def official(*arguments: object) -> None:
    """Run one command of the official side."""
    done = subprocess.run(
        [str(PYTHON), str(HERE / "official_side.py"), *map(str, arguments)], cwd=HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def config_of(version: str, size: str) -> str:
    return f"configs/{version}/{version}_hiera_{LETTERS[size]}.yaml"


def random_image(height: int, width: int, seed: int) -> Tensor:
    """Smooth colours with a few hard edges, uint8 `[H, W, 3]`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 9, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)
    edge = image[:, height // 3 : height // 2, width // 4 : width // 2]
    edge.copy_(1 - edge)
    return (image.permute(1, 2, 0) * 255).to(torch.uint8).contiguous()


def cases(mask_size: int) -> dict[str, Tensor]:
    """Every kind of prompt on one wide and, more briefly, one tall image."""
    generator = torch.Generator().manual_seed(3)
    wide, tall = random_image(180, 320, 1), random_image(411, 250, 2)
    corners = torch.rand(8, 2, 2, generator=generator) * torch.tensor([320.0, 180.0])
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)
    points = torch.tensor([[150.0, 80.0], [20.5, 170.25], [300.0, 10.0], [160.0, 100.0], [0.0, 0.0]])
    labels = torch.tensor([1, 0, 1, 1, 0])
    mask = (
        10
        * torch.nn.functional.interpolate(
            torch.randn(1, 1, 9, 9, generator=generator), (mask_size, mask_size), mode="bicubic"
        )[0]
    )
    found = {
        "image/wide": wide,
        "image/tall": tall,
        "wide.box/box": boxes[0],
        "wide.boxes/box": boxes,
        "wide.one_point/points": points[:1],
        "wide.one_point/labels": labels[:1],
        "wide.five_points/points": points,
        "wide.five_points/labels": labels,
        "wide.box_points/box": boxes[1],
        "wide.box_points/points": points[:2],
        "wide.box_points/labels": labels[:2],
        "wide.mask_point/mask": mask,
        "wide.mask_point/points": points[:1],
        "wide.mask_point/labels": labels[:1],
        "wide.mask_box/mask": mask,
        "wide.mask_box/box": boxes[2],
        "tall.box/box": torch.tensor([12.5, 30.0, 200.0, 400.0]),
        "tall.one_point/points": torch.tensor([[125.0, 205.0]]),
        "tall.one_point/labels": torch.tensor([1]),
    }
    return {name: value.clone() for name, value in found.items()}


def official_answers(config: object, weights: Path, given: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    save_file(given, folder / "cases.safetensors")
    official("predict", config, weights, folder / "cases.safetensors", folder / "answers.safetensors")
    return load_file(folder / "answers.safetensors")


def tuned(loaded: LoadedModel, seed: int) -> LoadedModel:
    """The model with every weight moved a little, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1 + 0.02 * torch.randn(parameter.shape, generator=generator))
    return loaded


def fell_back(answers: dict[str, Tensor]) -> list[bool]:
    """For every prompt, whether its single mask is one of the three for ambiguous prompts."""
    found = []
    for name in answers:
        if name.endswith("single/low_res"):
            singles = answers[name].reshape(-1, 256, 256)
            threes = answers[name.replace("single", "multi")].reshape(-1, 3, 256, 256)
            pairs = zip(singles, threes, strict=True)
            found += [any(torch.equal(single, other) for other in three) for single, three in pairs]
    return found


@pytest.mark.parametrize(("version", "size", "sharpness"), MODELS)
def test_there_and_back(version: str, size: str, sharpness: int, tmp_path: Path) -> None:
    config, given = config_of(version, size), cases(256)
    official("weights", config, 0, sharpness, tmp_path / "official.pt")
    expected = official_answers(config, tmp_path / "official.pt", given, tmp_path)

    # Between them, the dull and the sharp model take both ways through the predictor.
    if sharpness == 1:
        assert any(fell_back(expected))
    if sharpness == 100:
        assert not all(fell_back(expected))

    loaded = load_model(tmp_path / "official.pt")
    assert loaded.family == f"{version}-hiera-{size}"
    ours = check_answers(our_answers(loaded, given), expected)
    theirs = check_answers(transformers_answers(loaded.model, given, 1024), expected)

    save_model(tuned(loaded, 1), tmp_path / "tuned")
    loaded = load_model(tmp_path / "tuned")
    write_official(loaded, tmp_path / "back.pt")
    back = check_answers(our_answers(loaded, given), official_answers(config, tmp_path / "back.pt", given, tmp_path))
    for name, found in {"ours": ours, "transformers": theirs, "back": back}.items():
        print(f"{version}-{size} x{sharpness} {name}: " + ", ".join(f"{k} {v:.1e}" for k, v in found.items()))


@pytest.mark.skipif(not (NANO_FOLDER / "config.json").exists(), reason="the package does not hold nano yet")
def test_nano_runs_in_the_official_code(tmp_path: Path) -> None:
    loaded = load_model(NANO)
    write_official(loaded, tmp_path / "nano.pt")
    given = cases(loaded.mask_size)
    expected = official_answers(tmp_path / "nano.yaml", tmp_path / "nano.pt", given, tmp_path)
    found = check_answers(our_answers(loaded, given), expected)
    check_answers(transformers_answers(loaded.model, given, loaded.image_size), expected)
    print("nano: " + ", ".join(f"{key} {value:.1e}" for key, value in found.items()))


@pytest.mark.parametrize("version", ["sam2.1", "sam2"])
def test_video_weights_mean_the_same_after_the_way_there_and_back(version: str, tmp_path: Path) -> None:
    from transformers import Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    config = config_of(version, "tiny")
    official("weights", config, 0, 100, tmp_path / "official.pt")
    save_model(tuned(load_model(tmp_path / "official.pt"), 1), tmp_path / "tuned")
    write_official(load_model(tmp_path / "tuned"), tmp_path / "back.pt")
    (tmp_path / "frames").mkdir()
    for frame in range(4):
        image = np.roll(random_image(180, 320, 1).numpy(), 8 * frame, axis=1)
        Image.fromarray(image).save(tmp_path / "frames" / f"{frame}.jpg", quality=95)
    official("video", config, tmp_path / "back.pt", tmp_path / "frames", tmp_path / "video.safetensors")
    expected = load_file(tmp_path / "video.safetensors")

    model = Sam2VideoModel.from_pretrained(tmp_path / "tuned").eval()
    # The official video predictor resizes with Pillow; that is its own preprocessing, not samtune's.
    frames = [
        Image.open(tmp_path / "frames" / f"{frame}.jpg").convert("RGB").resize((1024, 1024)) for frame in range(4)
    ]
    video = torch.stack([to_model_input(np.asarray(frame), 1024) for frame in frames])
    session = Sam2VideoInferenceSession(video=video, video_height=180, video_width=320, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    session.add_point_inputs(
        index, 0, {"point_coords": torch.tensor([[[[512.0, 512.0]]]]), "point_labels": torch.tensor([[[1]]])}
    )
    session.obj_with_new_inputs = [1]
    with torch.no_grad():
        for frame in range(4):
            low_res = model(inference_session=session, frame_idx=frame).pred_masks
            logits = torch.nn.functional.interpolate(low_res.float(), (180, 320), mode="bilinear", align_corners=False)
            reference = expected[f"{frame:03d}"]
            differing = ((logits > 0) != (reference > 0)).float().mean()
            print(f"{version} frame {frame}: {differing:.1e} of the pixels, {(logits - reference).abs().max():.1e}")
            assert differing <= 1e-4
            assert (reference > 0).any()
            assert not (reference > 0).all()


@pytest.mark.parametrize("shape", [(8, 8), (1, 700), (8, 8000), (333, 500), (1024, 1024), (8000, 6000)])
def test_preprocessing_is_the_official_one(shape: tuple[int, int], tmp_path: Path) -> None:
    image = random_image(*shape, seed=4)
    save_file({"image": image}, tmp_path / "cases.safetensors")
    official("transform", 1024, tmp_path / "cases.safetensors", tmp_path / "answers.safetensors")
    expected = load_file(tmp_path / "answers.safetensors")["image"]
    assert torch.equal(to_model_input(image.numpy(), 1024), expected)
