"""Every setting of samtune: frozen pydantic models that refuse unknown keys, for command line, YAML and Python alike.

A field's description is its help text on the command line, so it states the unit; the default stands beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Model = Annotated[str, Field(description="nano, a hub name, a checkpoint file, a Hugging Face folder or a run.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="Where to compute.")]


class Config(BaseModel):
    """Base of all settings: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class PrepareConfig(Config):
    """How `samtune prepare` turns a source into a dataset."""

    source_format: Literal["auto", "coco", "yolo", "mask-folder", "labelme", "via", "sa1b"] = Field(
        default="auto", description="Format of the source; auto recognises it from its files."
    )
    images: Path | None = Field(default=None, description="Image folder, when the annotation file stands elsewhere.")
    mask_format: Literal["png", "jpg"] = Field(
        default="png", description="Mask files; jpg is lossy and read back thresholded."
    )
    merge: Literal["none", "image", "category"] = Field(
        default="none", description="Also write one merged mask per image or category."
    )
    copy_images: bool = Field(
        default=False, description="Copy the images into the dataset instead of pointing at them."
    )
    on_error: Literal["auto", "fail", "skip"] = Field(
        default="auto", description="What unusable objects do: fail, skip, or auto (skip, but fail above --max-broken)."
    )
    max_broken: Fraction = Field(default=0.1, description="Share of unusable objects above which auto fails, 0 to 1.")
    split: str = Field(
        default="",
        description="New train,valid,test shares; empty keeps the source's splits, or 0.8,0.1,0.1 if it has none.",
    )
    group_by: str = Field(
        default="source",
        description="What must not be split apart: source, folder, or a regex whose group 1 is the key.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the split.")
    min_area: int = Field(default=1, ge=1, description="Smallest usable object, in mask pixels.")
    workers: int = Field(default=0, ge=0, description="Processes; 0 means one per core.")

    @property
    def shares(self) -> tuple[float, float, float] | None:
        """`split` as numbers, or None where the source's splits are kept."""
        return _shares(self.split) if self.split else None

    @model_validator(mode="after")
    def _split_is_three_shares(self) -> PrepareConfig:
        if self.split:
            _shares(self.split)
        return self


def _shares(text: str) -> tuple[float, float, float]:
    """Three shares that add up to 1, from text such as `0.8,0.1,0.1`."""
    try:
        train, valid, test = (float(share) for share in text.split(","))
    except ValueError:
        raise ValueError(f"split is three numbers such as 0.8,0.1,0.1, not {text!r}") from None
    if min(train, valid, test) < 0 or abs(train + valid + test - 1) > 1e-6:
        raise ValueError(f"the shares of split must not be negative and must add up to 1, unlike {text!r}")
    return train, valid, test


class PromptPolicy(Config):
    """How prompts are made from masks. Training and validation use the same policy type with different values.

    Source of the noise and the corrections: the official SAM 2 training recipe (box noise of 10 % of the side, at most
    20 px at 1024; correction clicks from the error region, 10 % of them from the object itself).
    """

    box: float = Field(default=1.0, ge=0.0, description="Weight of box prompts.")
    point: float = Field(default=0.0, ge=0.0, description="Weight of single positive clicks.")
    box_jitter: Fraction = Field(
        default=0.1, description="Box noise: each edge moves by up to this share of the side, 0 to 1."
    )
    box_jitter_max: float = Field(
        default=20 / 1024, ge=0.0, le=1.0, description="Largest box noise, as a share of the model's input side."
    )
    point_at: Literal["random", "center"] = Field(
        default="random", description="Clicks anywhere in the region, or at its deepest pixel."
    )
    correction_clicks: int = Field(default=0, ge=0, le=15, description="Correction clicks after the first prompt.")
    correction_from_object: Fraction = Field(
        default=0.1, description="Share of correction clicks drawn from the object, not the error."
    )
    negative: Fraction = Field(default=0.0, description="Share of prompts on background, whose answer is 'no object'.")

    @model_validator(mode="after")
    def _some_kind(self) -> PromptPolicy:
        if self.box + self.point <= 0:
            raise ValueError("prompts.box and prompts.point are both 0: give at least one of them a weight")
        return self


