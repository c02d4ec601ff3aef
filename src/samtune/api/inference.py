"""Using a model: predict, track, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samtune.api.loading import predictor_of
from samtune.config import PredictConfig, TrackConfig
from samtune.utils.progress import progress

if TYPE_CHECKING:
    from samtune.api.loading import Model
    from samtune.exports.export import ExportReport
    from samtune.inference.files import PredictReport
    from samtune.inference.video.files import TrackReport


def predict(
    images: Path | str, model: Model, out: Path | str, config: PredictConfig, *, quiet: bool = False
) -> PredictReport:
    """Segment image files: COCO results, one PNG mask per object, one overlay per image.

    Args:
        images: one image, or a folder whose images are taken in the order of their names.
        model: a name, a path, or a loaded model.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: the prompts.
        quiet: show no progress.

    Raises:
        ConfigError: no prompts, or `out` holds something else.
        DataError: no images, one that cannot be decoded, boxes about images that are not there or outside of them.
        ModelError: the model cannot be loaded.
        StorageError: the disk refused.
    """
    from samtune.inference.files import predict_files
    from samtune.inference.reading import reading_for

    config.require_prompts()
    reading = reading_for(Path(model) if isinstance(model, str | Path) else None, config)
    predictor = predictor_of(model, config.device)
    with progress("predicting", quiet=quiet) as advance:
        return predict_files(Path(images), predictor, Path(out), config, reading=reading, progress=advance)


def track(clip: Path | str, model: Model, out: Path | str, config: TrackConfig, *, quiet: bool = False) -> TrackReport:
    """Follow objects through a clip: a palette PNG per frame, COCO results, an overlay video.

    Args:
        clip: a folder of frames, taken in the order of their names, or a video file (`samtune[video]`).
        model: a name, a path, or a loaded model; one with video weights.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: the prompts.
        quiet: show no progress.

    Raises:
        ConfigError: no prompts, or `out` holds something else.
        DataError: no frames, one that cannot be decoded or has another size, prompts outside of the clip.
        ModelError: the model cannot be loaded, or has no video weights.
        UsageError: a video file, and PyAV is not installed.
        StorageError: the disk refused.
    """
    from samtune.inference.reading import reading_for
    from samtune.inference.video.clips import open_clip
    from samtune.inference.video.files import track_files

    config.require_prompts()
    reading = reading_for(Path(model) if isinstance(model, str | Path) else None, config)
    frames = open_clip(Path(clip), reading)
    loaded = predictor_of(model, config.device).loaded
    with progress("following", quiet=quiet) as advance:
        return track_files(frames, loaded, Path(out), config, progress=advance)


def export(
    model: Model,
    out: Path | str,
    format: Literal["official", "hf", "adapter", "onnx"] = "official",
    *,
    comparison: Path | None = None,
    layout: Literal["anylabeling", "transformersjs", "rectlabel"] | None = None,
    precision: Literal["fp32", "fp16"] = "fp32",
    opset: int = 18,
) -> ExportReport:
    """Write a model in another tool's layout, load the result again and compare its masks.

    Args:
        model: a run or any other model by name or path, or a loaded model; an adapter needs a run.
        out: a folder that does not exist or is empty; for `official` also a `.pt` file that does not exist.
        format: `official` loads in the sam2 package, `hf` in transformers, `adapter` in peft, `onnx` in the tool of its
            layout.
        comparison: folder that `compare` wrote; its verdict goes into the model card.
        layout: of `onnx`: which tool the files are for, X-AnyLabeling, transformers.js or RectLabel and labelme.
        precision: of the arithmetic inside `onnx` files.
        opset: of `onnx` files, 18 or later.

    Raises:
        ConfigError: something stands where the export would.
        ModelError: the model cannot be loaded, or has no counterpart in this format.
        StorageError: the disk refused.
        SamtuneError: the export, loaded again, answers differently; nothing is kept.
    """
    from samtune.exports.export import export as write
    from samtune.inference.predictor import Predictor

    loaded = model.loaded if isinstance(model, Predictor) else model
    return write(loaded, Path(out), format, comparison=comparison, layout=layout, precision=precision, opset=opset)
