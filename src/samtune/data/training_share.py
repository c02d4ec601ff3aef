"""A part of a dataset's training split, whole groups of images at a time: what fewer labels would have been."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from samtune.data.table import Dataset
from samtune.types import Split


def with_training_share(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The dataset with a share of its training groups; the other splits are whole.

    With one seed, a smaller share is a part of every larger one. The first group has an object where any has.

    Args:
        dataset: whole.
        share: of the groups of the training split, above 0 and at most 1; at least one group is kept.
        seed: of the order in which groups are taken.
    """
    if share == 1:
        return dataset
    training = dataset.table.filter(pl.col("split") == str(Split.TRAIN))
    groups = np.array(sorted(training["group"].unique().to_list()), dtype=object)
    order = groups[np.random.default_rng(seed).permutation(len(groups))].tolist()
    labelled = set(training.filter(pl.col("mask_path").is_not_null())["group"].to_list())
    first = next((group for group in order if group in labelled), None)
    order = sorted(order, key=lambda group: group != first)  # stable: the others stay as they are
    kept = order[: max(1, round(share * len(order)))]
    table = dataset.table.filter((pl.col("split") != str(Split.TRAIN)) | pl.col("group").is_in(kept))
    return replace(dataset, table=table)
