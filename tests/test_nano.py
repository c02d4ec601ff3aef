"""The small model that ships, and the recipe that makes it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from samtune.config import LossConfig, PretrainConfig, PretrainStage, PromptPolicy
from samtune.model.catalogue import NANO_FOLDER
from samtune.model.decoder.reference import DecoderOutput, decode, select_masks
from samtune.model.encoder.embeddings import ImageEmbeddings, encode
from samtune.model.io.load import load_model
from samtune.model.preprocess import to_model_input, upscale_masks
from samtune.nano import pretraining as recipe
from samtune.nano.architecture import NANO_SIZE, nano_config, untrained_nano
from samtune.nano.augment import TrainingView, turned
from samtune.nano.batches import tight_boxes
from samtune.nano.pretraining import pretrain
from samtune.nano.scenes import object_masks, random_part
from samtune.prompts.batch import PromptBatch
from samtune.prompts.simulate import CorrectionDraws, background_prompts, correction_clicks, deepest_points
from samtune.synthetic.scenes import random_scene
from samtune.training.losses.tuning import hard_iou

CENTER = PromptPolicy(point_at="center", correction_from_object=0.0)


# What ships.


def test_it_fits_into_the_wheel_and_into_the_official_code():
    files = {path.name: path for path in NANO_FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "CARD.md"} <= files.keys()
    assert sum(path.stat().st_size for path in files.values()) <= 12e6
    assert {tensor.dtype for tensor in load_file(files["model.safetensors"]).values()} == {torch.float16}
    stored = json.loads(files["config.json"].read_text())
    decoder = stored["mask_decoder_config"]
    assert (decoder["mlp_dim"], decoder["iou_head_hidden_dim"], decoder["num_attention_heads"]) == (2048, 256, 8)
    assert stored["prompt_encoder_config"]["image_size"] == NANO_SIZE


def test_prompts_and_pixels_share_their_positions():
    for model in (untrained_nano(0), load_model("nano").model):
        pixels = model.shared_image_embedding.positional_embedding
        assert torch.equal(pixels, model.prompt_encoder.shared_embedding.positional_embedding)


@pytest.fixture(scope="module")
def answers() -> dict[str, Tensor]:
    """What the shipped model says about 24 scenes that are not among those it learned from."""
    model = load_model("nano").model.eval()
    found: dict[str, list[Tensor]] = {}
    for seed in range(24):
        scene = random_scene(np.random.default_rng((99, seed)), NANO_SIZE)
        masks = torch.from_numpy(scene.masks[scene.masks.mean((1, 2)) > 0.01][:8])
        if len(masks):
            with torch.no_grad():
                embeddings = encode(model, to_model_input(scene.image, NANO_SIZE)[None])
                occupied = torch.from_numpy(scene.labels > 0)
                for name, value in _ask(model, embeddings, masks, occupied).items():
                    found.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in found.items()}


def _ask(model, embeddings: ImageEmbeddings, masks: Tensor, occupied: Tensor) -> dict[str, Tensor]:
    boxes = tight_boxes(masks)
    output = decode(model, embeddings, PromptBatch.from_boxes(boxes))
    logits, scores = select_masks(model, output, multimask_output=False)
    column, row = (torch.arange(NANO_SIZE) + 0.5 for _ in range(2))
    inside = [
        (line >= low[:, None]) & (line < high[:, None])
        for line, low, high in ((column, boxes[:, 0], boxes[:, 2]), (row, boxes[:, 1], boxes[:, 3]))
    ]
    filled = inside[1][:, :, None] & inside[0][:, None, :]
    clicks = PromptBatch.from_clicks(deepest_points(masks)[:, None])
    clicked = decode(model, embeddings, clicks)
    corrected = _corrected(model, embeddings, clicks, clicked, masks)
    answers = {
        "box": _iou(logits[:, 0], masks),
        "box_score": scores[:, 0],
        "filled": hard_iou(filled[:, None], masks[:, None])[:, 0],
        "click": torch.stack([_iou(clicked.masks[:, token], masks) for token in (1, 2, 3)], dim=1),
        "click_scores": clicked.iou_scores[:, 1:],
        "corrected": corrected,
        "yes": clicked.object_score_logits,
    }
    beside = background_prompts(occupied, 6, torch.Generator().manual_seed(0))
    if beside is not None:
        answers["no"] = decode(model, embeddings, beside).object_score_logits
    return answers


def _corrected(model, embeddings, clicks: PromptBatch, output: DecoderOutput, masks: Tensor) -> Tensor:
    """IoU after three correction clicks, each with the mask before it as a prompt."""
    rows = torch.arange(len(masks))
    logits = output.masks[rows, output.iou_scores[:, 1:].argmax(1) + 1]
    for _ in range(3):
        wrong = upscale_masks(logits, (NANO_SIZE, NANO_SIZE)) > 0
        clicks = clicks.with_clicks(
            *correction_clicks(wrong, masks, CENTER, CorrectionDraws.draw(len(masks), torch.Generator()))
        )
        clicks = clicks.with_masks(logits[:, None].clamp(-32, 32))
        logits = select_masks(model, decode(model, embeddings, clicks), multimask_output=False)[0][:, 0]
    return _iou(logits, masks)


def _iou(logits: Tensor, masks: Tensor) -> Tensor:
    return hard_iou(upscale_masks(logits, (NANO_SIZE, NANO_SIZE))[:, None] > 0, masks[:, None])[:, 0]


def test_boxes_beat_the_filled_box(answers):
    assert answers["box"].mean() > answers["filled"].mean() + 0.05
    assert answers["box"].mean() > 0.6


def test_clicks_find_objects_and_corrections_help(answers):
    rows = torch.arange(len(answers["click"]))
    first = answers["click"][rows, answers["click_scores"].argmax(1)]
    assert first.mean() > 0.35
    assert answers["corrected"].mean() > first.mean()


def test_the_three_guesses_differ(answers):
    """The best of three is better than any one token alone: the tokens mean different things."""
    assert answers["click"].amax(1).mean() > answers["click"].mean(0).max() + 0.02


def test_predicted_iou_ranks(answers):
    scores, reached = (
        torch.cat([answers["box_score"], answers["click_scores"].flatten()]),
        torch.cat([answers["box"], answers["click"].flatten()]),
    )
    ranks = torch.stack([values.argsort().argsort().float() for values in (scores, reached)])
    assert torch.corrcoef(ranks)[0, 1] > 0.3


def test_object_score_tells_objects_from_background(answers):
    higher = (answers["yes"][:, None] > answers["no"][None]).float().mean()
    assert higher > 0.6


# The recipe.


@pytest.fixture
def tiny(tmp_path) -> PretrainConfig:
    stages = (
        PretrainStage(subject="prompts", size=64, steps=2, images=2, objects=4),
        PretrainStage(size=64, steps=2, images=1, objects=3, corrections=1.0, loss=LossConfig(focal=20.0)),
    )
    return PretrainConfig(
        out=tmp_path / "whole",
        scenes=3,
        scene_size=96,
        held_out=1,
        workers=1,
        save_every=1,
        measure_every=4,
        stages=stages,
    )


def test_the_recipe_runs_and_an_interrupted_run_ends_with_the_same_weights(tiny, tmp_path):
    lines = []
    whole = pretrain(tiny, lines.append)
    assert set(lines[-1]) == {"step", "held_out_box", "held_out_click"}
    halves = tiny.model_copy(update={"out": tmp_path / "halves"})
    pretrain(halves.model_copy(update={"stages": tiny.stages[:1]}))
    resumed = pretrain(halves)
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert sum(tensor.numel() for tensor in one.values()) * 2 < 12e6


def test_it_starts_from_given_weights(tiny, tmp_path):
    first = pretrain(tiny)
    steps = PretrainStage(size=64, steps=1, images=1, objects=2, lr=1e-9, final_lr=1e-9)
    again = tiny.model_copy(update={"out": tmp_path / "again", "start": str(first), "stages": (steps,)})
    one, two = (load_file(folder / "model.safetensors") for folder in (first, pretrain(again)))
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


def test_prompts_can_be_learned_before_images():
    """Stage one, some steps of it: boxes on noise get their ellipses better and better."""
    model = untrained_nano(0)
    stage = PretrainStage(subject="prompts", size=64, steps=60, images=2, objects=16)
    recipe.set_input_size(model, stage.size)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for step in range(stage.steps):
        loss, _ = recipe.prompt_step(model, stage, recipe.step_generator(0, step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])


def test_a_view_keeps_image_and_labels_together():
    """An image whose colour is its label is still that after cropping, stretching, turning and mirroring."""
    labels = np.kron(np.arange(1, 17, dtype=np.uint16).reshape(4, 4), np.ones((48, 48), np.uint16))
    image = np.repeat((labels * 15).astype(np.uint8)[..., None], 3, axis=2)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        seen, named = random_part(rng, image, labels, 64)
        view = turned(rng, TrainingView(seen, named[None] == named[32, 32], named > 0))
        assert view.image.shape == (64, 64, 3) and view.masks.shape == (1, 64, 64)
        shown = np.abs(view.image[..., 0].astype(int) - int(named[32, 32]) * 15) <= 7
        agree = shown == view.masks[0]
        assert agree.mean() > 0.85


def test_targets_hold_the_parts_of_a_whole():
    labels = np.zeros((32, 32), np.uint16)
    labels[4:28, 4:28], labels[10:24, 10:24] = 1, 2
    masks = object_masks(np.random.default_rng(0), labels, np.array([-1, 0], np.int16), 5)
    assert sorted(int(mask.sum()) for mask in masks) == [14 * 14, 24 * 24]


def test_tight_boxes_have_exclusive_ends():
    mask = torch.zeros(1, 10, 12, dtype=torch.bool)
    mask[0, 2:5, 7:12] = True
    assert tight_boxes(mask).tolist() == [[7, 2, 12, 5]]


def test_the_configuration_fits_every_input_size():
    assert nano_config(512).vision_config.backbone_feature_sizes == [[128, 128], [64, 64], [32, 32]]
