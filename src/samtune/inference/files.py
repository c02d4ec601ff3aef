"""Prompts about picture files, answers as files: COCO results, one PNG mask per object, one overlay per picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.config import PredictConfig
from samtune.data.images import read_image
from samtune.data.masks import encode_rle, format_counts, mask_box, write_mask_file
from samtune.drawing import draw_overlay
from samtune.errors import DataError
from samtune.inference.automatic import automatic_masks
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.types import Box, Prompt
from samtune.utils.files import new_folder, write_json
from samtune.utils.output_folders import check_output
from samtune.utils.results import Result

RESULTS, MASKS, OVERLAYS = "predictions.json", "masks", "overlays"
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True)
class PredictReport(Result):
    """What was written.

    Attributes:
        out: the folder: `predictions.json` in the COCO results format with `file_name` added, `masks/` and `overlays/`.
        pictures: how many pictures.
        objects: how many masks.
        refused: masks whose object score says that nothing is there; they are written all the same, with their score.
        note: why there may be fewer masks than expected, where there is a reason to say.
    """

    out: Path
    pictures: int
    objects: int
    refused: int
    note: str = ""

    def lines(self) -> list[str]:
        """What to tell the user."""
        doubt = f", {self.refused:,} of them where the model says nothing is there" if self.refused else ""
        return [
            f"{_count(self.objects, 'mask')} in {_count(self.pictures, 'picture')}{doubt}",
            *([self.note] if self.note else []),
            f"results    {self.out / RESULTS}",
        ]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class _Question:
    """One prompt about one picture, and what the answer is to be called."""

    prompt: Prompt
    image_id: int | str
    category_id: int


@dataclass(frozen=True, slots=True)
class _Answer:
    mask: NDArray[np.bool_]
    score: float
    object_score: float
    image_id: int | str
    category_id: int


def predict_files(
    images: Path,
    predictor: Predictor,
    out: Path,
    config: PredictConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PredictReport:
    """Segment pictures and write what was found.

    Args:
        images: one picture, or a folder whose pictures are taken in the order of their names.
        predictor: the model.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: the prompts.
        progress: told of pictures done and their total.

    Raises:
        DataError: no pictures, one that cannot be decoded, boxes about pictures that are not there or outside of them.
        ConfigError: no prompts.
        StorageError: the disk refused.
    """
    config.require_prompts()
    pictures = _pictures(images)
    questions = _questions(pictures, config)
    check_output(out, mark=RESULTS, earlier="earlier predictions", inputs=[images])
    results: list[dict[str, Any]] = []
    refused = 0
    with new_folder(out) as folder:
        (folder / MASKS).mkdir()
        (folder / OVERLAYS).mkdir()
        asked = [picture for picture in pictures if config.everything or questions[picture.name]]
        for done, picture in enumerate(asked, start=1):
            image = read_image(picture)
            answers = _answers(predictor, image, picture, questions[picture.name], config)
            for number, answer in enumerate(answers):
                write_mask_file(folder / MASKS / f"{picture.name}-{number:03}.png", answer.mask)
                results.append(_coco_result(answer, picture))
                refused += answer.object_score < 0
            overlay = draw_overlay(image, [answer.mask for answer in answers])
            Image.fromarray(overlay).save(folder / OVERLAYS / f"{picture.name}.png")
            progress(done, len(asked))
        write_json(folder / RESULTS, results)
    grid = config.automatic
    note = (
        f"no guess has --automatic.min-iou-score {grid.min_iou_score:g} and --automatic.min-stability "
        f"{grid.min_stability:g}; lower values show more"
    )
    return PredictReport(out, len(asked), len(results), refused, note if config.everything and not results else "")


def _pictures(images: Path) -> list[Path]:
    if images.is_file():
        return [images]
    found = sorted(path for path in images.glob("*") if path.suffix.lower() in _PICTURES) if images.is_dir() else []
    if not found:
        raise DataError.of(
            expected="a picture, or a folder with pictures",
            found="a folder without any" if images.is_dir() else "no such file or folder",
            where=str(images),
        )
    return found


def _questions(pictures: Sequence[Path], config: PredictConfig) -> dict[str, list[_Question]]:
    """Per picture name, what is asked about it."""
    same = [Prompt.box(*box) for box in config.fixed_boxes]
    same += [Prompt.clicks([point]) for point in config.fixed_points]
    asked = {picture.name: [_Question(prompt, picture.name, 1) for prompt in same] for picture in pictures}
    if config.boxes is not None:
        for name, question in _from_coco(config.boxes, {picture.name: picture for picture in pictures}):
            asked[name].append(question)
    if not config.everything and not any(asked.values()):
        raise DataError.of(expected="a box in the file of --boxes", found="none", where=str(config.boxes))
    return asked


def _from_coco(file: Path, pictures: dict[str, Path]) -> list[tuple[str, _Question]]:
    """Box prompts of a COCO file, or of a list of detections whose `image_id` or `file_name` names a picture."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError.of(expected="a JSON file with COCO boxes", found=str(error), where=str(file)) from error
    names: dict[Any, str] = {}
    entries = content
    if isinstance(content, dict):
        entries = content.get("annotations")
        for number, image in enumerate(_dicts(content.get("images"), file)):
            image_id = _image_id(image.get("id"), f"{file}, image {number}")
            names[image_id] = str(image.get("file_name")).replace("\\", "/").rpartition("/")[2]
    asked: list[tuple[str, _Question]] = []
    for number, entry in enumerate(_dicts(entries, file)):
        where = f"{file}, entry {number}"
        image_id = _image_id(entry.get("image_id"), where)
        name = names.get(image_id) or str(entry.get("file_name", image_id))
        name = next((known for known in (name, f"{name}.jpg", f"{name}.png") if known in pictures), None)
        if name is None:
            raise DataError.of(
                expected="boxes about the given pictures",
                found=f"image {names.get(image_id, image_id)!r}, which is not among them",
                where=where,
                do="give the folder with all its pictures",
            )
        box = _box(entry.get("bbox"), where)
        category = _category(entry.get("category_id", 1), where)
        asked.append((name, _Question(Prompt.box(*box), image_id if image_id is not None else name, category)))
    return asked


