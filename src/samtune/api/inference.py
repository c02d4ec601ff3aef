"""Using a model: predict, also in shards, merge, track, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samtune.api.loading import predictor_of
from samtune.config import FindConfig, PredictConfig, ShardsConfig, TrackConfig
from samtune.utils.progress import progress

if TYPE_CHECKING:
    from samtune.api.loading import Model
    from samtune.exports.export import ExportReport
    from samtune.inference.files import PredictReport
    from samtune.inference.shards.merge import MergeReport
    from samtune.inference.shards.run import ManyReport
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


def predict_many(
    images: Path | str,
    model: Model,
    out: Path | str,
    config: PredictConfig,
    shards: ShardsConfig | None = None,
    *,
    find: FindConfig | None = None,
    quiet: bool = False,
) -> ManyReport:
    """Segment any number of images in shards that processes share; see docs/cluster.md.

    Any number of processes may call this with the same arguments, on any machines that share the folders; it returns
    when all shards are done, whoever did them.

    Args:
        images: a Parquet manifest with a column of paths, or a folder.
        model: a name, a path, or a loaded model.
        out: folder of the job; one that is there already, of the same job, is gone on with.
        config: the prompts.
        shards: how the images are shared out.
        find: find with the run's finder, in place of prompts; `model` is then a run's folder.
        quiet: show no progress.

    Raises:
        ConfigError: no prompts, settings that shards do not have, or `out` holds another job or something else.
        DataError: manifest or detections cannot be used; images that cannot be read are listed, and no error.
        ModelError: the model cannot be loaded.
        StorageError: the disk refused.
    """
    from samtune.inference.reading import reading_for
    from samtune.inference.shards.run import Method, run_shards

    if find is None:
        config.require_prompts()
    run = Path(model) if isinstance(model, str | Path) else None
    reading = reading_for(run, config)
    predictor = predictor_of(model, config.device)
    method: Method | None = None
    if find is not None:
        from samtune.finder.many import finder_method

        method = finder_method(run or Path(predictor.loaded.source), predictor, find, config.chunk)
    with progress("shards", quiet=quiet) as advance:
        return run_shards(
            Path(images), predictor, Path(out), config, shards or ShardsConfig(),
            method=method, reading=reading, progress=advance,
        )  # fmt: skip


def merge(
    job: Path | str, out: Path | str, format: Literal["coco", "results"] = "coco", *, quiet: bool = False
) -> MergeReport:
    """Write the results of `predict_many` as one COCO file.

    Args:
        job: folder of a finished job.
        out: file to write, in place of an earlier one; images that could not be looked at are listed beside it.
        format: `coco` has images, annotations and categories, `results` the list that `pycocotools` loads.
        quiet: show no progress.

    Raises:
        DataError: no job there, or one that is not finished.
        ConfigError: `out` is a folder.
        StorageError: the disk refused.
    """
    from samtune.inference.shards.merge import merge as write

    with progress("merging", quiet=quiet) as advance:
        return write(Path(job), Path(out), format, progress=advance)


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
        precision: of `onnx` files: fp16 is the encoder's arithmetic and the decoder's weights.
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
