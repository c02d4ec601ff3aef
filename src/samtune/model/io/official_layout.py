"""The official checkpoint layout and transformers', both ways, for image and video parts.

An official file is `{"model": state_dict}`. It says nothing of the architecture, so the architecture is recognised from
the shapes of its tensors; samtune's own files carry it along under a second key, which the official code does not look
at. Source of the names: the modules of the official `sam2` package and of transformers' `Sam2VideoModel`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from samtune.errors import ModelError
from samtune.model.architecture import (
    IMAGE,
    MATRIX,
    MATRIX_COPY,
    VIDEO,
    check_complete,
    empty_image_model,
    image_config,
    video_config,
    video_shapes,
)
from samtune.model.catalogue import BACKBONES, Backbone

CONFIG_KEY = "samtune_config"
"""Second key of samtune's official files: the configuration, as in `config.json`."""

_OFFICIAL_MATRIX = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_POINTS, _OFFICIAL_POINTS = "prompt_encoder.point_embed.weight", "sam_prompt_encoder.point_embeddings.{}.weight"
_MLP_DIM, _IOU_DIM = 2048, 256
"""Widths of decoder MLPs and IoU head, which the official code does not let a configuration choose."""
_PLACEHOLDERS = ("maskmem_tpos_enc", "no_mem_pos_enc")
"""Tensors the official code builds even for a model without memory, where nothing reads them."""

_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        # The image encoder.
        (r"^vision_encoder\.backbone\.patch_embed\.projection\.", r"image_encoder.trunk.patch_embed.proj."),
        (r"^vision_encoder\.backbone\.(blocks\.\d+\.)layer_norm", r"image_encoder.trunk.\1norm"),
        (r"^vision_encoder\.backbone\.(blocks\.\d+\.mlp\.)proj_in\.", r"image_encoder.trunk.\1layers.0."),
        (r"^vision_encoder\.backbone\.(blocks\.\d+\.mlp\.)proj_out\.", r"image_encoder.trunk.\1layers.1."),
        (r"^vision_encoder\.backbone\.", r"image_encoder.trunk."),
        (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
        (r"^no_memory_embedding$", r"no_mem_embed"),
        # The prompt encoder.
        (r"^prompt_encoder\.mask_embed\.conv1\.", r"sam_prompt_encoder.mask_downscaling.0."),
        (r"^prompt_encoder\.mask_embed\.layer_norm1\.", r"sam_prompt_encoder.mask_downscaling.1."),
        (r"^prompt_encoder\.mask_embed\.conv2\.", r"sam_prompt_encoder.mask_downscaling.3."),
        (r"^prompt_encoder\.mask_embed\.layer_norm2\.", r"sam_prompt_encoder.mask_downscaling.4."),
        (r"^prompt_encoder\.mask_embed\.conv3\.", r"sam_prompt_encoder.mask_downscaling.6."),
        (r"^prompt_encoder\.", r"sam_prompt_encoder."),
        # The mask decoder.
        (r"^mask_decoder\.upscale_conv1\.", r"sam_mask_decoder.output_upscaling.0."),
        (r"^mask_decoder\.upscale_layer_norm\.", r"sam_mask_decoder.output_upscaling.1."),
        (r"^mask_decoder\.upscale_conv2\.", r"sam_mask_decoder.output_upscaling.3."),
        (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", r"sam_mask_decoder.transformer.norm_final_attn."),
        (r"^mask_decoder\.(transformer\.layers\.\d+\.)layer_norm", r"sam_mask_decoder.\1norm"),
        (r"^mask_decoder\.(transformer\.layers\.\d+\.mlp\.)proj_in\.", r"sam_mask_decoder.\1layers.0."),
        (r"^mask_decoder\.(transformer\.layers\.\d+\.mlp\.)proj_out\.", r"sam_mask_decoder.\1layers.1."),
        (r"^mask_decoder\.", r"sam_mask_decoder."),
        # What only video needs.
        (r"^no_memory_positional_encoding$", r"no_mem_pos_enc"),
        (r"^memory_temporal_positional_encoding$", r"maskmem_tpos_enc"),
        (r"^no_object_pointer$", r"no_obj_ptr"),
        (r"^occlusion_spatial_embedding_parameter$", r"no_obj_embed_spatial"),
        (r"^object_pointer_proj\.", r"obj_ptr_proj."),
        (r"^temporal_positional_encoding_projection_layer\.", r"obj_ptr_tpos_proj."),
        (r"^memory_attention\.layer_norm\.", r"memory_attention.norm."),
        (r"^memory_attention\.(layers\.\d+\.)layer_norm", r"memory_attention.\1norm"),
        (r"^memory_encoder\.feature_projection\.", r"memory_encoder.pix_feat_proj."),
        (r"^memory_encoder\.projection\.", r"memory_encoder.out_proj."),
        (r"^memory_encoder\.mask_downsampler\.final_conv\.", r"memory_encoder.mask_downsampler.encoder.12."),
        (r"^memory_encoder\.memory_fuser\.", r"memory_encoder.fuser."),
        (r"^(memory_encoder\.fuser\.layers\.\d+\.)scale$", r"\1gamma"),
        (r"^(memory_encoder\.fuser\.layers\.\d+\.)layer_norm\.", r"\1norm."),
        (r"^(memory_encoder\.fuser\.layers\.\d+\.)depthwise_conv\.", r"\1dwconv."),
        (r"^(memory_encoder\.fuser\.layers\.\d+\.)pointwise_conv", r"\1pwconv"),
        # In several parts: output projections, and heads of three layers.
        (r"\.o_proj\.", r".out_proj."),
        (r"(_hypernetworks_mlps\.\d+|iou_prediction_head|obj_score_head|obj_ptr_proj)\.layers\.0\.", r"\1.layers.1."),
        (r"(_hypernetworks_mlps\.\d+|iou_prediction_head|obj_score_head|obj_ptr_proj)\.proj_in\.", r"\1.layers.0."),
        (r"(_hypernetworks_mlps\.\d+|iou_prediction_head|obj_score_head|obj_ptr_proj)\.proj_out\.", r"\1.layers.2."),
    ]
]
"""Applied in order to a name in transformers' layout; each takes up what the ones before it left."""
_DOWNSAMPLER = re.compile(r"^memory_encoder\.mask_downsampler\.layers\.(\d+)\.(conv|layer_norm)\.")


