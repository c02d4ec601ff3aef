"""Commands that use a model: predict, merge, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from samtune import api
from samtune.cli.common import Flat, Out, Quiet, show
from samtune.config import ClipConfig, FindConfig, PredictConfig, ShardsConfig, TrackConfig
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
    many: Annotated[bool, Parameter(negative="")] = False,
    shards: Annotated[ShardsConfig, Flat] = ShardsConfig(),
    quiet: Quiet = False,
) -> None:
    """Segment images with boxes or clicks, find everything without, or follow objects through a clip.

    Writes COCO results, PNG masks and overlays.

    Args:
        images: One image, a folder, or a Parquet manifest of images, which is worked through as with --many; with
            --video a folder of frames; or a video file.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        video: The folder holds the frames of a clip: follow what is prompted on one of them through all. --prompts,
            --frame and --backwards say so too.
        find: Find and name everything with the run's finder; needs no prompts.
        many: Share the images out in shards, among any processes given the same command; samtune merge makes COCO of
            the results. See docs/cluster.md.
    """
    if many or images.suffix == ".parquet":
        if video or clip != ClipConfig():
            raise UsageError.of(expected="images to share out", found="options of a clip")
        show(api.predict_many(images, model, out, config, shards, find=finds if find else None, quiet=quiet))
        return
    if shards.model_fields_set:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(shards.model_fields_set))
        raise UsageError.of(expected="--many, or a Parquet manifest, beside these options", found=named)
    if video or clip != ClipConfig() or is_video_file(images):
        if config.everything or find:
            raise UsageError.of(expected="objects to follow through the clip", found="--everything or --find")
        shared = config.model_dump(include=set(TrackConfig.model_fields))
        show(api.track(images, model, out, TrackConfig(**shared, **clip.model_dump()), quiet=quiet))
        return
    if find:
        show(api.find(images, model, out, finds, look=config, quiet=quiet))
        return
    show(api.predict(images, model, out, config, quiet=quiet))


def merge(
    job: Path,
    /,
    *,
    out: Annotated[Path, Parameter(help="File to write.")],
    format: Literal["coco", "results"] = "coco",
    quiet: Quiet = False,
) -> None:
    """Write the results of predict --many as one COCO file; images that could not be looked at are listed beside it.

    Args:
        job: Folder that samtune predict --many wrote.
        format: coco has images, annotations and categories; results is the list that pycocotools loads.
    """
    show(api.merge(job, out, format, quiet=quiet))


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
        precision: Of ONNX files; fp16 halves them, for browsers: the encoder computes in it, the decoder keeps weights
            in it.
        opset: ONNX opset, 18 or later.
        comparison: Folder that `samtune compare` wrote; its verdict goes into the model card.
    """
    show(api.export(model, out, format, comparison=comparison, layout=layout, precision=precision, opset=opset))