class LossConfig(Config):
    """Weights of the loss terms. Source: SAM 2's training recipe, 20 : 1 : 1 : 1."""

    focal: float = Field(default=20.0, ge=0.0, description="Weight of the focal loss on mask logits.")
    dice: float = Field(default=1.0, ge=0.0, description="Weight of the dice loss on masks.")
    iou: float = Field(default=1.0, ge=0.0, description="Weight of the L1 loss on the predicted IoU.")
    object_score: float = Field(default=1.0, ge=0.0, description="Weight of the cross-entropy on 'an object is there'.")
    focal_alpha: float = Field(
        default=0.25, ge=-1.0, le=1.0, description="Focal loss alpha; negative turns class weighting off."
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


class OptimizerConfig(Config):
    """AdamW with linear warm-up and cosine decay."""

    lr: float = Field(default=5e-5, gt=0.0, description="Learning rate of the decoder and prompt encoder.")
    encoder_lr: float = Field(default=3e-6, gt=0.0, description="Learning rate of the image encoder, where it learns.")
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


class TrainableConfig(Config):
    """What learns."""

    train: Annotated[str, Parameter(name=("--train", "--trainable.train"))] = Field(
        default="decoder",
        description="decoder, decoder+prompt-encoder, lora, encoder-last-N, or all; parts joined with +.",
    )
    lora_rank: int = Field(default=8, ge=1, le=256, description="Rank of the LoRA adapter.")
    lora_alpha: float = Field(default=16.0, gt=0.0, description="Scale of the LoRA adapter.")
    lora_targets: tuple[str, ...] = Field(
        default=("qkv", "proj"), description="Names of the attention layers that get adapters."
    )
    gradient_checkpointing: bool = Field(default=True, description="Trade time for memory where the encoder learns.")


class EvalConfig(Config):
    """What `samtune evaluate` and validation measure."""

    split: Literal["train", "valid", "test"] = Field(default="test", description="Split to evaluate.")
    max_objects: int = Field(
        default=0, ge=0, description="Evaluate at most this many objects, evenly spaced; 0 means all."
    )
    clicks: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Correction clicks of a simulated annotator after the first click; 0 leaves it out.",
    )
    background_clicks: int = Field(default=3, ge=0, description="Clicks per image where no object is annotated.")
    seed: int = Field(default=0, ge=0, description="Seed of the background clicks and of the intervals' resampling.")
    chunk: int = Field(default=32, ge=1, description="Prompts per decoder call.")
    device: Device = "auto"


class AutomaticConfig(Config):
    """Finding everything in a picture, from a grid of clicks."""

    points_per_side: int = Field(default=16, ge=1, le=128, description="Clicks per side of the grid.")
    min_iou_score: Fraction = Field(default=0.7, description="Least predicted IoU of a mask that is kept, 0 to 1.")
    min_stability: Fraction = Field(
        default=0.85, description="Least IoU of a mask with itself at a stricter threshold, 0 to 1."
    )
    duplicate_iou: Fraction = Field(
        default=0.7, description="Of two masks with a higher IoU only the better one is kept, 0 to 1."
    )
    min_area: int = Field(default=16, ge=1, description="Smallest mask, in pixels of the picture.")
    chunk: int = Field(default=64, ge=1, description="Clicks per decoder call.")


class PredictConfig(Config):
    """What `samtune predict` asks about each picture."""

    boxes: Path | None = Field(
        default=None, description="COCO annotations or detections (JSON) whose boxes are prompts."
    )
    box: tuple[str, ...] = Field(
        default=(), description="A box x0,y0,x1,y1 in pixels, for every picture; may be repeated."
    )
    point: tuple[str, ...] = Field(
        default=(), description="A positive click x,y in pixels, one object each, for every picture; may be repeated."
    )
    everything: bool = Field(default=False, description="Segment everything, from a grid of clicks.")
    automatic: AutomaticConfig = AutomaticConfig()
    chunk: int = Field(default=32, ge=1, description="Prompts per decoder call.")
    device: Device = "auto"


class CacheConfig(Config):
    """Where image embeddings are kept, and how."""

    cache_dir: Path | None = Field(default=None, description="Embedding cache folder; default inside the dataset.")
    cache_limit: str = Field(default="40GB", description="Largest size of the embedding cache on disk.")
    cache_dtype: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto", description="How cached embeddings are stored; auto is bf16."
    )


class EmbedConfig(CacheConfig):
    """What `samtune embed` computes ahead of training."""

    model: Model = "nano"
    split: Literal["all", "train", "valid", "test"] = Field(default="all", description="Images of which split.")
    flip: bool = Field(default=False, description="Also the mirrored training images, for training with --flip.")
    processes: int = Field(
        default=1, ge=1, description="Processes that share the images on a CPU; each loads the model."
    )
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic; auto picks what training would."
    )


