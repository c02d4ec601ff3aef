"""Learning to name: a classifier of outlines from the decoder's own masks, and how much each voice counts.

The decoder draws training objects from their true boxes, since it will draw the finds too. The weights are chosen on
held-out images, by how likely they make the right names, and stay near `EXPECTED` where there are few of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from samtune.config import FinderConfig
from samtune.data.low_res import LowResTargets
from samtune.data.table import ImageEntry
from samtune.data.views import AS_IS, MIRRORED
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.finder.finding import Looks, answer_boxes, look
from samtune.finder.head import FinderHead
from samtune.finder.losses import class_weights
from samtune.finder.naming import Namer, OutlineNames, Voices, likelihoods
from samtune.finder.outlines import outlines
from samtune.finder.training import FinderExample, in_view, views_of
from samtune.inference.predictor import EmbeddedImage, Predictor

MOST_DRAWN = 4000
"""Training objects that the decoder draws, at most; of many images a few of each."""
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)
COMPANY = (100.0, 30.0, 10.0, 3.0)
EXPECTED = Voices(maps=0.5, outline=1.0)
"""Of the class maps half: they are surer of themselves than they are right."""
PULL = 2.0
"""Loss of being 1 away from `EXPECTED`, in units of objects of which each is one image's only one."""
COMPANY_PULL = 1.0
"""Loss of letting an image's objects speak for each other, in the same unit: only where that is worth it."""
_STEPS, _LR, _WEIGHT_DECAY = 300, 5e-3, 0.05


@dataclass(frozen=True)
class Heard:
    """What class maps and outlines say of the objects of one image, drawn from their true boxes.

    Attributes:
        by_maps, by_outline: logits `[N, K]`.
        classes: int64 `[N]`, the right ones; -1 for a class that the finder does not know.
    """

    by_maps: Tensor
    by_outline: Tensor
    classes: Tensor


