"""Predictor, automatic masks and predicted files, on a model whose answers are easy to foresee or to compare."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from samtune.config import AutomaticConfig, PredictConfig
from samtune.data.images import SUFFIXES, read_image
from samtune.drawing import draw_overlay
from samtune.errors import ConfigError, DataError
from samtune.inference.automatic import automatic_masks, crops, everything
from samtune.inference.files import predict_files
from samtune.inference.predictor import Predictor
from samtune.inference.remembering import EmbeddingMemory, RememberingPredictor
from samtune.model.io.load import load_model
from samtune.model.preprocess import to_model_input
from samtune.types import Prompt

SIZE = (50, 90)


@pytest.fixture(scope="module")
def predictor(tiny_folder):
    return Predictor(load_model(tiny_folder))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def image_folder(tmp_path, image):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(image[::-1].copy()).save(folder / "b.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predictions_are_what_transformers_hands_out_at_full_size(predictor, image):
    model = predictor.loaded.model
    embedded = predictor.embed(image)
    ours = predictor.predict(embedded, [Prompt.box(10, 5, 60, 40), Prompt.box(0, 0, 90, 50)])
    scale = torch.tensor([64 / 90, 64 / 50] * 2)
    boxes = torch.tensor([[10.0, 5, 60, 40], [0, 0, 90, 50]]) * scale
    with torch.no_grad():
        theirs = model(pixel_values=to_model_input(image, 64)[None], input_boxes=boxes[None], multimask_output=False)
    for row, prediction in enumerate(ours):
        logits = cv2.resize(theirs.pred_masks[0, row, 0].numpy(), SIZE[::-1], interpolation=cv2.INTER_LINEAR)
        assert (prediction.masks[0] != (logits > 0)).mean() < 0.001
        assert prediction.iou_scores[0] == pytest.approx(theirs.iou_scores[0, row, 0].item(), abs=1e-5)
        assert prediction.object_score == pytest.approx(theirs.object_score_logits[0, row, 0].item(), abs=1e-4)


def test_chunks_and_company_change_no_answer(predictor, image):
    prompts = [Prompt.box(10, 5, 60, 40), Prompt.clicks([(30, 30), (70, 10)], [1, 0]), Prompt.clicks([(5, 5)])]
    embedded = predictor.embed(image)
    together = predictor.predict(embedded, prompts, multimask_output=True)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = predictor.predict(embedded, [prompt], multimask_output=True, chunk=1)
        np.testing.assert_allclose(alone.low_res_masks, answer.low_res_masks, atol=1e-4)
        assert alone.masks.shape == (3, *SIZE)


def test_an_earlier_mask_can_be_given_back(predictor, image):
    embedded = predictor.embed(image)
    (first,) = predictor.predict(embedded, [Prompt.box(10, 5, 60, 40)])
    again = Prompt(input_box=np.array([10, 5, 60, 40], np.float32), input_mask=first.low_res_masks)
    (second,) = predictor.predict(embedded, [again])
    assert not np.array_equal(first.low_res_masks, second.low_res_masks)


@pytest.fixture
def says(predictor):
    """Set what the model's object score says, whatever it is shown."""
    bias = predictor.loaded.model.mask_decoder.pred_obj_score_head.proj_out.bias
    before = bias.clone()

    def set_score(value):
        with torch.no_grad():
            bias.fill_(value)

    yield set_score
    with torch.no_grad():
        bias.copy_(before)


def test_automatic_masks_keep_the_thresholds_and_no_duplicates(predictor, image, says):
    says(100.0)
    anything = AutomaticConfig(points_per_side=6, min_iou_score=0.0, min_stability=0.0, duplicate_iou=1.0)
    embedded = predictor.embed(image)
    everything = automatic_masks(predictor, embedded, anything)
    score, stability = (
        float(np.median([getattr(one, name) for one in everything])) for name in ("iou_score", "stability")
    )
    strict = anything.model_copy(update={"min_iou_score": score, "min_stability": stability, "duplicate_iou": 0.5})
    found = automatic_masks(predictor, embedded, strict)
    assert 0 < len(found) < len(everything)
    assert all(one.stability >= stability and one.iou_score >= score for one in found)
    scores = [one.iou_score for one in found]
    assert scores == sorted(scores, reverse=True)
    for index, one in enumerate(found):
        for other in found[:index]:
            overlap = (one.mask & other.mask).sum() / (one.mask | other.mask).sum()
            assert overlap < 0.6  # judged on the low-res grid, so not to the last digit


