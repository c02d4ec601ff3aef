"""Models: by name, loaded, or as a `Predictor`; the models known by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from samtune.utils.results import Result
from samtune.utils.text import html_table, text_table

if TYPE_CHECKING:
    from samtune.inference.predictor import Predictor
    from samtune.model.catalogue import KnownModel
    from samtune.model.io.loaded import LoadedModel

    Model: TypeAlias = str | Path | LoadedModel | Predictor
    """A model by name or path, or a loaded one, which stays on the device it is on."""


@dataclass(frozen=True, slots=True)
class ModelTable(Result):
    """The models known by name."""

    models: tuple[KnownModel, ...]

    def lines(self) -> list[str]:
        """What to tell the user."""
        return [*text_table(*self._table()), "GFLOPs: of the encoder per image, of the decoder per box"]

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        head = ("model", "parameters", "input", "encoder GFLOPs", "decoder GFLOPs", "licence")
        rows = [
            (
                known.name,
                f"{known.cost.parameters / 1e6:.1f} M",
                f"{known.image_size} px",
                f"{known.cost.encoder_gflops:.1f}",
                f"{known.cost.decoder_gflops:.2f}",
                known.licence,
            )
            for known in self.models
        ]
        return head, rows


def models() -> ModelTable:
    """The models known by name, the one in the package first."""
    from samtune.model.catalogue import catalogue

    return ModelTable(tuple(catalogue()))


def load_model(model: Path | str, *, device: str = "auto") -> LoadedModel:
    """Load a model once, to give it to several functions or to a `Predictor`.

    Args:
        model: `nano`, a hub name, a checkpoint file, a Hugging Face folder or a run.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        ModelError: no such model, or a file that cannot be read or is another model's.
    """
    from samtune.model.io.load import load_model as load
    from samtune.runtime.device import choose_device, configure_process

    chosen = choose_device(device)
    configure_process(chosen)
    return load(model, device=chosen)


def predictor_of(model: Model, device: str) -> Predictor:
    """A model ready for prompts; one given by name is loaded to `device`."""
    from samtune.inference.predictor import Predictor
    from samtune.model.io.loaded import LoadedModel

    if isinstance(model, Predictor):
        return model
    return Predictor(model if isinstance(model, LoadedModel) else load_model(model, device=device))


def name_of(model: Model, predictor: Predictor) -> str:
    """What to call a model in results: as it was asked for."""
    return str(model) if isinstance(model, str | Path) else predictor.loaded.name
