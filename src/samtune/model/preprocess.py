"""Images, points, boxes and masks to what SAM 2 takes, and its masks back, without torchvision.

Source: `sam2/utils/transforms.py` and `sam2/sam2_image_predictor.py` of the official code: the image is squashed to a
square (no letterbox), bilinear with antialiasing, after scaling to 0..1 and before normalising; coordinates are divided
by the image's sides and multiplied by the input's; low-res logits are resized bilinearly before the threshold at 0. The
parity suite holds these functions to the official ones, bit for bit where the arithmetic allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

MEAN = (0.485, 0.456, 0.406)
"""ImageNet mean, RGB, of values 0 to 1."""
STD = (0.229, 0.224, 0.225)
"""ImageNet standard deviation, RGB, of values 0 to 1."""
MASK_THRESHOLD = 0.0
"""Logits above this are the object."""
LOW_RES_CLAMP = 32.0
"""Low-res logits as the official predictor returns them are clamped to this, below and above 0."""
WHOLE_IMAGE_PIXELS = 2**24
"""Larger images are resized one channel at a time, which bounds memory and changes no number."""


def to_model_input(image: NDArray[np.uint8], size: int) -> Tensor:
    """Resize and normalise one image as the official predictor does.

    Args:
        image: uint8 `[H, W, 3]` RGB, any H and W from 1 up.
        size: side of the model's square input in pixels.

    Returns:
        float32 `[3, size, size]` on the CPU.

    Raises:
        ValueError: the array has another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a uint8 RGB image [H, W, 3], found {image.dtype} {list(image.shape)}")
    if not image.flags.writeable or any(stride < 0 for stride in image.strides):
        image = image.copy()
    channels = torch.from_numpy(image).permute(2, 0, 1)
    if image.shape[0] * image.shape[1] > WHOLE_IMAGE_PIXELS:
        resized = torch.cat([_resize(channel[None], size) for channel in channels])
    else:
        resized = _resize(channels, size)
    return resized.sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])


def _resize(channels: Tensor, size: int) -> Tensor:
    """uint8 `[C, H, W]` to float32 `[C, size, size]` in 0..1, contiguous."""
    values = channels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return functional.interpolate(values[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]


def scale_points(points: Tensor, original_size: tuple[int, int], size: int) -> Tensor:
    """Points of the original image to points of the model's input.

    Args:
        points: `[..., 2]`, xy in pixels of the original image.
        original_size: `(H, W)` of the original image.
        size: side of the model's square input in pixels.

    Returns:
        float32 `[..., 2]`, xy in pixels of the input.
    """
    height, width = original_size
    return points.to(torch.float32) / points.new_tensor([width, height], dtype=torch.float32) * size


def unscale_points(points: Tensor, original_size: tuple[int, int], size: int) -> Tensor:
    """The inverse of `scale_points`, with the same shapes."""
    height, width = original_size
    return points.to(torch.float32) / size * points.new_tensor([width, height], dtype=torch.float32)


def scale_boxes(boxes: Tensor, original_size: tuple[int, int], size: int) -> Tensor:
    """Boxes `[..., 4]`, xyxy in pixels of the original image, to float32 xyxy in pixels of the model's input."""
    corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
    return scale_points(corners, original_size, size).flatten(-2)


def unscale_boxes(boxes: Tensor, original_size: tuple[int, int], size: int) -> Tensor:
    """The inverse of `scale_boxes`, with the same shapes."""
    corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
    return unscale_points(corners, original_size, size).flatten(-2)


def upscale_masks(low_res: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Low-res logits to logits at the image's own size; threshold the result at `MASK_THRESHOLD`.

    Args:
        low_res: logits `[..., h, w]`, any leading dimensions, any float dtype.
        original_size: `(H, W)` of the original image.

    Returns:
        float32 logits `[..., H, W]`.
    """
    flat = low_res.float().reshape(-1, 1, *low_res.shape[-2:])
    if flat.shape[0] == 0:
        return flat.new_zeros(*low_res.shape[:-2], *original_size)
    masks = functional.interpolate(flat, original_size, mode="bilinear", align_corners=False)
    return masks.reshape(*low_res.shape[:-2], *original_size)


def mask_prompt(mask: NDArray[np.bool_] | Tensor, mask_size: int | tuple[int, int]) -> Tensor:
    """A full-size mask as the low-res logits a mask prompt is made of.

    The official code turns a given mask into logits of -10 and 10 and brings it down bilinearly with antialiasing
    (`SAM2Base._use_mask_as_output`).

    Args:
        mask: bool `[..., H, W]` at the original image's size.
        mask_size: side of the model's low-res masks, a quarter of its input; or (h, w), for a part of a mask.

    Returns:
        float32 logits `[..., h, w]`, -10 to 10.
    """
    size = (mask_size, mask_size) if isinstance(mask_size, int) else mask_size
    logits = torch.as_tensor(mask).to(torch.float32) * 20.0 - 10.0
    flat = logits.reshape(-1, 1, *logits.shape[-2:])
    if flat.shape[0] == 0:
        return flat.new_zeros(*logits.shape[:-2], *size)
    small = functional.interpolate(flat, size, mode="bilinear", align_corners=False, antialias=True)
    return small.reshape(*logits.shape[:-2], *size)


def clamp_low_res(low_res: Tensor) -> Tensor:
    """Low-res logits as the official predictor returns them: clamped to -32..32."""
    return low_res.clamp(-LOW_RES_CLAMP, LOW_RES_CLAMP)


def processor_config(size: int) -> dict[str, Any]:
    """The `preprocessor_config.json` that makes transformers' `Sam2Processor` do what this file does.

    Args:
        size: side of the model's square input in pixels.
    """
    return {
        "image_processor_type": "Sam2ImageProcessor",
        "processor_class": "Sam2Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "mask_size": {"height": size // 4, "width": size // 4},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