def official_name(name: str) -> str:
    """The official name of one tensor of transformers' layout; the two that are not renamed one to one are refused."""
    assert name not in (MATRIX, MATRIX_COPY, _POINTS)
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return _DOWNSAMPLER.sub(
        # Convolution, norm and activation of layer i stand at 3i, 3i + 1 and 3i + 2.
        lambda match: f"memory_encoder.mask_downsampler.encoder.{3 * int(match[1]) + (match[2] == 'layer_norm')}.",
        name,
    )


def to_transformers(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, where: str = "checkpoint"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Bring an official state dict to transformers' layout.

    Args:
        state: official names, with or without `module.` before them.
        config: the architecture, where it came along; else it is recognised from the tensors.
        where: the file's name, for messages.

    Returns:
        The configuration as in `config.json`, and the tensors in transformers' names, not copied where they need not
        be. Video tensors are among them when the checkpoint has them.

    Raises:
        ModelError: another model's checkpoint, or one with tensors missing, left over or of another shape.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    config = dict(config or recognise(state, where))
    shapes = {name: tensor.shape for name, tensor in empty_image_model(config).state_dict().items()}
    shapes |= video_shapes(config)
    names = {name: official_name(name) for name in shapes if name not in (MATRIX, MATRIX_COPY, _POINTS)}
    points = [_OFFICIAL_POINTS.format(i) for i in range(shapes[_POINTS][0])]
    expected = {official: shapes[name] for name, official in names.items()}
    expected |= {_OFFICIAL_MATRIX: shapes[MATRIX]}
    expected |= {name: torch.Size((1, shapes[_POINTS][1])) for name in points}
    if config["model_type"] == IMAGE:
        state = {name: tensor for name, tensor in state.items() if name not in _PLACEHOLDERS}
    check_complete(expected, state, where)
    result = {name: state[official] for name, official in names.items()}
    result[_POINTS] = torch.cat([state[name] for name in points])
    result[MATRIX] = state[_OFFICIAL_MATRIX]
    result[MATRIX_COPY] = state[_OFFICIAL_MATRIX].clone()
    return config, result


def to_official(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors in transformers' layout, image and (if there) video parts, to the official names.

    Decoder MLPs narrower than the official code's fixed width are filled up with zeros, which changes no output: a unit
    whose weights are zero is zero after the activation, and nothing reads it.

    Raises:
        ModelError: the model has no counterpart in the official code.
    """
    if not torch.equal(state[MATRIX], state[MATRIX_COPY]):
        raise ModelError.of(
            expected="one position matrix for pixels and points, as the official code has",
            found="two different ones",
            where=f"{MATRIX} and {MATRIX_COPY}",
            do="export this model with --format hf",
        )
    _check_representable(image_config(config))
    points = state[_POINTS]
    result = {
        official_name(name): tensor for name, tensor in state.items() if name not in (MATRIX, MATRIX_COPY, _POINTS)
    }
    result[_OFFICIAL_MATRIX] = state[MATRIX]
    result |= {_OFFICIAL_POINTS.format(i): points[i : i + 1] for i in range(len(points))}
    if config["model_type"] == IMAGE:
        dim = points.shape[1]
        result |= {"maskmem_tpos_enc": points.new_zeros(1, 1, 1, dim), "no_mem_pos_enc": points.new_zeros(1, 1, dim)}
    return {name: _widened(name, tensor).contiguous() for name, tensor in result.items()}


def widened_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of what `to_official` makes of a model: its decoder MLPs have the official widths."""
    decoder = dict(config["mask_decoder_config"]) | {"mlp_dim": _MLP_DIM, "iou_head_hidden_dim": _IOU_DIM}
    return dict(config) | {"mask_decoder_config": decoder}


def recognise(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The configuration of an official checkpoint, from the names and shapes of its tensors.

    Raises:
        ModelError: the tensors are another model's, or a SAM 2 of a size that is not known.
    """
    _refuse_other_models(state, where)
    backbone = _backbone(state, where)
    has_memory = any(name.startswith(("memory_attention.", "memory_encoder.")) for name in state)
    if not has_memory:
        return image_config({"model_type": IMAGE, "vision_config": backbone.vision_config()}).to_dict()
    newer = "no_obj_embed_spatial" in state or "obj_ptr_tpos_proj.weight" in state
    config = {
        "model_type": VIDEO,
        "vision_config": backbone.vision_config(),
        "enable_occlusion_spatial_embedding": newer,
        "enable_temporal_pos_encoding_for_object_pointers": newer,
    }
    return video_config(config).to_dict()


def _backbone(state: Mapping[str, Tensor], where: str) -> Backbone:
    """The known backbone whose shapes the tensors have."""
    prefix = "image_encoder.trunk."
    blocks = {int(m[1]) for name in state if (m := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name))}
    # A stage starts where the channels change, which takes a projection in the block's shortcut.
    starts = [0, *sorted(i for i in blocks if f"{prefix}blocks.{i}.proj.weight" in state)]
    stages = tuple(end - start for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True))
    position = state.get(f"{prefix}pos_embed")
    shape = tuple(position.shape) if position is not None else ()
    for backbone in BACKBONES.values():
        if stages == backbone.stages and shape == (1, backbone.embed_dim, backbone.background, backbone.background):
            return backbone
    raise ModelError.of(
        expected=f"a SAM 2 of a known size ({', '.join(BACKBONES)})",
        found=f"an image encoder with stages of {list(stages)} blocks and position embedding {list(shape)}",
        where=where,
        do="convert it to a Hugging Face folder, whose config.json states the architecture",
    )


def _refuse_other_models(state: Mapping[str, Tensor], where: str) -> None:
    """Name the family whose checkpoint this is, when it is not SAM 2's."""
    names = list(state)

    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if has("image_encoder.trunk.blocks.") and has("sam_mask_decoder."):
        return
    if has("mask_decoder.hf_token", "mask_decoder.hf_mlp"):
        other = "a checkpoint of HQ-SAM"
    elif has("image_encoder.layers.") and has("mask_decoder."):
        other = "a checkpoint of MobileSAM (TinyViT image encoder)"
    elif has("image_encoder.blocks.") and has("mask_decoder."):
        other = "a checkpoint of SAM 1 (ViT image encoder)"
    elif has("image_encoder.trunk.body.", "spatial_perceiver."):
        other = "a checkpoint of EdgeTAM"
    elif has("detector.", "tracker."):
        other = "a checkpoint of SAM 3"
    elif has("vision_encoder."):
        other = "tensors in transformers' layout without their config.json"
    else:
        other = f"{len(names)} tensors of another kind ({', '.join(sorted(names)[:3])}, ...)"
    raise ModelError.of(
        expected="a checkpoint of SAM 2 or 2.1",
        found=other,
        where=where,
        do="give a SAM 2 checkpoint; `samtune models` lists the known ones",
    )


def _check_representable(config: Any) -> None:
    """Refuse sizes the official classes have no argument for; they fix most of the decoder's."""
    decoder, prompt, vision = config.mask_decoder_config, config.prompt_encoder_config, config.vision_config
    backbone = vision.backbone_config
    doubling = [backbone.hidden_size * 2**i for i in range(len(backbone.blocks_per_stage))]
    heads = [backbone.num_attention_heads_per_stage[0] * 2**i for i in range(len(backbone.blocks_per_stage))]
    rules = {
        "mask_decoder_config.num_attention_heads 8": decoder.num_attention_heads == 8,
        "mask_decoder_config.num_hidden_layers 2": decoder.num_hidden_layers == 2,
        "mask_decoder_config.attention_downsample_rate 2": decoder.attention_downsample_rate == 2,
        "mask_decoder_config.num_multimask_outputs 3": decoder.num_multimask_outputs == 3,
        "mask_decoder_config.iou_head_depth 3": decoder.iou_head_depth == 3,
        f"mask_decoder_config.mlp_dim at most {_MLP_DIM}": decoder.mlp_dim <= _MLP_DIM,
        f"mask_decoder_config.iou_head_hidden_dim at most {_IOU_DIM}": decoder.iou_head_hidden_dim <= _IOU_DIM,
        "prompt_encoder_config.mask_input_channels 16": prompt.mask_input_channels == 16,
        "prompt_encoder_config.patch_size 16": prompt.patch_size == 16,
        "equal hidden sizes": prompt.hidden_size == decoder.hidden_size == vision.fpn_hidden_size,
        "channels that double with each stage": list(backbone.embed_dim_per_stage) == doubling,
        "heads that double with each stage": list(backbone.num_attention_heads_per_stage) == heads,
        "patches of 7 pixels with stride 4": list(backbone.patch_kernel_size) == [7, 7]
        and list(backbone.patch_stride) == [4, 4],
        "mlp_ratio 4": backbone.mlp_ratio == 4.0,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ModelError.of(
            expected=f"an architecture the official code can build: {'; '.join(broken)}",
            found="a model of other sizes",
            do="export this model with --format hf",
        )


def _widened(name: str, tensor: Tensor) -> Tensor:
    """A decoder MLP's tensor, filled up with zeros to the width the official code has."""
    if re.search(r"sam_mask_decoder\.transformer\.layers\.\d+\.mlp\.layers\.", name):
        width, last = _MLP_DIM, "1"
    elif name.startswith("sam_mask_decoder.iou_prediction_head.layers."):
        width, last = _IOU_DIM, "2"
    else:
        return tensor
    layer, kind = name.split(".")[-2:]
    rows = 0 if layer == last else width - tensor.shape[0]
    if kind == "bias":
        return functional.pad(tensor, (0, rows))
    columns = 0 if layer == "0" else width - tensor.shape[1]
    return functional.pad(tensor, (0, columns, 0, rows))
