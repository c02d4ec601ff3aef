"""What a find is called: three voices say it, the class maps under its mask, the mask's outline, the rest of the image.

The class maps see how an object looks, and learn that quickly by heart; an outline is the same in another light. In
many datasets most of an image's objects are of one kind, so that those that are sure of their name help the others.
How much each voice counts is fitted on held-out images (`name_training.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samtune.finder.losses import pooled
from samtune.finder.outlines import COLUMNS, outlines
from samtune.model.preprocess import MASK_THRESHOLD

_CHUNK = 32
"""Masks that are looked at together."""
_ROUNDS = 30
_COMPANY_SHARPNESS = 0.5
"""Logits are halved where an image's objects speak for each other: what misleads one misleads its neighbours too."""
_WIDTH = 32
_DROPOUT = 0.1


@dataclass(frozen=True, slots=True)
class Voices:
    """How much counts for a name.

    Attributes:
        maps: factor of the class maps' logits.
        outline: factor of the outlines' logits.
        company: how many objects of the usual mixture of classes stand against an image's own, above 0; None where an
            image's objects do not speak for each other.
        usual: share of each of K classes before anything is seen, as the classifiers learned it; may be empty where
            `company` is None.
    """

    maps: float = 1.0
    outline: float = 0.0
    company: float | None = None
    usual: tuple[float, ...] = ()


class OutlineNames(nn.Module):
    """A small classifier of outlines.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(COLUMNS))
        self.register_buffer("scale", torch.ones(COLUMNS))
        first, last = nn.Linear(COLUMNS, _WIDTH), nn.Linear(_WIDTH, classes)
        self.layers = nn.Sequential(nn.Dropout(_DROPOUT), first, nn.SiLU(), nn.Dropout(_DROPOUT), last)

    def forward(self, found: Tensor) -> Tensor:
        """Class logits `[N, K]` of outlines `[N, COLUMNS]`."""
        return self.layers((found - self.get_buffer("mean")) * self.get_buffer("scale"))


@dataclass(frozen=True)
class Namer:
    """What a finder names by: its classifier of outlines, where it has one, and how much each voice counts."""

    outline_names: OutlineNames | None = None
    voices: Voices = Voices()

    def heard(self, maps: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What class maps and outlines say of N masks, each alone: logits `[N, K]` both, on the CPU.

        Args:
            maps: class logits `[K, h, w]`, K of at least 1.
            logits: low-res mask logits `[N, h, w]`.
        """
        parts = logits.split(_CHUNK)
        looks = [pooled(maps, (part > MASK_THRESHOLD).float()) for part in parts]
        nothing = torch.zeros(0, len(maps))
        by_maps = torch.cat(looks).cpu() if looks else nothing
        if self.outline_names is None or not looks:
            return by_maps, torch.zeros_like(by_maps)
        return by_maps, torch.cat([self.outline_names(outlines(part).cpu()) for part in parts])

    @torch.no_grad()
    def __call__(
        self, maps: Tensor, logits: Tensor, trust: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The most likely class of each mask of one image, and how likely it is.

        Args:
            maps: class logits `[K, h, w]`; K = 0 calls everything class 0, with certainty.
            logits: low-res mask logits `[N, h, w]`.
            trust: `[N]`, how surely each is an object, 0 to 1: so much it counts where objects speak for each other.
        """
        if not len(maps) or not len(logits):
            return np.zeros(len(logits), np.int64), np.ones(len(logits), np.float32)
        chances = likelihoods(*self.heard(maps, logits), torch.from_numpy(trust), self.voices)
        likely, number = chances.max(1)
        return number.numpy(), likely.float().numpy()


def likelihoods(by_maps: Tensor, by_outline: Tensor, trust: Tensor, voices: Voices) -> Tensor:
    """How likely each class is for N masks of one image, `[N, K]`.

    With `company` the mixture of the image's classes is estimated together with the names, by expectation maximisation:
    Saerens et al. (2002), with a Dirichlet prior.

    Args:
        by_maps, by_outline: logits `[N, K]`.
        trust: `[N]`, 0 to 1.
        voices: how much counts.
    """
    logits = voices.maps * by_maps + voices.outline * by_outline
    if voices.company is None:
        return logits.softmax(1)
    usual = torch.tensor(voices.usual, dtype=logits.dtype)
    logits = logits * _COMPANY_SHARPNESS
    mixture = usual
    for _ in range(_ROUNDS):
        chances = (logits + (mixture / usual).log()).softmax(1)
        mixture = (trust @ chances + voices.company * usual) / (trust.sum() + voices.company)
    return (logits + (mixture / usual).log()).softmax(1)
