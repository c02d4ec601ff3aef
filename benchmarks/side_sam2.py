"""The widely used short training script, in our words: the official `sam2` package, an image a step, encoded each time.

    python side_sam2.py WORK OBJECTS

What the script does in a step: read an image and the masks of its objects, `predictor.set_image`, one random click in
each object, prompt encoder and mask decoder, the first of three masks brought to the image's size, cross-entropy
averaged over pixels plus a twentieth of the score's error, AdamW over everything. On a GPU it does so under autocast in
fp16 with scaled gradients, on a CPU in fp32.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from contest import DEVICE, HERE, serve, step_orders, timed

sys.path.insert(0, str(HERE.parent / "tests" / "parity"))
import torchvision_standin

torchvision_standin.register()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from hydra import initialize_config_dir  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402
from PIL import Image  # noqa: E402
from sam2.build_sam import build_sam2  # noqa: E402
from sam2.sam2_image_predictor import SAM2ImagePredictor  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402


class ShortScript:
    """The script's model, optimizer and step."""

    def __init__(self, work: Path, objects: int) -> None:
        torch.manual_seed(0)
        self.predictor = SAM2ImagePredictor(_build(work / "official.yaml", work / "official.pt"))
        self.model: Any = self.predictor.model
        self.model.sam_mask_decoder.train()
        self.model.sam_prompt_encoder.train()
        self.scaler = torch.amp.GradScaler(DEVICE, enabled=DEVICE == "cuda")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=4e-5)
        self.images = json.loads((work / "images.json").read_text())
        self.next = itertools.cycle(self.images)
        self.objects = objects
        self.rng = np.random.default_rng(0)

    def step(self) -> None:
        """One step, from the files to the new weights."""
        image, masks, points = self._read(next(self.next))
        with torch.autocast(DEVICE, torch.float16, enabled=DEVICE == "cuda"):
            self.predictor.set_image(image)
            logits, scores = self._decode(points)
        truth = torch.from_numpy(masks).float().to(DEVICE)
        probability = logits.float().sigmoid()
        mask_loss = F.binary_cross_entropy(probability, truth)
        inside = (truth * (probability > 0.5)).sum((1, 2))
        iou = inside / (truth.sum((1, 2)) + (probability > 0.5).sum((1, 2)) - inside)
        loss = mask_loss + 0.05 * (scores - iou).abs().mean()
        self.model.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def evaluate(self, number: int) -> dict[str, float]:
        """Ask the predictor for all objects of an image by box: seconds to embed it, and to ask and compare."""
        entry = self.images[number]
        image = _image(entry["image"])
        (embed,) = timed(lambda: self.predictor.set_image(image), 1)

        def ask() -> None:
            masks, _, _ = self.predictor.predict(box=np.array(entry["boxes"]), multimask_output=False)
            truth = np.stack([_mask(path) for path in entry["masks"]])
            found = masks[:, 0] > 0
            union = (found | truth).sum((1, 2))
            assert ((found & truth).sum((1, 2)) / union <= 1).all()

        (asked,) = timed(ask, 1)
        return {"embed": embed, "ask": asked, "objects": len(entry["boxes"])}

    def _read(self, entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An image uint8 `[H, W, 3]`, masks bool `[N, H, W]` of its first objects, one click in each `[N, 1, 2]`."""
        masks = np.stack([_mask(path) for path in entry["masks"][: self.objects]])
        inside = [np.argwhere(mask) for mask in masks]
        points = np.stack([pixels[self.rng.integers(len(pixels))][None, ::-1] for pixels in inside])
        return _image(entry["image"]), masks, points.astype(np.float32)

    def _decode(self, points: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits of the first mask `[N, H, W]` at the image's size, and its predicted IoU `[N]`."""
        predictor, decoder, encoder = self.predictor, self.model.sam_mask_decoder, self.model.sam_prompt_encoder
        labels = np.ones(points.shape[:2])
        _, coordinates, labels, _ = predictor._prep_prompts(points, labels, None, None, True)
        sparse, dense = encoder(points=(coordinates, labels), boxes=None, masks=None)
        low_res, scores, _, _ = decoder(
            image_embeddings=predictor._features["image_embed"],
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=len(points) > 1,
            high_res_features=[level[-1][None] for level in predictor._features["high_res_feats"]],
        )
        masks = predictor._transforms.postprocess_masks(low_res, predictor._orig_hw[-1])
        return masks[:, 0], scores[:, 0]


def _build(config: Path, weights: Path) -> torch.nn.Module:
    GlobalHydra.instance().clear()
    initialize_config_dir(str(config.resolve().parent), version_base="1.2")
    return build_sam2(config.name, str(weights), device=DEVICE)


def _image(path: str) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def _mask(path: str) -> np.ndarray:
    return np.array(Image.open(path)) > 0


if __name__ == "__main__":
    script = ShortScript(Path(sys.argv[1]), int(sys.argv[2]))
    serve(step_orders(script.step) | {"evaluate": script.evaluate})
