"""`export`: write a model for other tools, load what was written, compare its masks, and only then put it in place."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeAlias

from peft import PeftModel
from transformers import Sam2Model
from transformers.utils import logging

from samtune.errors import ConfigError, ModelError
from samtune.exports.card import RunFacts, model_card, read_run
from samtune.exports.official_package import official_config, write_official
from samtune.exports.verify import ExportDifference, answers, check, difference
from samtune.finder.results import Finder
from samtune.finder.storage import FILE, finder_of, write_finder
from samtune.model.catalogue import hub_name
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.save import write_model
from samtune.utils.files import new_folder, storage_errors
from samtune.utils.output_folders import check_output
from samtune.utils.results import Result

if TYPE_CHECKING:
    from samtune.exports.onnx.check import OnnxDifference

Format: TypeAlias = Literal["official", "hf", "adapter", "onnx"]
Layout: TypeAlias = Literal["anylabeling", "transformersjs", "rectlabel"]
Precision: TypeAlias = Literal["fp32", "fp16"]
_OFFICIAL_FILE = "model.pt"
_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class ExportReport(Result):
    """What was written and how it was proven.

    Attributes:
        format: `official`, `hf`, `adapter` or `onnx`.
        path: the file or folder.
        difference: between the masks of the export, loaded again, and those of the model it was made from.
        notes: what the user needs to know to load it.
    """

    format: Format
    path: Path
    difference: ExportDifference | OnnxDifference
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report as lines of text."""
        return [f"export     {self.path}", f"checked    {self.difference}", *self.notes]


def export(
    model: str | Path | LoadedModel,
    out: Path,
    format: Format = "official",
    *,
    comparison: Path | None = None,
    layout: Layout | None = None,
    precision: Precision = "fp32",
    opset: int = 18,
) -> ExportReport:
    """Write a model in the layout of other tools.

    Args:
        model: a run, anything `load_model` takes, or a loaded model; an adapter needs a run.
        out: a folder that does not exist or is empty; for `official` also a `.pt` file that does not exist.
        format: `official` loads in the sam2 package, `hf` in transformers, `adapter` in peft, `onnx` in the tool of its
            layout.
        comparison: folder `samtune compare` wrote, whose verdict goes into the model card; RUN/comparison if left out.
        layout: of `onnx`: which tool the files are for, X-AnyLabeling, transformers.js or RectLabel and labelme.
        precision: of `onnx` files: fp16 is the encoder's arithmetic and the decoder's weights.
        opset: of `onnx` files, 18 or later.

    Returns:
        Where it stands and how far its masks are from the model's.

    Raises:
        ConfigError: something stands where the export would; `onnx` without a layout, its packages or a known opset.
        ModelError: the model cannot be loaded, or has no counterpart in this format.
        StorageError: the disk refused.
        SamtuneError: the export, loaded again, answers differently; nothing is kept.
    """
    for place in (out, out.with_suffix(".yaml")) if out.suffix == ".pt" else (out,):
        check_output(place)
    if format == "onnx":
        _check_onnx(layout, opset)
    elif layout is not None:
        raise ConfigError.of(expected="--layout with --format onnx", found=f"--format {format}", where="--layout")
    loaded = load_model(model)
    run = Path(loaded.name).expanduser()
    facts = read_run(run, loaded.fingerprint(), comparison) if (run / "run.json").is_file() else None
    finder, why_not = finder_of(run, loaded)
    match format:
        case "official":
            report = _official(loaded, facts, finder, out)
        case "hf":
            report = _huggingface(loaded, facts, finder, out)
        case "adapter":
            report = _adapter(loaded, facts, run, out)
        case "onnx":
            assert layout is not None
            report = _onnx(loaded, facts, finder, out, layout, precision, opset)
    if finder is not None and (format == "adapter" or out.suffix == ".pt"):
        why_not = "it needs the whole model in a folder"
    return replace(report, notes=(*report.notes, f"finder     left out: {why_not}")) if why_not else report


def _official(loaded: LoadedModel, facts: RunFacts | None, finder: Finder | None, out: Path) -> ExportReport:
    config = official_config(loaded)
    name = out.name if out.suffix == ".pt" else _OFFICIAL_FILE
    yaml = Path(name).with_suffix(".yaml").name
    about_finder: list[str] = []
    with _new_files(out) if out.suffix == ".pt" else new_folder(out) as folder:
        write_official(loaded, folder / name)
        found = difference(answers(load_model(folder / name).model), answers(loaded.model))
        check(found, str(out))
        if out.suffix != ".pt":
            kind = "official" if config else "official-yaml"
            names = {"config": config or yaml, "file": name, "size": str(loaded.image_size)}
            about_finder = _write_finder(finder, loaded, folder)
            (folder / _CARD).write_text(model_card(loaded, facts, kind, finder=finder, **names), encoding="utf-8")
    path = out if out.suffix == ".pt" else out / name
    notes = [f"load with  build_sam2({config or yaml!r}, {path.name!r})"]
    if config is None:
        notes.append(
            f"           after hydra.initialize_config_dir({str(path.parent.resolve())!r}), where {yaml} stands"
        )
    return ExportReport("official", path, found, (*notes, *about_finder))


def _huggingface(loaded: LoadedModel, facts: RunFacts | None, finder: Finder | None, out: Path) -> ExportReport:
    with new_folder(out) as folder:
        write_model(loaded, folder)
        about_finder = _write_finder(finder, loaded, folder)
        (folder / _CARD).write_text(model_card(loaded, facts, "hf", finder=finder), encoding="utf-8")
        with _quiet():
            again = Sam2Model.from_pretrained(folder).eval()
        found = difference(answers(again), answers(loaded.model))
        check(found, str(out))
    return ExportReport("hf", out, found, (f"load with  Sam2Model.from_pretrained({str(out)!r})", *about_finder))


