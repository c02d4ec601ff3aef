"""The model card beside an export: what the model is, what it was tuned on, what was measured, how to load it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from samtune import __version__
from samtune.errors import ModelError
from samtune.finder.results import Finder
from samtune.finder.verdict import judge
from samtune.model.catalogue import hub_name
from samtune.model.io.loaded import LoadedModel

_USE = {
    "hf": """```python
from transformers import Sam2Model, Sam2Processor  # the processor needs torchvision

model = Sam2Model.from_pretrained("FOLDER")
processor = Sam2Processor.from_pretrained("FOLDER")
```

`samtune predict images --model FOLDER --out masks` needs no torchvision.""",
    "official": """```python
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

predictor = SAM2ImagePredictor(build_sam2("{config}", "{file}"))
```""",
    "official-yaml": """```python
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

GlobalHydra.instance().clear()
initialize_config_dir("/absolute/path/to/this/folder", version_base="1.2")
predictor = SAM2ImagePredictor(build_sam2("{config}", "{file}"))
# sam2 1.1.0 takes 1024 pixels for granted in this one place:
predictor._bb_feat_sizes = [({size} // stride,) * 2 for stride in (4, 8, 16)]
```""",
    "onnx-anylabeling": """In X-AnyLabeling: Load Custom Model, `{yaml}`; both `.onnx` files stay beside it.""",
    "onnx-transformersjs": """```js
import { Sam2Model, AutoProcessor, RawImage } from "@huggingface/transformers";

const model = await Sam2Model.from_pretrained("FOLDER", { dtype: "fp32" });
const processor = await AutoProcessor.from_pretrained("FOLDER");
const inputs = await processor(await RawImage.read("image.jpg"), { input_boxes: [[[10, 10, 200, 150]]] });
const { pred_masks, iou_scores } = await model(inputs);
```""",
    "onnx-rectlabel": """`{encoder}` gives the features of an image, `{decoder}` the masks (opset {opset}).
