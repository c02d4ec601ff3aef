"""Prompts about image files, results as files: COCO results, one PNG mask per object, one overlay per image."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.config import PredictConfig, ReadingConfig
from samtune.data.images import MAX_PIXELS, SUFFIXES, ImageInfo, probe_image, read_image
from samtune.data.masks import Region, encode_region, format_counts, region_of, write_region_file
from samtune.data.reading import PLAIN, Reading
from samtune.drawing import draw_overlay
from samtune.errors import DataError
from samtune.inference.automatic import everything
from samtune.inference.names import ImageNames
from samtune.inference.predictor import Predictor
from samtune.inference.thresholds import with_thresholds
from samtune.inference.tiles import LargeImage, ask_in_tiles, draw_overview, everything_in_tiles
from samtune.types import Box, Prompt
from samtune.utils.files import new_folder, write_json
from samtune.utils.output_folders import check_output
from samtune.utils.results import Result

RESULTS, MASKS, OVERLAYS = "predictions.json", "masks", "overlays"


@dataclass(frozen=True, slots=True)
class PredictReport(Result):
    """What was written.

    Attributes:
        out: the folder: `predictions.json` in the COCO results format with `file_name` added, `masks/` and `overlays/`.
        images: how many images.
        objects: how many masks.
        refused: masks with an object score below 0, which says that nothing is there; they are written too.
        note: why there may be fewer masks than expected, where there is a reason to say.
    """

    out: Path
    images: int
    objects: int
    refused: int
    note: str = ""

    def lines(self) -> list[str]:
        """What to tell the user."""
        doubt = f", {self.refused:,} of them where the model says nothing is there" if self.refused else ""
        return [
            f"{count_of(self.objects, 'mask')} in {count_of(self.images, 'image')}{doubt}",
            *([self.note] if self.note else []),
            f"results    {self.out / RESULTS}",
        ]


def count_of(number: int, what: str) -> str:
    """`1 mask`, `2 masks`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class NamedPrompt:
    """A prompt with the ids its result is written under.

    `track_id` says which prompts on the frames of a clip are about one object, where the file says so (CVAT among its
    `attributes`).
    """

    prompt: Prompt
    image_id: int | str
    category_id: int
    track_id: int | None = None


@dataclass(frozen=True, slots=True)
class MaskResult:
    """One mask and what belongs to it in the results file; both ids are the user's where the user gave some.

    `region` is None for a mask without pixels; `size` is the image's, (H, W).
    """

    region: Region | None
    size: tuple[int, int]
    score: float
    object_score: float
    image_id: int | str
    category_id: int

    @classmethod
    def of_mask(
        cls, mask: NDArray[np.bool_], score: float, object_score: float, image_id: int | str, category_id: int
    ) -> MaskResult:
        """From a mask of the whole image, bool `[H, W]`."""
        return cls(region_of(mask), (mask.shape[0], mask.shape[1]), score, object_score, image_id, category_id)


