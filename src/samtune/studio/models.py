"""The models of a studio: the one it was started with, its base, and those tuned in it. Each is loaded once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from samtune.api.loading import predictor_of
from samtune.embeddings.cache import encoder_fingerprint
from samtune.errors import ModelError
from samtune.finder.finding import check_fits
from samtune.finder.results import Finder
from samtune.finder.storage import finder_of
from samtune.inference.predictor import Predictor
from samtune.studio.questions import BASE, TUNED
from samtune.studio.store import NotThereError


@dataclass(frozen=True)
class StudioModel:
    """One model.

    Attributes:
        key: what page and journal call it.
        label: what people read.
        source: what `samtune --model` takes.
        predictor: ready for prompts.
    """

    key: str
    label: str
    source: str
    predictor: Predictor

    @cached_property
    def encoder(self) -> str:
        """Models with the same value give the same embeddings."""
        return encoder_fingerprint(self.predictor.loaded.model)

    @property
    def finder(self) -> Finder | None:
        """The finder in the model's run; None where there is none, or one of other weights."""
        return self._finder[0]

    @property
    def finder_note(self) -> str:
        """Why a finder that is in the run is left out; empty where none is."""
        why_not = self._finder[1]
        if not why_not:
            return ""
        return f"The finder in {self.label} is left out: {why_not}. A grid of clicks proposes instead."

    @cached_property
    def _finder(self) -> tuple[Finder | None, str]:
        run = Path(self.source)
        finder, why_not = finder_of(run, self.predictor.loaded) if run.is_dir() else (None, "")
        if finder is not None:
            check_fits(finder, self.predictor)
            finder.head.to(self.predictor.device)
        return finder, why_not


class Models:
    """The models by key. Safe to use from several threads.

    Args:
        start: the model to begin with: a name, a file, a folder or a run.
        base: the model that it was tuned from; left out, the one it names, where that can be had.
        device: where to compute.

    Raises:
        ModelError: one of them cannot be loaded.
    """

    def __init__(self, start: str, base: str | None = None, device: str = "auto") -> None:
        self.device = device
        self._lock = threading.Lock()
        self._labels: dict[str, tuple[str, str]] = {}
        self._loaded: dict[str, StudioModel] = {}
        first = predictor_of(start, device)
        before, name = None, base or first.loaded.base
        if name not in (start, first.loaded.name):
            before = _base(name, device, is_asked=base is not None)
        if before is None:
            self._keep(StudioModel(BASE, _label(start), start, first))
        else:
            self._keep(StudioModel(BASE, _label(name), name, before))
            self._keep(StudioModel(TUNED, _label(start), start, first))
        self.start = self._loaded[BASE if before is None else TUNED]

    @property
    def labels(self) -> dict[str, str]:
        """The models by key, the oldest first, as people read them."""
        return {key: label for key, (label, _) in list(self._labels.items())}

    def add(self, key: str, label: str, source: Path) -> None:
        """Take one more, which is loaded when it is first used."""
        with self._lock:
            self._labels[key] = (label, str(source))

    def get(self, key: str) -> StudioModel:
        """A model, loaded.

        Raises:
            NotThereError: no model of that key.
            ModelError: it cannot be loaded.
        """
        with self._lock:
            if key not in self._labels:
                raise NotThereError.of(
                    expected=f"one of {', '.join(self._labels)}", found=f"no model {key!r}", where="model"
                )
            if key not in self._loaded:
                label, source = self._labels[key]
                self._loaded[key] = StudioModel(key, label, source, predictor_of(source, self.device))
            return self._loaded[key]

    def _keep(self, model: StudioModel) -> None:
        self._labels[model.key] = (model.label, model.source)
        self._loaded[model.key] = model


def _base(name: str, device: str, *, is_asked: bool) -> Predictor | None:
    """The model before tuning; None where nobody asked for it and it is not to be had."""
    try:
        return predictor_of(name, device)
    except ModelError:
        if is_asked:
            raise
        return None


def _label(source: str) -> str:
    return Path(source).name or source
