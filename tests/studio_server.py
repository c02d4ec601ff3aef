"""A real studio server in a thread or in a process, and a client that speaks as the page does."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from samtune.data.masks import Region, region_of
from samtune.studio.app import guarded_app
from samtune.studio.masks import pack_mask
from samtune.studio.serve import listening_socket, opened
from samtune.studio.studio import Studio
from samtune.studio.tuning import Tuning

TOKEN = "token-of-the-tests"


class Page(httpx.Client):
    """Asks as the page does."""

    def __init__(self, port: int, token: str = TOKEN) -> None:
        super().__init__(base_url=f"http://127.0.0.1:{port}", headers={"X-Samtune-Token": token}, timeout=60)

    def state(self) -> dict[str, Any]:
        return self.get("/api/state").raise_for_status().json()

    def objects(self, image: str) -> dict[str, Any]:
        return self.get(f"/api/images/{image}/objects").raise_for_status().json()

    def predict(self, image: str, **question: Any) -> dict[str, Any]:
        asked = {"model": "base", "box": None, "points": [], "labels": [], "previous": None, "multimask": False}
        return self.post(f"/api/images/{image}/predict", json=asked | question).raise_for_status().json()

    def change(self, image: str, action: str, **more: Any) -> httpx.Response:
        return self.post(f"/api/images/{image}/objects", json={"action": action, **more})

    def accept(self, image: str, mask: dict[str, Any], category: int = 1, **more: Any) -> dict[str, Any]:
        about = {"category_id": category, "mask": mask, "clicks": 1, "seconds": 1.5, "iou": 0.9, "source": "person"}
        return self.change(image, "accept", object=about | {"model": "base"} | more).raise_for_status().json()


def mask_json(mask: np.ndarray) -> dict[str, Any]:
    return pack_mask(region_of(mask))


def pixels_of(mask: dict[str, Any], height: int, width: int) -> np.ndarray:
    """A mask as the page draws it, decoded by Pillow."""
    if not mask["png"]:
        return np.zeros((height, width), bool)
    x, y, w, h = mask["bbox"]
    part = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png"]))).convert("L")) > 0
    assert part.shape == (h, w)
    return Region(part, x, y).paste(height, width)


@contextmanager
def served(studio: Studio) -> Iterator[Page]:
    """The studio behind a real socket, as `serve` sets it up, in a thread."""
    listener = listening_socket(0)
    port = listener.getsockname()[1]
    tuning = Tuning(studio)
    config = uvicorn.Config(guarded_app(studio, tuning, port, TOKEN), lifespan="off", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with Page(port) as page:
            yield page
    finally:
        server.should_exit = True
        thread.join(20)
        tuning.close()
        listener.close()


def write_images(folder: Path, count: int = 3, side: int = 72) -> None:
    """Images of a bright disc each, without annotations."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:side, : side + 8]
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.normal(60, 12, (side, side + 8, 3))
        pixels[(x - 40) ** 2 + (y - 30) ** 2 < (10 + number) ** 2] += 110
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"image-{number}.png")


def square(size: int = 20, hole: bool = False) -> np.ndarray:
    mask = np.zeros((72, 80), bool)
    mask[10 : 10 + size, 20 : 20 + size] = True
    if hole:
        mask[14:20, 24:31] = False
    return mask


def no_model() -> Any:
    raise AssertionError("nothing here needs a model")


@contextmanager
def visit(source: Path, load: Any = no_model, **more: Any) -> Iterator[tuple[Studio, Page]]:
    """The studio of a source, beside it, and a page of it."""
    with opened(source, source.parent / "studio", load, quiet=True, **more) as studio, served(studio) as page:
        yield studio, page


def wait_for(answer: Any, seconds: float = 60.0) -> None:
    """Wait until a function gives something true."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not answer():
        assert time.monotonic() < end, "nothing came of it"
        pause.wait(0.02)
