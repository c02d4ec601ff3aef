"""How long a click takes in the studio, from the request to the decoded mask, by the size of the image.

    python benchmarks/studio_latency.py [--model nano] [--clicks 200] [--sizes 640x480,1920x1080,4000x3000,10000x8000]

A real `samtune studio` runs in a process of its own. Of every drawn image 200 prompts are asked once it is embedded: a
box, and four correction clicks, object after object. Time is the client's: request, answer, base64, PNG. What a browser
then takes to paint is not in it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.synthetic.microscope import microscope_scene
from studio_client import Client, deepest, mask_of, studio

SCENE = 512
CORRECTIONS = 4


def draw(folder: Path, width: int, height: int) -> NDArray[np.int32]:
    """An image of one scene, scaled to the size; its labels, at the scene's own size."""
    scene = microscope_scene(np.random.default_rng(width), SCENE)
    pixels = cv2.resize(scene.image, (width, height), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / f"{width:05}x{height:05}.jpg", quality=90)
    return scene.labels


def clicks(client: Client, image: dict, labels: NDArray[np.int32], count: int) -> tuple[float, list[float]]:
    """Seconds to embed the image, and for each of `count` prompts."""
    width, height, number = image["width"], image["height"], image["id"]
    started = time.perf_counter()
    client.call(f"/api/images/{number}/embed", {})
    embedding, seconds = time.perf_counter() - started, list[float]()
    objects = [labels == label for label in range(1, int(labels.max()) + 1) if (labels == label).sum() > 50]
    scale = np.array([width / SCENE, height / SCENE])
    while len(seconds) < count:
        rows, columns = np.nonzero(objects[len(seconds) // (1 + CORRECTIONS) % len(objects)])
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * np.tile(scale, 2)
        truth = objects[len(seconds) // (1 + CORRECTIONS) % len(objects)]
        points, given, previous = list[tuple[float, float]](), list[int](), None
        for _ in range(1 + CORRECTIONS):
            question = {"box": box.tolist(), "points": points, "labels": given, "previous": previous}
            started = time.perf_counter()
            answer = client.ask(number, "base", **question)
            mask = mask_of(answer["masks"][answer["best"]]["mask"], height, width)
            seconds.append(time.perf_counter() - started)
            small = cv2.resize(mask.astype(np.uint8), (SCENE, SCENE), interpolation=cv2.INTER_NEAREST) > 0
            x, y = deepest(truth ^ small if (truth ^ small).any() else truth)
            points = [*points, (x * scale[0], y * scale[1])]
            given, previous = [*given, int(truth[int(y), int(x)])], answer["previous"]
    return embedding, seconds[:count]


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--sizes", default="640x480,1920x1080,4000x3000,10000x8000")
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    print(f"{options.model}, {options.clicks} clicks a size, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("size          embed s   median ms   95th ms   slowest ms")
    with tempfile.TemporaryDirectory() as folder:
        labels = {size: draw(Path(folder), *size) for size in sizes}
        with studio(Path(folder), options.model) as client:
            for image in client.call("/api/state")["images"]:
                size = image["width"], image["height"]
                embedding, seconds = clicks(client, image, labels[size], options.clicks)
                median, most, slowest = 1000 * np.quantile(seconds, (0.5, 0.95, 1.0))
                name = f"{size[0]} x {size[1]}"
                print(f"{name:<13} {embedding:7.2f} {median:11.0f} {most:9.0f} {slowest:12.0f}", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