def test_crops_cover_the_image_and_share_margins():
    for layer in (1, 2):
        windows = list(crops(50, 90, layer))
        assert len(windows) == 4**layer
        seen = np.zeros((50, 90), int)
        for x0, y0, x1, y1 in windows:
            seen[y0:y1, x0:x1] += 1
        assert seen.min() == 1
        assert seen.max() == 4


def test_crops_add_masks_at_their_place_and_none_that_a_crop_cuts(predictor, image, says):
    says(100.0)
    config = AutomaticConfig(points_per_side=4, min_iou_score=0.0, min_stability=0.0, duplicate_iou=0.9)
    whole = everything(predictor, image, config)
    both = everything(predictor, image, config.model_copy(update={"crop_layers": 1, "crop_batch": 3}))
    assert [one.iou_score for one in both] == sorted((one.iou_score for one in both), reverse=True)
    x0, y0, x1, y1 = next(crops(*SIZE, 1))
    crop = predictor.embed(image[y0:y1, x0:x1])
    inside = [one for one in automatic_masks(predictor, crop, config) if one.region.box[2] < 0.9 * (x1 - x0)]
    inside = [one for one in inside if one.region.box[3] < 0.9 * (y1 - y0)]
    known = {one.mask.tobytes() for one in both + whole}
    pasted = [one.region.paste(*SIZE).tobytes() for one in inside]
    assert sum(mask in known for mask in pasted) >= len(pasted) / 2  # the others have a better duplicate
    for one in both:
        assert one.mask.shape == SIZE
        assert one.region.area >= config.min_area


def test_nothing_is_found_where_the_model_says_nothing_is(predictor, image, says):
    says(-100.0)
    config = AutomaticConfig(points_per_side=4, min_iou_score=0.0, min_stability=0.0)
    assert automatic_masks(predictor, predictor.embed(image), config) == []


def test_finding_nothing_is_said_with_the_settings_that_decide(predictor, image_folder, tmp_path, says):
    says(-100.0)
    config = PredictConfig(everything=True, automatic=AutomaticConfig(points_per_side=2))
    report = predict_files(image_folder, predictor, tmp_path / "out", config)
    assert report.lines()[:2] == [
        "0 masks in 2 images",
        "no candidate mask has --automatic.min-iou-score 0.7 and --automatic.min-stability 0.85; "
        "lower values show more, and samtune fit-grid RUN chooses them",
    ]


def test_every_suffix_that_prepare_reads_is_predicted(predictor, image_folder, tmp_path):
    for number, suffix in enumerate(sorted(SUFFIXES)):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(next(iter(sorted(image_folder.iterdir()))), tmp_path / "in" / f"{number}{suffix}")
    shutil.copy(tmp_path / "in" / f"0{min(SUFFIXES)}", tmp_path / "in" / f"._hidden{min(SUFFIXES)}")
    report = predict_files(tmp_path / "in", predictor, tmp_path / "out", PredictConfig(point=("30,30",)))
    assert report.images == len(SUFFIXES)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_files_hold_the_same_masks(predictor, image_folder, tmp_path):
    config = PredictConfig(box=("10,5,60,40",), point=("30,30",))
    report = predict_files(image_folder, predictor, tmp_path / "out", config)
    assert (report.images, report.objects) == (2, 4)
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    masks = sorted((tmp_path / "out/masks").iterdir())
    assert [path.name for path in masks] == ["a.png-000.png", "a.png-001.png", "b.png-000.png", "b.png-001.png"]
    for result, path in zip(results, masks, strict=True):
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 127
        rle = result["segmentation"]
        decoded = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
        assert np.array_equal(decoded.astype(bool), stored)
        assert result["area"] == stored.sum()
    assert {path.name for path in (tmp_path / "out/overlays").iterdir()} == {"a.png.png", "b.png.png"}


def test_everything_is_written_with_the_models_own_scores(predictor, image_folder, tmp_path, says):
    says(3.5)
    anything = AutomaticConfig(points_per_side=3, min_iou_score=0.0, min_stability=0.0)
    predict_files(image_folder, predictor, tmp_path / "out", PredictConfig(everything=True, automatic=anything))
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    found = automatic_masks(predictor, predictor.embed(read_image(image_folder / "a.png")), anything)
    written = [result for result in results if result["file_name"] == "a.png"]
    assert [result["area"] for result in written] == [one.mask.sum() for one in found]
    assert {result["object_score"] for result in written} == {round(one.object_score, 6) for one in found} != {0.0}


