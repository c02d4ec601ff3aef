"""Does tuning save clicks? A session in the studio, by a simulated annotator who knows the truth.

    python benchmarks/studio_session.py DATASET [--images 10,20,40] [--steps 200] [--held-out 40]

DATASET is what `samtune prepare` wrote. The annotator sees the images of its training split without their objects,
draws a box around each (every edge off by up to 3 % of the side), which counts as a click, clicks where the error is
deepest until the mask has the wanted IoU with the truth, and paints the rest after the last click. After 10, 20 and 40
images the studio tunes, and the annotator switches. Clicks per object are counted on the same objects of the test split
with each model; nothing of them is ever accepted. An object that is not reached counts as one click more than the most.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import mask_box, region_of
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.studio.masks import pack_mask
from studio_client import Client, deepest, mask_of, studio

TARGET, MOST = 0.85, 8
OBJECTS_PER_IMAGE = 8
JITTER = 0.03


@dataclass(frozen=True)
class Annotated:
    """What one object took: clicks, and the mask that came of them."""

    clicks: int
    mask: NDArray[np.bool_]
    iou: float


def annotate(client: Client, image: str, model: str, truth: NDArray[np.bool_]) -> Annotated:
    """Click until the mask is good enough."""
    height, width = truth.shape
    box = drawn_box(truth)
    points, labels, previous = list[tuple[float, float]](), list[int](), None
    for number in range(1, MOST + 1):
        answer = client.ask(image, model, box=box, points=points, labels=labels, previous=previous)
        mask = mask_of(answer["masks"][answer["best"]]["mask"], height, width)
        iou = float((mask & truth).sum() / (mask | truth).sum())
        if iou >= TARGET:
            return Annotated(number, mask, iou)
        x, y = deepest(mask ^ truth)
        points, labels = [*points, (x, y)], [*labels, int(truth[int(y), int(x)])]
        previous = answer["previous"]
    return Annotated(MOST + 1, truth, iou)


def drawn_box(truth: NDArray[np.bool_]) -> list[float]:
    """A box as a person draws it; the same one each time for the same object."""
    box = mask_box(truth)
    assert box is not None
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    noise = np.random.default_rng(sum(box)).uniform(-JITTER, JITTER, 4) * sides
    return np.clip(np.array(box) + noise, 0, [truth.shape[1], truth.shape[0]] * 2).tolist()


def measure(client: Client, dataset: Dataset, held_out: list[tuple[str, ObjectEntry]], model: str) -> str:
    """Clicks per object on the held-out objects, as a line."""
    found = [annotate(client, image, model, dataset.read_mask(one)) for image, one in held_out]
    clicks, first = np.mean([one.clicks for one in found]), np.mean([one.clicks == 1 for one in found])
    lost = np.mean([one.clicks > MOST for one in found])
    return f"{clicks:5.2f} clicks per object, {first:4.0%} after one, {lost:4.0%} not after {MOST}"


def tune(client: Client, steps: int) -> dict:
    """Tune, and wait for the verdict."""
    status = client.call("/api/tune", {"steps": steps})
    while status["state"] == "running":
        time.sleep(1.0)
        status = client.call("/api/tune")
    if status["state"] != "done":
        raise SystemExit(f"tuning: {status['error']}")
    return status


def accept(client: Client, image: str, model: str, dataset: Dataset, entry: ImageEntry) -> tuple[int, int]:
    """Annotate an image, or the first objects of a crowded one; returns clicks and objects."""
    clicks = 0
    objects = entry.single_objects[:OBJECTS_PER_IMAGE]
    for one in objects:
        done = annotate(client, image, model, dataset.read_mask(one))
        clicks += done.clicks
        about = {"category_id": 1, "mask": pack_mask(region_of(done.mask)), "clicks": done.clicks, "seconds": 0.0}
        about |= {"iou": None, "source": "person", "model": model}
        client.call(f"/api/images/{image}/objects", {"action": "accept", "object": about, "revision": None})
    return clicks, len(objects)


def copied(dataset: Dataset, entries: list[ImageEntry], folder: Path) -> None:
    """The images alone, in the order they will be annotated in."""
    for number, entry in enumerate(entries):
        path = dataset.root / entry.image_path
        shutil.copyfile(path, folder / f"{number:04}{path.suffix}")


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", default="10,20,40")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=40)
    options = parser.parse_args()
    stops = [int(stop) for stop in options.images.split(",")]
    dataset = Dataset.open(options.dataset)
    first_of_group = {entry.group: entry for entry in reversed(dataset.split("train").images) if entry.single_objects}
    learnt = list(first_of_group.values())[: stops[-1]]
    tests = [entry for entry in dataset.split("test").images if entry.single_objects]
    with tempfile.TemporaryDirectory() as place:
        copied(dataset, [*learnt, *tests], Path(place))
        with studio(Path(place), options.model) as client:
            ids = [image["id"] for image in client.call("/api/state")["images"]]
            pairs = [(ids[len(learnt) + n], one) for n, entry in enumerate(tests) for one in entry.single_objects]
            step = max(1, len(pairs) // options.held_out)
            held_out, model, clicks, objects = pairs[::step][: options.held_out], "base", 0, 0
            print(
                f"{options.dataset.name}: {len(held_out)} held-out objects, target IoU {TARGET}, {options.steps} steps"
            )
            if len(learnt) < stops[-1]:
                print(f"{len(learnt)} images to learn from, one of each group: fewer than {stops[-1]}")
            print(f"before        {measure(client, dataset, held_out, model)}", flush=True)
            for number, entry in enumerate(learnt, start=1):
                took, count = accept(client, ids[number - 1], model, dataset, entry)
                clicks, objects = clicks + took, objects + count
                if number in stops:
                    status = tune(client, options.steps)
                    model = client.call("/api/models/active", {"model": status["model"]})["active"]
                    line = measure(client, dataset, held_out, model)
                    print(f"{number:3} images    {line}; annotating: {clicks / objects:.2f}", flush=True)
                    print(f"              verdict: {status['verdict']['decision']}", flush=True)
                    clicks = objects = 0


if __name__ == "__main__":
    main()
