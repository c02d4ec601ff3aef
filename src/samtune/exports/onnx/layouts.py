"""The three layouts: names, order, types and shapes that each tool's loader expects, as edits of the core graphs.

Sources of the layouts, 2026-11: `anylabeling` is what samexporter writes and X-AnyLabeling's `__base__/sam2.py` loads;
`transformersjs` is what transformers.js' `models/sam2/modeling_sam2.js` feeds; `rectlabel` is what RectLabel documents
and osam's `_models/sam2` (labelme) loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx

from samtune.exports.onnx.graphs import FEATURES, FLOAT, INT64, Editor

Layout: TypeAlias = Literal["anylabeling", "transformersjs", "rectlabel"]
Precision: TypeAlias = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class Names:
    """A layout's names.

    Attributes:
        encoder, decoder: files, with `{name}` for the model's name and `{suffix}` for that of the precision.
        pixels: the encoder's input.
        features: image embedding, features after `conv_s0`, features after `conv_s1`.
        order: of the encoder's outputs, as places in `features`.
    """

    encoder: str
    decoder: str
    pixels: str
    features: tuple[str, str, str]
    order: tuple[int, int, int]


NAMES: dict[Layout, Names] = {
    "anylabeling": Names(
        "{name}.encoder{suffix}.onnx",
        "{name}.decoder{suffix}.onnx",
        "image",
        ("image_embed", "high_res_feats_0", "high_res_feats_1"),
        (1, 2, 0),
    ),
    "transformersjs": Names(
        "onnx/vision_encoder{suffix}.onnx",
        "onnx/prompt_encoder_mask_decoder{suffix}.onnx",
        "pixel_values",
        ("image_embeddings.2", "image_embeddings.0", "image_embeddings.1"),
        (1, 2, 0),
    ),
    "rectlabel": Names(
        "{name}_preprocess{suffix}.onnx",
        "{name}{suffix}.onnx",
        "input",
        ("image_embeddings", "high_res_features1", "high_res_features2"),
        (0, 1, 2),
    ),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sides and channels of a model: S pixels of the input, C channels of the image embedding."""

    size: int
    channels: int

    @property
    def low(self) -> int:
        """Side of low-res masks."""
        return self.size // 4

    @property
    def features(self) -> tuple[list[int], list[int], list[int]]:
        """Shapes of the three features."""
        low, c = self.low, self.channels
        return [1, c, low // 4, low // 4], [1, c // 8, low, low], [1, c // 4, low // 2, low // 2]


def encoder(core: onnx.ModelProto, layout: Layout, sizes: Sizes) -> onnx.ModelProto:
    """The encoder of a layout."""
    names, edit = NAMES[layout], Editor(core)
    edit.rename("pixels", names.pixels)
    for old, new in zip(FEATURES, names.features, strict=True):
        edit.rename(old, new)
    edit.set_inputs((names.pixels, FLOAT, [1, 3, sizes.size, sizes.size]))
    edit.set_outputs(*((names.features[place], FLOAT, sizes.features[place]) for place in names.order))
    return edit.finished()


def decoder(core: onnx.ModelProto, layout: Layout, sizes: Sizes) -> onnx.ModelProto:
    """The decoder of a layout."""
    edit = Editor(core)
    features: list[tuple[str, int, Any]] = []
    for old, new, shape in zip(FEATURES, NAMES[layout].features, sizes.features, strict=True):
        edit.rename(old, new)
        features.append((new, FLOAT, shape))
    build = {"anylabeling": _anylabeling, "transformersjs": _transformersjs, "rectlabel": _rectlabel}[layout]
    build(edit, features, sizes)
    return edit.finished()


def _anylabeling(edit: Editor, features: list[tuple[str, int, Any]], sizes: Sizes) -> None:
    low = sizes.low
    edit.rename("points", "point_coords")
    edit.rename("labels", "point_labels")
    edit.rename("mask", "mask_input")
    edit.rename("has_mask", "has_mask_input")
    _candidates(edit, "masks", "four_masks", "masks")
    _candidates(edit, "scores", "four_scores", "iou_predictions")
    edit.set_inputs(
        *features,
        ("point_coords", FLOAT, ["N", "P", 2]),
        ("point_labels", FLOAT, ["N", "P"]),
        ("mask_input", FLOAT, ["N", 1, low, low]),
        ("has_mask_input", FLOAT, [1]),
    )
    edit.set_outputs(("masks", FLOAT, ["N", 3, low, low]), ("iou_predictions", FLOAT, ["N", 3]))


def _rectlabel(edit: Editor, features: list[tuple[str, int, Any]], sizes: Sizes) -> None:
    low = sizes.low
    edit.rename("points", "point_coords")
    edit.rename("labels", "point_labels")
    edit.rename("has_mask", "has_mask_input")
    edit.rename("masks", "low_res_masks")
    edit.rename("scores", "iou_predictions")
    # osam passes a blank mask of 256 x 256 whatever the model's size; of the right size, this changes nothing.
    edit.before("Shape", ["mask_input"], "mask_count", start=0, end=1)
    edit.integers("mask_rest", 1, low, low)
    edit.before("Concat", ["mask_count", "mask_rest"], "mask_sizes", axis=0)
    _resize(edit.before, "mask_input", "mask_sizes", "mask")
    edit.after("Shape", ["low_res_masks"], "result_count", start=0, end=2)
    edit.after("Concat", ["result_count", "orig_im_size"], "result_sizes", axis=0)
    _resize(edit.after, "low_res_masks", "result_sizes", "masks")
    edit.set_inputs(
        *features,
        ("point_coords", FLOAT, ["N", "P", 2]),
        ("point_labels", FLOAT, ["N", "P"]),
        ("mask_input", FLOAT, ["N", 1, "mask_height", "mask_width"]),
        ("has_mask_input", FLOAT, [1]),
        ("orig_im_size", INT64, [2]),
    )
    edit.set_outputs(
        ("masks", FLOAT, ["N", 4, "H", "W"]),
        ("iou_predictions", FLOAT, ["N", 4]),
        ("low_res_masks", FLOAT, ["N", 4, low, low]),
    )


def _transformersjs(edit: Editor, features: list[tuple[str, int, Any]], sizes: Sizes) -> None:
    """Points and boxes in tensors of their own, either of them empty; one image.

    transformers.js gives, for N click prompts, points `[1, N, P, 2]` and boxes `[1, 0, 4]`; for N boxes, points
    `[1, 1, 0, 2]`, labels `[1, N, 0]` and boxes `[1, N, 4]`; for one box with clicks, one row of each. So the labels
    always say N, and the corners for each prompt are `2 * boxes / N`: two or none.
    """
    low = sizes.low
    edit.integers("two", 2)
    edit.before("Shape", ["input_labels"], "prompt_count", start=1, end=2)
    edit.before("Shape", ["input_labels"], "point_count", start=2, end=3)
    edit.before("Shape", ["input_boxes"], "box_count", start=1, end=2)
    edit.before("Mul", ["box_count", "two"], "corner_total")
    edit.before("Div", ["corner_total", "prompt_count"], "corner_count")
    edit.before("Concat", ["prompt_count", "point_count", "two"], "point_shape", axis=0)
    edit.before("Concat", ["prompt_count", "corner_count", "two"], "corner_shape", axis=0)
    edit.before("Concat", ["prompt_count", "point_count"], "label_shape", axis=0)
    edit.before("Concat", ["prompt_count", "corner_count"], "corner_label_shape", axis=0)
    edit.before("Reshape", ["input_points", "point_shape"], "clicks", allowzero=1)
    edit.before("Reshape", ["input_boxes", "corner_shape"], "corners", allowzero=1)
    edit.before("Concat", ["clicks", "corners"], "points", axis=1)
    edit.before("Cast", ["input_labels"], "float_labels", to=FLOAT)
    edit.before("Reshape", ["float_labels", "label_shape"], "click_labels", allowzero=1)
    edit.constant("both_corners", np.array([2.0, 3.0], np.float32))
    edit.integers("start", 0)
    edit.before("Slice", ["both_corners", "start", "corner_count"], "some_corners")
    edit.before("Expand", ["some_corners", "corner_label_shape"], "corner_labels")
    edit.before("Concat", ["click_labels", "corner_labels"], "labels", axis=1)
    edit.integers("mask_rest", 1, low, low)
    edit.before("Concat", ["prompt_count", "mask_rest"], "mask_shape", axis=0)
    edit.before("ConstantOfShape", ["mask_shape"], "mask")
    edit.constant("has_mask", np.zeros(1, np.float32))
    edit.integers("image_axis", 0)
    _candidates(edit, "masks", "four_masks", "three_masks")
    _candidates(edit, "scores", "four_scores", "three_scores")
    edit.after("Unsqueeze", ["three_scores", "image_axis"], "iou_scores")
    edit.after("Unsqueeze", ["three_masks", "image_axis"], "pred_masks")
    edit.after("Unsqueeze", ["present", "image_axis"], "object_score_logits")
    edit.set_inputs(
        ("input_points", FLOAT, [1, "point_rows", "P", 2]),
        ("input_labels", INT64, [1, "N", "P"]),
        ("input_boxes", FLOAT, [1, "boxes", 4]),
        *(features[place] for place in (1, 2, 0)),
    )
    edit.set_outputs(
        ("iou_scores", FLOAT, [1, "N", 3]),
        ("pred_masks", FLOAT, [1, "N", 3, low, low]),
        ("object_score_logits", FLOAT, [1, "N", 1]),
    )


def _candidates(edit: Editor, old: str, four: str, new: str) -> None:
    """Slots 1 to 3 of an output of the core under a new name."""
    edit.rename(old, four)
    if "candidates" not in {constant.name for constant in edit.graph.initializer}:
        edit.integers("candidates", 1, 2, 3)
    edit.after("Gather", [four, "candidates"], new, axis=1)


def _resize(add: Any, source: str, sizes: str, result: str) -> None:
    """Bilinear resizing without antialiasing, as `upscale_masks` does it."""
    add("Resize", [source, "", "", sizes], result, mode="linear", coordinate_transformation_mode="half_pixel")
