"""What learns: mask decoder, prompt encoder, LoRA on the image encoder, its last blocks, or everything.

`requires_grad` decides, nothing else: `.train()` freezes nothing. What is named learns and what is not named does not,
so `encoder-last-2` alone leaves the decoder as it is; `decoder+encoder-last-2` tunes both.

Optimizer groups follow the official recipe (`sam2/configs/sam2.1_training/*.yaml`): the encoder has its own learning
rate, smaller with each block towards the input, and biases and norms have no weight decay; nor have embeddings here.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Sam2Model

from samtune.config import OptimizerConfig, TrainableConfig
from samtune.config.training import SMALL_ENCODER
from samtune.errors import ConfigError
from samtune.model.io.tensors import disk_errors
from samtune.utils.files import new_folder, share

PARTS = ("decoder", "prompt-encoder", "lora", "encoder-last-N", "all")
"""What `train` may be joined of."""
ADAPTER = "adapter"
"""Folder, beside a run's best weights, that holds its adapter in peft's layout."""

_HIGH_RES = ("mask_decoder.conv_s0.", "mask_decoder.conv_s1.")
_BACKBONE = "vision_encoder.backbone."
_LORA_TARGETS = {"qkv": "attn.qkv", "proj": "attn.proj", "proj_in": "mlp.proj_in", "proj_out": "mlp.proj_out"}
_EMBEDDINGS = ("pos_embed", "pos_embed_window", "no_memory_embedding")


@dataclass(frozen=True)
class Trainable:
    """A model with its learning parameters chosen.

    Attributes:
        model: the same object that was given; LoRA layers stand inside it where there are any.
        parameters: what learns, by name, in the model's order.
        trainable, frozen: numbers of values that learn and that do not.
        encoder_learns: gradients reach the image encoder, or an adapter in it.
        upstream_frozen: everything image embeddings are made with stays as it is, `conv_s0`, `conv_s1` and
            `no_memory_embedding` included: embeddings may be kept from one step to the next.
        note: one sentence about what learns.
        adapter: peft's view of the model where LoRA learns, else None.
    """

    model: Sam2Model
    parameters: dict[str, nn.Parameter] = field(repr=False)
    trainable: int
    frozen: int
    encoder_learns: bool
    upstream_frozen: bool
    note: str
    adapter: PeftModel | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a `train` value asks for."""

    decoder: bool
    prompt_encoder: bool
    lora: bool
    last_blocks: int
    everything: bool


def select_trainable(
    model: Sam2Model, config: TrainableConfig, *, freeze_high_res_convs: bool = False, seed: int = 0
) -> Trainable:
    """Set `requires_grad` of every parameter, and put LoRA layers and gradient checkpointing in place where asked for.

    Args:
        model: changed in place.
        config: what learns.
        freeze_high_res_convs: leave `conv_s0` and `conv_s1` of the decoder alone while the encoder is frozen, because
            cached embeddings contain their output.
        seed: of the adapter's first weights.

    Returns:
        The model and what learns in it.

    Raises:
        ConfigError: an unknown part, more encoder blocks than there are, an unknown LoRA target.
    """
    blocks = len(model.vision_encoder.backbone.blocks)
    choice = _parse(config.train, blocks)
    model.requires_grad_(False)
    adapter = _add_lora(model, config, seed) if choice.lora else None
    encoder_learns = choice.lora or choice.last_blocks > 0 or choice.everything
    skip_high_res = freeze_high_res_convs and not encoder_learns
    first_block = blocks - choice.last_blocks
    for name, parameter in model.named_parameters():
        learns = _learns(name, choice, first_block) and not (skip_high_res and name.startswith(_HIGH_RES))
        parameter.requires_grad_(learns or ".lora_" in name)
    if encoder_learns and config.gradient_checkpointing:
        _checkpoint_blocks(model, 0 if choice.lora or choice.everything else first_block)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainable = sum(parameter.numel() for parameter in parameters.values())
    frozen = sum(parameter.numel() for parameter in model.parameters()) - trainable
    upstream = (_HIGH_RES[0], _HIGH_RES[1], "vision_encoder.", "no_memory_embedding")
    kept = "; conv_s0 and conv_s1 of the decoder stay frozen, cached embeddings contain them"
    return Trainable(
        model=model,
        parameters=parameters,
        trainable=trainable,
        frozen=frozen,
        encoder_learns=encoder_learns,
        upstream_frozen=not any(name.startswith(upstream) for name in parameters),
        note=f"{config.train} learns: {trainable:,} of {trainable + frozen:,} values"
        + (kept if skip_high_res and choice.decoder else ""),
        adapter=adapter,
    )


