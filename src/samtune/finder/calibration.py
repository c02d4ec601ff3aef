"""Scores that mean something: of finds scored 0.7, seven in ten are right.

What speaks for a find (objectness, predicted IoU, class, agreement of box and mask) goes through a logistic regression
fitted on held-out images. No evidence may speak against a find, so weights are never negative; and they are pulled
towards what they are on other datasets, so that a few images cannot turn them to anything. Source: Platt (1999), with
several inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EVIDENCE = ("objectness", "predicted_iou", "class", "agreement")
"""The columns of what speaks for a find, each 0 to 1."""
EXPECTED, EXPECTED_BIAS = (1.5, 1.0, 0.5, 0.5), -5.0
"""Before anything is known: about the mean of what five datasets came to (decision 0305)."""
PULL, BIAS_PULL = 3.0, 0.03
"""Strength of the pull towards these, in units of finds: how often a find is right is each dataset's own."""
_EDGE = 1e-4
_ROUNDS = 500
BINS = 10
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """A logistic regression on the logits of the evidence.

    Attributes:
        weights: of each column of `EVIDENCE`, 0 or more.
        bias: of the whole.
    """

    weights: tuple[float, ...] = EXPECTED
    bias: float = EXPECTED_BIAS

    def __call__(self, evidence: Floats) -> Floats:
        """Probability of being right, 0 to 1, `[N]`, for evidence `[N, 4]`; rises with every column, or stays."""
        return _sigmoid(_logits(evidence) @ np.array(self.weights) + self.bias)


def fit(evidence: Floats, right: NDArray[np.bool_]) -> ScoreCalibration:
    """Fit to finds of held-out images.

    Projected gradient descent with a step that the curvature bounds; convex, so it ends at the one best answer.

    Args:
        evidence: `[N, 4]`, each 0 to 1; N may be 0, and the result is then what is expected.
        right: `[N]`, which finds are right.
    """
    x = np.concatenate([_logits(evidence), np.ones((len(evidence), 1))], axis=1)
    expected = np.array([*EXPECTED, EXPECTED_BIAS])
    pull = np.array([PULL] * len(EXPECTED) + [BIAS_PULL])
    scale = np.sqrt((x**2).sum(0) / 4 + pull)  # each column by its own curvature
    step = 1 / (np.linalg.norm(x / scale, 2) ** 2 / 4 + float((pull / scale**2).max()))
    at = expected * scale
    ahead, momentum = at, 1.0
    for _ in range(_ROUNDS):
        w = ahead / scale
        gradient = (x.T @ (_sigmoid(x @ w) - right) + pull * (w - expected)) / scale
        following = ahead - step * gradient
        following[:-1] = following[:-1].clip(min=0.0)
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2  # Nesterov (1983)
        ahead = following + (momentum - 1) / faster * (following - at)
        at, momentum = following, faster
    w = at / scale
    return ScoreCalibration(tuple(float(value) for value in w[:-1]), float(w[-1]))


def calibration_error(scores: Floats, right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |share that is right - mean score| over ten bins of equally many finds, 0 to 1.

    Source: Naeini et al. (2015), with bins of equal mass; 0 where there are no finds.
    """
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, min(BINS, len(order))) if len(part)]
    gaps = [abs(float(right[part].mean()) - float(scores[part].mean())) * len(part) for part in bins]
    return sum(gaps) / len(scores)


def error_by_chance(scores: Floats) -> float:
    """The calibration error that these scores would show if each were exactly right: so few finds are never so even.

    The mean over outcomes drawn from the scores themselves.
    """
    rng = np.random.default_rng(0)
    return float(np.mean([calibration_error(scores, rng.random(len(scores)) < scores) for _ in range(_DRAWS)]))


def _logits(evidence: Floats) -> Floats:
    inside = np.asarray(evidence, np.float64).clip(_EDGE, 1 - _EDGE)
    return np.log(inside) - np.log1p(-inside)


def _sigmoid(logits: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -logits))
