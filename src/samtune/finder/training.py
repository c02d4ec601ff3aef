"""Training a finder's network from kept image embeddings: the encoder does not run again, a step takes milliseconds.

Everything random in a step is a function of the seed and the step, as in the tuning of the decoder. A network that has
not learned its own training images after one cosine of the rate goes on with another, while validation gains by it.
Source: Loshchilov and Hutter (2017).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samtune.config import FinderConfig
from samtune.data.low_res import LowResTargets
from samtune.data.order import EpochOrder
from samtune.data.table import ImageEntry
from samtune.data.views import AS_IS, MIRRORED, Change, change_of
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.errors import DataError
from samtune.finder.head import FinderHead, FinderOutput
from samtune.finder.losses import box_loss, class_loss, class_weights, objectness_loss, pooled
from samtune.finder.matching import best_f1, match, operating_points
from samtune.finder.proposals import box_iou, propose
from samtune.finder.targets import Truth, draw, read_truth

BOX_WEIGHT = 2.0
LEAST_MOST = 100
"""Fewest peaks looked at in an image; else twice the objects of the fullest training image."""
OVERLAPS = (0.5, 0.6, 0.7, 0.8)
"""IoUs of proposed boxes at which validation counts them as right; its F1 is the mean over these."""
ENOUGH_VIEWS, MOST_VIEWS = 200, 16
"""Views of all training images together that are embedded without being asked for, and of one image at most."""
LEAST_LOOKS = 10
"""How often a view is looked at, at least, or there are fewer of them."""
LEARNED = 0.7
"""F1 of boxes on training images from which on more steps are not what a network needs."""
LEAST_GAIN = 0.01
"""What a round must add to the F1 of boxes on validation for another one to follow."""
CLIP = 5.0
_LOOKED_AT = 30
"""Training images on which boxes are measured too."""
_NORMALISED_OVER = 200
"""Images over which the features' mean and spread are measured."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FinderExample:
    """One image, how it is seen, and what is to be found in it."""

    image: ImageEntry
    truth: Truth
    change: Change = AS_IS

    @property
    def view(self) -> View:
        """What its embeddings are asked for by."""
        return View(self.image, self.change)


@dataclass(frozen=True, slots=True)
class HeadValidation:
    """One validation: after `step` steps, the mean F1 of proposed boxes over `OVERLAPS`, and the mean loss since."""

    step: int
    f1: float
    loss: float


@dataclass(frozen=True)
class TrainedHead:
    """What training made.

    Attributes:
        head: the network, in eval mode, with the weights of the best validation.
        step: of these weights.
        most: peaks to look at in an image.
        history: every validation.
    """

    head: FinderHead
    step: int
    most: int
    history: tuple[HeadValidation, ...]


def read_examples(
    images: Sequence[ImageEntry], low_res: LowResTargets, classes: Sequence[str]
) -> tuple[FinderExample, ...]:
    """Images with what is to be found in them; those without objects teach where nothing is."""
    numbers = {name: number for number, name in enumerate(classes)}
    return tuple(FinderExample(image, read_truth(image, low_res, numbers)) for image in images)


def in_view(example: FinderExample, number: int, low_res: LowResTargets, numbers: Mapping[str, int]) -> FinderExample:
    """An image's example as view `number` shows it."""
    change = change_of(example.image, number)
    return FinderExample(example.image, read_truth(example.image, low_res, numbers, change), change)


def views_of(config: FinderConfig, images: int) -> int:
    """How many views of each of so many training images there are: few images are remembered, not learned from."""
    if config.views:
        return config.views
    steps_allow = config.steps * config.images_per_step // (LEAST_LOOKS * images)
    return max(1, min(MOST_VIEWS, round(ENOUGH_VIEWS / images), steps_allow))


class _Lessons:
    """The images of each step; those that are seen in several ways are read when such a view is first used."""

    def __init__(
        self, train: Sequence[FinderExample], low_res: LowResTargets, config: FinderConfig, numbers: Mapping[str, int]
    ) -> None:
        self.low_res = low_res
        self._train, self._config, self._numbers = train, config, numbers
        self._views = views_of(config, len(train))
        self._order = EpochOrder(len(train), config.seed)
        self._seen: dict[tuple[int, int], FinderExample] = {}

    def __call__(self, step: int, rng: np.random.Generator) -> list[FinderExample]:
        """The images of a step; each pass over the data has its own shuffled order."""
        count = self._config.images_per_step
        places = range(step * count, (step + 1) * count)
        return [self._view(self._order(place), int(rng.integers(self._views))) for place in places]

    def class_weights(self, classes: int) -> Tensor:
        """Of K classes, from how often each is there."""
        counts = torch.cat([one.truth.classes for one in self._train]).bincount(minlength=max(classes, 1))
        return class_weights(counts)

    def _view(self, place: int, number: int) -> FinderExample:
        if number == 0:
            return self._train[place]
        if (place, number) not in self._seen:
            self._seen[place, number] = in_view(self._train[place], number, self.low_res, self._numbers)
        return self._seen[place, number]


