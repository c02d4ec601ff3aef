"""The finder asked about many images, in shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from samtune.config import FindConfig
from samtune.errors import DataError
from samtune.finder.caveats import about_decoder, about_sizes
from samtune.finder.finding import Looks, check_fits, find
from samtune.finder.results import Finder
from samtune.finder.storage import load_finder
from samtune.finder.verdict import judge
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.inference.shards.run import Method
from samtune.inference.shards.work import LoadedImage, MaskAnswer
from samtune.model.io.tensors import hash_tensors


def finder_method(run: Path, predictor: Predictor, config: FindConfig, chunk: int) -> Method:
    """Finding with a run's finder, as what is asked of every shard.

    Raises:
        ModelError: the run has no finder, or one of another encoder.
        ConfigError: no threshold gives the wanted precision or recall.
    """
    finder = load_finder(run)
    check_fits(finder, predictor)
    finder.head.to(predictor.device)
    threshold = finder.chosen_threshold(config)
    ask = AskFinder(predictor, finder, threshold, chunk)
    weights = hash_tensors(finder.head.state_dict())
    return Method(
        {"finder": [weights, threshold]}, dict(enumerate(finder.names, start=1)), lambda job, shard: ask, ask.caveats
    )


class AskFinder:
    """Everything that a finder finds, with names.

    Args:
        predictor: the model whose decoder draws the masks.
        finder: of the same encoder.
        threshold: least calibrated score.
        chunk: prompts per decoder call.
    """

    needs_image = False

    def __init__(self, predictor: Predictor, finder: Finder, threshold: float, chunk: int) -> None:
        self._predictor, self._finder, self._threshold, self._chunk = predictor, finder, threshold, chunk
        self._sizes = Counter[tuple[int, int]]()

    def is_asked(self, row: int) -> bool:
        """Every image is."""
        return True

    def __call__(
        self, images: Sequence[LoadedImage], embedded: Sequence[EmbeddedImage]
    ) -> list[list[MaskAnswer] | DataError]:
        """The finds of each image, the surest first; the score is the calibrated one."""
        answers: list[list[MaskAnswer] | DataError] = []
        for one, other in zip(embedded, self._mirrored(images, embedded), strict=True):
            self._sizes[one.size[1], one.size[0]] += 1
            finds = find(self._predictor, Looks(one, other), self._finder, chunk=self._chunk).above(self._threshold)
            columns = (finds.scores.tolist(), finds.object_scores.tolist(), (finds.classes + 1).tolist())
            masks = torch.from_numpy(finds.logits)
            answers.append([MaskAnswer(*figures) for figures in zip(masks, *columns, strict=True)])
        return answers

    def _mirrored(
        self, images: Sequence[LoadedImage], embedded: Sequence[EmbeddedImage]
    ) -> Sequence[EmbeddedImage | None]:
        """The mirror images after the encoder, for a finder that looks twice."""
        if self._finder.looks == 1:
            return [None] * len(embedded)
        pixels = [one.pixels.flip(-1) for one in images if one.pixels is not None]
        return self._predictor.embed_inputs(pixels, [one.size for one in embedded])

    def caveats(self) -> list[str]:
        """What to keep in mind about the finds of the images asked about so far."""
        word = judge(self._finder)
        doubt = [] if word.is_usable else [f"the finder is not usable: {'; '.join(word.reasons)}"]
        return [*about_decoder(self._finder, self._predictor.loaded), *about_sizes(self._finder, self._sizes), *doubt]
