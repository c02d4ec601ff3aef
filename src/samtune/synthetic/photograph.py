"""What a camera makes of a drawn image: blur, colour cast, exposure, vignette, grain, JPEG artefacts."""

from __future__ import annotations

import math

import cv2
import numpy as np

from samtune.synthetic.outlines import ByteArray, FloatArray, log_uniform
from samtune.synthetic.surfaces import smooth_noise


def photograph(rng: np.random.Generator, image: FloatArray) -> ByteArray:
    """What a camera makes of it: blur, colour cast, exposure, vignette, gray, grain, JPEG artefacts, each at times."""
    size = image.shape[0]
    if rng.random() < 0.6:
        sigma = size / 256 * rng.uniform(0.2, 1.2)
        image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32)
    if rng.random() < 0.5:
        image = image * rng.uniform(0.75, 1.25, 3).astype(np.float32) + np.float32(rng.uniform(-25, 25))
    if rng.random() < 0.25:
        vignette = 0.6 + 0.6 * smooth_noise(rng, size, int(rng.integers(1, 4)))
        image = image * vignette[..., None].astype(np.float32)
    if rng.random() < 0.2:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    image = np.clip(image, 0, 255)
    if rng.random() < 0.5:
        image = (255 * (image / 255) ** math.exp(rng.uniform(-0.5, 0.5))).astype(np.float32)
    if rng.random() < 0.6:
        channels = 1 if rng.random() < 0.5 else 3
        grain = rng.standard_normal((size, size, channels), dtype=np.float32)
        if rng.random() < 0.3:
            grain = cv2.blur(grain, (3, 3)).reshape(size, size, channels) * 2.0
        image += grain * np.float32(log_uniform(rng, 1.5, 22))
    result = np.clip(image, 0, 255).astype(np.uint8)
    return _jpeg(rng, result, 25) if rng.random() < 0.5 else result


def _jpeg(rng: np.random.Generator, image: ByteArray, lowest: int) -> ByteArray:
    """The image after JPEG compression with a quality from `lowest` to 95."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(lowest, 96))])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV reads what it wrote"
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
