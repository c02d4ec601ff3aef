"""A finder as two ONNX files: its network, and what names the decoder's masks from class maps and outlines.

What comes between and after (boxes without duplicates, box prompts to the decoder, calibrated scores) is described in
docs/finder.md; the numbers it needs stand in the metadata of the network's file.
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
from torch.export import Dim
from torch.nn import functional as F

from samtune.errors import SamtuneError
from samtune.exports.onnx.graphs import FEATURES, IR_VERSION, export_graph, save
from samtune.exports.verify import probe_image
from samtune.finder.calibration import EVIDENCE
from samtune.finder.finding import Looks
from samtune.finder.head import STRIDE, FinderHead, FinderOutput
from samtune.finder.losses import pooled
from samtune.finder.naming import Namer
from samtune.finder.outlines import outlines
from samtune.finder.proposals import BOX_OVERLAP, LEAST_OBJECTNESS, MASK_OVERLAP
from samtune.finder.results import Finder
from samtune.inference.predictor import Predictor
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.io.loaded import LoadedModel
from samtune.model.preprocess import MASK_THRESHOLD

FINDER_ONNX, NAMES_ONNX = "finder.onnx", "finder_names.onnx"
METADATA = "samtune.finder"
MIRRORED = "mirrored_"
OUTPUTS = ("peaks", "boxes", "classes")
NAMES_INPUTS, NAMES_OUTPUTS = ("classes", "masks"), ("names",)
BOUND = 1e-4
"""Largest difference of an answer: of peaks as it is, of boxes and class logits divided by 1 + their size."""
_PROBES = 3
"""Masks on which names are compared, of rising size; not one, which the exporter would fix."""


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

    Where the finder looks twice the features of the mirror image follow.

    `peaks` `[1, h, w]`: objectness, 0 to 1, of cells that no neighbour is above, 0 elsewhere. `boxes` `[1, h, w, 4]`:
    xyxy in pixels of the model's square input, inside it. `classes` `[1, K, h, w]`: logits; missing where K is 0.

    Args:
        head: the network.
        side: S, of the model's input in pixels.
    """

    def __init__(self, head: FinderHead, side: int) -> None:
        super().__init__()
        self.head, self.side = head, side

    def seen(self, *features: Tensor) -> FinderOutput:
        """What the network says, of both looks the mean."""
        coarse, fine, middle, *mirrored = features
        output = self.head(ImageEmbeddings(coarse, (fine, middle)))
        return output.mean(self.seen(*mirrored).mirrored()) if mirrored else output

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        output = self.seen(*features)
        heat = output.objectness.sigmoid()
        highest = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
        peaks = heat * (heat >= highest).to(heat.dtype)
        boxes = (output.boxes() * STRIDE).clamp(0.0, float(self.side))
        return (peaks, boxes, output.classes) if self.head.classes else (peaks, boxes)


class NamesGraph(nn.Module):
    """Class maps `[1, K, h, w]` and low-res mask logits `[N, h, w]` to class logits `[N, K]`.

    Args:
        namer: of a finder with classes.
    """

    def __init__(self, namer: Namer) -> None:
        super().__init__()
        self.namer, self.outline_names = namer, namer.outline_names

    def forward(self, classes: Tensor, masks: Tensor) -> Tensor:
        """Name the masks, each alone."""
        voices = self.namer.voices
        names = voices.maps * pooled(classes[0], (masks > MASK_THRESHOLD).float())
        if self.outline_names is not None:
            names = names + voices.outline * self.outline_names(outlines(masks))
        return names


