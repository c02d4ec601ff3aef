"""Writing an ONNX export: both graphs, what the tool needs beside them, and the comparison with the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from samtune.errors import ConfigError
from samtune.exports.onnx.check import OnnxDifference, OnnxPredictor, compare, random_prompts, refuse_if_different
from samtune.exports.onnx.graphs import decoder_core, encoder_core, save, with_half_weights
from samtune.exports.onnx.layouts import NAMES, Layout, Precision, Sizes, decoder, encoder
from samtune.exports.verify import probe_image
from samtune.model.io.loaded import LoadedModel
from samtune.model.preprocess import processor_config

OPSETS = range(18, 24)
"""Opsets the exporter writes. 18 is what onnxruntime 1.14 and later read; PyTorch's exporter has no older one."""
PROMPTS_OF_EACH_KIND = 4
"""Compared before an export is kept; the proofs compare more."""


@dataclass(frozen=True, slots=True)
class OnnxFiles:
    """What was written into a folder.

    Attributes:
        encoder, decoder: files.
        stem: the model's name in file names.
        difference: between the masks the tool shows and samtune's own.
    """

    encoder: Path
    decoder: Path
    stem: str
    difference: OnnxDifference


def check_opset(opset: int) -> None:
    """Refuse an opset that cannot be written.

    Raises:
        ConfigError: too old or too new.
    """
    if opset not in OPSETS:
        raise ConfigError.of(
            expected=f"an opset from {OPSETS[0]} to {OPSETS[-1]}",
            found=str(opset),
            where="--opset",
            do="leave it at 18, which onnxruntime 1.14 and later read; PyTorch's exporter writes no older one",
        )


def write_onnx(
    loaded: LoadedModel, folder: Path, layout: Layout, *, name: str, precision: Precision, opset: int, each: int
) -> OnnxFiles:
    """Write a model's ONNX files in a layout, load them with onnxruntime and compare their masks.

    Args:
        loaded: the model.
        folder: exists.
        layout: of which tool.
        name: of the model, for file names and the tool's menu.
        precision: fp16 is the encoder's arithmetic and the decoder's weights; the decoder computes in float32, which
            its masks need. Inputs and outputs are float32 in any case.
        opset: of the operations.
        each: prompts of each kind that are compared.

    Raises:
        SamtuneError: the masks differ.
        OSError: the disk refused.
    """
    half = precision == "fp16"
    names, suffix = NAMES[layout], "_fp16" if half else ""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    paths = [folder / part.format(name=stem, suffix=suffix) for part in (names.encoder, names.decoder)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    config: Any = loaded.model.config.mask_decoder_config
    sizes = Sizes(loaded.image_size, int(config.hidden_size))
    save(encoder(encoder_core(loaded.model, torch.float16 if half else torch.float32, opset), layout, sizes), paths[0])
    core = decoder_core(loaded.model, opset)
    save(decoder(with_half_weights(core) if half else core, layout, sizes), paths[1])
    if layout == "anylabeling":
        text = yaml.safe_dump(anylabeling_config(stem, name, paths[0].name, paths[1].name), sort_keys=False)
        (folder / f"{stem}.yaml").write_text(text, encoding="utf-8")
    if layout == "transformersjs":
        for file, content in transformersjs_configs(loaded).items():
            (folder / file).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tool = OnnxPredictor(paths[0], paths[1], layout)
    found = compare(loaded, tool, random_prompts(loaded, layout, each), probe_image())
    refuse_if_different(found, precision, str(folder))
    return OnnxFiles(paths[0], paths[1], stem, found)


def anylabeling_config(stem: str, display_name: str, encoder_file: str, decoder_file: str) -> dict[str, Any]:
    """The YAML that X-AnyLabeling loads by "Load Custom Model"; paths are relative to it."""
    return {
        "type": "segment_anything_2",
        "name": stem,
        "provider": "samtune",
        "display_name": display_name,
        "encoder_model_path": encoder_file,
        "decoder_model_path": decoder_file,
    }


def transformersjs_configs(loaded: LoadedModel) -> Mapping[str, dict[str, Any]]:
    """`config.json` and `preprocessor_config.json`, as transformers.js' `Sam2Model` and `Sam2Processor` read them."""
    size = loaded.image_size
    config: dict[str, Any] = loaded.model.config.to_dict()
    levels = config["vision_config"].get("num_feature_levels", 3)
    return {
        "config.json": config
        | {
            "architectures": ["Sam2Model"],
            "model_type": "sam2",
            "vision_config": config["vision_config"] | {"num_feature_levels": levels},
        },
        "preprocessor_config.json": processor_config(size)
        | {"do_pad": False, "pad_size": {"height": size, "width": size}},
    }