def test_boxes_come_from_annotations_and_from_detections(predictor, image_folder, tmp_path):
    annotations = {
        "images": [{"id": 7, "file_name": "sub/b.png"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [10, 5, "50", 35]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(annotations))
    predict_files(image_folder, predictor, tmp_path / "out", PredictConfig(boxes=tmp_path / "boxes.json"))
    (result,) = json.loads((tmp_path / "out/predictions.json").read_text())
    assert (result["image_id"], result["file_name"], result["category_id"]) == (7, "b.png", 3)

    (tmp_path / "found.json").write_text(json.dumps([{"image_id": "b", "category_id": 3, "bbox": [10, 5, 50, 35]}]))
    predict_files(image_folder, predictor, tmp_path / "out", PredictConfig(boxes=tmp_path / "found.json"))
    (again,) = json.loads((tmp_path / "out/predictions.json").read_text())
    assert again["segmentation"] == result["segmentation"]


BAD_BOXES = {
    "no JSON": "{",
    "no COCO": '{"boxes": []}',
    "unknown image": '[{"image_id": "zebra", "bbox": [1, 1, 5, 5]}]',
    "no box": '[{"image_id": "a", "bbox": [1, 1, 5]}]',
    "not a number": '[{"image_id": "a", "bbox": [1, 1, 5, NaN]}]',
    "an id that is a list": '[{"image_id": [1], "bbox": [1, 1, 5, 5]}]',
    "a category in words": '[{"image_id": "a", "category_id": "cat", "bbox": [1, 1, 5, 5]}]',
    "outside": '[{"image_id": "a", "bbox": [500, 1, 5, 5]}]',
}


@pytest.mark.parametrize("text", BAD_BOXES.values(), ids=BAD_BOXES)
def test_bad_boxes_are_named_and_nothing_is_written(predictor, image_folder, tmp_path, text):
    file = tmp_path / "boxes.json"
    file.write_text(text)
    with pytest.raises(DataError):
        predict_files(image_folder, predictor, tmp_path / "out", PredictConfig(boxes=file))
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"boxes.json", "images"}


def test_other_mistakes_are_named(predictor, image_folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="prompts"):
        predict_files(image_folder, predictor, out, PredictConfig())
    with pytest.raises(DataError, match="no such file"):
        predict_files(tmp_path / "nowhere", predictor, out, PredictConfig(point=("3,4",)))
    (image_folder / "c.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(DataError, match=r"c\.png"):
        predict_files(image_folder, predictor, out, PredictConfig(point=("3,4",)))
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="something else"):
        predict_files(image_folder, predictor, out, PredictConfig(point=("3,4",)))
    assert (out / "mine.txt").read_text() == "keep"


def test_overlays_change_the_masked_pixels(image):
    mask = np.zeros(SIZE, bool)
    mask[10:20, 10:30] = True
    drawn = draw_overlay(image, [mask])
    assert np.array_equal(drawn[30:], image[30:])
    assert not np.array_equal(drawn[12:18, 12:28], image[12:18, 12:28])


def test_an_image_seen_lately_is_not_embedded_again(predictor):
    images = [np.full((40, 30, 3), value, np.uint8) for value in (10, 200)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in predictor.embed(images[0]).embeddings.tensors)
    memory = EmbeddingMemory(most_bytes=size)
    first, second = (RememberingPredictor(predictor, "encoder", memory) for _ in range(2))
    found = first.embed(images[0])
    assert second.embed(images[0].copy()) is found and first.embed(images[0][:, ::-1]) is found
    assert RememberingPredictor(predictor, "another", EmbeddingMemory()).embed(images[0]) is not found
    assert first.embed(images[1]) is first.embed(images[1]) and first.embed(images[0]) is not found  # one fits
    assert torch.equal(found.embeddings.image_embeddings, predictor.embed(images[0]).embeddings.image_embeddings)
    nothing = RememberingPredictor(predictor, "encoder", EmbeddingMemory(most_bytes=size - 1))
    assert nothing.embed(images[0]) is not nothing.embed(images[0])
