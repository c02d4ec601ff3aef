"""The encoder in strips against the plain one: windows that fit and windows that are padded, adapters, gradients."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Sam2Model

from samtune.config import TrainableConfig
from samtune.model.encoder import embeddings
from samtune.model.encoder import fast as encoder
from samtune.model.trainable import select_trainable
from samtune.nano.architecture import reset_layers
from samtune.runtime import matmul
from tests.tiny import TINY_SIZE, tiny_config, tiny_sam2


def assert_same(model: Sam2Model, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        expected = embeddings.encode(model, pixels)
    found = encoder.encode(model, pixels)
    for ours, theirs in zip(found.tensors, expected.tensors, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert ours.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([64, 128, 192, 256]),
    windows=st.tuples(*[st.sampled_from([2, 4, 6, 8, 14])] * 4),
    global_blocks=st.sets(st.sampled_from([0, 3])),  # transformers has none where a stage begins
    images=st.integers(1, 2),
    kernel=st.sampled_from([1, 3, 5]),
    strip=st.sampled_from([1, 100, 600, 10**9]),
    seed=st.integers(0, 99),
)
def test_strips_give_what_the_plain_encoder_gives(size, windows, global_blocks, images, kernel, strip, seed):
    torch.manual_seed(seed)
    config: Any = tiny_config(size)
    backbone = config.vision_config.backbone_config
    backbone.global_attention_blocks = sorted(global_blocks)
    backbone.window_size_per_stage = list(windows)
    # as in the released models: the background of the position embedding is a whole number of windows wide
    backbone.window_positional_embedding_background_size = [7, 7]
    backbone.window_size_per_stage[0] = 8 if windows[0] > 6 else 4  # transformers tiles its position embedding
    config.vision_config.fpn_kernel_size, config.vision_config.fpn_padding = kernel, kernel // 2
    model = Sam2Model(config).eval().requires_grad_(False)
    reset_layers(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "STRIP", strip)
        assert_same(model, torch.randn(images, 3, size, size))


def test_adapters_are_part_of_it():
    model = tiny_sam2(0)
    pixels = torch.randn(1, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
    before = encoder.encode(model, pixels)
    config = peft.LoraConfig(r=2, target_modules=r".*backbone\..*\.qkv", init_lora_weights=False)
    adapted: Any = peft.inject_adapter_in_model(config, model).eval().requires_grad_(False)
    assert_same(adapted, pixels)
    assert not torch.equal(encoder.encode(adapted, pixels).image_embeddings, before.image_embeddings)


@pytest.mark.parametrize("part", ["vision_encoder.neck.convs.0", "mask_decoder.conv_s1", "vision_encoder.backbone"])
def test_gradients_flow_where_something_learns(part):
    model = tiny_sam2(0)
    pixels = torch.randn(1, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
    assert encoder.is_frozen(model)
    assert not encoder.encode(model, pixels).requires_grad
    model.get_submodule(part).requires_grad_()
    assert not encoder.is_frozen(model)
    assert encoder.encode(model, pixels).requires_grad
    with torch.no_grad():
        assert not encoder.encode(model, pixels).requires_grad


def gradients(encode: Any, model: Sam2Model, pixels: torch.Tensor) -> torch.Tensor:
    """Of everything that learns, by a sum in which every value of the embeddings has another weight; one vector."""
    generator = torch.Generator().manual_seed(7)
    model.zero_grad()
    tensors = encode(model, pixels).tensors
    weights = [torch.randn(tensor.shape, generator=generator).to(tensor.dtype) for tensor in tensors]
    torch.autograd.backward(tensors, weights)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


@pytest.mark.parametrize("train", ["all", "lora", "encoder-last-1"])
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("most_kept", [encoder.LARGEST_KEPT, 0])
def test_gradients_are_those_of_the_plain_encoder(monkeypatch, train, recomputed, most_kept):
    monkeypatch.setattr(encoder, "STRIP", 300)
    monkeypatch.setattr(encoder, "LARGEST_KEPT", most_kept)
    model = tiny_sam2(0)
    config = TrainableConfig(train=train, gradient_checkpointing=recomputed, lora_rank=2)
    learning: Any = select_trainable(model, config, seed=0).model
    with torch.no_grad():
        for name, parameter in learning.named_parameters():
            if ".lora_B." in name:  # zero at first, which would stop the gradients of the other half
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    pixels = torch.randn(2, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
    expected, found = (gradients(encode, learning, pixels) for encode in (embeddings.encode, encoder.encode))
    assert len(expected) > 100
    assert expected.norm() > 0
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_gradients_in_bf16_are_as_good_as_the_plain_encoders():
    model = tiny_sam2(0).train().requires_grad_(True)
    pixels = torch.randn(2, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
    exact = gradients(embeddings.encode, model, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours = (gradients(encode, model, pixels) for encode in (embeddings.encode, encoder.encode))
    assert 0 < (ours - exact).norm() < 1.2 * (plain - exact).norm()


def test_a_pyramid_of_another_build_is_left_to_the_plain_encoder():
    config: Any = tiny_config()
    config.vision_config.fpn_top_down_levels = [1, 2, 3]
    torch.manual_seed(0)
    model = Sam2Model(config).eval().requires_grad_(False)
    reset_layers(model)
    assert_same(model, torch.randn(1, 3, TINY_SIZE, TINY_SIZE))


def test_bf16_arithmetic_is_as_good_as_the_plain_encoders():
    model = tiny_sam2(0)
    pixels = torch.randn(1, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = embeddings.encode(model, pixels)
        with torch.autocast("cpu", torch.bfloat16):
            plain, ours = embeddings.encode(model, pixels), encoder.encode(model, pixels)
    for good, reference, truth in zip(ours.tensors, plain.tensors, exact.tensors, strict=True):
        assert (good.float() - truth).norm() < 1.5 * (reference.float() - truth).norm()


@pytest.mark.parametrize("images", [1, 2])
def test_bf16_is_as_near_as_the_plain_encoder_in_bf16(images):
    model = tiny_sam2(0)
    pixels = torch.randn(images, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    exact = encoder.encode(model, pixels)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, plain = encoder.encode(model, pixels), embeddings.encode(model, pixels)
    for ours, theirs, true in zip(found.tensors, plain.tensors, exact.tensors, strict=True):
        error, theirs_error = ((value.float() - true).norm() / true.norm() for value in (ours, theirs))
        assert 0 < error < 1.5 * theirs_error + 1e-3
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_both_kinds_of_attention_give_the_same(precision):
    """Fused, where MKL multiplies; as two products, where oneDNN does."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        if not matmul.is_exact():
            pytest.skip("this processor rounds factors to bf16")
        assert matmul.uses_onednn() == (precision == "medium")
        pixels = torch.randn(2, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
        assert_same(tiny_sam2(0), pixels)
        assert_same(tiny_sam2(0), pixels[:1])
    finally:
        torch.set_float32_matmul_precision(before)
