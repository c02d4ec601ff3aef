"""The loss: what it rewards, that every token learns, that parts of a step add up to the step."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from samtune.config import LossConfig
from samtune.model.decoder.reference import DecoderOutput
from samtune.training.losses.masks import area_cross_entropy, balanced_cross_entropy, edge_cross_entropy, focal_and_dice
from samtune.training.losses.tuning import Counts, binary, hard_iou, tuning_loss


def answers(count: int, seed: int = 0) -> DecoderOutput:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(count, 4, 8, 8, generator=generator).requires_grad_()
    scores = torch.rand(count, 4, generator=generator).requires_grad_()
    return DecoderOutput(masks, scores, torch.randn(count, generator=generator).requires_grad_())


def targets(count: int) -> torch.Tensor:
    found = torch.zeros(count, 8, 8)
    found[:, 2:6, 1:5] = 1.0
    return found


def test_the_right_answer_costs_nothing_and_the_opposite_much():
    target = targets(1)
    right = DecoderOutput(((target * 2 - 1) * 50)[:, None].expand(1, 4, 8, 8), torch.ones(1, 4), torch.tensor([50.0]))
    wrong = DecoderOutput(-right.masks, torch.ones(1, 4), torch.tensor([-50.0]))
    assert tuning_loss(right, target, LossConfig()).total < 1e-4
    assert tuning_loss(wrong, target, LossConfig()).total > 10


def test_the_single_token_and_the_best_of_three_learn_from_every_prompt():
    output = answers(3)
    tuning_loss(output, targets(3), LossConfig()).total.backward()
    learns = output.masks.grad.flatten(2).abs().sum(2) > 0
    assert learns[:, 0].all()
    assert (learns[:, 1:].sum(1) == 1).all()
    assert (output.iou_scores.grad != 0).all()


def test_an_empty_target_teaches_the_object_score_alone():
    output = answers(2)
    tuning_loss(output, torch.zeros(2, 8, 8), LossConfig()).total.backward()
    assert not output.masks.grad.any()
    assert not output.iou_scores.grad.any()
    assert (output.object_score_logits.grad > 0).all()


@pytest.mark.parametrize(("error", "best"), [("absolute", 0.0), ("squared", 0.4)])
def test_the_predicted_iou_is_held_to_the_median_or_to_the_mean(error, best):
    """Two masks of five are right, the others wrong: one prediction for all of them costs least at 0 or at 0.4."""
    target = targets(5)
    right = (target * 2 - 1) * 50
    masks = torch.where(torch.arange(5)[:, None, None] < 2, right, -right)[:, None].expand(5, 4, 8, 8)

    def cost(prediction: float) -> float:
        output = DecoderOutput(masks, torch.full((5, 4), prediction), torch.full((5,), 50.0))
        return float(tuning_loss(output, target, LossConfig(iou_error=error)).parts["iou"])

    predictions = [0.0, 0.1, 0.3, 0.4, 0.5, 1.0]
    assert min(predictions, key=cost) == best


def test_background_counts_as_much_in_the_object_score_as_it_is_told():
    target = targets(4)
    target[1] = 0
    counted = torch.tensor([True, True, True, False])
    for weight in (1.0, 5.0):
        output = answers(4)
        found = tuning_loss(output, target, LossConfig(no_object=weight), counted=counted)
        logits = output.object_score_logits.detach()
        expected = (F.softplus(-logits[0]) + weight * F.softplus(logits[1]) + F.softplus(-logits[2])) / 3
        torch.testing.assert_close(found.parts["object_score"], expected)


def test_the_losses_of_chunks_add_up_to_the_loss_of_the_step():
    output, target = answers(5), targets(5)
    target[3] = 0
    counts = Counts.of(target)
    assert (int(counts.prompts), int(counts.objects)) == (5, 4)
    whole = tuning_loss(output, target, LossConfig(bce=0.5))
    parts = [
        tuning_loss(
            DecoderOutput(output.masks[rows], output.iou_scores[rows], output.object_score_logits[rows]),
            target[rows],
            LossConfig(bce=0.5),
            counts,
        )
        for rows in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    for name, value in whole.parts.items():
        torch.testing.assert_close(value, parts[0].parts[name] + parts[1].parts[name])


def test_focal_loss_without_focus_or_weighting_is_cross_entropy():
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    target = targets(2)
    wanted = target[:, None].expand_as(logits)
    expected = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((2, 3))
    focal, _ = focal_and_dice(logits, target, alpha=-1.0, gamma=0.0)
    torch.testing.assert_close(focal, expected)


def test_dice_loss_is_one_minus_dice():
    predicted = targets(1).roll(2, dims=2)
    _, dice = focal_and_dice(((predicted * 2 - 1) * 100)[:, None], targets(1), alpha=0.25, gamma=2.0)
    assert dice.item() == pytest.approx(1 - (2 * 8 + 1) / (32 + 1))


def plain_focal_and_dice(logits, target, alpha, gamma):
    """By the formulas of the papers, in operations that autograd knows."""
    target = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target) if alpha >= 0 else 1.0
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (weight * (1 - right) ** gamma * entropy).mean((2, 3))
    overlap = 2 * (probability * target).sum((2, 3)) + 1
    return focal, 1 - overlap / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 0.0), (0.6, 1.0), (0.25, 3.5), (0.5, 0.5)])
def test_focal_and_dice_and_their_derivatives_are_those_of_the_plain_formulas(alpha, gamma):
    generator = torch.Generator().manual_seed(2)
    logits = (3 * torch.randn(5, 4, 6, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.rand(5, 6, 7, generator=generator, dtype=torch.float64)
    target[0], target[1] = target[0].round(), 0
    weights = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    weights[:, 2:, 1:] = 0  # masks without a derivative, and a prompt without any
    weights[:, 4] = 0
    found, expected = (
        torch.stack(function(logits, target, alpha, gamma)) for function in (focal_and_dice, plain_focal_and_dice)
    )
    torch.testing.assert_close(found, expected)
    (by_hand,), (by_autograd,) = (torch.autograd.grad((each * weights).sum(), logits) for each in (found, expected))
    assert by_hand[:, 0].any()
    assert not by_hand[2:, 1:].any()
    torch.testing.assert_close(by_hand, by_autograd)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_focal_and_dice_stay_finite_where_the_model_is_sure(dtype, gamma):
    logits = torch.tensor([-200.0, -30.0, 30.0, 200.0], dtype=dtype).repeat(2, 1, 4, 1).requires_grad_()
    target = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    focal, dice = focal_and_dice(logits, target, alpha=0.25, gamma=gamma)
    (focal + dice).sum().backward()
    assert focal.dtype == dice.dtype == torch.float32
    assert focal.isfinite().all()
    assert dice.isfinite().all()
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()


def test_balanced_cross_entropy_weighs_a_small_object_like_its_background():
    target = torch.zeros(1, 1, 8, 8)
    target[0, 0, 0, 0] = 1
    missed = torch.full((1, 1, 8, 8), -3.0)
    invented = torch.where(target > 0, 3.0, 3.0)
    torch.testing.assert_close(balanced_cross_entropy(missed, target), balanced_cross_entropy(invented, target))


def test_binary_keeps_an_object_too_small_for_half_a_pixel():
    faint = torch.zeros(2, 4, 4)
    faint[0, 1, 1], faint[0, 1, 2] = 0.3, 0.1
    faint[1, 0, 0], faint[1, 0, 1] = 1.0, 0.49
    masks = binary(faint)
    assert masks.sum((1, 2)).tolist() == [1, 1]
    assert masks[0, 1, 1]
    assert not binary(torch.zeros(1, 4, 4)).any()


def test_two_empty_masks_agree():
    empty = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert hard_iou(empty, empty).item() == 1.0


def test_area_cross_entropy_is_the_same_for_any_image_around_an_object():
    """Background that is known to be background adds nothing; a mean over the pixels would shrink with it."""
    target = torch.zeros(1, 1, 8, 8)
    target[..., 2:6, 2:6] = 1
    logits = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    around = [F.pad(logits, (8,) * 4, value=-100.0), F.pad(target, (8,) * 4)]
    torch.testing.assert_close(area_cross_entropy(*around), area_cross_entropy(logits, target))


def test_area_cross_entropy_of_a_mask_far_too_large_is_bounded_by_its_own_area():
    target = torch.zeros(1, 1, 64, 64)
    target[..., :4, :4] = 1
    everything = torch.full((1, 1, 64, 64), 3.0)
    sure = -torch.log(torch.sigmoid(torch.tensor(-3.0)))
    assert area_cross_entropy(everything, target).item() < 1.1 * sure.item()
    assert area_cross_entropy(everything, target).item() > 20 * area_cross_entropy(20 * target - 10, target).item()


def test_edge_cross_entropy_looks_at_the_edge_alone():
    """Held to the pixels counted by hand: those within two of the edge, on both sides."""
    target = torch.zeros(1, 1, 16, 16)
    target[..., 4:14, 4:14] = 1.0
    logits = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    edge = torch.zeros(16, 16, dtype=torch.bool)
    edge[2:16, 2:16] = True
    edge[6:12, 6:12] = False
    expected = F.binary_cross_entropy_with_logits(
        logits[:, :, edge], target.expand_as(logits)[:, :, edge], reduction="none"
    ).mean(2)
    torch.testing.assert_close(edge_cross_entropy(logits, target), expected)


def test_what_is_ignored_costs_nothing_and_teaches_nothing():
    """Whatever is predicted in an ignored region: the same loss as if nothing were, and no derivative."""
    output, target = answers(2), targets(2)
    ignored = torch.zeros(2, 8, 8, dtype=torch.bool)
    ignored[:, :, 6:] = True
    config = LossConfig(bce=0.3, area_bce=0.5, edge_bce=0.5)
    loss = tuning_loss(output, target, config, ignored=ignored)
    loss.total.backward()
    assert not output.masks.grad[:, :, :, 6:].any()
    assert output.masks.grad[:, :, :, :6].any()
    other = answers(2)
    with torch.no_grad():
        other.masks[:, :, :, 6:] = 9.0
    torch.testing.assert_close(tuning_loss(other, target, config, ignored=ignored).total, loss.total)