def train_head(
    embeddings: DatasetEmbeddings,
    train: Sequence[FinderExample],
    valid: Sequence[FinderExample],
    low_res: LowResTargets,
    classes: Sequence[str],
    config: FinderConfig,
    *,
    progress: Progress = lambda done, total: None,
) -> TrainedHead:
    """Train a network.

    Args:
        embeddings: of the dataset's images.
        train: what it learns from; at least one object.
        valid: what the best step is chosen on; without any, the last step of one round is taken.
        low_res: the objects' masks.
        classes: names in the order of their numbers; none for a network that does not name.
        config: steps, rate, seed.
        progress: told of steps done and their total.

    Raises:
        DataError: no object to learn from.
    """
    if not any(len(one.truth) for one in train):
        raise DataError.of(
            expected="at least one object to learn from",
            found=f"{len(train)} training images without any",
            where=str(embeddings.dataset.root),
        )
    head = _new_head(embeddings, train, len(classes), config)
    lessons = _Lessons(train, low_res, config, {name: number for number, name in enumerate(classes)})
    most = max(LEAST_MOST, 2 * max(len(one.truth) for one in train))
    best, best_step, history = copy.deepcopy(head.state_dict()), 0, list[HeadValidation]()
    for turn in range(config.rounds if valid else 1):
        before = max((one.f1 for one in history), default=0.0)
        for step, loss in _round(head, embeddings, lessons, len(classes), config, turn, progress):
            found = HeadValidation(step, box_f1(head.eval(), embeddings, valid, most), loss)
            if not valid or found.f1 >= max((one.f1 for one in history), default=0.0):
                best, best_step = copy.deepcopy(head.state_dict()), step
            history.append(found)
        head.load_state_dict(best)
        has_gained = max(one.f1 for one in history) - before >= LEAST_GAIN
        if not has_gained or box_f1(head.eval(), embeddings, some_of(train), most) >= LEARNED:
            break
    return TrainedHead(head.eval().requires_grad_(False), best_step, most, tuple(history))


