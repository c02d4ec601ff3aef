"""A finder on disk: one safetensors file, its network's weights and, as JSON in the file's header, all else it is.

RUN/finder/finder.safetensors   the finder
RUN/finder/finder.json          what it is and what was measured, for people
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from samtune.errors import ModelError
from samtune.finder.calibration import ScoreCalibration
from samtune.finder.head import FinderHead
from samtune.finder.matching import OperatingPoint
from samtune.finder.naming import Namer, OutlineNames, Voices
from samtune.finder.results import Finder, Quality
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.tensors import disk_errors
from samtune.utils.files import new_folder, share, write_json

FOLDER, FILE, ABOUT = "finder", "finder.safetensors", "finder.json"
FORMAT = 1
_CALIBRATION, _POINTS, _QUALITY, _SIDES, _VOICES = (
    TypeAdapter(ScoreCalibration),
    TypeAdapter(tuple[OperatingPoint, ...]),
    TypeAdapter(Quality | None),
    TypeAdapter(tuple[tuple[int, int], ...]),
    TypeAdapter(Voices),
)
_OF_OUTLINES = "outline_names."
"""What the names of the tensors begin with that are not the network's."""


def save_finder(finder: Finder, folder: Path) -> None:
    """Write a finder's folder as a whole or not at all.

    Raises:
        StorageError: the disk refused; what stood there before still stands.
    """
    with new_folder(folder) as temporary:
        write_finder(finder, temporary / FILE)
        write_json(temporary / ABOUT, _described(finder))


def write_finder(finder: Finder, file: Path) -> None:
    """Write a finder's one file.

    Raises:
        OSError: the disk refused.
    """
    weights = finder.head.state_dict()
    if finder.namer.outline_names is not None:
        weights.update(finder.namer.outline_names.state_dict(prefix=_OF_OUTLINES))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with disk_errors():
        save_file(tensors, file, metadata={"format": "pt", "finder": json.dumps(_described(finder))})
    share(file)


def load_finder(path: Path) -> Finder:
    """Read a finder.

    Args:
        path: a run, its `finder` folder, the file, or an exported `.pt` file beside which it stands.

    Raises:
        ModelError: no finder there, a file that cannot be read, or one of another version.
    """
    beside = path.with_name(FILE) if path.suffix == ".pt" else path
    file = next((place for place in (path / FOLDER / FILE, path / FILE) if place.is_file()), beside)
    if not file.is_file():
        is_run = (path / "run.json").is_file()
        raise ModelError.of(
            expected="a run with a finder",
            found="a run without one" if is_run else "a model without one" if path.exists() else "no such folder",
            where=str(path),
            do=f"train one: samtune find-train {path}"
            if is_run
            else "tune a model first: samtune train DATASET --finder",
        )
    try:
        with safe_open(file, framework="pt") as content:
            about: dict[str, Any] = json.loads((content.metadata() or {})["finder"])
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, not {FORMAT}")
        head = FinderHead(about["channels"], about["head_classes"], width=about["width"], context=about["context"])
        head.load_state_dict({name: one for name, one in tensors.items() if not name.startswith(_OF_OUTLINES)})
        return Finder(
            head=head.eval().requires_grad_(False),
            classes=tuple(about["classes"]),
            namer=_namer(about, tensors),
            most=int(about["most"]),
            looks=int(about.get("looks", 1)),
            image_size=int(about["image_size"]),
            encoder=str(about["encoder"]),
            decoder=str(about["decoder"]),
            calibration=_CALIBRATION.validate_python(about["calibration"]),
            points=_POINTS.validate_python(about["points"]),
            chosen_on=str(about["chosen_on"]),
            rare=tuple((str(name), int(count)) for name, count in about["rare"]),
            sides=_SIDES.validate_python(about.get("sides", ())),
            quality=_QUALITY.validate_python(about["quality"]),
            about=about["about"],
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, ValidationError) as error:
        raise ModelError.of(
            expected=f"a finder that samtune wrote, format {FORMAT}",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            where=str(file),
            do="train it again: samtune find-train RUN",
        ) from error


def _namer(about: dict[str, Any], tensors: dict[str, Tensor]) -> Namer:
    """What a finder names by; those of files that do not say so name by the class maps alone."""
    voices = _VOICES.validate_python(about.get("voices", {}))
    of_outlines = {
        name.removeprefix(_OF_OUTLINES): one for name, one in tensors.items() if name.startswith(_OF_OUTLINES)
    }
    if not of_outlines:
        return Namer(None, voices)
    outline_names = OutlineNames(about["head_classes"])
    outline_names.load_state_dict(of_outlines)
    return Namer(outline_names.eval().requires_grad_(False), voices)


def has_finder(run: Path) -> bool:
    """Whether a finder stands beside a model."""
    return any((run / place).is_file() for place in (Path(FOLDER) / FILE, FILE))


def finder_of(run: Path, loaded: LoadedModel) -> tuple[Finder | None, str]:
    """The finder that stands beside a model and was made for it, or None and why one that is there is left out.

    Raises:
        ModelError: it cannot be read.
    """
    if not has_finder(run):
        return None, ""
    finder = load_finder(run)
    if finder.decoder != loaded.fingerprint():
        return None, "it was made for other weights; samtune find-train makes it anew"
    return finder, ""


def _described(finder: Finder) -> dict[str, Any]:
    head = finder.head
    return {
        "format": FORMAT,
        "channels": list(head.channels),
        "head_classes": head.classes,
        "width": head.from_coarse.out_channels,
        "context": len(head.context) > 0,
        "classes": list(finder.classes),
        "voices": asdict(finder.namer.voices),
        "most": finder.most,
        "looks": finder.looks,
        "image_size": finder.image_size,
        "encoder": finder.encoder,
        "decoder": finder.decoder,
        "calibration": asdict(finder.calibration),
        "points": [asdict(point) for point in finder.points],
        "chosen_on": finder.chosen_on,
        "rare": [list(one) for one in finder.rare],
        "sides": [list(one) for one in finder.sides],
        "quality": None if finder.quality is None else asdict(finder.quality),
        "about": finder.about,
    }
