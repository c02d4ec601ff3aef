"""Small clips for tests: two bright discs that move over noise, one of them hidden on the way."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


def moving_discs(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 `[T, H, W, 3]` and object numbers uint8 `[T, H, W]`; disc 1 covers disc 2 where they meet."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ground = rng.integers(20, 80, (HEIGHT, WIDTH, 3))
    frames, labels = [], []
    for number in range(length):
        t = number / max(1, length - 1)
        found = np.zeros((HEIGHT, WIDTH), np.uint8)
        found[(x - 50 + 36 * t) ** 2 + (y - 20) ** 2 < 64] = 2
        found[(x - 12 - 36 * t) ** 2 + (y - 24) ** 2 < 100] = 1
        frame = ground.copy()
        frame[found == 1] = (200, 60, 40)
        frame[found == 2] = (60, 180, 220)
        frames.append(frame)
        labels.append(found)
    return np.array(frames, np.uint8), np.array(labels)


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05}.png")
    return folder


def write_video(path: Path, frames: np.ndarray, *, key_every: int = 5, rotate: int = 0) -> Path:
    """H.264 without loss, in RGB, with B frames between key frames."""
    with av.open(str(path), "w") as container:
        options = {"qp": "0", "bf": "2", "g": str(key_every)}
        stream = container.add_stream("libx264rgb", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path
