"""What the finder's network costs an image, apart from encoder and decoder, on features of random numbers.

    python benchmarks/finder_cost.py

Two layouts: `nano` (384 px) and real SAM 2's (1024 px, a 256 x 256 grid at stride 4). Seconds are the process's own, on
one thread, so that others on the machine change them little. Memory is the growth of the process's peak.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from samtune.finder.head import FinderHead
from samtune.finder.losses import objectness_loss
from samtune.finder.proposals import MASK_OVERLAP, propose
from samtune.finder.targets import draw
from samtune.inference.overlaps import MaskRuns, without_duplicates
from samtune.model.encoder.embeddings import ImageEmbeddings

LAYOUTS = {"nano, 384 px": 384, "SAM 2, 1024 px": 1024}
CLASSES, OBJECTS, MASKS = 5, 500, 1000
REPEATS = 3


def features(images: int, side: int) -> ImageEmbeddings:
    """Embeddings of random numbers; SAM 2's widths, which are nano's too."""
    grid = side // 16
    shapes = (256, grid), (32, 4 * grid), (64, 2 * grid)
    coarse, fine, middle = (
        torch.randn(images, width, cells, cells).to(memory_format=torch.channels_last) for width, cells in shapes
    )
    return ImageEmbeddings(coarse, (fine, middle))


def seconds(work: Callable[[], Any]) -> float:
    """The fastest of some repetitions, in seconds of this process."""
    found: list[float] = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def peak() -> float:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    """Print one block for each layout."""
    torch.set_num_threads(1)
    for name, side in LAYOUTS.items():
        grid = side // 4
        embeddings, head = features(1, side), FinderHead((256, 32, 64), CLASSES)
        before = peak()

        @torch.no_grad()
        def forward(embeddings: ImageEmbeddings = embeddings, head: FinderHead = head) -> None:
            head(embeddings)

        def learn(embeddings: ImageEmbeddings = embeddings, head: FinderHead = head, grid: int = grid) -> None:
            output = head(embeddings)
            heat = torch.zeros(1, grid, grid)
            loss = objectness_loss(output.objectness, heat, heat == 0) + output.boxes().mean() + output.classes.mean()
            loss.backward()

        only, both = seconds(forward), seconds(learn)
        print(f"{name}: {sum(p.numel() for p in head.parameters()):,} parameters")
        print(f"  forward {1000 * only:.0f} ms, with backward {1000 * both:.0f} ms an image; {peak() - before:.0f} MB")
        rng = np.random.default_rng(0)
        low = torch.from_numpy(rng.uniform(0, 0.97, (OBJECTS, 2)).astype(np.float32)) * grid
        boxes = torch.cat([low, low + 0.03 * grid], 1)
        print(
            f"  targets of {OBJECTS} objects {1000 * seconds(lambda b=boxes, g=grid: draw(b, b[:, :2], (g, g))):.0f} ms"
        )
        with torch.no_grad():
            output = head(embeddings)
        print(f"  proposals {1000 * seconds(lambda o=output: propose(o, 0, MASKS, 0.0)):.0f} ms")
        masks = np.zeros((MASKS, grid, grid), bool)
        corners = (rng.uniform(0, 0.95, (MASKS, 2)) * grid).astype(int)
        for mask, (x, y) in zip(masks, corners, strict=True):
            mask[y : y + grid // 20, x : x + grid // 20] = True
        scores = rng.random(MASKS).astype(np.float32)
        took = seconds(lambda m=masks, s=scores: without_duplicates(MaskRuns.of_masks(m), s, MASK_OVERLAP))
        print(f"  suppression of {MASKS} masks {1000 * took:.0f} ms")


if __name__ == "__main__":
    main()
