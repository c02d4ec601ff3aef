"""Commands that use a model: predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from samtune import api
from samtune.cli.common import Flat, Out, Quiet, show
from samtune.config import ClipConfig, FindConfig, PredictConfig, TrackConfig
from samtune.config.inference import is_video_file
from samtune.errors import UsageError


def predict(
    images: Path,
    /,
    *,
    model: str,
    out: Out,
    config: Annotated[PredictConfig, Flat] = PredictConfig(),
    video: Annotated[bool, Parameter(negative="")] = False,
    clip: Annotated[ClipConfig, Flat] = ClipConfig(),
    find: Annotated[bool, Parameter(negative="")] = False,
    finds: Annotated[FindConfig, Flat] = FindConfig(),
    quiet: Quiet = False,
) -> None:
    """Segment images with boxes or clicks, find everything without, or follow objects through a clip.

    Writes COCO results, PNG masks and overlays.

    Args:
        images: One image or a folder; with --video a folder of frames; or a video file.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        video: The folder holds the frames of a clip: follow what is prompted on one of them through all. --prompts,
            --frame and --backwards say so too.
        find: Find and name everything with the run's finder; needs no prompts.
    """
    if video or clip != ClipConfig() or is_video_file(images):
        if config.everything or find:
            raise UsageError.of(expected="objects to follow through the clip", found="--everything or --find")
        shared = config.model_dump(include=set(TrackConfig.model_fields))
        show(api.track(images, model, out, TrackConfig(**shared, **clip.model_dump()), quiet=quiet))
        return
    if find:
        show(api.find(images, model, out, finds, device=config.device, chunk=config.chunk, quiet=quiet))
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
