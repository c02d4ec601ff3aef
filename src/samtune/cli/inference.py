"""Commands that use a model: predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from samtune import api
from samtune.cli.common import Flat, Out, Quiet, show
from samtune.config import FindConfig, PredictConfig


def predict(
    images: Path,
    /,
    *,
    model: str,
    out: Out,
    config: Annotated[PredictConfig, Flat] = PredictConfig(),
    find: Annotated[bool, Parameter(negative="")] = False,
    finds: Annotated[FindConfig, Flat] = FindConfig(),
    quiet: Quiet = False,
) -> None:
    """Segment images with boxes or clicks, or find everything without: COCO results, PNG masks, overlays.

    Args:
        images: One image or a folder.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        find: Find and name everything with the run's finder; needs no prompts.
    """
    if find:
        show(api.find(images, model, out, finds, look=config, quiet=quiet))
        return
    show(api.predict(images, model, out, config, quiet=quiet))


def export(
    model: str,
    /,
    *,
    out: Out,
    format: Literal["official", "hf", "adapter", "onnx"] = "official",
    layout: Literal["anylabeling", "transformersjs", "rectlabel"] | None = None,
    precision: Literal["fp32", "fp16"] = "fp32",
    opset: int = 18,
    comparison: Path | None = None,
) -> None:
    """Write a tuned model for other tools, load the result again, and compare its masks before saying done.

    Args:
        model: Run or model to export.
        format: official loads in the sam2 package, hf in transformers, adapter in peft, onnx in the tool of --layout.
        layout: Tool the ONNX files are for: X-AnyLabeling, transformers.js, or RectLabel and labelme.
        precision: Arithmetic inside the ONNX files; fp16 halves them, for browsers.
        opset: ONNX opset, 18 or later.
        comparison: Folder that `samtune compare` wrote; its verdict goes into the model card.
    """
    show(api.export(model, out, format, comparison=comparison, layout=layout, precision=precision, opset=opset))
