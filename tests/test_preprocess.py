"""Images, coordinates and masks into the model's frame and back. The official numbers are held in tests/parity."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from samtune.data.images import read_image
from samtune.model.preprocess import (
    MEAN,
    STD,
    mask_prompt,
    processor_config,
    scale_boxes,
    scale_points,
    to_model_input,
    unscale_boxes,
    unscale_points,
    upscale_masks,
)


def flat(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (8, 900), (700, 9), (128, 128), (300, 451)])
def test_a_image_of_one_colour_stays_that_colour(height: int, width: int) -> None:
    pixels = to_model_input(flat(height, width, (255, 0, 51)), 128)
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(MEAN)) / torch.tensor(STD)
    assert pixels.shape == (3, 128, 128)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, expected[:, None, None].expand(3, 128, 128), atol=1e-5, rtol=0)


def test_a_image_of_the_models_size_is_only_normalised() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    pixels = to_model_input(image, 64)
    back = (pixels * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    assert np.array_equal(back.round().to(torch.uint8).permute(1, 2, 0).numpy(), image)


def test_shrinking_averages_instead_of_skipping() -> None:
    """A one-pixel checkerboard becomes gray; without antialiasing it would become black or white."""
    board = ((np.indices((512, 512)).sum(0) % 2) * 255).astype(np.uint8)
    pixels = to_model_input(np.repeat(board[:, :, None], 3, 2), 64)
    gray = (0.5 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert (pixels - gray[:, None, None])[:, 2:-2, 2:-2].abs().max() < 0.05


def test_a_huge_image_is_resized_channel_by_channel_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).integers(0, 256, (300, 200, 3), np.uint8)
    whole = to_model_input(image, 64)
    monkeypatch.setattr("samtune.model.preprocess.WHOLE_IMAGE_PIXELS", 100)
    assert torch.equal(to_model_input(image, 64), whole)


@pytest.mark.slow
def test_an_8000_pixel_image_fits_into_memory() -> None:
    assert to_model_input(np.zeros((8000, 8000, 3), np.uint8), 1024).shape == (3, 1024, 1024)


def test_views_are_read_as_they_look() -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    for view in (image[:, ::-1], image[::-1], image[5:30, 7:40], image[:, :, ::-1]):
        assert torch.equal(to_model_input(view, 32), to_model_input(view.copy(), 32))
    frozen = image.copy()
    frozen.flags.writeable = False
    assert torch.equal(to_model_input(frozen, 32), to_model_input(image, 32))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        to_model_input(image, 32)


def encoded(mode: str, **save: object) -> bytes:
    """An image whose left half is dark and right half bright, in one of Pillow's modes."""
    values = np.zeros((20, 30), np.uint8)
    values[:, 15:] = 250
    gray = Image.fromarray(values if mode != "1" else np.where(values, 255, 0).astype(np.uint8))
    converted = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else gray.convert(mode)
    buffer = io.BytesIO()
    converted.save(buffer, "PNG", **save)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "1"])
def test_images_of_every_mode_become_the_same_input(mode: str, tmp_path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(mode))
    pixels = to_model_input(read_image(path), 32)
    reference = np.zeros((20, 30, 3), np.uint8)
    reference[:, 15:] = 255 if mode in ("1", "I;16") else 250  # deep values are stretched, docs/decisions/0121
    torch.testing.assert_close(pixels, to_model_input(reference, 32), atol=0.02, rtol=0)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_images_are_read_as_official_notebooks_read_them(mode: str, orientation: int, tmp_path) -> None:
    """`np.array(image.convert("RGB"))`, turned upright first."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.png"
    Image.open(io.BytesIO(encoded("L"))).convert(mode).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape[:2] == ((30, 20) if orientation in (6, 8) else (20, 30))
    assert torch.equal(to_model_input(read_image(path), 32), to_model_input(expected, 32))


@given(
    height=st.integers(1, 9000),
    width=st.integers(1, 9000),
    size=st.sampled_from([64, 384, 1024]),
    seed=st.integers(0, 2**31),
)
def test_coordinates_go_there_and_back(height: int, width: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(3, 2, 2, generator=generator) * torch.tensor([width, height])
    scaled = scale_points(points, (height, width), size)
    assert ((scaled >= 0) & (scaled <= size * 1.0001)).all()
    back = unscale_points(scaled, (height, width), size)
    torch.testing.assert_close(back, points, rtol=1e-5, atol=1e-3)
    boxes = points.flatten(-2)
    torch.testing.assert_close(scale_boxes(boxes, (height, width), size), scaled.flatten(-2))
    torch.testing.assert_close(unscale_boxes(scaled.flatten(-2), (height, width), size), boxes, rtol=1e-5, atol=1e-3)


def test_each_side_has_its_own_scale() -> None:
    assert scale_points(torch.tensor([100, 50]), (200, 400), 1024).tolist() == [256.0, 256.0]
    assert scale_boxes(torch.tensor([0.0, 0.0, 400.0, 200.0]), (200, 400), 1024).tolist() == [0.0, 0.0, 1024.0, 1024.0]


def test_masks_are_resized_before_the_threshold() -> None:
    """A threshold before resizing would leave steps of 8 pixels; after it, the edge lies where the logits cross 0."""
    logits = torch.linspace(-1.0, 3.0, 32).expand(32, 32)
    mask = upscale_masks(logits, (256, 256)) > 0
    edge = int(mask[100].int().argmax())
    assert abs(edge - (0.25 * 31 + 0.5) * 8) <= 1
    assert mask[100, edge:].all()


def test_masks_keep_their_leading_dimensions_and_may_be_none() -> None:
    assert upscale_masks(torch.zeros(2, 3, 4, 8, 8, dtype=torch.bfloat16), (17, 9)).shape == (2, 3, 4, 17, 9)
    assert upscale_masks(torch.zeros(2, 3, 4, 8, 8, dtype=torch.bfloat16), (17, 9)).dtype == torch.float32
    assert upscale_masks(torch.zeros(0, 4, 8, 8), (17, 9)).shape == (0, 4, 17, 9)
    assert mask_prompt(torch.zeros(0, 5, 5, dtype=torch.bool), 8).shape == (0, 8, 8)


def test_a_mask_prompt_is_the_mask_as_logits() -> None:
    mask = np.zeros((120, 200), bool)
    mask[30:90, 50:150] = True
    prompt = mask_prompt(mask, 64)
    assert prompt.shape == (64, 64)
    assert (float(prompt.min()), float(prompt.max())) == pytest.approx((-10, 10), abs=1e-4)
    back = (upscale_masks(prompt, (120, 200)) > 0).numpy()
    assert (back != mask).mean() < 0.02


def test_the_processors_json_says_what_this_file_does() -> None:
    config = processor_config(384)
    assert config["size"] == {"height": 384, "width": 384}
    assert config["mask_size"] == {"height": 96, "width": 96}
    assert config["image_mean"] == list(MEAN)
