"""How a surface looks: colours, textures from smooth noise, shading."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from samtune.synthetic.outlines import ByteArray, FloatArray, log_uniform


@dataclass(frozen=True, slots=True)
class Style:
    """How a surface looks.

    Attributes:
        low, high: RGB, 0 to 255, between which the texture blends.
        texture: index into the scene's textures.
        contrast: 0 for a plain surface, 1 for the full span between the two colours.
        roundness: how much the surface darkens (or, negative, brightens) towards its edge, -1 to 1.
        rim: brightness change of a thin line along the edge, -1 to 1.
        light: brightness change across the object, along its x and y.
        opacity: 0 to 1.
        shadow: strength of the cast shadow, 0 to 1.
    """

    low: FloatArray
    high: FloatArray
    texture: int
    contrast: float
    roundness: float = 0.0
    rim: float = 0.0
    light: tuple[float, float] = (0.0, 0.0)
    opacity: float = 1.0
    shadow: float = 0.0


TEXTURES = 5


def random_color(rng: np.random.Generator) -> FloatArray:
    """RGB with more muted colours than a uniform draw would give."""
    gray = rng.uniform(10, 245)
    tint = rng.normal(size=3) * rng.choice([4.0, 30.0, 80.0])
    return np.clip(gray + tint, 0, 255).astype(np.float32)


def varied_style(rng: np.random.Generator, style: Style) -> Style:
    """The same style on another individual."""
    change = rng.normal(0, 12, 3) + rng.normal(0, 14)
    return Style(
        low=np.clip(style.low + change, 0, 255).astype(np.float32),
        high=np.clip(style.high + change, 0, 255).astype(np.float32),
        texture=style.texture,
        contrast=style.contrast,
        roundness=style.roundness,
        rim=style.rim,
        light=style.light,
        opacity=style.opacity,
        shadow=style.shadow,
    )


def paint_surface(rng: np.random.Generator, alpha: ByteArray, style: Style, texture: FloatArray) -> FloatArray:
    """Colours `[h, w, 3]` of the window `alpha` `[h, w]` covers."""
    height, width = alpha.shape
    below: int = texture.shape[0] - height
    beside: int = texture.shape[1] - width
    top, left = int(rng.integers(below + 1)), int(rng.integers(beside + 1))
    blend = texture[top : top + height, left : left + width, None] * np.float32(style.contrast)
    colors = style.low + blend * (style.high - style.low)
    shade = np.ones((height, width), np.float32)
    if style.roundness or style.rim:
        depth = cv2.distanceTransform((alpha > 127).view(np.uint8), cv2.DIST_L2, 3)
        deepest = max(float(depth.max()), 1.0)
        shade -= np.float32(style.roundness) * (1 - np.sqrt(np.minimum(depth / deepest, 1)))
        if style.rim:
            shade += np.float32(style.rim) * (depth <= max(1.0, 0.12 * deepest))
    if style.light != (0.0, 0.0):
        shade += np.linspace(-style.light[0], style.light[0], width, dtype=np.float32)
        shade += np.linspace(-style.light[1], style.light[1], height, dtype=np.float32)[:, None]
    return (colors * np.maximum(shade, 0)[..., None]).astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> FloatArray:
    """Smooth noise in 0 to 1 with about `cells` bumps per side."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    interpolation = cv2.INTER_LINEAR if cells > size // 3 else cv2.INTER_CUBIC
    return cv2.resize(grid, (size, size), interpolation=interpolation).astype(np.float32)


def noise_octaves(rng: np.random.Generator, size: int, coarsest: int, roughness: float) -> FloatArray:
    """Noise of several scales, 0 to 1; `roughness` is the weight of each finer scale relative to the one before."""
    total, weight, weights, cells = np.zeros((size, size), np.float32), 1.0, 0.0, coarsest
    while cells < size and weight > 0.05:
        total += np.float32(weight) * smooth_noise(rng, size, cells)
        weights += weight
        weight *= roughness
        cells *= 2
    return np.clip((total / np.float32(max(weights, 1e-6)) - 0.5) * 1.8 + 0.5, 0, 1)


def random_texture(rng: np.random.Generator, size: int) -> FloatArray:
    """A texture `[S, S]`, 0 to 1: clouds, grain, stripes, checks or spots, of some scale, often warped."""
    kind = rng.choice(5, p=(0.4, 0.15, 0.2, 0.1, 0.15))
    if kind == 0:
        return noise_octaves(rng, size, int(rng.integers(2, 12)), rng.uniform(0.3, 0.95))
    if kind == 1:
        return smooth_noise(rng, size, max(2, int(size / rng.uniform(1, 5))))
    period = size * log_uniform(rng, 0.015, 0.15)
    warp = rng.uniform(0, 1.2) * (noise_octaves(rng, size, 4, 0.5) - 0.5) * 2 * np.pi
    angle = rng.uniform(0, np.pi)
    frequency = 2 * np.pi / period
    axis = np.arange(size, dtype=np.float32)
    u = frequency * (np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]) + warp
    wave = np.sin(u)
    if kind >= 3:
        v = frequency * (-np.sin(angle) * axis[None] + np.cos(angle) * axis[:, None]) + warp
        wave = wave * np.sin(v)
    if kind == 4:
        wave = np.where(wave > rng.uniform(0.2, 0.6), 1.0, -1.0)
    sharpness = rng.uniform(1, 6)
    return np.clip(0.5 + 0.5 * sharpness * wave, 0, 1).astype(np.float32)
