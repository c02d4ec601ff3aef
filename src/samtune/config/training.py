"""A training run: losses, optimizer, what learns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from samtune.config.base import Config, Device, Fraction, Model
from samtune.config.embeddings import CacheConfig, refuse_flip_and_views
from samtune.config.prompts import PromptPolicy

Tracker = Literal["wandb", "mlflow", "trackio"]
"""Services that keep the figures of runs, each an extra of samtune's."""


def _whole_number(value: Any) -> Any:
    """The number that a text says: settings from a YAML file come as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class LossConfig(Config):
    """Weights of the loss terms. Source: SAM 2's training recipe, 20 : 1 : 1 : 1; its focal alpha is 0.25."""

    focal: float = Field(default=20.0, ge=0.0, description="Weight of the focal loss on mask logits.")
    dice: float = Field(default=1.0, ge=0.0, description="Weight of the dice loss on masks.")
    iou: float = Field(default=1.0, ge=0.0, description="Weight of the loss on the predicted IoU.")
    iou_error: Literal["absolute", "squared"] = Field(
        default="absolute",
        description="That loss: absolute (L1, as SAM 2's recipe) predicts the median of what a mask reaches, squared "
        "(as SAM's) the mean, by which the best of three is chosen better where much is uncertain.",
    )
    object_score: float = Field(default=1.0, ge=0.0, description="Weight of the cross-entropy on 'an object is there'.")
    no_object: float = Field(
        default=5.0,
        gt=0.0,
        description="How much a prompt where nothing is counts in that cross-entropy, against one about an object.",
    )
    focal_alpha: float = Field(
        default=0.5,
        ge=-1.0,
        le=1.0,
        description="Weight of an object's pixels in the focal loss, against those of the background; below a half "
        "masks come out too small. Negative turns the weighting off.",
    )
    focal_gamma: float = Field(default=2.0, ge=0.0, description="Focal loss gamma.")
    bce: float = Field(
        default=0.0, ge=0.0, description="Weight of a balanced cross-entropy on masks, for training from scratch."
    )
    area_bce: float = Field(
        default=0.0,
        ge=0.0,
        description="Weight of a cross-entropy on masks that is divided by the mask's area; for small objects.",
    )
    edge_bce: float = Field(
        default=0.0, ge=0.0, description="Weight of a cross-entropy near the object's edge alone; for thin objects."
    )
    scale: Annotated[Literal[1, 2, 4], BeforeValidator(_whole_number)] = Field(
        default=1, description="Masks are compared at this many times the decoder's own resolution; for thin objects."
    )

    @model_validator(mode="after")
    def _some_term(self) -> LossConfig:
        terms = ("focal", "dice", "iou", "object_score", "bce", "area_bce", "edge_bce")
        if not any(getattr(self, name) for name in terms):
            raise ValueError(f"{', '.join(f'loss.{name}' for name in terms)} are all 0: give one of them a weight")
        return self


LOWEST_LR, HIGHEST_LR, LR_TIMES_STEPS = 5e-5, 2e-4, 0.15
"""What a learning rate found by itself lies between, and what it is divided by the steps. See docs/decisions/0291."""
ENCODER_LR, SMALL_ENCODER, SMALL_ENCODER_LR = 3e-6, 10_000_000, 0.5
"""The official recipe's rate for the image encoder; below how many values one is small; the share of the decoder's rate
at which a small one learns. See docs/decisions/0309."""


class OptimizerConfig(Config):
    """AdamW with linear warm-up and cosine decay."""

    lr: Literal["auto"] | Annotated[float, Field(gt=0.0)] = Field(
        default="auto",
        description="Learning rate of the decoder and prompt encoder; auto takes 5e-5 for 3000 steps or more, and the "
        "larger a rate the fewer there are, at most 2e-4.",
    )
    encoder_lr: Literal["auto"] | Annotated[float, Field(gt=0.0)] = Field(
        default="auto",
        description="Learning rate of the image encoder, where it learns; auto takes 3e-6, and half of the decoder's "
        "rate for one of fewer than 10 million values, as nano's.",
    )
    layer_decay: float = Field(
        default=0.9, gt=0.0, le=1.0, description="Learning rate factor per encoder block, from last to first."
    )
    weight_decay: float = Field(default=0.1, ge=0.0, description="Weight decay; biases, norms and embeddings get none.")
    warmup: Fraction = Field(default=0.03, description="Share of the steps with linear warm-up.")
    final_lr: Fraction = Field(default=0.1, description="Learning rate at the end, as a share of the peak.")
    clip: float = Field(default=0.1, gt=0.0, description="Largest gradient norm.")
    ema: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Decay of the moving average of the weights; 0 turns it off."
    )

    def lr_of(self, steps: int) -> float:
        """The learning rate of a run of so many steps."""
        return min(HIGHEST_LR, max(LOWEST_LR, LR_TIMES_STEPS / steps)) if self.lr == "auto" else self.lr

    def encoder_lr_of(self, values: int, lr: float) -> float:
        """The learning rate of an image encoder of so many values, beside a decoder's that is `lr`."""
        if self.encoder_lr != "auto":
            return self.encoder_lr
        return SMALL_ENCODER_LR * lr if values < SMALL_ENCODER else ENCODER_LR


