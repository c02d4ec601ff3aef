"""The order in which the images of a run come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class EpochOrder:
    """Which of `count` images comes at each place of a run: every image once per epoch, each epoch shuffled anew.

    An epoch's permutation is made once, when a place in it is first asked for, and kept until two later ones have been
    made: reading ahead looks into the next epoch before this one ends. Four bytes for each image and kept epoch.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._kept: dict[int, NDArray[np.uint32]] = {}

    def __call__(self, number: int) -> int:
        """Index of the image at place `number` of the run."""
        epoch, place = divmod(number, self.count)
        order = self._kept.get(epoch)
        if order is None:
            order = self.permutation(epoch)
            self._kept = {**dict(list(self._kept.items())[-1:]), epoch: order}  # replaced whole: threads read it
        return int(order[place])

    def permutation(self, epoch: int) -> NDArray[np.uint32]:
        """The order of one epoch, `[count]`."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.count).astype(np.uint32)
