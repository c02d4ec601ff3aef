"""Measuring a model on a split: fixed prompts, masks at full resolution, figures of every object.

Each object is asked for twice: with its exact box, and with one click at its deepest pixel. Measured is the mask that a
user would get; for clicks, which are ambiguous, also the first and the best of the three guesses. Beside every box
stand the two trivial guesses, the filled box and the ellipse inscribed in it. Clicks on the background count how often
the model says that nothing is there. On request an annotator is simulated who clicks where the mask is wrong.

Nothing here is drawn anew from run to run or from model to model: base and tuned model get the same prompts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from samtune.config import EvalConfig, PromptPolicy
from samtune.data.masks import Region, region_of
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.embeddings.cache import encoder_fingerprint
from samtune.errors import DataError
from samtune.evaluation.metrics import Overlap, box_mask, ellipse_mask
from samtune.evaluation.results import KINDS, Answer, BackgroundResult, Evaluation, ObjectResult
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.reference import ALL_TOKENS, NO_TOKENS, asked_tokens, select_masks
from samtune.model.preprocess import MASK_THRESHOLD, clamp_low_res, upscale_masks
from samtune.prompts.batch import PromptBatch
from samtune.prompts.simulate import CorrectionDraws, background_prompts, correction_clicks, deepest_points

__all__ = ["KINDS", "Evaluation", "evaluate", "evaluate_all", "measure", "read_truth", "spread"]

_DEEPEST = PromptPolicy(point_at="center", correction_from_object=0.0)
"""Clicks at the deepest pixel of the object, later of the error: nothing about them is random."""
_NO_DRAWS = CorrectionDraws(torch.zeros(1), torch.zeros(1))
"""Stands where random numbers are asked for and make no difference."""


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    config: EvalConfig,
    *,
    name: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a model on a split.

    Args:
        predictor: the model.
        dataset: whole; the split is chosen by `config`.
        config: what to measure.
        name: what to call the model in the result.
        progress: called with images done and their total.

    Raises:
        DataError: the split has no objects, or an image or mask cannot be read.
    """
    return evaluate_all([predictor], dataset, config, names=[name or predictor.loaded.name], progress=progress)[0]


