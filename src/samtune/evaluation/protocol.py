"""Measuring a model on a split: fixed prompts, masks at full resolution, figures of every object.

Each object is asked for with its exact box, with boxes whose edges moved, with one click at its deepest pixel, and
with that click and a rough outline as a mask. Measured is the mask that a user would get; for the exact box and the
click also the first and the best of the three guesses. Beside every box stand the two trivial guesses, the filled box
and the ellipse inscribed in it. Clicks on the background count how often the model says that nothing is there. A
simulated annotator clicks where the mask is wrong.

The prompts are made beforehand (`fixed_prompts.py`): base and tuned model get the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from torch import Tensor

from samtune.config import CacheConfig, EvalConfig
from samtune.data.masks import Region
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.embeddings.cache import encoder_fingerprint
from samtune.errors import DataError
from samtune.evaluation.annotator import click_curves
from samtune.evaluation.embedding_source import EmbeddingSource
from samtune.evaluation.fixed_prompts import (
    ImagePrompts,
    PromptSet,
    TrueMasks,
    boxes_of,
    clicks_of,
    deepest_click,
    make_prompts,
    masks_of,
    read_truth,
    spread,
)
from samtune.evaluation.full_size import boundary_of, full_size_masks, overlap_of
from samtune.evaluation.metrics import Overlap, box_mask, ellipse_mask
from samtune.evaluation.results import KINDS, MASK, Answer, BackgroundResult, Evaluation, ObjectResult
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.reference import ALL_TOKENS, NO_TOKENS, asked_tokens, select_masks
from samtune.prompts.batch import PromptBatch
from samtune.runtime.distributed import Processes

__all__ = ["KINDS", "Evaluation", "evaluate", "evaluate_all", "measure", "read_truth", "spread"]


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    config: EvalConfig,
    *,
    name: str | None = None,
    prompts: PromptSet | None = None,
    truth: TrueMasks | None = None,
    keep: CacheConfig | None = None,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a model on a split.

    Args:
        predictor: the model.
        dataset: whole; the split is chosen by `config`.
        config: what to measure.
        name: what to call the model in the result.
        prompts: what to ask; made from the dataset and `config` if left out.
        truth: the masks of the dataset, as far as they were read before.
        keep: where the images' embeddings are kept; if left out, the dataset's folder where `config.cache` says so.
        processes: those that share the images; all must call this, and all get the whole result.
        progress: called with images done and their total.

    Raises:
        DataError: the split has no objects, an image or mask cannot be read, or the prompts are about other objects.
    """
    names = [name or predictor.loaded.name]
    return evaluate_all(
        [predictor],
        dataset,
        config,
        names=names,
        prompts=prompts,
        truth=truth,
        keep=keep,
        processes=processes,
        progress=progress,
    )[0]


