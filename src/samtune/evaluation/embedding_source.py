"""The embeddings of an evaluation's images: from the cache where they are kept, from the encoder otherwise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from samtune.config import CacheConfig
from samtune.data.table import Dataset, ImageEntry
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.inference.predictor import EmbeddedImage, Predictor


class EmbeddingSource:
    """Embeds images one after the other; each is read only where it must be.

    Args:
        dataset: where the images are.
        keep: where embeddings are kept, exactly as they are; None: nowhere.
    """

    def __init__(self, dataset: Dataset, keep: CacheConfig | None) -> None:
        self._dataset = dataset
        self._keep = keep
        self._kept: dict[tuple[str, int, str], DatasetEmbeddings] = {}
        self._last: tuple[ImageEntry, NDArray[np.uint8]] | None = None

    def __call__(self, predictor: Predictor, encoder: tuple[str, int, str], image: ImageEntry) -> EmbeddedImage:
        """One image by one model; `encoder` identifies its weights that embed."""
        if self._keep is None:
            if self._last is None or self._last[0] is not image:
                self._last = image, self._dataset.read_image(image)
            return predictor.embed(self._last[1])
        if encoder not in self._kept:
            source = DatasetEmbeddings.open(self._dataset, predictor.loaded, self._keep, predictor.device, "no")
            self._kept[encoder] = source
        with torch.no_grad():
            return EmbeddedImage(self._kept[encoder]([View(image)]), (image.height, image.width))
