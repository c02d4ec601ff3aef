"""What learns and what does not, parameter groups, LoRA in and out of the model, gradient checkpointing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import Sam2Model

from samtune.config import OptimizerConfig, TrainableConfig
from samtune.errors import ConfigError
from samtune.model.decoder.reference import decode
from samtune.model.encoder.embeddings import encode
from samtune.model.trainable import Trainable, merged, parameter_groups, save_adapter, select_trainable
from samtune.prompts.batch import PromptBatch
from tests.tiny import TINY_SIZE, tiny_sam2


def chosen(train: str, *, freeze: bool = False, **settings: object) -> Trainable:
    return select_trainable(tiny_sam2(0), TrainableConfig(train=train, **settings), freeze_high_res_convs=freeze)


def masks_of(model: Sam2Model) -> Tensor:
    pixels = torch.randn(1, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))
    prompts = PromptBatch.from_boxes(torch.tensor([[5.0, 6.0, 40.0, 50.0], [20.0, 1.0, 60.0, 30.0]]))
    return decode(model, encode(model, pixels), prompts, torch.zeros(2, dtype=torch.long)).masks


def step(trainable: Trainable, lr: float = 0.1) -> None:
    """One step of plain gradient descent on something that depends on every mask."""
    masks_of(trainable.model).square().mean().backward()
    with torch.no_grad():
        for parameter in trainable.parameters.values():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
                parameter.grad = None


@pytest.mark.parametrize(
    ("train", "starts"),
    [
        ("decoder", {"mask_decoder"}),
        ("decoder+prompt-encoder", {"mask_decoder", "prompt_encoder"}),
        ("+prompt-encoder", {"mask_decoder", "prompt_encoder"}),
        ("prompt-encoder", {"prompt_encoder"}),
        ("lora", {"vision_encoder"}),
        ("decoder+lora", {"mask_decoder", "vision_encoder"}),
        ("encoder-last-2", {"vision_encoder"}),
        ("all", {"mask_decoder", "prompt_encoder", "vision_encoder", "no_memory_embedding"}),
    ],
)
def test_what_is_named_learns_and_nothing_else_changes(train: str, starts: set[str]) -> None:
    trainable = chosen(train)
    before = {name: tensor.clone() for name, tensor in trainable.model.state_dict().items()}
    assert {name.split(".")[0] for name in trainable.parameters} == starts
    assert trainable.trainable == sum(p.numel() for p in trainable.model.parameters() if p.requires_grad)
    assert trainable.trainable + trainable.frozen == sum(p.numel() for p in trainable.model.parameters())
    step(trainable)
    changed = {name for name, tensor in trainable.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= trainable.parameters.keys()


def test_last_blocks_learn_with_the_neck_and_not_more_than_there_are() -> None:
    names = chosen("decoder+encoder-last-2").parameters
    blocks = {name.split(".")[3] for name in names if ".blocks." in name}
    assert blocks == {"3", "4"}
    assert any(name.startswith("vision_encoder.neck.") for name in names)
    with pytest.raises(ConfigError, match="from 1 to 5"):
        chosen("encoder-last-6")


@pytest.mark.parametrize(
    ("train", "freeze", "upstream_frozen", "encoder_learns"),
    [
        ("decoder", True, True, False),
        ("decoder", False, False, False),
        ("decoder+prompt-encoder", True, True, False),
        ("prompt-encoder", False, True, False),
        ("lora", True, False, True),
        ("decoder+encoder-last-1", True, False, True),
        ("all", True, False, True),
    ],
)
def test_the_cache_is_allowed_exactly_when_embeddings_cannot_change(
    train: str, freeze: bool, upstream_frozen: bool, encoder_learns: bool
) -> None:
    trainable = chosen(train, freeze=freeze)
    assert (trainable.upstream_frozen, trainable.encoder_learns) == (upstream_frozen, encoder_learns)
    pixels = torch.randn(1, 3, TINY_SIZE, TINY_SIZE)
    before = encode(trainable.model, pixels).detach()
    step(trainable)
    after = encode(trainable.model, pixels).detach()
    same = all(torch.equal(a, b) for a, b in zip(before.tensors, after.tensors, strict=True))
    assert same == upstream_frozen


def test_high_resolution_convolutions_learn_with_the_encoder_whatever_the_cache_would_like() -> None:
    assert "mask_decoder.conv_s0.weight" in chosen("decoder+encoder-last-1", freeze=True).parameters
    assert "mask_decoder.conv_s0.weight" not in chosen("decoder", freeze=True).parameters


def test_groups_hold_every_parameter_once_at_its_rate() -> None:
    config = OptimizerConfig(encoder_lr=1e-4, layer_decay=0.5, weight_decay=0.1)
    trainable = chosen("all")
    groups = parameter_groups(trainable, config, 1e-3)
    names = {id(parameter): name for name, parameter in trainable.parameters.items()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found.keys() == trainable.parameters.keys()
    assert sum(len(group["params"]) for group in groups) == len(trainable.parameters)
    assert groups[0]["lr"] == 1e-3
    assert found["mask_decoder.transformer.layers.0.mlp.proj_in.weight"] == (1e-3, 0.1)
    assert found["mask_decoder.transformer.layers.0.mlp.proj_in.bias"] == (1e-3, 0.0)
    assert found["mask_decoder.mask_tokens.weight"] == (1e-3, 0.0)
    assert found["prompt_encoder.point_embed.weight"] == (1e-3, 0.0)
    assert found["vision_encoder.neck.convs.0.weight"] == (1e-4, 0.1)
    assert found["vision_encoder.backbone.blocks.4.attn.qkv.weight"] == (pytest.approx(1e-4 * 0.5), 0.1)
    assert found["vision_encoder.backbone.blocks.0.attn.qkv.weight"] == (pytest.approx(1e-4 * 0.5**5), 0.1)
    assert found["vision_encoder.backbone.blocks.0.layer_norm1.weight"] == (pytest.approx(1e-4 * 0.5**5), 0.0)
    assert found["vision_encoder.backbone.pos_embed"] == (pytest.approx(1e-4 * 0.5**6), 0.0)


def test_lora_starts_without_effect_is_reproducible_and_learns_at_the_heads_rate() -> None:
    trainable = chosen("lora", lora_rank=3)
    torch.testing.assert_close(masks_of(trainable.model), masks_of(tiny_sam2(0)), atol=1e-6, rtol=1e-5)
    again = chosen("lora", lora_rank=3)
    for name, parameter in trainable.parameters.items():
        assert torch.equal(parameter, again.parameters[name])
        assert 3 in parameter.shape
    assert {group["lr"] for group in parameter_groups(trainable, OptimizerConfig(), 1e-3)} == {1e-3}


def test_merged_lora_answers_as_the_adapter_does_and_leaves_the_training_model_alone() -> None:
    trainable = chosen("decoder+lora")
    for _ in range(3):
        step(trainable, lr=0.5)
    plain = merged(trainable)
    assert plain.state_dict().keys() == tiny_sam2(0).state_dict().keys()
    with torch.no_grad():
        tuned = masks_of(trainable.model)
        assert (tuned - masks_of(tiny_sam2(0))).abs().max() > 1e-3
        torch.testing.assert_close(masks_of(plain), tuned, atol=1e-5, rtol=1e-4)
    assert any(".lora_" in name for name in trainable.model.state_dict())
    without = chosen("decoder")
    assert merged(without) is without.model


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft, on transformers
def test_the_adapter_is_saved_in_pefts_layout(tmp_path: Path) -> None:
    trainable = chosen("lora")
    step(trainable, lr=5.0)
    save_adapter(trainable, tmp_path / "adapter", "some/base")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = PeftModel.from_pretrained(tiny_sam2(0), str(tmp_path / "adapter"))
    assert loaded.peft_config["default"].base_model_name_or_path == "some/base"
    with torch.no_grad():
        assert torch.equal(masks_of(loaded.base_model.model), masks_of(trainable.model))


@pytest.mark.parametrize("train", ["lora", "encoder-last-3", "all"])
def test_checkpointing_gives_the_same_gradients(train: str) -> None:
    plain, recomputed = (chosen(train, gradient_checkpointing=value) for value in (False, True))
    assert any(block.gradient_checkpointing for block in recomputed.model.vision_encoder.backbone.blocks)
    for trainable in (plain, recomputed):
        masks_of(trainable.model).square().mean().backward()
    for name, parameter in plain.parameters.items():
        other = recomputed.parameters[name]
        assert (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None and other.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("decodr", "did you mean 'decoder'"),
        ("encoder-last-0", "from 1 to 5"),
        ("encoder-last-N", "parts of"),
        ("lora+all", "drop one of the two"),
        ("", "parts of"),
        ("lora+encoder-last-1", "drop one of the two"),
    ],
)
def test_what_cannot_learn_is_refused(train: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chosen(train)


def test_unknown_lora_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="found    keys"):
        chosen("lora", lora_targets=("keys",))
