"""The official layout: a `.pt` file that `build_sam2` and the official predictors load, and at need a YAML.

The four official sizes with their video weights fit the configurations the official package brings along. Any other
model (nano, or an image model without video weights) gets a YAML of its own beside the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from samtune.errors import ModelError
from samtune.model.architecture import IMAGE, VIDEO, image_config
from samtune.model.catalogue import architecture_name
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.official_layout import CONFIG_KEY, to_official, widened_config
from samtune.model.io.tensors import save_checkpoint

_MODELING = "sam2.modeling"
_LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}


def official_config(loaded: LoadedModel) -> str | None:
    """The official package's configuration for this model, such as `configs/sam2.1/sam2.1_hiera_t.yaml`, or None."""
    name = architecture_name(loaded.config)
    if name is None or not loaded.video_state:
        return None
    version, _, size = name.partition("-hiera-")
    return f"configs/{version}/{version}_hiera_{_LETTERS[size]}.yaml"


def write_official(loaded: LoadedModel, path: Path) -> Path | None:
    """Write `{"model": state_dict}`, and a YAML of the same name where the official package has no configuration.

    Args:
        loaded: any model the official code can build.
        path: the `.pt` file. The caller gives a temporary place, so that a partial file is never seen.

    Returns:
        The YAML file, or None where the package's own configuration fits (`official_config`).

    Raises:
        ModelError: the official code has no way to build this model.
        OSError: the disk refused.
    """
    state = to_official(loaded.config, loaded.model.state_dict() | loaded.video_state)
    described = widened_config(loaded.config) | {"samtune_family": loaded.family, "samtune_base": loaded.base}
    text = None if official_config(loaded) else official_yaml(loaded.config)
    # Copies, so that views of larger tensors do not bring those along.
    save_checkpoint({"model": {k: v.cpu().clone() for k, v in state.items()}, CONFIG_KEY: described}, path)
    if text is None:
        return None
    path.with_suffix(".yaml").write_text(text, encoding="utf-8", newline="\n")
    return path.with_suffix(".yaml")


def official_yaml(config: dict[str, Any]) -> str:
    """A configuration for `build_sam2` of an image model without memory.

    Raises:
        ModelError: the model has memory, but is none of the official sizes.
    """
    if config["model_type"] == VIDEO:
        raise ModelError.of(
            expected="an official size, or a model without video weights",
            found="another size with video weights",
            do="export this model with --format hf",
        )
    assert config["model_type"] == IMAGE
    built: Any = image_config(config)
    vision, decoder = built.vision_config, built.mask_decoder_config
    backbone = vision.backbone_config
    model = {
        "_target_": f"{_MODELING}.sam2_base.SAM2Base",
        "image_encoder": {
            "_target_": f"{_MODELING}.backbones.image_encoder.ImageEncoder",
            "scalp": len(backbone.blocks_per_stage) - vision.num_feature_levels,
            "trunk": {
                "_target_": f"{_MODELING}.backbones.hieradet.Hiera",
                "embed_dim": backbone.hidden_size,
                "num_heads": backbone.num_attention_heads_per_stage[0],
                "q_pool": backbone.num_query_pool_stages,
                "stages": list(backbone.blocks_per_stage),
                "global_att_blocks": list(backbone.global_attention_blocks),
                "window_pos_embed_bkg_spatial_size": list(backbone.window_positional_embedding_background_size),
                "window_spec": list(backbone.window_size_per_stage),
            },
            "neck": _pyramid(vision),
        },
        "memory_attention": None,
        "memory_encoder": None,
        "num_maskmem": 1,
        "image_size": built.prompt_encoder_config.image_size,
        "directly_add_no_mem_embed": True,
        "use_high_res_features_in_sam": True,
        "multimask_output_in_sam": True,
        "iou_prediction_use_sigmoid": True,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "use_multimask_token_for_obj_ptr": True,
        "sam_mask_decoder_extra_args": {
            "dynamic_multimask_via_stability": decoder.dynamic_multimask_via_stability,
            "dynamic_multimask_stability_delta": decoder.dynamic_multimask_stability_delta,
            "dynamic_multimask_stability_thresh": decoder.dynamic_multimask_stability_thresh,
        },
    }
    return "# @package _global_\n" + yaml.safe_dump({"model": model}, sort_keys=False)


def _pyramid(vision: Any) -> dict[str, Any]:
    """The feature pyramid's part of the official YAML."""
    return {
        "_target_": f"{_MODELING}.backbones.image_encoder.FpnNeck",
        "position_encoding": {
            "_target_": f"{_MODELING}.position_encoding.PositionEmbeddingSine",
            "num_pos_feats": vision.fpn_hidden_size,
            "normalize": True,
            "scale": None,
            "temperature": 10000,
        },
        "d_model": vision.fpn_hidden_size,
        "backbone_channel_list": list(vision.backbone_channel_list),
        "kernel_size": vision.fpn_kernel_size,
        "stride": vision.fpn_stride,
        "padding": vision.fpn_padding,
        "fpn_top_down_levels": list(vision.fpn_top_down_levels),
        "fpn_interp_model": "nearest",
    }
