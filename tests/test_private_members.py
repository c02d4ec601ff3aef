"""Members of other packages that samtune uses though they are not documented for users: one test names what moved.

transformers, torch, peft and faster-coco-eval may move these in any release. When that happens, this test names the
member and the samtune module that needs it; pyproject.toml bounds the versions.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version

import pytest

SAM2 = "transformers.models.sam2.modeling_sam2"
VIDEO = "transformers.models.sam2_video.modeling_sam2_video"
NEEDED = [
    (SAM2, "Sam2HieraDetModel._get_pos_embed", "model/encoder/fast.py"),
    (SAM2, "Sam2MultiScaleAttention", "model/encoder/fast.py"),
    (SAM2, "Sam2MultiScaleBlock", "model/encoder/fast.py"),
    (SAM2, "Sam2VisionNeck", "model/encoder/fast.py"),
    (SAM2, "Sam2Attention", "model/decoder/two_way.py"),
    (SAM2, "Sam2TwoWayAttentionBlock", "model/decoder/two_way.py"),
    (SAM2, "Sam2TwoWayTransformer", "model/decoder/two_way.py"),
    (SAM2, "Sam2MaskDecoder", "model/decoder/upscaling.py"),
    *(
        (VIDEO, f"Sam2VideoInferenceSession.{name}", "inference/video/session.py")
        for name in ("store_output", "num_frames", "obj_id_to_idx", "add_point_inputs", "add_mask_inputs")
    ),
    (VIDEO, "Sam2VideoInferenceCache.get_vision_features", "inference/video/session.py"),
    (VIDEO, "Sam2VideoModel._run_single_frame_inference", "inference/video/track.py"),
    (VIDEO, "Sam2VideoModel._batch_encode_memories", "inference/video/track.py"),
    ("transformers.modeling_layers", "GradientCheckpointingLayer", "model/trainable.py"),
    ("transformers.models.sam2.configuration_sam2", "Sam2HieraDetConfig", "nano/architecture.py"),
    ("peft.tuners.lora", "Linear.get_delta_weight", "model/trainable.py"),
    ("torch", "ops.aten._softmax_backward_data", "model/decoder/two_way.py"),
    ("torch.utils._python_dispatch", "TorchDispatchMode", "benchmark/traffic.py"),
    ("torch.utils._pytree", "tree_leaves", "benchmark/traffic.py"),
]
MEMBERS = {
    "vision_encoder.backbone": ("patch_embed", "blocks", "stage_ends"),
    "vision_encoder.backbone.blocks.0": (
        *("window_size", "query_stride", "dim", "dim_out", "layer_norm1", "layer_norm2", "attn", "mlp"),
        "gradient_checkpointing",
    ),
    "vision_encoder.backbone.blocks.0.attn": ("qkv", "proj", "num_attention_heads", "scale"),
    "vision_encoder.neck": ("convs", "fpn_top_down_levels"),
    "prompt_encoder": ("mask_embed", "no_mask_embed", "point_embed", "not_a_point_embed", "shared_embedding"),
    "mask_decoder": (
        *("obj_score_token", "iou_token", "mask_tokens", "num_mask_tokens", "transformer", "conv_s0", "conv_s1"),
        *("upscale_conv1", "upscale_conv2", "upscale_layer_norm", "activation", "output_hypernetworks_mlps"),
        *("iou_prediction_head", "pred_obj_score_head"),
    ),
    "mask_decoder.transformer": ("layers", "final_attn_token_to_image", "layer_norm_final_attn"),
    "mask_decoder.transformer.layers.0": (
        *("skip_first_layer_pe", "self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token", "mlp"),
        *("layer_norm1", "layer_norm2", "layer_norm3", "layer_norm4"),
    ),
    "mask_decoder.transformer.layers.0.self_attn": (
        *("q_proj", "k_proj", "v_proj", "o_proj", "internal_dim", "hidden_size", "num_attention_heads", "scaling"),
    ),
}
"""Parts of `Sam2Model` whose attributes the fast paths read."""

NATIVE_FUNCTIONS = ("frPoly", "merge", "frUncompressedRLE", "toUncompressedRLE")


def moved(what: str, where: str, package: str) -> str:
    name = package.split(".")[0]
    return f"{name} {version(name)} no longer has {what}, which samtune/{where} uses: adapt it, or lower the bound"


@pytest.mark.parametrize(("module", "member", "user"), NEEDED)
def test_members_are_where_samtune_looks_for_them(module, member, user):
    try:
        found = importlib.import_module(module)
        for part in member.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        pytest.fail(moved(f"{module}.{member}", user, module))


@pytest.mark.parametrize("part", MEMBERS)
def test_the_models_parts_have_the_attributes_the_fast_paths_read(tiny_model, part):
    module = tiny_model.get_submodule(part)
    missing = [name for name in MEMBERS[part] if not hasattr(module, name)]
    assert not missing, moved(f"{part}: {', '.join(missing)}", "model", "transformers")


def test_the_native_mask_library_is_found_by_its_path():
    from samtune.data.masks.native import NATIVE

    missing = [name for name in NATIVE_FUNCTIONS if not hasattr(NATIVE, name)]
    assert not missing, moved(f"its native module's {', '.join(missing)}", "data/masks/native.py", "faster_coco_eval")
