"""The plain decoder against `Sam2Model.forward`, which shows less but is the reference."""

from __future__ import annotations

import pytest
import torch

from samtune.model.decoder.choice import DECODERS
from samtune.model.decoder.reference import (
    ALL_TOKENS,
    MULTIMASK_TOKENS,
    NO_TOKENS,
    SINGLE_TOKEN,
    asked_tokens,
    decode,
    select_masks,
)
from samtune.model.encoder.embeddings import encode
from samtune.prompts.batch import PADDING, PromptBatch

BOXES = torch.tensor([[4.0, 6.0, 40.0, 50.0], [10.0, 10.0, 20.0, 30.0], [1.0, 30.0, 60.0, 63.0]])
POINTS = torch.tensor([[[12.0, 9.0]], [[40.0, 41.0]]])


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("multimask", [True, False])
def test_boxes_give_what_transformers_gives(tiny_model, pixels, multimask):
    with torch.no_grad():
        reference = tiny_model(pixel_values=pixels[:1], input_boxes=BOXES[None], multimask_output=multimask)
        output = decode(tiny_model, encode(tiny_model, pixels[:1]), PromptBatch.from_boxes(BOXES))
        masks, scores = select_masks(tiny_model, output, multimask_output=multimask)
    close(masks, reference.pred_masks[0])
    close(scores, reference.iou_scores[0])
    close(output.object_score_logits, reference.object_score_logits[0, :, 0])


def test_clicks_and_mask_prompt_give_what_transformers_gives(tiny_model, pixels):
    mask = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    points, labels = torch.tensor([[[5.0, 6.0], [30.0, 20.0]]]), torch.tensor([[1, 0]])
    with torch.no_grad():
        reference = tiny_model(
            pixel_values=pixels[:1], input_points=points[None], input_labels=labels[None], input_masks=mask
        )
        prompts = PromptBatch.from_clicks(points, labels).with_masks(mask)
        output = decode(tiny_model, encode(tiny_model, pixels[:1]), prompts)
    close(output.masks[:, 1:], reference.pred_masks[0])


def test_a_mixed_batch_answers_like_each_prompt_alone(tiny_model, pixels):
    """Different lengths, different images, a mask for one of them: neither padding nor company has any influence."""
    mask = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    alone = [
        PromptBatch.from_boxes(BOXES[:1]),
        PromptBatch.from_clicks(POINTS[:1]),
        PromptBatch.from_boxes(BOXES[1:2]).with_masks(mask),
        PromptBatch.from_boxes(BOXES[2:]).with_clicks(torch.tensor([[8.0, 8.0]]), torch.tensor([0])),
    ]
    images = torch.tensor([0, 1, 1, 0])
    together = PromptBatch.cat(alone)
    assert (together.labels == PADDING).any()
    with torch.no_grad():
        embeddings = encode(tiny_model, pixels)
        output = decode(tiny_model, embeddings, together, images)
        for row, (prompt, image) in enumerate(zip(alone, images.tolist(), strict=True)):
            single = decode(tiny_model, embeddings[image], prompt)
            close(output.masks[row], single.masks[0])
            close(output.iou_scores[row], single.iou_scores[0])
            close(output.object_score_logits[row], single.object_score_logits[0])


def test_an_unstable_single_mask_gives_way_to_the_best_of_three(tiny_model, pixels):
    with torch.no_grad():
        output = decode(tiny_model, encode(tiny_model, pixels[:1]), PromptBatch.from_boxes(BOXES))
        output.masks[0, 0] = 0.01  # between the thresholds everywhere: as unstable as can be
        output.masks[1, 0] = 9.0
        masks, scores = select_masks(tiny_model, output, multimask_output=False)
    best = int(output.iou_scores[0, 1:].argmax()) + 1
    assert torch.equal(masks[0, 0], output.masks[0, best])
    assert scores[0, 0] == output.iou_scores[0, best]
    assert torch.equal(masks[1, 0], output.masks[1, 0])


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize("asked", [MULTIMASK_TOKENS, NO_TOKENS, slice(SINGLE_TOKEN, 1)])
def test_masks_nobody_asked_for_are_left_out_and_nothing_else_changes(tiny_model, pixels, name, asked):
    prompts = PromptBatch.from_boxes(BOXES)
    with torch.no_grad():
        embeddings = encode(tiny_model, pixels[:1])
        everything = DECODERS[name](tiny_model, embeddings, prompts)
        some = DECODERS[name](tiny_model, embeddings, prompts, tokens=asked)
    torch.testing.assert_close(some.masks, everything.masks[:, asked])
    assert torch.equal(some.iou_scores, everything.iou_scores)
    assert torch.equal(some.object_score_logits, everything.object_score_logits)


@pytest.mark.parametrize("falls_back", [True, False])
@pytest.mark.parametrize("multimask", [True, False])
def test_what_is_selected_needs_only_the_masks_asked_for(tiny_model, pixels, monkeypatch, falls_back, multimask):
    monkeypatch.setattr(tiny_model.mask_decoder.config, "dynamic_multimask_via_stability", falls_back)
    prompts = PromptBatch.from_boxes(BOXES)
    tokens = asked_tokens(tiny_model, multimask_output=multimask)
    with torch.no_grad():
        embeddings = encode(tiny_model, pixels[:1])
        everything, some = (decode(tiny_model, embeddings, prompts, tokens=wanted) for wanted in (ALL_TOKENS, tokens))
    selected, expected = (select_masks(tiny_model, each, multimask_output=multimask) for each in (some, everything))
    torch.testing.assert_close(selected, expected)
