"""Whether ONNX files answer as samtune does: the same prompts to both, in the way the tools give them.

Each session below feeds the graphs as its tool does and returns the mask the tool shows: the one with the highest
predicted IoU. What it must equal is samtune's own: the single mask for boxes, several clicks and mask prompts, the best
of three for a single click.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from samtune.errors import SamtuneError
from samtune.exports.onnx.layouts import NAMES, Layout
from samtune.exports.verify import probe_image
from samtune.inference.predictor import Predictor
from samtune.model.io.loaded import LoadedModel
from samtune.model.preprocess import to_model_input, upscale_masks
from samtune.prompts.batch import PADDING, PromptBatch
from samtune.types import Prompt
from samtune.utils.workers import cpu_count

PIXEL_BOUND = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest share of mask pixels that may differ, over all prompts."""
KINDS = ("box", "click", "clicks", "box with clicks", "mask")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class OnnxDifference:
    """How far the masks that a tool shows are from samtune's own.

    Attributes:
        prompts: how many prompts were compared, of every kind the layout has.
        pixels: share of the pixels of all masks that differ, 0 to 1.
        worst: the largest such share of one mask.
        scores: largest absolute difference of a predicted IoU.
    """

    prompts: int
    pixels: float
    worst: float
    scores: float

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts by onnxruntime: {self.pixels:.4%} of the mask pixels differ "
            f"({self.worst:.4%} of the worst mask), predicted IoUs by at most {self.scores:.1e}"
        )


class OnnxPredictor:
    """The two files of an export, used as the layout's tool uses them.

    Args:
        encoder, decoder: the files.
        layout: decides names and how prompts are given.
    """

    def __init__(self, encoder: Path, decoder: Path, layout: Layout) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()
        options.log_severity_level = 3
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for path in (encoder, decoder)
        )
        self._layout: Layout = layout
        self._names = NAMES[layout]
        self.size = int(self.encoder.get_inputs()[0].shape[2])

    def embed(self, image: Pixels) -> dict[str, NDArray[np.float32]]:
        """The features of an image, uint8 `[H, W, 3]`, by name."""
        pixels = to_model_input(image, self.size)[None].numpy()
        found = [np.asarray(value, np.float32) for value in self.encoder.run(None, {self._names.pixels: pixels})]
        outputs = [output.name for output in self.encoder.get_outputs()]
        return dict(zip(outputs, found, strict=True))

    def show(
        self, features: dict[str, NDArray[np.float32]], prompt: PromptBatch, shape: tuple[int, int]
    ) -> tuple[NDArray[np.bool_], float]:
        """The mask the tool shows for one prompt in pixels of the input, bool `[H, W]`, and its predicted IoU."""
        answers = self._answers(features, prompt, shape)
        masks, scores = (
            torch.from_numpy(answers[name].reshape(-1, *answers[name].shape[-depth:]))
            for name, depth in (("masks", 3), ("scores", 1))
        )
        best = int(scores[0].argmax())
        logits = masks[0, best]
        logits = logits if tuple(logits.shape) == shape else upscale_masks(logits[None], shape)[0]
        return (logits > 0).numpy(), float(scores[0, best])

    def _answers(
        self, features: dict[str, NDArray[np.float32]], prompt: PromptBatch, shape: tuple[int, int]
    ) -> dict[str, Any]:
        points, labels = prompt.points.numpy(), prompt.labels.numpy()
        if self._layout == "transformersjs":
            inputs = features | _separate(points, labels)
            scores, masks, _ = self.decoder.run(None, inputs)
            return {"masks": masks, "scores": scores}
        low = self.size // 4
        blank = np.zeros((1, 1, low, low), np.float32)
        given = {
            "point_coords": points,
            "point_labels": np.where(labels == PADDING, -1, labels).astype(np.float32),
            "mask_input": blank if prompt.masks is None else prompt.masks.numpy(),
            "has_mask_input": np.array([prompt.masks is not None], np.float32),
        }
        if self._layout == "rectlabel":
            given["orig_im_size"] = np.array(shape, np.int64)
        masks, scores, *_ = self.decoder.run(None, features | given)
        return {"masks": masks, "scores": scores}