def parameter_groups(trainable: Trainable, config: OptimizerConfig, lr: float) -> list[dict[str, Any]]:
    """Groups for the optimizer, each with `params`, `lr`, `weight_decay`, and a `name` for logs.

    Decoder, prompt encoder and LoRA layers (which start from nothing, like a head) learn at `lr`. The image encoder
    learns at `config.encoder_lr_of` its size, times `layer_decay` once per block between a block and the neck (Bao et
    al. 2021, as in the official `get_layer_id`). The group with the largest rate comes first.
    """
    count = len(trainable.model.vision_encoder.backbone.blocks)
    encoder_lr = config.encoder_lr_of(encoder_values(trainable.model), lr)
    undecayed = _undecayed(trainable.model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.parameters.items():
        decay = 0.0 if name in undecayed else config.weight_decay
        rate = _learning_rate(name, count, lr, encoder_lr, config.layer_decay)
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": params, "lr": own, "weight_decay": decay, "name": f"lr {own:.3g}, decay {decay:g}"}
        for (own, decay), params in sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
    ]


def encoder_values(model: Sam2Model) -> int:
    """How many values the image encoder has, adapters apart."""
    return sum(value.numel() for name, value in model.vision_encoder.named_parameters() if ".lora_" not in name)


def has_small_encoder(model: Sam2Model) -> bool:
    """Whether the image encoder is far smaller than SAM 2's smallest, as nano's: its features may have to learn."""
    return encoder_values(model) < SMALL_ENCODER


def merged(trainable: Trainable) -> Sam2Model:
    """The model without adapter layers: the same object where there are none, else a frozen copy with them added in.

    The copy shares the tensors that no adapter changes.
    """
    model = trainable.model
    if trainable.adapter is None:
        return model
    state = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoraLinear):
                key = f"{name}.weight"
                state[key] = state[key] + module.get_delta_weight("default").to(state[key])
    with torch.device("meta"):
        plain = Sam2Model(model.config)
    plain.load_state_dict(state, assign=True)
    return plain.requires_grad_(False).eval()


def save_adapter(trainable: Trainable, folder: Path, base: str) -> None:
    """Write the adapter in peft's layout, as a whole or not at all; `PeftModel.from_pretrained` reads it.

    Args:
        trainable: with LoRA.
        folder: replaced when it exists.
        base: name of the model the adapter belongs on.
    """
    assert trainable.adapter is not None
    trainable.adapter.peft_config["default"].base_model_name_or_path = base
    with new_folder(folder) as temporary, disk_errors():
        # Left at "auto", peft asks the hub whether the vocabulary has grown.
        trainable.adapter.save_pretrained(str(temporary), save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)
        share(temporary / "adapter_model.safetensors")


