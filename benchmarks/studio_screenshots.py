"""The screenshots in docs/studio.md: the real studio with nano on drawn cells, in Chromium. `make studio-screenshots`.

python benchmarks/studio_screenshots.py docs/images
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from samtune.data.masks import encode_rle
from samtune.synthetic.microscope import microscope_scene
from studio_client import studio

SIDE, IMAGES, LEAST = 448, 8, 200
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def cells(folder: Path) -> np.ndarray:
    """An export of drawn cells; the last image comes without annotations. Returns its true labels."""
    scenes = [microscope_scene(np.random.default_rng((3, index)), SIDE) for index in range(IMAGES)]
    names, annotations = ("spread", "round"), []
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / f"well-{index + 1}.png")
        for number, category in enumerate(scene.categories if index < IMAGES - 1 else (), start=1):
            mask = scene.labels == number
            if mask.sum() < LEAST:
                continue
            runs = {"size": [SIDE, SIDE], "counts": list(encode_rle(mask).counts)}
            common = {"id": len(annotations), "image_id": index, "category_id": 1 + (category == "round")}
            annotations.append(
                common | {"iscrowd": 0, "area": int(mask.sum()), "bbox": _box(mask), "segmentation": runs}
            )
    images = [{"id": i, "file_name": f"well-{i + 1}.png", "width": SIDE, "height": SIDE} for i in range(IMAGES)]
    classes = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": classes}
    (folder / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
    return scenes[-1].labels


def _box(mask: np.ndarray) -> list[int]:
    """XYWH in pixels."""
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]


def _in_few_colours(shot: Image.Image) -> Image.Image:
    """Less than half of the file; colours as far apart as can be, because the most frequent ones have no green mark."""
    palette = shot.quantize(256, Image.Quantize.MAXCOVERAGE)
    return shot.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def main(out: Path) -> None:
    """Write `studio-light.png`, `studio-dark.png` and `studio-narrow.png`."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        source = Path(place) / "cells"
        source.mkdir()
        labels = cells(source)
        numbers, sizes = np.unique(labels[labels > 0], return_counts=True)
        x, y, w, h = _box(labels == numbers[sizes.argmax()])
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with studio(source, "nano") as client:
            token, address = client.headers["X-Samtune-Token"], str(client.base_url).rstrip("/")
            for name, width, scheme, image in (
                ("light", 1400, "light", 1),
                ("dark", 1400, "dark", IMAGES),
                ("narrow", 400, "light", IMAGES),
            ):
                with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
                    page = context.new_page()
                    page.goto(f"{address}/?token={token}#image={image}")
                    page.wait_for_selector("html[data-ready]")
                    if image == IMAGES:
                        corners = ((x, y), (x + w, y + h))
                        script = "async (at) => (await import('/js/viewport.js')).toCanvas(...at)"
                        stage = page.locator("#stage").bounding_box()
                        start, end = (page.evaluate(script, list(corner)) for corner in corners)
                        page.mouse.move(stage["x"] + start["x"], stage["y"] + start["y"])
                        page.mouse.down()
                        page.mouse.move(stage["x"] + end["x"], stage["y"] + end["y"], steps=3)
                        page.mouse.up()
                        page.locator("#draft-bar small", has_text="predicted IoU").wait_for()
                    page.wait_for_timeout(1500)  # thumbnails come one by one
                    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                    _in_few_colours(shot).save(out / f"studio-{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