def evaluate_all(
    predictors: Sequence[Predictor],
    dataset: Dataset,
    config: EvalConfig,
    *,
    names: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Measure several models on the same prompts; each image is read once, and encoded once where encoders are equal.

    Args, errors: those of `evaluate`, with one name for each model.

    Returns:
        One evaluation per model, in order.
    """
    images = dataset.split(config.split).images
    chosen = spread(images, config.max_objects)
    if not chosen:
        raise _no_objects(dataset, config.split, len(images))
    if not config.max_objects:
        chosen += [(image, []) for image in images if not image.single_objects]
    crowd = sum(len(image.objects) - len(image.single_objects) for image in images)
    encoders = [_encoder_of(predictor) for predictor in predictors]
    objects: list[list[ObjectResult]] = [[] for _ in predictors]
    background: list[list[BackgroundResult]] = [[] for _ in predictors]
    for done, (image, asked) in enumerate(chosen, start=1):
        pixels = dataset.read_image(image)
        truth = {found: read_truth(dataset, found) for found in image.objects}
        embedded: dict[tuple[str, int, str], EmbeddedImage] = {}
        for number, (predictor, encoder) in enumerate(zip(predictors, encoders, strict=True)):
            if encoder not in embedded:
                embedded[encoder] = predictor.embed(pixels)
            regions = [truth[found] for found in asked]
            objects[number] += _results(predictor, embedded[encoder], image, asked, regions, config)
            background[number] += _background(predictor, embedded[encoder], image, list(truth.values()), config)
        progress(done, len(chosen))
    return [
        Evaluation(
            model=name,
            weights=predictor.loaded.fingerprint(),
            dataset=dataset.root.resolve().name,
            config=config,
            images=len(chosen),
            crowd=crowd,
            left_out=sum(len(image.objects) for image in images) - crowd - len(of_objects),
            objects=tuple(of_objects),
            background=tuple(of_background),
        )
        for predictor, name, of_objects, of_background in zip(predictors, names, objects, background, strict=True)
    ]


def _encoder_of(predictor: Predictor) -> tuple[str, int, str]:
    """What decides how an image is embedded; tuning the decoder alone does not change it."""
    return encoder_fingerprint(predictor.loaded.model), predictor.loaded.image_size, str(predictor.device)


def measure(
    predictor: Predictor,
    embedded: EmbeddedImage,
    kind: str,
    objects: Sequence[ObjectEntry],
    truth: Sequence[Region],
    chunk: int,
    *,
    guesses: bool = False,
) -> list[Answer]:
    """Ask about objects of one image and compare with the truth. Validation while training uses this too.

    Args:
        predictor: the model.
        embedded: the image.
        kind: `box`, the exact box of the table, or `point`, one click at the deepest pixel.
        objects: which objects to ask for.
        truth: their masks, see `read_truth`.
        chunk: prompts per decoder call.
        guesses: also measure the three guesses.
    """
    answers: list[Answer] = []
    tokens = ALL_TOKENS if guesses else asked_tokens(predictor.loaded.model, multimask_output=False)
    for start in range(0, len(objects), chunk):
        regions = truth[start : start + chunk]
        prompts = predictor.to_model_frame(embedded, _prompts(kind, objects[start : start + chunk], regions))
        output = predictor.decode(embedded, prompts, tokens)
        chosen_masks, scores = select_masks(predictor.loaded.model, output, multimask_output=False)
        overlaps = [found[0] for found in _overlaps(chosen_masks, regions, embedded.size)]
        three = _three(output.masks[:, 1:], output.iou_scores[:, 1:], regions, embedded.size) if guesses else None
        for row, (overlap, score, present) in enumerate(
            zip(overlaps, scores[:, 0].tolist(), output.object_score_logits.tolist(), strict=True)
        ):
            first, best = three[row] if three else (None, None)
            answers.append(Answer(overlap.iou, overlap.dice, score, present, first, best))
    return answers


def spread(images: Sequence[ImageEntry], most: int) -> list[tuple[ImageEntry, list[ObjectEntry]]]:
    """Objects to measure, by image: all that are no crowd, or `most` of them, evenly spaced; 0 means all."""
    owners = [(place, found) for place, image in enumerate(images) for found in image.single_objects]
    if most and most < len(owners):
        owners = [owners[place] for place in np.linspace(0, len(owners) - 1, most).round().astype(int)]
    chosen: dict[int, list[ObjectEntry]] = {}
    for place, found in owners:
        chosen.setdefault(place, []).append(found)
    return [(images[place], found) for place, found in chosen.items()]


def read_truth(dataset: Dataset, found: ObjectEntry) -> Region:
    """An object's mask, kept as the part that holds it: hundreds of objects of a large image must fit into memory.

    Raises:
        DataError: the file is missing, no mask, or empty.
    """
    region = region_of(dataset.read_mask(found))
    if region is None:
        raise DataError.of(
            expected="a mask with at least one pixel",
            found="an empty one",
            where=str(dataset.root / found.mask_path),
            do="run samtune prepare again",
        )
    return region


def _prompts(kind: str, objects: Sequence[ObjectEntry], truth: Sequence[Region]) -> PromptBatch:
    """Exact boxes, or clicks at the deepest pixels, in pixels of the image."""
    if kind == "box":
        return PromptBatch.from_boxes(torch.tensor([found.box for found in objects], dtype=torch.float32))
    return PromptBatch.from_clicks(torch.cat([_deepest(region) for region in truth])[:, None])


def _deepest(region: Region) -> Tensor:
    """The pixel farthest from an object's edge, `[1, 2]`, xy in pixels of the image."""
    inside = deepest_points(torch.from_numpy(region.mask)[None])
    return inside + torch.tensor([[region.x0, region.y0]], dtype=torch.float32)


@torch.no_grad()
def _overlaps(low_res: Tensor, truth: Sequence[Region], size: tuple[int, int]) -> list[list[Overlap]]:
    """Overlap of masks with the truth of their objects, at full resolution.

    One mask at a time is brought to the image's size, which bounds memory, and looked at where the object is; counts
    are read from the device once.

    Args:
        low_res: logits `[N, M, h, w]`.
        truth: of the N objects.
        size: (H, W) of the image.

    Returns:
        M overlaps for each of the N objects.
    """
    counts: list[Tensor] = []
    for masks, region in zip(low_res, truth, strict=True):
        x0, y0, x1, y1 = region.box
        mask = torch.from_numpy(np.ascontiguousarray(region.mask)).to(low_res.device)
        for logits in masks:
            predicted = upscale_masks(logits, size) > MASK_THRESHOLD
            counts += [(predicted[y0:y1, x0:x1] & mask).sum(), predicted.sum()]
    numbers = iter(torch.stack(counts).tolist())
    return [[Overlap(next(numbers), next(numbers), region.area) for _ in range(low_res.shape[1])] for region in truth]


def _three(masks: Tensor, scores: Tensor, truth: Sequence[Region], size: tuple[int, int]) -> list[tuple[float, float]]:
    """IoU of the guess the model ranks first, and of the best by the truth, for each object."""
    ious = [[overlap.iou for overlap in found] for found in _overlaps(masks, truth, size)]
    return [(found[first], max(found)) for found, first in zip(ious, scores.argmax(1).tolist(), strict=True)]


def _results(
    predictor: Predictor,
    embedded: EmbeddedImage,
    image: ImageEntry,
    objects: Sequence[ObjectEntry],
    truth: Sequence[Region],
    config: EvalConfig,
) -> Iterator[ObjectResult]:
    """Everything about the objects of one image."""
    of_box = measure(predictor, embedded, "box", objects, truth, config.chunk)
    of_point = measure(predictor, embedded, "point", objects, truth, config.chunk, guesses=True)
    curves = _click_curves(predictor, embedded, truth, config) if config.clicks else [()] * len(objects)
    for found, region, box, point, curve in zip(objects, truth, of_box, of_point, curves, strict=True):
        filled, ellipse = _trivial(found, region)
        yield ObjectResult(
            image_path=image.image_path,
            annotation_id=found.annotation_id,
            category=found.category,
            group=image.group,
            area=found.area,
            filled_box=filled,
            ellipse=ellipse,
            answers={"box": box, "point": point},
            clicks=curve,
        )


def _trivial(found: ObjectEntry, region: Region) -> tuple[float, float]:
    """IoU of the filled box and of the ellipse inscribed in it.

    Box and mask are looked at where either is; a mask file in JPG may reach a pixel beyond the table's box.
    """
    x0, y0, x1, y1 = (
        change(pair) for change, pair in zip((min, min, max, max), zip(found.box, region.box, strict=True), strict=True)
    )
    box = (found.box[0] - x0, found.box[1] - y0, found.box[2] - x0, found.box[3] - y0)
    height, width = y1 - y0, x1 - x0
    mask = Region(region.mask, region.x0 - x0, region.y0 - y0).paste(height, width)
    return Overlap.of(box_mask(box, height, width), mask).iou, Overlap.of(ellipse_mask(box, height, width), mask).iou


@torch.no_grad()
def _click_curves(
    predictor: Predictor, embedded: EmbeddedImage, truth: Sequence[Region], config: EvalConfig
) -> Iterator[tuple[float, ...]]:
    """IoU after each click of a simulated annotator: first the object's deepest pixel, then the error's, each time."""
    tokens = asked_tokens(predictor.loaded.model, multimask_output=False)
    for start in range(0, len(truth), config.chunk):
        regions = truth[start : start + config.chunk]
        prompts = predictor.to_model_frame(embedded, _prompts("point", [], regions)).to(predictor.device)
        ious: list[list[float]] = []
        for turn in range(config.clicks + 1):
            output = predictor.decode(embedded, prompts, tokens)
            chosen_masks, _ = select_masks(predictor.loaded.model, output, multimask_output=False)
            ious.append([found[0].iou for found in _overlaps(chosen_masks, regions, embedded.size)])
            if turn < config.clicks:
                prompts = _with_corrections(predictor, embedded, prompts, chosen_masks, regions)
        yield from zip(*ious, strict=True)


def _with_corrections(
    predictor: Predictor, embedded: EmbeddedImage, prompts: PromptBatch, chosen_masks: Tensor, truth: Sequence[Region]
) -> PromptBatch:
    """The prompts with one more click at the deepest error, seen at full resolution, and the mask they had led to."""
    clicks: list[tuple[Tensor, Tensor]] = []
    for logits, region in zip(chosen_masks, truth, strict=True):
        predicted = (upscale_masks(logits, embedded.size) > MASK_THRESHOLD).cpu()
        mask = torch.from_numpy(region.paste(*embedded.size))
        clicks.append(correction_clicks(predicted, mask[None], _DEEPEST, _NO_DRAWS))
    points, labels = (torch.cat(parts) for parts in zip(*clicks, strict=True))
    more = predictor.to_model_frame(embedded, PromptBatch.from_clicks(points[:, None], labels[:, None]))
    more = more.to(predictor.device)
    return prompts.with_clicks(more.points[:, 0], more.labels[:, 0]).with_masks(clamp_low_res(chosen_masks.float()))


def _background(
    predictor: Predictor, embedded: EmbeddedImage, image: ImageEntry, truth: Sequence[Region], config: EvalConfig
) -> Iterator[BackgroundResult]:
    """Clicks that no annotation covers: the same ones for every model, whatever else is measured."""
    height, width = embedded.size
    occupied = np.zeros((height, width), bool)
    for region in truth:
        x0, y0, x1, y1 = region.box
        occupied[y0:y1, x0:x1] |= region.mask
    generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed} {image.image_id}".encode()))
    prompts = background_prompts(torch.from_numpy(occupied), config.background_clicks, generator)
    if prompts is None:
        return
    output = predictor.decode(embedded, predictor.to_model_frame(embedded, prompts), NO_TOKENS)
    for score in output.object_score_logits.tolist():
        yield BackgroundResult(image.image_path, image.group, score)


def _no_objects(dataset: Dataset, split: str, images: int) -> DataError:
    present = sorted({str(image.split) for image in dataset.images if image.single_objects})
    return DataError.of(
        expected=f"objects in the {split} split",
        found=f"{images} images without any" if images else "no images",
        where=str(dataset.root),
        do=f"choose --split {' or '.join(present)}" if present else "prepare a dataset that has objects",
    )