def evaluate_all(
    predictors: Sequence[Predictor],
    dataset: Dataset,
    config: EvalConfig,
    *,
    names: Sequence[str],
    prompts: PromptSet | None = None,
    truth: TrueMasks | None = None,
    keep: CacheConfig | None = None,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Measure several models on the same prompts; each image is read once, and encoded once where encoders are equal.

    Args, errors: those of `evaluate`, with one name for each model.

    Returns:
        One evaluation per model, in order.
    """
    subjects = [
        Subject(name, predictor, predictor.loaded.fingerprint(), encoder_of(predictor))
        for name, predictor in zip(names, predictors, strict=True)
    ]
    return evaluate_subjects(
        subjects, dataset, config, prompts=prompts, truth=truth, keep=keep, processes=processes, progress=progress
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure.

    Attributes:
        name: what to call it in the result.
        predictor: the model; several subjects may share one whose weights `activate` sets.
        weights: what identifies its weights.
        encoder: what identifies its image embeddings; subjects with the same share them.
        activate: called before the predictor is used.
    """

    name: str
    predictor: Predictor
    weights: str
    encoder: tuple[str, int, str]
    activate: Callable[[], object] = lambda: None


def evaluate_subjects(
    subjects: Sequence[Subject],
    dataset: Dataset,
    config: EvalConfig,
    *,
    prompts: PromptSet | None = None,
    truth: TrueMasks | None = None,
    keep: CacheConfig | None = None,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Measure subjects on the same prompts; the arguments and errors are those of `evaluate_all`."""
    processes = processes or Processes()
    truth = truth or TrueMasks(dataset)
    prompts = prompts or make_prompts(dataset, config, truth=truth)
    embed = EmbeddingSource(dataset, keep or (CacheConfig(cache_dtype="fp32") if config.cache else None))
    entries = matching_entries(dataset, prompts, config)
    images = list(zip(prompts.images, entries, strict=True))
    share = images[processes.rank :: processes.count]

    def measure_share() -> list[list[_ImageResults]]:
        found: list[list[_ImageResults]] = []
        for done, (asked, (image, objects)) in enumerate(share, start=1):
            found.append(_measure_image(subjects, embed, truth, image, asked, objects, config))
            progress(min(done * processes.count, len(images)), len(images))
        return found

    results = _gathered(processes.all_or_none(measure_share), processes)
    split = dataset.split(config.split).images
    crowd = sum(len(image.objects) - len(image.single_objects) for image in split)
    return [
        Evaluation(
            model=subject.name,
            weights=subject.weights,
            dataset=dataset.root.resolve().name,
            config=config,
            images=len(images),
            crowd=crowd,
            left_out=sum(len(image.objects) for image in split)
            - crowd
            - sum(len(one[number].objects) for one in results),
            objects=tuple(found for of_image in results for found in of_image[number].objects),
            background=tuple(found for of_image in results for found in of_image[number].background),
        )
        for number, subject in enumerate(subjects)
    ]


@dataclass(frozen=True, slots=True)
class _ImageResults:
    """What one subject answered about one image."""

    objects: tuple[ObjectResult, ...]
    background: tuple[BackgroundResult, ...]


_SHARE = TypeAdapter(list[list[_ImageResults]])


def _measure_image(
    subjects: Sequence[Subject],
    embed: EmbeddingSource,
    truth: TrueMasks,
    image: ImageEntry,
    asked: ImagePrompts,
    objects: Sequence[ObjectEntry],
    config: EvalConfig,
) -> list[_ImageResults]:
    """All subjects on one image, which is read once and encoded once for each encoder."""
    regions = [truth(one) for one in objects]
    embedded: dict[tuple[str, int, str], EmbeddedImage] = {}
    found: list[_ImageResults] = []
    for subject in subjects:
        subject.activate()
        if subject.encoder not in embedded:
            embedded[subject.encoder] = embed(subject.predictor, subject.encoder, image)
        of_image = embedded[subject.encoder]
        results = tuple(_results(subject.predictor, of_image, image, asked, objects, regions, config))
        found.append(_ImageResults(results, tuple(_background(subject.predictor, of_image, image, asked))))
    return found


def _gathered(share: list[list[_ImageResults]], processes: Processes) -> list[list[_ImageResults]]:
    """The results of all processes, image by image in the order of the prompts."""
    if processes.is_alone:
        return share
    text = _SHARE.dump_json(share).decode()
    shares = [_SHARE.validate_json(processes.broadcast(text, source=rank)) for rank in range(processes.count)]
    longest = max(len(one) for one in shares)
    return [one[place] for place in range(longest) for one in shares if place < len(one)]


def matching_entries(
    dataset: Dataset, prompts: PromptSet, config: EvalConfig
) -> list[tuple[ImageEntry, list[ObjectEntry]]]:
    """The table's entries that prompts are about, in the order of the prompts.

    Raises:
        DataError: the prompts are about another split, or about an image or object that the dataset does not have so.
    """
    if prompts.split != config.split:
        raise _other_prompts(f"prompts about the {prompts.split} split", f"choose --split {prompts.split}")
    images = {image.image_path: image for image in dataset.split(config.split).images}
    found: list[tuple[ImageEntry, list[ObjectEntry]]] = []
    for asked in prompts.images:
        image = images.get(asked.image_path)
        if image is None or (image.width, image.height) != (asked.width, asked.height):
            raise _other_prompts(f"prompts about {asked.image_path}, {asked.width} x {asked.height} pixels")
        known = {one.annotation_id: one for one in image.single_objects}
        for one in asked.objects:
            entry = known.get(one.annotation_id)
            if entry is None or entry.box != tuple(one.box):
                raise _other_prompts(f"prompts about object {one.annotation_id!r} of {asked.image_path}")
        found.append((image, [known[one.annotation_id] for one in asked.objects]))
    return found


def _other_prompts(
    found: str, do: str = "write the prompts again: samtune write-prompts DATASET --out FILE"
) -> DataError:
    return DataError.of(expected="prompts about objects of this dataset as it is now", found=found, do=do)


def encoder_of(predictor: Predictor) -> tuple[str, int, str]:
    """What decides how an image is embedded; tuning the decoder alone does not change it."""
    return encoder_fingerprint(predictor.loaded.model), predictor.loaded.image_size, str(predictor.device)


def measure(
    predictor: Predictor,
    embedded: EmbeddedImage,
    kind: str,
    objects: Sequence[ObjectEntry],
    truth: Sequence[Region],
    chunk: int,
) -> list[Answer]:
    """Ask about objects of one image and compare with the truth, as validation while training does.

    Args:
        predictor: the model.
        embedded: the image.
        kind: `box`, the exact box of the table, or `point`, one click at the deepest pixel.
        objects: which objects to ask for.
        truth: their masks, see `read_truth`.
        chunk: prompts per decoder call.
    """
    if kind == "box":
        prompts = PromptBatch.from_boxes(torch.tensor([found.box for found in objects], dtype=torch.float32))
    else:
        prompts = PromptBatch.from_clicks(torch.cat([deepest_click(region) for region in truth])[:, None])
    return ask(predictor, embedded, prompts, truth, chunk)


def ask(
    predictor: Predictor,
    embedded: EmbeddedImage,
    prompts: PromptBatch,
    truth: Sequence[Region],
    chunk: int,
    *,
    guesses: bool = False,
    boundaries: bool = False,
) -> list[Answer]:
    """Answers to N prompts about one image, compared with the truth.

    Args:
        predictor: the model.
        embedded: the image.
        prompts: in pixels of the image.
        truth: N masks.
        chunk: prompts per decoder call.
        guesses: also measure the three guesses.
        boundaries: also measure how well edges lie.
    """
    answers: list[Answer] = []
    tokens = ALL_TOKENS if guesses else asked_tokens(predictor.loaded.model, multimask_output=False)
    for start in range(0, len(truth), chunk):
        some = slice(start, start + chunk)
        output = predictor.decode(embedded, predictor.to_model_frame(embedded, prompts.select(some)), tokens)
        low_res, scores = select_masks(predictor.loaded.model, output, multimask_output=False)
        masks = [found[0] for found in full_size_masks(low_res, embedded.size)]
        three = _three(output.masks[:, 1:], output.iou_scores[:, 1:], truth[some], embedded.size) if guesses else None
        figures = zip(masks, truth[some], scores[:, 0].tolist(), output.object_score_logits.tolist(), strict=True)
        for row, (mask, region, score, present) in enumerate(figures):
            overlap = overlap_of(mask, region)
            first, best = three[row] if three else (None, None)
            boundary = boundary_of(mask, region, embedded.size) if boundaries else None
            answers.append(Answer(overlap.iou, overlap.dice, score, present, first, best, boundary))
    return answers


def _three(masks: Tensor, scores: Tensor, truth: Sequence[Region], size: tuple[int, int]) -> list[tuple[float, float]]:
    """IoU of the guess the model ranks first, and of the best by the truth, for each object."""
    found = full_size_masks(masks, size)
    ious = [[overlap_of(one, region).iou for one in three] for three, region in zip(found, truth, strict=True)]
    return [(three[first], max(three)) for three, first in zip(ious, scores.argmax(1).tolist(), strict=True)]


def _results(
    predictor: Predictor,
    embedded: EmbeddedImage,
    image: ImageEntry,
    asked: ImagePrompts,
    found: Sequence[ObjectEntry],
    truth: Sequence[Region],
    config: EvalConfig,
) -> Iterator[ObjectResult]:
    """Everything about the objects of one image."""
    if not found:
        return
    objects = asked.objects
    batches = {"box": boxes_of(objects, "box"), "point": clicks_of(objects)}
    batches |= {kind: boxes_of(objects, kind) for kind in objects[0].jittered_boxes}
    if config.mask_prompt:
        batches[MASK] = masks_of(objects, embedded.size, predictor.loaded.mask_size)
    answers = {
        kind: ask(
            predictor,
            embedded,
            batch,
            truth,
            config.chunk,
            guesses=kind in KINDS,
            boundaries=config.boundaries and kind in KINDS,
        )
        for kind, batch in batches.items()
    }
    curves = click_curves(predictor, embedded, objects, truth, config) if config.clicks else [()] * len(objects)
    for number, (entry, region, curve) in enumerate(zip(found, truth, curves, strict=True)):
        filled, ellipse = _trivial(entry, region)
        yield ObjectResult(
            image_path=image.image_path,
            annotation_id=entry.annotation_id,
            category=entry.category,
            group=image.group,
            area=entry.area,
            filled_box=filled,
            ellipse=ellipse,
            answers={kind: of_kind[number] for kind, of_kind in answers.items()},
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


def _background(
    predictor: Predictor, embedded: EmbeddedImage, image: ImageEntry, asked: ImagePrompts
) -> Iterator[BackgroundResult]:
    """Clicks that no annotation covers."""
    if not asked.background:
        return
    prompts = PromptBatch.from_clicks(torch.tensor(asked.background, dtype=torch.float32)[:, None])
    output = predictor.decode(embedded, predictor.to_model_frame(embedded, prompts), NO_TOKENS)
    for score in output.object_score_logits.tolist():
        yield BackgroundResult(image.image_path, image.group, score)
