"""The figures of `untuned.py` a second time without samtune: own reader, own prompts, transformers' model.

    python benchmarks/untuned_again.py src/samtune/nano/weights ../shared/nano_corpus/kuih_cakes --most 100

Takes folders with `annotations.json` (COCO, compressed run lengths) and prints the mean IoU of filled boxes, of tight
boxes (one mask) and of one click at the deepest pixel (the mask that ranks first of three), for the same objects as
`untuned.py SET:all`: all of them, or `--most`, evenly spaced. The two must agree within 0.005. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle
from transformers import Sam2Model

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def chosen(content: dict[str, Any], most: int) -> dict[int, list[dict[str, Any]]]:
    """Annotations to ask for, by image, in the order of the images in the file."""
    place = {image["id"]: number for number, image in enumerate(content["images"])}
    found = sorted(content["annotations"], key=lambda item: place[item["image_id"]])
    if most and most < len(found):
        found = [found[number] for number in np.round(np.linspace(0, len(found) - 1, most)).astype(int)]
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in found:
        by_image[item["image_id"]].append(item)
    return by_image


def masks_of(output: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Masks `[M, H, W]` of one prompt at the image's size."""
    logits = output.pred_masks[0, 0].numpy()
    return np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) > 0 for each in logits])


@torch.no_grad()
def measure(model: Any, folder: Path, most: int) -> tuple[int, float, float, float]:
    """Number of objects and mean IoU of filled boxes, box prompts and clicks."""
    content = json.loads((folder / "annotations.json").read_text())
    size = model.config.prompt_encoder_config.image_size
    names = {image["id"]: image["file_name"] for image in content["images"]}
    rows: list[tuple[float, float, float]] = []
    for image_id, items in chosen(content, most).items():
        image = Image.open(folder / "images" / names[image_id]).convert("RGB")
        width, height = image.size
        small = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float64) / 255
        pixels = torch.from_numpy(((small - MEAN) / STD).transpose(2, 0, 1)[None]).float()
        embeddings = model.get_image_embeddings(pixels)
        scale = np.array([size / width, size / height])
        for item in items:
            mask = rle.decode(item["segmentation"]).astype(bool)
            rows_of, columns_of = np.nonzero(mask)
            x0, y0, x1, y1 = columns_of.min(), rows_of.min(), columns_of.max() + 1, rows_of.max() + 1
            filled = np.zeros_like(mask)
            filled[y0:y1, x0:x1] = True
            corners = np.array([[x0, y0], [x1, y1]]) * scale
            boxes = torch.tensor(corners.reshape(1, 1, 4), dtype=torch.float32)
            by_box = model(input_boxes=boxes, image_embeddings=embeddings, multimask_output=False)
            depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            clicks = {
                "input_points": torch.tensor((np.array([x, y]) * scale).reshape(1, 1, 1, 2), dtype=torch.float32),
                "input_labels": torch.ones(1, 1, 1, dtype=torch.int64),
            }
            by_click = model(**clicks, image_embeddings=embeddings, multimask_output=True)
            first = int(by_click.iou_scores[0, 0].argmax())
            rows.append(
                (
                    iou(filled, mask),
                    iou(masks_of(by_box, height, width)[0], mask),
                    iou(masks_of(by_click, height, width)[first], mask),
                )
            )
    return len(rows), *np.mean(rows, axis=0).tolist()


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder in Hugging Face layout")
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--most", type=int, default=160, help="objects per set, evenly spaced; 0 means all")
    options = parser.parse_args()
    model = Sam2Model.from_pretrained(options.model, dtype=torch.float32).eval()
    print("| set | objects | filled | box | click |", "|---|---|---|---|---|", sep="\n")
    for folder in options.sets:
        count, *values = measure(model, folder, options.most)
        print(f"| {folder.name} | {count} | {' | '.join(f'{value:.3f}' for value in values)} |", flush=True)


if __name__ == "__main__":
    main()