RectLabel loads both; for labelme's osam see docs/handoff in samtune's repository.""",
    "adapter": """```python
from peft import PeftModel
from transformers import Sam2Model

model = PeftModel.from_pretrained(Sam2Model.from_pretrained("{base}"), "FOLDER")
```""",
    "adapter-local": """```python
from peft import PeftModel
from transformers import Sam2Model

# BASE is {base} as a folder: samtune export {base} --format hf --out BASE
model = PeftModel.from_pretrained(Sam2Model.from_pretrained("BASE"), "FOLDER")
```""",
}


@dataclass(frozen=True)
class RunFacts:
    """What a run folder says of itself.

    Attributes:
        about: its `run.json`.
        settings: its `config.yaml`.
        rows: its `results.csv`, one row per validation.
        comparison: the `comparison.json` of `samtune compare`, where one was given or stands in the run folder.
    """

    about: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: list[dict[str, str]] = field(default_factory=list)
    comparison: Mapping[str, Any] | None = None


def read_run(run: Path, weights: str, comparison: Path | None = None) -> RunFacts:
    """Read what a run folder says of itself; what is not there is left out.

    Args:
        run: the run folder.
        weights: fingerprint of its model.
        comparison: folder `samtune compare` wrote, if not RUN/comparison.

    Raises:
        ModelError: a file of the run cannot be read, or the given comparison is about other weights.
    """
    results, settings = run / "results.csv", run / "config.yaml"
    try:
        return RunFacts(
            about=json.loads((run / "run.json").read_text(encoding="utf-8")),
            settings=(yaml.safe_load(settings.read_text(encoding="utf-8")) or {}) if settings.is_file() else {},
            rows=list(csv.DictReader(results.read_text(encoding="utf-8").splitlines())) if results.is_file() else [],
            comparison=_read_comparison(run, weights, comparison),
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError.of(
            expected="a run folder with readable run.json, config.yaml and results.csv",
            found=str(error).splitlines()[0],
            where=str(run),
            do="export its checkpoints/best folder instead",
        ) from error


def _read_comparison(run: Path, weights: str, given: Path | None) -> Mapping[str, Any] | None:
    """The verdict on these very weights; one in the run folder that is about earlier ones is left out."""
    folder = given or run / "comparison"
    if given is None and not folder.is_dir():
        return None
    try:
        judged = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        found = {"split": judged["split"], "verdict": judged["verdict"]}
        same = json.loads((folder / "tuned.json").read_text(encoding="utf-8"))["weights"] == weights
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError.of(
            expected="a folder that `samtune compare` wrote, with comparison.json and tuned.json",
            found=str(error).splitlines()[0],
            where=str(folder),
            do="give that folder as --comparison, or leave the option out",
        ) from error
    if given is not None and not same:
        raise ModelError.of(
            expected="a comparison of the model that is exported",
            found="one of other weights",
            where=str(folder),
            do=f"make one: samtune compare DATASET --tuned {run} --out FOLDER",
        )
    return found if same else None


def model_card(
    loaded: LoadedModel, facts: RunFacts | None, kind: str, *, finder: Finder | None = None, **names: str
) -> str:
    """The text of README.md.

    Args:
        loaded: the model.
        facts: of the run that tuned it, if one did.
        kind: `hf`, `official`, `official-yaml`, `adapter` or, on a base that is not on the hub, `adapter-local`: how to
            load it.
        finder: that stands beside the model.
        names: what stands in the loading code: `config`, `file`, `base`.
    """
    base = hub_name(loaded.base) or loaded.base
    head: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "peft" if kind.startswith("adapter") else "transformers",
        "pipeline_tag": "mask-generation",
        "tags": ["sam2", "segmentation", "samtune"],
    }
    if hub_name(loaded.base):
        head["base_model"] = base
    title = f"{loaded.family} tuned with samtune" if facts else loaded.family
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        f"# {title}",
        _what(loaded, facts, base),
        _data(facts) if facts else "",
        _metrics(facts) if facts else "",
        _finder(finder) if finder else "",
        "## How to load it",
        _filled(_USE[kind], names),
        "## Limits",
        "The figures above hold for images like those it was tuned on. Tuning on images shifts video tracking too, "
        "and can forget what the base could do: compare both on your own images before you rely on it. The base's "
        "weights are under Apache-2.0; whether the data's licence lets you pass these on is yours to check."
        if facts
        else "See the base model's own card.",
        f"Written by samtune {__version__}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(loaded: LoadedModel, facts: RunFacts | None, base: str) -> str:
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    rows = [
        ("base", base),
        ("architecture", loaded.family),
        ("input", f"{loaded.image_size} x {loaded.image_size} px"),
        ("parameters", f"{parameters:,}"),
        ("video weights", "of the base, untouched" if loaded.video_state else "none"),
    ]
    if facts:
        trainable = facts.about.get("trainable", {})
        rows.append(("what learned", f"{trainable.get('what', '?')}, {trainable.get('parameters', 0):,} values"))
        rows.append(("steps", str(facts.settings.get("steps", "?"))))
    return _table(("", ""), rows)


def _data(facts: RunFacts) -> str:
    dataset = facts.settings.get("dataset")
    name = Path(str(dataset)).name if dataset else "not recorded"
    split = "train split; the best weights were chosen on its valid split"
    return f"## Data\n\nTuned on the dataset `{_cell(name)}` ({split})."


def _metrics(facts: RunFacts) -> str:
    """Validation before and at the best step; the held-out comparison where there is one."""
    lines = ["## Measured"]
    best = [row for row in facts.rows if row.get("best") == "1"]
    if facts.rows and best:
        first, last = facts.rows[0], best[-1]
        names = [name for name in first if name not in ("step", "best")]
        lines.append(
            "Mean IoU with fixed prompts. The weights were chosen by the valid figures, so these flatter a little."
        )
        lines.append(
            _table(
                ("split/prompt", f"step {first['step']}", f"step {last['step']}"),
                [(name, first[name], last.get(name, "")) for name in names],
            )
        )
    if facts.comparison:
        lines.append(f"Held-out comparison on the {facts.comparison['split']} split: {facts.comparison['verdict']}")
    return "\n\n".join(lines) if len(lines) > 1 else ""


def _finder(finder: Finder) -> str:
    """What `finder.safetensors` is, and what was measured of it."""
    found = judge(finder)
    reasons = ("usable" if found.is_usable else "not usable", *found.reasons)
    return "\n\n".join(
        [
            "## Finder",
            "`finder.safetensors` finds objects without prompts: `samtune predict --find` reads it. `finder.onnx`, "
            "where it stands beside it, is its network for onnxruntime, and `finder_names.onnx` names its masks "
            "(docs/finder.md in samtune's repository). It names: "
            f"{', '.join(_cell(name) for name in finder.names)}. Its scores are calibrated on {finder.chosen_on}.",
            "\n".join(f"- {_cell(reason)}" for reason in reasons),
        ]
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows])


def _cell(text: str) -> str:
    """Text that cannot leave its table cell or code span."""
    return " ".join(text.split()).translate(str.maketrans({"|": "/", "`": "'", "<": "(", ">": ")"}))


def _filled(template: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        template = template.replace("{" + name + "}", value)
    return template