def _write_finder(
    finder: Finder | None, loaded: LoadedModel, folder: Path, opset: int = 18, layout: Layout | None = None
) -> list[str]:
    """A model's finder beside it, in ONNX too where the packages for that are there; what to say about it."""
    if finder is None:
        return []
    write_finder(finder, folder / FILE)
    if _missing_for_onnx():
        return [f"finder     {FILE}; finder.onnx needs: pip install 'samtune[onnx]'"]
    from samtune.exports.onnx.finder import FINDER_ONNX, NAMES_ONNX, write_finder_onnx, write_names_onnx
    from samtune.exports.onnx.graphs import FEATURES
    from samtune.exports.onnx.layouts import NAMES

    features = NAMES[layout].features if layout else FEATURES
    found = write_finder_onnx(finder, loaded, folder / FINDER_ONNX, opset=opset, features=features)
    lines = [f"finder     {FILE}, {FINDER_ONNX}; {found}"]
    if finder.head.classes:
        gap = write_names_onnx(finder, folder / NAMES_ONNX, opset=opset)
        lines.append(f"           {NAMES_ONNX}; names differ by {gap:.1e}")
    return lines


def _adapter(loaded: LoadedModel, facts: RunFacts | None, run: Path, out: Path) -> ExportReport:
    saved = run / "checkpoints" / "adapter"
    what = facts.about.get("trainable", {}).get("what") if facts else None
    if facts is None or what != "lora" or not (saved / "adapter_config.json").is_file():
        raise ModelError.of(
            expected="a run that tuned a LoRA adapter and nothing else (--train lora)",
            found=f"a run that tuned {what}" if what else "no run with an adapter",
            where=str(run),
            do="export the whole model with --format hf",
        )
    base = str(facts.about["base"]["name"])
    public = hub_name(base) or loaded.base
    with new_folder(out) as folder:
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        text = json.dumps(settings | {"base_model_name_or_path": public}, indent=2) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        kind = "adapter" if hub_name(public) else "adapter-local"
        (folder / _CARD).write_text(model_card(loaded, facts, kind, base=public), encoding="utf-8")
        with _quiet():
            adapted = PeftModel.from_pretrained(load_model(base).model, str(folder))
        found = difference(answers(adapted.get_base_model()), answers(loaded.model))  # pyright: ignore[reportArgumentType]
        check(found, str(out))
    return ExportReport("adapter", out, found, (f"load with  PeftModel.from_pretrained(BASE, {str(out)!r})",))


def _check_onnx(layout: Layout | None, opset: int) -> None:
    """Refuse what no ONNX export can be made of, before a model is loaded."""
    if layout is None:
        raise ConfigError.of(
            expected="--layout anylabeling, transformersjs or rectlabel: which tool the files are for",
            found="no layout",
            where="--format onnx",
        )
    missing = _missing_for_onnx()
    if missing:
        raise ConfigError.of(
            expected="the packages that write and check ONNX files",
            found=f"no {', '.join(missing)}",
            where="--format onnx",
            do="pip install 'samtune[onnx]'",
        )
    from samtune.exports.onnx.layouts import NAMES
    from samtune.exports.onnx.write import check_opset

    if layout not in NAMES:
        raise ConfigError.of(expected=f"a layout, one of {', '.join(NAMES)}", found=repr(layout), where="--layout")
    check_opset(opset)


def _missing_for_onnx() -> list[str]:
    """Packages that an ONNX export needs and that are not there."""
    return [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]


def _onnx(
    loaded: LoadedModel,
    facts: RunFacts | None,
    finder: Finder | None,
    out: Path,
    layout: Layout,
    precision: Precision,
    opset: int,
) -> ExportReport:
    from samtune.exports.onnx.write import PROMPTS_OF_EACH_KIND, write_onnx

    name = out.resolve().name
    with new_folder(out) as folder:
        files = write_onnx(
            loaded, folder, layout, name=name, precision=precision, opset=opset, each=PROMPTS_OF_EACH_KIND
        )
        encoder, decoder = (str(path.relative_to(folder)) for path in (files.encoder, files.decoder))
        names = {"encoder": encoder, "decoder": decoder, "yaml": f"{files.stem}.yaml", "opset": str(opset)}
        about_finder = _write_finder(finder, loaded, folder, opset, layout)
        card = model_card(loaded, facts, f"onnx-{layout}", finder=finder, **names)
        (folder / _CARD).write_text(card, encoding="utf-8")
    notes = [f"files      {encoder}, {decoder} (opset {opset}, {precision})"]
    if layout == "anylabeling":
        notes.append(f"load with  X-AnyLabeling: Load Custom Model, {out / names['yaml']}")
    if layout == "rectlabel" and loaded.image_size != 1024:
        notes.append(f"note       RectLabel's own models take 1024 px; this one takes {loaded.image_size} px")
    return ExportReport("onnx", out, files.difference, (*notes, *about_finder))


@contextmanager
def _new_files(out: Path) -> Iterator[Path]:
    """A folder beside the file `out`; what is written there moves to `out`'s side if the block succeeds."""
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=".export.") as name:
            yield Path(name)
            for file in sorted(Path(name).iterdir()):
                file.replace(out.parent / file.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers and peft keep to themselves what is of no use to whoever exports a model."""
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
