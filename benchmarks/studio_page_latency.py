"""How long a click takes in the studio's page, from the click to the drawn mask, by the size of the image.

    python benchmarks/studio_page_latency.py [--model nano] [--clicks 200]
        [--sizes 640x480,1920x1080,4000x3000,10000x8000]

The page runs in Chromium, driven by Playwright, on a real `samtune studio` in a process of its own. Of every drawn
image prompts are given once it is embedded: a box and four clicks on it, object after object, and then large boxes over
most of the image. Time is the page's own (`click-to-mask` in its performance timeline): question, answer, decoded mask,
and all that is drawn of it. `benchmarks/studio_latency.py` measures the same without a browser.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright

from studio_client import studio
from studio_latency import SCENE, draw

CLICKS_ON_IT = 4
LARGE = 5
"""Boxes over most of an image."""
ASK = """async ([box, point]) => {
    const { setBox, addPoint, clearDraft } = await import("/js/draft.js");
    const { app } = await import("/js/store.js");
    if (box) { clearDraft(); setBox(box); } else addPoint(...point);
    await app.draft.pending;
    await new Promise((resume) => requestAnimationFrame(() => requestAnimationFrame(resume)));
    const found = performance.getEntriesByName("click-to-mask").map((one) => one.duration);
    performance.clearMeasures();
    return found;
}"""


def ask(page: Any, box: NDArray[np.float64] | None, point: list[float] | None = None) -> list[float]:
    """Give one prompt; the milliseconds until its mask was drawn."""
    found = page.evaluate(ASK, [None if box is None else box.tolist(), point])
    if len(found) != 1:
        raise SystemExit(f"the page drew {len(found)} masks for one prompt")
    return found


def clicks(page: Any, size: tuple[int, int], labels: NDArray[np.int32], count: int) -> list[float]:
    """Milliseconds of each of `count` prompts on the image that the page shows."""
    rng, scale = np.random.default_rng(0), np.array(size) / SCENE
    objects = [labels == label for label in range(1, int(labels.max()) + 1) if (labels == label).sum() > 50]
    found: list[float] = []
    while len(found) < count:
        rows, columns = np.nonzero(objects[len(found) // (1 + CLICKS_ON_IT) % len(objects)])
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * np.tile(scale, 2)
        found += ask(page, box)
        for pick in rng.integers(len(rows), size=CLICKS_ON_IT):
            x, y = (np.array([columns[pick], rows[pick]]) + 0.5) * scale
            found += ask(page, None, [float(x), float(y), 1])
    return found[:count]


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--sizes", default="640x480,1920x1080,4000x3000,10000x8000")
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    print(f"{options.model}, {options.clicks} clicks a size, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("size          median ms   95th ms   slowest ms   large masks ms")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        labels = {size: draw(Path(folder), *size) for size in sizes}
        with studio(Path(folder), options.model) as client:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1280, "height": 800})
            for image in client.call("/api/state")["images"]:
                client.call(f"/api/images/{image['id']}/embed", {})
            page.goto(f"{client.base_url}?token={client.headers['X-Samtune-Token']}")
            page.wait_for_selector("html[data-ready]")
            for image in client.call("/api/state")["images"]:
                size = image["width"], image["height"]
                page.evaluate("async (id) => (await import('/js/images.js')).open(id)", image["id"])
                taken = clicks(page, size, labels[size], options.clicks)
                large = [ask(page, np.array([0.05, 0.05, 0.95, 0.95]) * np.tile(size, 2))[0] for _ in range(LARGE)]
                median, most, slowest = np.quantile(taken, (0.5, 0.95, 1.0))
                name = f"{size[0]} x {size[1]}"
                print(f"{name:<13} {median:9.0f} {most:9.0f} {slowest:12.0f} {np.median(large):16.0f}", flush=True)
            chromium.close()
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
