"""Twenty training steps whose losses are stored in `fixtures/`: what every refactoring is held to.

`losses.json` holds boxes and clicks with a correction and background, `losses_mixture.json` the mixture in views.

`python -m tests.stored_losses NAME` stores one anew, after a change that is meant to change it. Say why in a decision.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from samtune.config import LossConfig, OptimizerConfig, PromptPolicy, TrainConfig
from samtune.model.io.save import save_model
from samtune.training.loop import train
from samtune.training.run import new
from samtune.training.tracking.events import StepDone
from tests.small import make_dataset
from tests.tiny import tiny_sam2

FIXTURES = Path(__file__).parent / "fixtures"
RECIPES = {
    "losses": {
        "flip": True,
        "prompts": PromptPolicy(box=0.5, point=0.5, correction_clicks=1, negative=0.3),
        "loss": LossConfig(no_object=1.0, focal_alpha=0.25),
    },
    # every kind of step often enough for each kind of step to occur among twenty
    "losses_mixture": {
        "views": 4,
        "prompts": PromptPolicy(
            box=0.45,
            point=0.35,
            points=0.2,
            box_tight=0.3,
            point_at="mixed",
            correction_clicks=3,
            mask_steps=0.25,
            correction_steps=0.25,
            negative=0.3,
            negative_boxes=0.3,
        ),
        "loss": LossConfig(no_object=1.0, focal_alpha=0.25),
    },
}
"""Settings by the name of the file."""


def losses(folder: Path, recipe: str) -> list[dict[str, float]]:
    """Loss, its parts, train IoU and gradient norm of each step, on one thread in fp32."""
    model = folder / "model"
    save_model(tiny_sam2(seed=0), model)
    dataset = make_dataset(folder / "set")
    config = TrainConfig(
        model=str(model),
        out=folder / "run",
        steps=20,
        eval_every=20,
        images_per_step=2,
        chunk=4,
        device="cpu",
        precision="fp32",
        optimizer=OptimizerConfig(lr=1e-3, clip=1.0, ema=0.9),
        **RECIPES[recipe],
    )
    steps: list[dict[str, float]] = []

    def listen(event: object) -> None:
        if isinstance(event, StepDone):
            figures = {"loss": event.loss, **event.parts, "train_iou": event.train_iou, "grad_norm": event.grad_norm}
            steps.append({"step": event.step, **figures})

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(new(dataset.root, config), [listen])
    finally:
        torch.set_num_threads(threads)
    return steps


if __name__ == "__main__":
    for recipe in sys.argv[1:]:
        with TemporaryDirectory() as folder:
            found = losses(Path(folder), recipe)
        (FIXTURES / f"{recipe}.json").write_text(json.dumps(found, indent=1) + "\n")
        sys.stdout.write(f"{recipe}: {len(found)} steps, loss {found[0]['loss']:.4f} to {found[-1]['loss']:.4f}\n")