def compare(
    loaded: LoadedModel, tool: OnnxPredictor, prompts: Sequence[tuple[Prompt, bool]], image: Pixels
) -> OnnxDifference:
    """Give prompts on an image to the tool's graphs and to samtune.

    Args:
        loaded: the model the graphs were made from, in float32.
        tool: the graphs.
        prompts: in pixels of the image, and whether each is ambiguous: a single click.
        image: uint8 `[H, W, 3]`.
    """
    own = Predictor(loaded)
    embedded, features = own.embed(image), tool.embed(image)
    shares, scores = [], []
    for prompt, ambiguous in prompts:
        expected = own.predict(embedded, [prompt], multimask_output=ambiguous)[0]
        batch = own.to_model_frame(embedded, PromptBatch.from_prompts([prompt]))
        mask, score = tool.show(features, batch, embedded.size)
        shares.append(float((mask != expected.best).mean()))
        scores.append(abs(score - float(expected.iou_scores.max())))
    return OnnxDifference(len(prompts), float(np.mean(shares)), max(shares), max(scores))


def random_prompts(loaded: LoadedModel, layout: Layout, each: int, seed: int = 0) -> list[tuple[Prompt, bool]]:
    """`each` random prompts on the probe image of every kind the layout can take, and whether each is ambiguous."""
    random = np.random.default_rng(seed)
    height, width = probe_image().shape[:2]
    found: list[tuple[Prompt, bool]] = []
    for kind in KINDS[:4] if layout == "transformersjs" else KINDS:
        for _ in range(each):
            low, high = np.sort(random.random((2, 2)), axis=0)
            box = (np.stack([low * 0.8, low * 0.8 + 0.1 + (high - low) * 0.1]) * [width, height]).astype(np.float32)
            clicks = (random.random((int(random.integers(2, 6)), 2)) * [width, height]).astype(np.float32)
            labels = np.array([1, *random.integers(0, 2, len(clicks) - 1)])
            mask = random.normal(0, 6, (1, loaded.mask_size // 8, loaded.mask_size // 8)).astype(np.float32)
            parts: dict[str, dict[str, Any]] = {
                "box": {"input_box": box.reshape(4)},
                "click": {"input_points": clicks[:1], "input_labels": labels[:1]},
                "clicks": {"input_points": clicks, "input_labels": labels},
                "box with clicks": {"input_box": box.reshape(4), "input_points": clicks, "input_labels": labels},
                "mask": {"input_box": box.reshape(4), "input_mask": mask.repeat(8, 1).repeat(8, 2)},
            }
            found.append((Prompt(**parts[kind]), kind == "click"))
    return found


def refuse_if_different(found: OnnxDifference, precision: str, where: str) -> None:
    """Refuse graphs whose masks are not samtune's.

    Raises:
        SamtuneError: they are not; nothing of the export is kept.
    """
    if not found.pixels <= PIXEL_BOUND[precision]:
        raise SamtuneError.of(
            expected=f"ONNX files with the model's own masks (at most {PIXEL_BOUND[precision]:.2%} of pixels differ)",
            found=str(found),
            where=where,
            do="nothing was kept; please report this with the output of `samtune --version`",
        )


def _separate(points: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Any]:
    """One prompt as transformers.js gives it: clicks and box in tensors of their own, either of them empty."""
    corners = points[0][labels[0] >= 2]
    clicks, kinds = points[0][(labels[0] == 0) | (labels[0] == 1)], labels[0][(labels[0] == 0) | (labels[0] == 1)]
    return {
        "input_points": clicks.reshape(1, 1, -1, 2),
        "input_labels": kinds.reshape(1, 1, -1).astype(np.int64),
        "input_boxes": corners.reshape(1, -1, 4),
    }