def write_names_onnx(finder: Finder, file: Path, *, opset: int) -> float:
    """Write what names a finder's masks, load it with onnxruntime and compare its answers on masks of several sizes.

    Args:
        finder: with classes.
        file: to write.
        opset: of the operations.

    Returns:
        The largest difference of a class logit, divided by 1 + its size.

    Raises:
        SamtuneError: the answers differ.
        OSError: the disk refused.
    """
    graph = NamesGraph(finder.namer).cpu().eval()
    side = finder.image_size // STRIDE
    place = torch.arange(side) + 0.5
    sizes = torch.arange(1, _PROBES + 1)[:, None, None] * side / 8
    masks = sizes - ((place - side / 2).square()[:, None] + (place - side / 3).square()).sqrt()
    maps = torch.sin(torch.arange(finder.head.classes * side * side) / 7.0).view(1, -1, side, side)
    model = export_graph(graph, (maps, masks), NAMES_INPUTS, NAMES_OUTPUTS, (None, {0: Dim("N")}), opset)
    model.ir_version = IR_VERSION
    save(model, file)
    with torch.no_grad():
        expected = graph(maps, masks).numpy()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(list(NAMES_OUTPUTS), {"classes": maps.numpy(), "masks": masks.numpy()})
    gap = _relative_gap(np.asarray(found[0]), expected)
    if gap > BOUND:
        raise _differs(f"names differ by {gap:.1e}", file)
    return gap


def write_finder_onnx(
    finder: Finder, loaded: LoadedModel, file: Path, *, opset: int, features: Sequence[str] = FEATURES
) -> FinderDifference:
    """Write a finder's network, load it with onnxruntime and compare its answers on the features of an image.

    Args:
        finder: made for the model.
        loaded: the model, whose features are compared on.
        file: to write.
        opset: of the operations.
        features: names of the inputs, those of the encoder's outputs: image embedding, features of stride 4 and of 8;
            those of the mirror image, where the finder looks twice, have `MIRRORED` before them.

    Raises:
        SamtuneError: the answers differ.
        OSError: the disk refused.
    """
    graph = FinderGraph(finder.head, finder.image_size).cpu().eval()
    seen = Looks.by(Predictor(loaded), probe_image(), finder.looks)
    tensors = [
        tensor.float().cpu().contiguous()
        for one in (seen.embedded, seen.mirrored)
        if one is not None
        for tensor in one.embeddings.tensors
    ]
    features = [*features, *(f"{MIRRORED}{name}" for name in features)][: len(tensors)]
    outputs = OUTPUTS if finder.head.classes else OUTPUTS[:2]
    model = export_graph(graph, tuple(tensors), features, outputs, None, opset)
    model.ir_version = IR_VERSION
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(described(finder))
    save(model, file)
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in graph(*tensors)]
        heat = graph.seen(*tensors).objectness.sigmoid()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = dict(zip(features, (tensor.numpy() for tensor in tensors), strict=True))
    found = [np.asarray(answer) for answer in session.run(list(outputs), given)]
    gaps = [
        peaks_gap(found[0], expected[0], heat),
        *(_relative_gap(*pair) for pair in zip(found[1:], expected[1:], strict=True)),
    ]
    difference = FinderDifference(*gaps, *[0.0] * (3 - len(gaps)))
    if max(gaps) > BOUND:
        raise _differs(str(difference), file)
    return difference


def _differs(found: str, file: Path) -> SamtuneError:
    return SamtuneError.of(
        expected=f"a finder in ONNX that answers as samtune's own does, within {BOUND:g}",
        found=found,
        where=str(file),
        do="nothing was kept; please report this with the output of `samtune --version`",
    )


def described(finder: Finder) -> dict[str, Any]:
    """What a program needs to use the answers, as the file's metadata has it."""
    return {
        "format": 1,
        "classes": list(finder.classes),
        "input_size": finder.image_size,
        "looks": finder.looks,
        "most_peaks": finder.most,
        "least_objectness": LEAST_OBJECTNESS,
        "box_overlap": BOX_OVERLAP,
        "mask_overlap": MASK_OVERLAP,
        "threshold": finder.threshold,
        "calibration": {"evidence": list(EVIDENCE), **asdict(finder.calibration)},
        "company": finder.namer.voices.company,
        "usual": list(finder.namer.voices.usual),
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