class TrainConfig(CacheConfig):
    """A training run. With the dataset's path it is `config.yaml` in the run folder, and starts the same run again."""

    model: Model = "nano"
    out: Path | None = Field(default=None, description="Run folder; default runs/NAME.")
    name: str = Field(default="tune", description="Name of the run folder under runs/, numbered when it exists.")
    steps: int = Field(default=3000, ge=1, description="Optimizer steps.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    images_per_step: int = Field(default=1, ge=1, description="Images per step.")
    objects_per_image: int = Field(default=8, ge=1, description="Most objects per image and step.")
    flip: bool = Field(
        default=False, description="Mirror images left to right at random; doubles the embeddings to compute."
    )
    eval_every: int = Field(default=0, ge=0, description="Steps between validations; 0 means a tenth of the run.")
    eval_objects: int = Field(default=500, ge=1, description="Most validation objects, the same ones each time.")
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


class BenchConfig(Config):
    """What `samtune bench` measures, and the run whose time it tells."""

    model: Model = "nano"
    steps: int = Field(default=3000, ge=1, description="Optimizer steps of the run to foretell.")
    images: int = Field(default=200, ge=1, description="Training images of the run to foretell.")
    rounds: int = Field(
        default=3, ge=1, le=1000, description="Turns of ten steps that each setting and decoder path gets."
    )
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic; auto picks what training would."
    )


class PretrainStage(Config):
    """A stretch of pre-training with one input size."""

    subject: Literal["prompts", "scenes"] = Field(
        default="scenes",
        description="prompts: decoder and prompt encoder alone, on noise; scenes: everything, on pictures.",
    )
    size: int = Field(ge=64, multiple_of=64, description="Side of the input, in pixels.")
    steps: int = Field(ge=1, description="Optimizer steps.")
    images: int = Field(default=2, ge=1, description="Images per step.")
    objects: int = Field(default=12, ge=1, description="Most objects per image and step.")
    lr: float = Field(default=1e-3, gt=0.0, description="Learning rate at the stage's start.")
    final_lr: float = Field(default=1e-3, gt=0.0, description="Learning rate at its end; a straight line in between.")
    warmup: int = Field(default=50, ge=0, description="Steps of linear warm-up.")
    corrections: Fraction = Field(
        default=0.5, description="Share of steps with a second round: a correction click and the first mask."
    )
    loss: LossConfig = LossConfig(focal=0.0, bce=1.0)


_SHARP = LossConfig(focal=20.0, focal_alpha=-1.0, area_bce=0.3)


class PretrainConfig(Config):
    """Pre-training of `nano` from random weights, or from given ones, on procedural scenes."""

    out: Path = Field(
        default=Path("runs/nano"), description="Folder for scenes, checkpoints and the log; run again to continue."
    )
    start: str | None = Field(
        default=None, description="A model to start from, such as nano, instead of random weights."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to compute.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Arithmetic; auto takes bf16 where the hardware has units for it."
    )
    scenes: int = Field(default=4000, ge=1, description="Scenes to draw before training.")
    scene_size: int = Field(default=512, ge=64, description="Side of the drawn scenes, in pixels.")
    held_out: int = Field(default=40, ge=1, description="Further scenes that only measure.")
    workers: int = Field(default=0, ge=0, description="Processes that draw scenes; 0 means one per core.")
    seed: int = Field(default=0, ge=0, description="Seed of weights, scenes and training.")
    weight_decay: float = Field(default=0.05, ge=0.0, description="Weight decay of matrices.")
    clip: float = Field(default=1.0, gt=0.0, description="Largest gradient norm.")
    ema: float = Field(
        default=0.998, ge=0.0, lt=1.0, description="Decay of the moving average of the weights, which is what ships."
    )
    save_every: int = Field(default=200, ge=1, description="Steps between checkpoints.")
    measure_every: int = Field(default=1000, ge=1, description="Steps between measurements on the held-out scenes.")
    stages: tuple[PretrainStage, ...] = (
        PretrainStage(subject="prompts", size=128, steps=600, images=4, objects=24),
        PretrainStage(size=128, steps=1500, images=4),
        PretrainStage(size=192, steps=1500, images=4, loss=LossConfig(focal=10.0, focal_alpha=-1.0, bce=0.2)),
        PretrainStage(size=256, steps=1400, images=3, objects=9, lr=3e-4, final_lr=1.8e-4, loss=_SHARP),
        PretrainStage(size=384, steps=1600, images=4, lr=1.5e-4, final_lr=2e-6, corrections=0.35, loss=_SHARP),
    )
