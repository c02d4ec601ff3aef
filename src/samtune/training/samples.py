"""Some objects of the validation split as the model sees them now, for trackers that show images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from samtune.drawing import Panel, draw_views
from samtune.embeddings.dataset import View
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.training.run import Run
from samtune.types import Prompt

SHOWN = 4


@torch.no_grad()
def draw_validation(run: Run) -> dict[str, NDArray[np.uint8]]:
    """One object of each of `SHOWN` images: the image with the box, the truth, and the model's mask, side by side.

    Nothing where embeddings are not kept: the encoder would have to run for it.

    Returns:
        uint8 `[H, W, 3]` RGB, by the object's name.
    """
    images = [image for image in run.dataset.split("valid").images if image.single_objects]
    if run.embeddings.cache is None or not images:
        return {}
    drawn: dict[str, NDArray[np.uint8]] = {}
    predictor = Predictor(run.loaded, run.config.decoder)
    for image in images[:: -(-len(images) // SHOWN)]:
        found = max(image.single_objects, key=lambda one: one.area)
        with run.arithmetic():
            embedded = EmbeddedImage(run.embed([View(image)]), (image.height, image.width))
            mask = predictor.predict(embedded, [Prompt.box(*found.box)])[0].best
        views = draw_views(Panel(run.dataset.read_image(image), found.box, run.dataset.read_mask(found), mask, mask))
        drawn[f"valid/{found.annotation_id}"] = np.hstack([views[name] for name in ("image", "truth", "tuned")])
    return drawn