def _parse(text: str, blocks: int) -> _Choice:
    """`decoder+lora` and the like; what contradicts itself is refused."""
    parts = [part.strip().lower() for part in text.split("+")]
    if len(parts) > 1 and parts[0] == "":
        parts[0] = "decoder"  # `+prompt-encoder` adds to the default
    last = 0
    for part in parts:
        match = re.fullmatch(r"encoder-last-(\d+)", part)
        if match:
            last = int(match[1])
            if not 1 <= last <= blocks:
                raise ConfigError.of(
                    expected=f"encoder-last-N with N from 1 to {blocks}, this model's number of blocks",
                    found=part,
                    where="trainable.train",
                )
        elif part not in PARTS or part == "encoder-last-N":
            close = difflib.get_close_matches(part, PARTS, n=1)
            raise ConfigError.of(
                expected=f"parts of {', '.join(PARTS)}, joined with +",
                found=repr(part),
                where="trainable.train",
                do=f"did you mean {close[0]!r}?" if close else None,
            )
    if "lora" in parts and (last or "all" in parts):
        raise ConfigError.of(
            expected="either LoRA on the image encoder, or the encoder's own weights",
            found=text,
            where="trainable.train",
            do="drop one of the two",
        )
    everything = "all" in parts
    return _Choice(
        decoder=everything or "decoder" in parts,
        prompt_encoder=everything or "prompt-encoder" in parts,
        lora="lora" in parts,
        last_blocks=blocks if everything else last,
        everything=everything,
    )


def _learns(name: str, choice: _Choice, first_block: int) -> bool:
    """Whether a parameter of that name is asked for; adapter layers are not looked at here."""
    if choice.everything:
        return True
    if name.startswith("mask_decoder."):
        return choice.decoder
    if name.startswith("prompt_encoder."):
        return choice.prompt_encoder
    if not choice.last_blocks:
        return False
    block = _block(name)
    return name.startswith("vision_encoder.neck.") or (block is not None and block >= first_block)


def _block(name: str) -> int | None:
    """Number of the encoder block a parameter belongs to, or None."""
    match = re.match(r"vision_encoder\.backbone\.blocks\.(\d+)\.", name)
    return int(match[1]) if match else None


def _learning_rate(name: str, blocks: int, lr: float, encoder_lr: float, layer_decay: float) -> float:
    """Of one parameter. Depth counts from the neck: the last block is 1, position and patch embedding come last."""
    if ".lora_" in name or not name.startswith(("vision_encoder.", "no_memory_embedding")):
        return lr
    if not name.startswith(_BACKBONE):
        return encoder_lr
    block = _block(name)
    depth = blocks + 1 if block is None else blocks - block
    return encoder_lr * layer_decay**depth


def _undecayed(model: nn.Module) -> set[str]:
    """Names of biases, norms and embeddings."""
    found = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    found |= {name for name, _ in model.named_parameters() if name.endswith(_EMBEDDINGS)}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.LayerNorm)):
            found |= {f"{name}.{own}" for own, _ in module.named_parameters()}
    return found


def _add_lora(model: Sam2Model, config: TrainableConfig, seed: int) -> PeftModel:
    """Put low-rank layers (Hu et al. 2021) beside the encoder's attention; at first they change no output."""
    unknown = [target for target in config.lora_targets if target not in _LORA_TARGETS]
    if unknown or not config.lora_targets:
        raise ConfigError.of(
            expected=f"LoRA targets of {', '.join(_LORA_TARGETS)}",
            found=", ".join(unknown) or "none",
            where="trainable.lora_targets",
        )
    targets = "|".join(re.escape(_LORA_TARGETS[target]) for target in config.lora_targets)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]  # peft divides it, a float does
        target_modules=rf".*{re.escape(_BACKBONE)}blocks\.\d+\.({targets})",
        lora_dropout=0.0,
        bias="none",
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers means to drop; users can do nothing about it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapter = get_peft_model(model, settings)
    assert isinstance(adapter, PeftModel)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            fresh = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)
            parameter.data.copy_(fresh)
    return adapter


def _checkpoint_blocks(model: Sam2Model, first: int) -> None:
    """Recompute encoder blocks in the backward pass. transformers does so only in blocks that are in train mode."""
    blocks: Iterable[Any] = list(model.vision_encoder.backbone.blocks)[first:]
    for block in blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        block.train()
