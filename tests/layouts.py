"""Small sources as annotation tools lay them out, for tests of the readers: two objects on an image of 60 x 40."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from samtune.data.masks import encode_rle, format_counts

WIDTH, HEIGHT = 60, 40
ONE = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]
TWO = [40.0, 5.0, 50.0, 5.0, 50.0, 15.0, 40.0, 15.0]
RINGS = (ONE, TWO)


def mask_of(ring) -> np.ndarray:
    """The mask bool `[H, W]` of an upright rectangle with whole corners."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[int(ring[1]) : int(ring[5]), int(ring[0]) : int(ring[2])] = True
    return mask


def ids() -> np.ndarray:
    """Both objects as values 1 and 2, uint8 `[H, W]`."""
    return (mask_of(ONE) + 2 * mask_of(TWO)).astype(np.uint8)


def rle(mask) -> dict:
    return {"size": [HEIGHT, WIDTH], "counts": format_counts(encode_rle(mask))}


def photo(path: Path, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """An image of noise, so that no two are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *path.name.encode(), *str(path.parent).encode()[-40:]])
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def draw(path: Path, values: np.ndarray, palette: list[int] | None = None, **options) -> Path:
    """Save a mask; with a palette as an image of indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8) if values.dtype == bool else values)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, **options)
    return path


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def coco(names=("a.png",), shapes=RINGS, **changes) -> dict:
    """A COCO file: every image shows both objects, called one and two."""
    annotations = []
    for image, _ in enumerate(names, start=1):
        for number, shape in enumerate(shapes):
            x, y, width, height = box_of(RINGS[number % 2])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": 1 + number % 2, "iscrowd": 0,
                 "segmentation": [shape] if isinstance(shape, list) else shape, "bbox": [x, y, width, height]}
            )  # fmt: skip
    return {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": annotations,
    } | changes


def box_of(ring):
    return ring[0], ring[1], ring[2] - ring[0], ring[5] - ring[1]


def yolo_lines(rings=RINGS) -> str:
    lines = []
    for number, ring in enumerate(rings):
        shares = [value / (WIDTH if place % 2 == 0 else HEIGHT) for place, value in enumerate(ring)]
        lines.append(" ".join(map(str, [number, *shares])))
    return "\n".join(lines) + "\n"


def points(ring) -> list[list[float]]:
    return np.reshape(ring, (-1, 2)).tolist()


def labelme(name="a.png", **changes) -> dict:
    shapes = [{"label": label, "shape_type": "polygon", "points": points(ring)}
              for label, ring in zip(("one", "two"), RINGS, strict=True)]  # fmt: skip
    return {"imagePath": name, "imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes} | changes


def png_bytes(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def base64_png(values: np.ndarray) -> str:
    return base64.b64encode(png_bytes(values)).decode()


def supervisely_bitmap(part: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(png_bytes(part.astype(np.uint8) * 255))).decode()


def pack_brush(mask: np.ndarray, *, plain: bool = False) -> list[int]:
    """Label Studio's brush of a mask: rle-pack of an RGBA image, written from its documentation; see `brush.py`."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[mask] = 255
    flat = rgba.ravel().tolist()
    sizes = (3, 4, 8, 16)
    bits = f"{len(flat):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    at = 0
    while at < len(flat):
        run = 1
        while not plain and at + run < len(flat) and flat[at + run] == flat[at] and run < 65_536:
            run += 1
        if run > 2:
            index = next(place for place, size in enumerate(sizes) if run <= 1 << size)
            bits += f"1{index:02b}{run - 1:0{sizes[index]}b}{flat[at]:08b}"
        else:
            run = min(8, len(flat) - at) if plain else run
            bits += f"000{run - 1:03b}" + "".join(f"{value:08b}" for value in flat[at : at + run])
        at += run
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def voc_palette() -> list[int]:
    """Pascal VOC's palette, 768 numbers."""
    palette = []
    for index in range(256):
        color, value = [0, 0, 0], index
        for bit in range(7, -1, -1):
            for channel in range(3):
                color[channel] |= (value >> channel & 1) << bit
            value >>= 3
        palette += color
    return palette
