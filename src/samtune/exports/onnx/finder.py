"""A finder's network as an ONNX file: the encoder's features in, peaks of objectness, boxes and class maps out.

What follows the network (boxes without duplicates, box prompts to the decoder, names from the class maps under its
masks, calibrated scores) is described in docs/finder.md; the numbers it needs stand in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samtune.errors import SamtuneError
from samtune.exports.onnx.graphs import FEATURES, IR_VERSION, export_graph, save
from samtune.exports.verify import probe_image
from samtune.finder.calibration import EVIDENCE
from samtune.finder.head import STRIDE, FinderHead
from samtune.finder.proposals import BOX_OVERLAP, LEAST_OBJECTNESS, MASK_OVERLAP
from samtune.finder.results import Finder
from samtune.inference.predictor import Predictor
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.io.loaded import LoadedModel

FINDER_ONNX = "finder.onnx"
METADATA = "samtune.finder"
OUTPUTS = ("peaks", "boxes", "classes")
BOUND = 1e-4
"""Largest difference of an answer: of peaks as it is, of boxes and class logits divided by 1 + their size."""


@dataclass(frozen=True, slots=True)
class FinderDifference:
    """How far onnxruntime's answers are from torch's: the largest difference of each output, see `BOUND`."""

    peaks: float
    boxes: float
    classes: float

    def __str__(self) -> str:
        return f"peaks differ by at most {self.peaks:.1e}, boxes by {self.boxes:.1e}, classes by {self.classes:.1e}"


class FinderGraph(nn.Module):
    """Features `[1, C, S/16, S/16]`, `[1, C/8, S/4, S/4]`, `[1, C/4, S/8, S/8]` to the answers; h and w are S/4.

    `peaks` `[1, h, w]`: objectness, 0 to 1, of cells that no neighbour is above, 0 elsewhere. `boxes` `[1, h, w, 4]`:
    xyxy in pixels of the model's square input, inside it. `classes` `[1, K, h, w]`: logits; missing where K is 0.

    Args:
        head: the network.
        side: S, of the model's input in pixels.
    """

    def __init__(self, head: FinderHead, side: int) -> None:
        super().__init__()
        self.head, self.side = head, side

    def forward(self, coarse: Tensor, fine: Tensor, middle: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        output = self.head(ImageEmbeddings(coarse, (fine, middle)))
        heat = output.objectness.sigmoid()
        highest = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
        peaks = heat * (heat >= highest).to(heat.dtype)
        boxes = (output.boxes() * STRIDE).clamp(0.0, float(self.side))
        return (peaks, boxes, output.classes) if self.head.classes else (peaks, boxes)


def write_finder_onnx(
    finder: Finder, loaded: LoadedModel, file: Path, *, opset: int, features: Sequence[str] = FEATURES
) -> FinderDifference:
    """Write a finder's network, load it with onnxruntime and compare its answers on the features of an image.

    Args:
        finder: made for the model.
        loaded: the model, whose features are compared on.
        file: to write.
        opset: of the operations.
        features: names of the inputs, those of the encoder's outputs: image embedding, features of stride 4 and of 8.

    Raises:
        SamtuneError: the answers differ.
        OSError: the disk refused.
    """
    graph = FinderGraph(finder.head, finder.image_size).cpu().eval()
    tensors = [
        tensor.float().cpu().contiguous() for tensor in Predictor(loaded).embed(probe_image()).embeddings.tensors
    ]
    outputs = OUTPUTS if finder.head.classes else OUTPUTS[:2]
    model = export_graph(graph, tuple(tensors), features, outputs, None, opset)
    model.ir_version = IR_VERSION
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(described(finder))
    save(model, file)
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in graph(*tensors)]
        heat = graph.head(ImageEmbeddings(tensors[0], (tensors[1], tensors[2]))).objectness.sigmoid()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = dict(zip(features, (tensor.numpy() for tensor in tensors), strict=True))
    found = [np.asarray(answer) for answer in session.run(list(outputs), given)]
    gaps = [
        peaks_gap(found[0], expected[0], heat),
        *(_relative_gap(*pair) for pair in zip(found[1:], expected[1:], strict=True)),
    ]
    difference = FinderDifference(*gaps, *[0.0] * (3 - len(gaps)))
    if max(gaps) > BOUND:
        raise SamtuneError.of(
            expected=f"a finder in ONNX that answers as samtune's own does, within {BOUND:g}",
            found=str(difference),
            where=str(file),
            do="nothing was kept; please report this with the output of `samtune --version`",
        )
    return difference


def described(finder: Finder) -> dict[str, Any]:
    """What a program needs to use the answers, as the file's metadata has it."""
    return {
        "format": 1,
        "classes": list(finder.classes),
        "input_size": finder.image_size,
        "most_peaks": finder.most,
        "least_objectness": LEAST_OBJECTNESS,
        "box_overlap": BOX_OVERLAP,
        "mask_overlap": MASK_OVERLAP,
        "threshold": finder.threshold,
        "calibration": {"evidence": list(EVIDENCE), **asdict(finder.calibration)},
        "chosen_on": finder.chosen_on,
    }


def peaks_gap(found: np.ndarray, expected: np.ndarray, heat: Tensor) -> float:
    """The largest difference of peaks `[1, h, w]`, from the objectness that they are the peaks of.

    Of two neighbours that are equal but for rounding either may be the peak: a cell that is one in one answer alone
    counts by how far it is from its highest neighbour.
    """
    around = F.unfold(F.pad(heat[:, None], (1, 1, 1, 1), value=-torch.inf), 3).unflatten(2, heat.shape[1:])
    rival = torch.cat([around[:, :4], around[:, 5:]], dim=1).amax(1)
    margin = (heat - rival).abs().numpy()
    return float(np.where((found > 0) == (expected > 0), np.abs(found - expected), margin).max())


def _relative_gap(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / (1 + np.abs(expected))).max())