def some_of(train: Sequence[FinderExample]) -> Sequence[FinderExample]:
    """Training images on which boxes are measured too, to see whether the network learns, or only remembers."""
    return train[:: max(1, len(train) // _LOOKED_AT)][:_LOOKED_AT]


def _round(
    head: FinderHead,
    embeddings: DatasetEmbeddings,
    lessons: _Lessons,
    classes: int,
    config: FinderConfig,
    turn: int,
    progress: Progress,
) -> Iterator[tuple[int, float]]:
    """One cosine of training: stops for each validation, with the steps done in all rounds and the mean loss since."""
    optimizer = torch.optim.AdamW(_groups(head, config.weight_decay), lr=config.lr if turn == 0 else config.lr / 2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * min(step / config.steps, 1.0))) / 2
    )
    weights = lessons.class_weights(classes).to(embeddings.device)
    every = config.eval_every or max(1, config.steps // 8)
    losses = list[Tensor]()
    head.train()
    for step in range(turn * config.steps, (turn + 1) * config.steps):
        rng = np.random.default_rng((config.seed, step))
        loss = _loss(head, embeddings, lessons(step, rng), lessons.low_res, weights, config, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        done = step + 1
        progress(done, (turn + 1) * config.steps)
        if done % every == 0 or done == (turn + 1) * config.steps:
            yield done, float(torch.stack(losses).mean())
            losses.clear()
            head.train()


@torch.no_grad()
def box_f1(
    head: FinderHead, embeddings: DatasetEmbeddings, examples: Sequence[FinderExample], most: int, looks: int = 1
) -> float:
    """Best F1 that some threshold gives the proposed boxes, whatever their class; the mean over `OVERLAPS`."""
    scores: list[np.ndarray] = []
    right: list[list[np.ndarray]] = [[] for _ in OVERLAPS]
    for one in examples:
        output = head(embeddings([one.view]))
        if looks > 1:
            output = output.mean(head(embeddings([View(one.image, MIRRORED)])).mirrored())
        found = propose(output, 0, most)
        iou, score = box_iou(found.boxes.numpy(), one.truth.boxes.numpy()), found.objectness.numpy()
        scores.append(score)
        for hits, least in zip(right, OVERLAPS, strict=True):
            hits.append(match(iou, score, least) >= 0)
    objects = sum(len(one.truth) for one in examples)
    if not objects:
        return 0.0
    every = np.concatenate(scores).astype(np.float64)
    return float(np.mean([best_f1(operating_points(every, np.concatenate(hits), objects)).f1 for hits in right]))


def _new_head(
    embeddings: DatasetEmbeddings, train: Sequence[FinderExample], classes: int, config: FinderConfig
) -> FinderHead:
    """A network that knows the features' mean and spread and the size of the boxes, and nothing else."""
    places = np.linspace(0, len(train) - 1, min(len(train), _NORMALISED_OVER)).round().astype(int)
    first = embeddings([View(train[0].image)])
    channels = [tensor.shape[1] for tensor in first.tensors]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = FinderHead(channels, classes, width=config.width, context=config.context).to(embeddings.device)
    head.normalise_to(embeddings([View(train[place].image)]) for place in places)
    boxes = torch.cat([one.truth.boxes for one in train])
    head.start_boxes_at(*(boxes[:, 2:] - boxes[:, :2]).median(0).values.tolist())
    return head


def _groups(head: FinderHead, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases and norms do not."""
    matrices = [parameter for parameter in head.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in head.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _loss(
    head: FinderHead,
    embeddings: DatasetEmbeddings,
    chosen: Sequence[FinderExample],
    low_res: LowResTargets,
    weights: Tensor,
    config: FinderConfig,
    rng: np.random.Generator,
) -> Tensor:
    """The loss of one step's images."""
    output = head(embeddings([one.view for one in chosen]), _dropped(head, len(chosen), config.dropout, rng))
    loss = _place_loss(output, [one.truth for one in chosen])
    if head.classes:
        loss = loss + _name_loss(output, chosen, low_res, weights, config.objects_per_image, rng)
    return loss


def _dropped(head: FinderHead, images: int, share: float, rng: np.random.Generator) -> list[Tensor]:
    """Factors of the features' channels that leave out some of them, others in each image; none where `share` is 0.

    Source: Tompson et al. (2015), on the kept features themselves: there are few images, and always the same ones.
    """
    if not share:
        return []
    kept = [rng.random((images, count), np.float32) >= share for count in head.channels]
    device = next(head.parameters()).device
    return [torch.from_numpy(one.astype(np.float32) / (1 - share)).to(device) for one in kept]


def _place_loss(output: FinderOutput, truths: Sequence[Truth]) -> Tensor:
    """Of objectness and boxes."""
    device, size = output.objectness.device, (output.objectness.shape[1], output.objectness.shape[2])
    targets = [draw(truth.boxes, (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2, size) for truth in truths]
    heat = torch.stack([target.heat for target in targets]).to(device)
    counted = torch.stack([~truth.ignored for truth in truths]).to(device)
    proposed = output.boxes()
    near = torch.stack([target.owner >= 0 for target in targets]).to(device)
    owned = torch.cat(
        [truth.boxes[target.owner[target.owner >= 0]] for truth, target in zip(truths, targets, strict=True)]
    )
    weight = torch.cat([target.weight[target.owner >= 0] for target in targets])
    boxes = box_loss(proposed[near], owned.to(device), weight.to(device))
    return objectness_loss(output.objectness, heat, counted) + BOX_WEIGHT * boxes


def _name_loss(
    output: FinderOutput,
    chosen: Sequence[FinderExample],
    low_res: LowResTargets,
    weights: Tensor,
    most: int,
    rng: np.random.Generator,
) -> Tensor:
    """Of the classes of some objects of each image, told from the class maps under their masks."""
    logits, classes = list[Tensor](), list[Tensor]()
    for maps, one in zip(output.classes, chosen, strict=True):
        rows = rng.permutation(len(one.truth))[:most]
        covered = torch.from_numpy(low_res.of([one.truth.objects[row] for row in rows], one.change)).to(maps.device)
        logits.append(pooled(maps, covered.float() / 255))
        classes.append(one.truth.classes[rows])
    return class_loss(torch.cat(logits), torch.cat(classes).to(weights.device), weights)