def predict_files(
    images: Path,
    predictor: Predictor,
    out: Path,
    config: PredictConfig,
    *,
    reading: Reading = PLAIN,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PredictReport:
    """Segment images and write what was found.

    Args:
        images: one image, or a folder whose images are taken in the order of their names.
        predictor: the model.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: the prompts, and the tiles of large images.
        reading: bands, page and stretch, see `samtune.inference.reading`; with `config.page` all, each page is asked
            the same, and rows say which `page` they are about.
        progress: called with the number of images done and their total.

    Raises:
        DataError: no images, one that cannot be decoded, boxes about images that are not there or outside of them.
        ConfigError: no prompts.
        StorageError: the disk refused.
    """
    config.require_prompts()
    config = config.model_copy(update={"automatic": with_thresholds(config.automatic, predictor.loaded)})
    files = image_files(images)
    prompts = _prompts(files, config)
    check_output(out, mark=RESULTS, earlier="earlier predictions", inputs=[images])
    results: list[dict[str, Any]] = []
    refused = 0
    with new_folder(out) as folder:
        (folder / MASKS).mkdir()
        (folder / OVERLAYS).mkdir()
        asked = [file for file in files if config.everything or prompts[file.name]]
        views = [view for file in asked for view in image_views(file, config, reading)]
        for done, view in enumerate(views, start=1):
            predicted, overlay = _predict_view(predictor, view, prompts[view.file.name], config)
            for number, result in enumerate(predicted):
                write_mask(folder / MASKS, f"{view.name}-{number:03}", result)
                results.append(coco_result(result, view.file) | view.page)
                refused += result.object_score < 0
            Image.fromarray(overlay).save(folder / OVERLAYS / f"{view.name}.png")
            progress(done, len(views))
        write_json(folder / RESULTS, results)
    grid = config.automatic
    note = (
        f"no candidate mask has --automatic.min-iou-score {grid.least_iou_score:g} and --automatic.min-stability "
        f"{grid.least_stability:g}; lower values show more, and samtune fit-grid RUN chooses them"
    )
    return PredictReport(out, len(views), len(results), refused, note if config.everything and not results else "")


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image to predict on: a file, or one page of it.

    Attributes:
        file: the file.
        name: unique among what is written.
        info: what its header says.
        reading: how it is read.
        page: what its rows say of the page.
    """

    file: Path
    name: str
    info: ImageInfo
    reading: Reading
    page: dict[str, int]

    def is_large(self, config: ReadingConfig) -> bool:
        """Whether it is to be looked at in tiles."""
        return config.tile > 0 and max(self.info.upright_size) > config.tile

    def in_tiles(self, config: ReadingConfig) -> LargeImage:
        """The image, to be read in windows.

        Raises:
            DataError: it must be turned, which windows are not.
        """
        if self.info.orientation != 1:
            raise DataError.of(
                expected="an image stored upright, to look at in tiles",
                found=f"EXIF orientation {self.info.orientation}",
                where=str(self.file),
                do="store it upright, or leave out --tile",
            )
        reading = replace(self.reading, in_tiles=True)
        return LargeImage(self.file, self.info.width, self.info.height, reading, config.tile, config.halo)


def image_views(file: Path, config: PredictConfig, reading: Reading) -> list[ImageView]:
    """The file, or with `--page all` each of its pages.

    Raises:
        DataError: the file cannot be used.
    """
    info = probe_image(file, replace(reading, in_tiles=config.tile > 0))
    if config.page != "all" or info.pages == 1:
        return [ImageView(file, file.name, info, reading, {})]
    return [
        ImageView(file, f"{file.name}-page-{page:03}", info, replace(reading, page=page), {"page": page})
        for page in range(1, info.pages + 1)
    ]


def _predict_view(
    predictor: Predictor, view: ImageView, prompts: Sequence[NamedPrompt], config: PredictConfig
) -> tuple[list[MaskResult], NDArray[np.uint8]]:
    """What is found in an image, and the image with it drawn on."""
    if view.is_large(config):
        return _predict_large(predictor, view, prompts, config)
    image = read_image(view.file, reading=view.reading)
    predicted = _predict_one(predictor, image, view.file, prompts, config)
    return predicted, draw_overlay(image, [_whole(result) for result in predicted])


def image_files(images: Path) -> list[Path]:
    """The image itself, or the images of a folder in the order of their names.

    Raises:
        DataError: there is none.
    """
    if images.is_file():
        return [images]
    inside = images.iterdir() if images.is_dir() else ()
    found = sorted(file for file in inside if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if not found:
        raise DataError.of(
            expected="an image, or a folder with images",
            found="a folder without any" if images.is_dir() else "no such file or folder",
            where=str(images),
        )
    return found


def _prompts(files: Sequence[Path], config: PredictConfig) -> dict[str, list[NamedPrompt]]:
    """The prompts of each image, by file name."""
    same = [Prompt.box(*box) for box in config.fixed_boxes]
    same += [Prompt.clicks([point]) for point in config.fixed_points]
    asked = {file.name: [NamedPrompt(prompt, file.name, 1) for prompt in same] for file in files}
    if config.boxes is not None:
        for name, named in prompts_of_coco(config.boxes, [file.name for file in files]):
            asked[name].append(named)
    if not config.everything and not any(asked.values()):
        raise DataError.of(expected="a box in the file of --boxes", found="none", where=str(config.boxes))
    return asked


def prompts_of_coco(file: Path, images: Iterable[str]) -> list[tuple[str, NamedPrompt]]:
    """Box prompts of a COCO file, or of a list of detections whose `image_id` or `file_name` names an image.

    Raises:
        DataError: it cannot be read, or a box is malformed or about another image than `images`, which are file names.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError.of(
            expected="a JSON file with COCO boxes",
            found=str(error),
            where=str(file),
            do="write them as COCO; where images are many (--many), rows as CSV or Parquet are read too",
        ) from error
    names: dict[Any, str] = {}
    entries = content
    if isinstance(content, dict):
        entries = content.get("annotations")
        for number, image in enumerate(_dicts(content.get("images"), file)):
            image_id = _image_id(image.get("id"), f"{file}, image {number}")
            names[image_id] = str(image.get("file_name"))
    asked: list[tuple[str, NamedPrompt]] = []
    known = ImageNames(images)
    for number, entry in enumerate(_dicts(entries, file)):
        where = f"{file}, entry {number}"
        image_id = _image_id(entry.get("image_id"), where)
        written = names.get(image_id) or entry.get("file_name", image_id)
        name = known.find(written)
        if name is None:
            is_number = isinstance(written, int) and not isinstance(content, dict)
            raise DataError.of(
                expected="boxes about the given images",
                found=f"image {written!r}, which is not among them",
                where=where,
                do="give the COCO file with its images list, or file_name in every entry: a results list has only ids"
                if is_number
                else "give the folder with all its images",
            )
        box = _box(entry.get("bbox"), where)
        category = _category(entry.get("category_id", 1), where)
        named = NamedPrompt(
            Prompt.box(*box), image_id if image_id is not None else name, category, _track_id(entry, where)
        )
        asked.append((name, named))
    return asked


def _image_id(value: Any, where: str) -> int | str | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # as tables write numbers
    if value is not None and not isinstance(value, (int, str)):
        raise DataError.of(expected="an image's id, a number or a text", found=repr(value)[:60], where=where)
    return value


def _category(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError.of(expected="category_id, a whole number", found=repr(value)[:60], where=where) from None


def _track_id(entry: dict[str, Any], where: str) -> int | None:
    attributes = entry.get("attributes")
    value = entry.get("track_id", attributes.get("track_id") if isinstance(attributes, dict) else None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise DataError.of(expected="track_id, a whole number", found=repr(value)[:60], where=where)
    return value


def _dicts(value: Any, file: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise DataError.of(
            expected="COCO annotations (images and annotations) or a list of detections",
            found="neither",
            where=str(file),
        )
    return value


def _box(bbox: Any, where: str) -> Box:
    """COCO's x, y, width, height as xyxy; exporters also write the numbers as strings."""
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError):
        x = y = width = height = math.nan
    if not all(math.isfinite(value) for value in (x, y, width, height)) or width <= 0 or height <= 0:
        raise DataError.of(expected="bbox [x, y, width, height] with a positive size", found=repr(bbox), where=where)
    return x, y, x + width, y + height


def _predict_one(
    predictor: Predictor, image: NDArray[np.uint8], file: Path, prompts: Sequence[NamedPrompt], config: PredictConfig
) -> list[MaskResult]:
    embedded = predictor.embed(image)
    for named in prompts:
        check_inside(named.prompt, embedded.size, file)
    predictions = predictor.predict(embedded, [named.prompt for named in prompts], chunk=config.chunk)
    results = [
        MaskResult.of_mask(
            prediction.best,
            float(prediction.iou_scores.max()),
            prediction.object_score,
            asked.image_id,
            asked.category_id,
        )
        for prediction, asked in zip(predictions, prompts, strict=True)
    ]
    if config.everything:
        found = everything(predictor, image, config.automatic, embedded)
        results += [MaskResult(one.region, one.size, one.iou_score, one.object_score, file.name, 1) for one in found]
    return results


def _predict_large(
    predictor: Predictor, view: ImageView, prompts: Sequence[NamedPrompt], config: PredictConfig
) -> tuple[list[MaskResult], NDArray[np.uint8]]:
    """What is found in an image that is looked at in tiles, and an overview of it, drawn on it small."""
    image, file = view.in_tiles(config), view.file
    size = (image.height, image.width)
    for named in prompts:
        check_inside(named.prompt, size, file)
    answers = ask_in_tiles(predictor, image, [named.prompt for named in prompts], chunk=config.chunk)
    results = [
        MaskResult(one.region, size, one.score, one.object_score, named.image_id, named.category_id)
        for one, named in zip(answers, prompts, strict=True)
    ]
    if config.everything:
        found = everything_in_tiles(predictor, image, config.automatic)
        results += [MaskResult(one.region, size, one.score, one.object_score, file.name, 1) for one in found]
    return results, draw_overview(image, [result.region for result in results if result.region])


def _whole(result: MaskResult) -> NDArray[np.bool_]:
    """The mask at the image's size, bool `[H, W]`."""
    return np.zeros(result.size, bool) if result.region is None else result.region.paste(*result.size)


def write_mask(folder: Path, name: str, result: MaskResult) -> None:
    """The mask at the image's size; of images too large for that its part, whose place is in the file's name."""
    if math.prod(result.size) <= MAX_PIXELS:
        write_region_file(folder / f"{name}.png", result.region, *result.size)
    elif result.region is not None:
        part = replace(result.region, x0=0, y0=0)
        write_region_file(
            folder / f"{name}-x{result.region.x0}-y{result.region.y0}.png", part, *result.region.mask.shape
        )


def check_inside(prompt: Prompt, size: tuple[int, int], where: Path | str) -> None:
    """Refuse a prompt that does not touch the image of `size`, (H, W).

    Raises:
        DataError: the box, or all clicks, lie outside.
    """
    height, width = size
    parts = [part for part in (prompt.input_box, prompt.input_points) if part is not None]
    points = np.concatenate([part.reshape(-1, 2) for part in parts])
    low, high = points.min(0), points.max(0)
    if high[0] < 0 or high[1] < 0 or low[0] > width or low[1] > height:
        raise DataError.of(
            expected=f"a prompt inside the image, {width} x {height} pixels",
            found=", ".join(f"{value:g}" for value in points.ravel()),
            where=str(where),
        )


def coco_result(result: MaskResult, file: Path) -> dict[str, Any]:
    """One row of the results file: COCO's results format with `file_name`, `area` and `object_score` added."""
    height, width = result.size
    x0, y0, x1, y1 = result.region.box if result.region else (0, 0, 0, 0)
    return {
        "image_id": result.image_id,
        "file_name": file.name,
        "category_id": result.category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": result.region.area if result.region else 0,
        "segmentation": {"size": [height, width], "counts": format_counts(encode_region(result.region, height, width))},
        "score": round(result.score, 6),
        "object_score": round(result.object_score, 6),
    }