class TrainableConfig(Config):
    """What learns."""

    train: str = Field(
        default="decoder",
        description="decoder, decoder+prompt-encoder, lora, encoder-last-N, or all; parts joined with +. With auto the "
        "decoder learns and, where that gains nothing on validation or the image encoder is small, that is tried too.",
    )
    try_encoder: bool = Field(
        default=False, description="With auto: try the image encoder even where the decoder alone gains."
    )
    lora_rank: int = Field(default=8, ge=1, le=256, description="Rank of the LoRA adapter.")
    lora_alpha: float = Field(default=16.0, gt=0.0, description="Scale of the LoRA adapter.")
    lora_targets: tuple[str, ...] = Field(
        default=("qkv", "proj"), description="Names of the attention layers that get adapters."
    )
    gradient_checkpointing: bool = Field(default=True, description="Trade time for memory where the encoder learns.")


class TrainConfig(CacheConfig):
    """A training run. With the dataset's path it is `config.yaml` in the run folder, and starts the same run again."""

    model: Model = "nano"
    out: Path | None = Field(default=None, description="Run folder; default runs/NAME.")
    name: str = Field(default="tune", description="Name of the run folder under runs/, numbered when it exists.")
    steps: int = Field(default=3000, ge=1, description="Optimizer steps.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    train_share: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Share of the training groups of images to use, drawn by the seed."
    )
    images_per_step: int = Field(default=1, ge=1, description="Images per step.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Add up the gradients of this many times images-per-step images before each optimizer step.",
    )
    batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto",
        description="Images of a step that go through the model at once: a number, or auto for as many as fit into "
        "memory. It changes memory and time, not what is learned.",
    )
    objects_per_image: int = Field(default=8, ge=1, description="Most objects per image and step.")
    flip: bool = Field(
        default=False, description="Mirror images left to right at random; doubles the embeddings to compute."
    )
    views: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Views of each training image: as it is, mirrored, turned, cropped, recoloured; each is embedded "
        "once.",
    )
    eval_every: int = Field(default=0, ge=0, description="Steps between validations; 0 means a tenth of the run.")
    save_every: int = Field(
        default=0, ge=0, description="Steps between checkpoints to resume from; 0 means one with every validation."
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="Stop after this many validations without a better one; 0 trains to the last step.",
    )
    eval_objects: int = Field(default=500, ge=1, description="Most validation objects, the same ones each time.")
    track: tuple[Tracker, ...] = Field(
        default=(),
        description="Services that get the run's figures too; their keys come from the environment (WANDB_API_KEY, "
        "MLFLOW_TRACKING_URI, HF_TOKEN).",
    )
    chunk: int = Field(
        default=0, ge=0, description="Prompts per decoder call; fewer take less memory. 0 means 16 on a CPU, else 32."
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="Processes that load batches ahead; 0 loads them in this one, for a GPU in a thread.",
    )
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic; auto picks what is fast and safe here."
    )
    decoder: Literal["fast", "plain"] = Field(default="fast", description="Decoder path; both give the same numbers.")
    cuda_graphs: bool = Field(
        default=True, description="On a GPU, record steps as CUDA graphs while the encoder is frozen."
    )
    cache: bool = Field(default=True, description="Keep image embeddings on disk while the encoder is frozen.")
    prompts: PromptPolicy = PromptPolicy()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainable: TrainableConfig = TrainableConfig()

    @model_validator(mode="after")
    def _mirrored_once(self) -> TrainConfig:
        refuse_flip_and_views(self.flip, self.views)
        return self

    @model_validator(mode="after")
    def _nothing_to_try(self) -> TrainConfig:
        if self.trainable.try_encoder and self.trainable.train != "auto":
            raise ValueError(f"trainable.try_encoder goes with --train auto, not with --train {self.trainable.train}")
        return self