def drawn_of_one(views: int) -> int:
    """How many objects of a view the decoder draws to learn from, at most, where there are so many views."""
    return max(1, MOST_DRAWN // views)


def learn_outlines(
    predictor: Predictor, embeddings: DatasetEmbeddings, train: Sequence[FinderExample], classes: int, seed: int
) -> OutlineNames:
    """A classifier of outlines, from the masks that the decoder draws of training objects.

    Args:
        predictor: the tuned model.
        embeddings: of the dataset's images.
        train: what to learn from, some views of it; at least one object.
        classes: K.
        seed: which objects are taken where there are many, and of the weights.
    """
    each = drawn_of_one(len(train))
    rng = np.random.default_rng(seed)
    found, right = list[Tensor](), list[Tensor]()
    for one in train:
        rows = torch.from_numpy(rng.permutation(len(one.truth))[:each])
        embedded = EmbeddedImage(embeddings([one.view]), (one.image.height, one.image.width))
        found.append(outlines(answer_boxes(predictor, embedded, one.truth.boxes[rows]).logits).cpu())
        right.append(one.truth.classes[rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fitted(torch.cat(found), torch.cat(right), classes)


def _fitted(found: Tensor, right: Tensor, classes: int) -> OutlineNames:
    """A classifier of so many outlines `[N, COLUMNS]`."""
    names = OutlineNames(classes)
    names.get_buffer("mean").copy_(found.mean(0))
    names.get_buffer("scale").copy_(1 / found.std(0, correction=0).clamp(min=1e-3))
    weights = class_weights(right.bincount(minlength=classes))
    optimizer = torch.optim.AdamW(names.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        loss = F.cross_entropy(names(found), right, weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return names.eval().requires_grad_(False)


def seen_from(embeddings: DatasetEmbeddings, image: ImageEntry, looks: int) -> Looks:
    """A dataset's image as a finder of so many looks sees it, from the kept embeddings."""
    size = image.height, image.width
    return Looks(*(EmbeddedImage(embeddings([View(image, change)]), size) for change in (AS_IS, MIRRORED)[:looks]))


@torch.no_grad()
def hear(
    predictor: Predictor,
    embeddings: DatasetEmbeddings,
    head: FinderHead,
    outline_names: OutlineNames,
    examples: Sequence[FinderExample],
    classes: Sequence[str],
    looks: int,
) -> list[Heard]:
    """What is said of the objects of some images; `classes` are the names that the network knows."""
    namer = Namer(outline_names)
    heard = list[Heard]()
    for one in examples:
        seen = seen_from(embeddings, one.image, looks)
        logits = answer_boxes(predictor, seen.embedded, one.truth.boxes).logits
        known = torch.tensor([found.category in classes for found in one.truth.objects], dtype=torch.bool)
        right = torch.where(known, one.truth.classes, -1)
        heard.append(Heard(*namer.heard(look(head, seen).classes[0], logits), right))
    return heard


def weigh(heard: Sequence[Heard], usual: Sequence[float]) -> Voices:
    """How much each voice counts, chosen on held-out images.

    Args:
        heard: of these images; without any, the answer is `EXPECTED`.
        usual: share of each class before anything is seen, K.
    """
    tried = (
        Voices(maps, outline, company, tuple(usual))
        for maps, outline, company in product(FACTORS, FACTORS, (None, *COMPANY))
    )
    return min(tried, key=lambda voices: _loss(voices, heard))


def _loss(voices: Voices, heard: Sequence[Heard]) -> float:
    """How unlikely the right names are: objects of one image say much the same, so that N count as sqrt(N)."""
    loss = PULL * ((voices.maps - EXPECTED.maps) ** 2 + (voices.outline - EXPECTED.outline) ** 2)
    loss += COMPANY_PULL * (voices.company is not None)
    for one in heard:
        known = one.classes >= 0
        if known.any():
            chances = likelihoods(one.by_maps, one.by_outline, torch.ones(len(known)), voices)
            right = chances[known].gather(1, one.classes[known, None]).clamp(min=1e-4)
            loss -= float(right.log().mean()) * int(known.sum()) ** 0.5
    return loss


def usual_shares(train: Sequence[FinderExample], classes: int) -> tuple[float, ...]:
    """Share of each class as weights of 1 / sqrt(frequency) make a classifier expect it; see `class_weights`."""
    counts = torch.cat([one.truth.classes for one in train]).bincount(minlength=classes)
    shares = (counts + 1.0).sqrt()
    return tuple((shares / shares.sum()).tolist())


def learn_to_name(
    predictor: Predictor,
    embeddings: DatasetEmbeddings,
    head: FinderHead,
    train: Sequence[FinderExample],
    valid: Sequence[FinderExample],
    low_res: LowResTargets,
    classes: Sequence[str],
    config: FinderConfig,
    looks: int,
) -> tuple[Namer, float | None]:
    """All that a finder with classes names by, and the share of held-out objects that it names right.

    Args:
        predictor: the tuned model.
        embeddings: of the dataset's images.
        head: the trained network.
        train: what the finder learned from.
        valid: held-out images; where there are none, weights are `EXPECTED`, and the share is None.
        low_res: the objects' masks.
        classes: names in the order of their numbers.
        config: of the finder.
        looks: how often the finder looks at an image.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    others = range(1, views_of(config, len(train)))
    views = [*train, *(in_view(one, number, low_res, numbers) for number in others for one in train)]
    outline_names = learn_outlines(predictor, embeddings, views, head.classes, config.seed)
    heard = hear(predictor, embeddings, head, outline_names, valid, classes, looks)
    voices = weigh(heard, usual_shares(train, head.classes))
    right = [
        likelihoods(one.by_maps, one.by_outline, torch.ones(len(one.classes)), voices).argmax(1) == one.classes
        for one in heard
    ]
    objects = sum(len(one) for one in right)
    named = float(torch.cat(right).float().mean()) if objects else None
    return Namer(outline_names, voices), named