def _image_id(value: Any, where: str) -> int | str | None:
    if value is not None and not isinstance(value, (int, str)):
        raise DataError.of(expected="an image's id, a number or a text", found=repr(value)[:60], where=where)
    return value


def _category(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError.of(expected="category_id, a whole number", found=repr(value)[:60], where=where) from None


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


def _answers(
    predictor: Predictor, image: NDArray[np.uint8], picture: Path, questions: Sequence[_Question], config: PredictConfig
) -> list[_Answer]:
    embedded = predictor.embed(image)
    for question in questions:
        _check_inside(question.prompt, embedded, picture)
    predictions = predictor.predict(embedded, [question.prompt for question in questions], chunk=config.chunk)
    answers = [
        _Answer(
            prediction.best,
            float(prediction.iou_scores.max()),
            prediction.object_score,
            asked.image_id,
            asked.category_id,
        )
        for prediction, asked in zip(predictions, questions, strict=True)
    ]
    if config.everything:
        found = automatic_masks(predictor, embedded, config.automatic)
        answers += [_Answer(one.mask, one.iou_score, one.object_score, picture.name, 1) for one in found]
    return answers


def _check_inside(prompt: Prompt, embedded: EmbeddedImage, picture: Path) -> None:
    """A prompt that does not touch the picture is a mistake, not a question."""
    height, width = embedded.size
    parts = [part for part in (prompt.input_box, prompt.input_points) if part is not None]
    points = np.concatenate([part.reshape(-1, 2) for part in parts])
    low, high = points.min(0), points.max(0)
    if high[0] < 0 or high[1] < 0 or low[0] > width or low[1] > height:
        raise DataError.of(
            expected=f"a prompt inside the picture, {width} x {height} pixels",
            found=", ".join(f"{value:g}" for value in points.ravel()),
            where=str(picture),
        )


def _coco_result(answer: _Answer, picture: Path) -> dict[str, Any]:
    height, width = answer.mask.shape
    x0, y0, x1, y1 = mask_box(answer.mask) or (0, 0, 0, 0)
    return {
        "image_id": answer.image_id,
        "file_name": picture.name,
        "category_id": answer.category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(answer.mask.sum()),
        "segmentation": {"size": [height, width], "counts": format_counts(encode_rle(answer.mask))},
        "score": round(answer.score, 6),
        "object_score": round(answer.object_score, 6),
    }
