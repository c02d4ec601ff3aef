"""A small memory for `nano`, trained on drawn clips, so that base and tuned model can be compared on clips at all.

    python benchmarks/clip_memory.py --out build/clips [--piece 420]

`nano` was trained on images and cannot follow anything; checkpoints of SAM 2, which can, have to be downloaded. This
trains a memory at an input of 192 px on clips of moving shapes that hide each other, half of them with a moving camera.
The image encoder stays `nano`'s, and the embeddings of all frames are kept, so that a step is memory and decoder alone:

    decoder    `nano`'s decoder learns to answer coarse mask prompts without any click, and keeps answering boxes
    places     memory attention and memory encoder learn to give the features that such a mask prompt would give
    whole      everything behind the encoder learns to follow objects for five frames by what it remembers itself

Without the first two, the memory learned nothing in 175 steps: `nano`'s decoder ignores a mask that comes alone.

It writes `OUT/base`, a folder that every command takes as `--model`; `benchmarks/clip_tuning.py` goes on from there. It
is no tracker anybody should use. It goes on where it was stopped; with `--piece` it ends by itself after so many
seconds, with exit code 3 while there is more to do.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from samtune.model.architecture import VIDEO
from samtune.model.decoder.reference import decode
from samtune.model.encoder.embeddings import ImageEmbeddings, encode
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.save import save_model
from samtune.model.preprocess import to_model_input
from samtune.model.video import video_model
from samtune.nano.architecture import HIDDEN, nano_config, reset_layers
from samtune.prompts.batch import PromptBatch
from samtune.synthetic.clips import draw_clip
from samtune.training.losses.masks import balanced_cross_entropy, focal_and_dice

SIDE = 192
"""Of frames and of the model's input, in pixels."""
LENGTH = 10
"""Frames of a training clip."""
SMALLEST = 100
"""Pixels an object has at least on the frame on which it is given."""
POINTERS = 8
NOT_HERE = -1024.0
"""Logit of every pixel where the object score says that there is no object, as in SAM 2."""
MORE_TO_DO = 3


def untrained(seed: int) -> LoadedModel:
    """`nano` at `SIDE` pixels with a memory of random weights."""
    nano, config = load_model("nano"), nano_config(SIDE)
    image = Sam2Model(config).eval().requires_grad_(False)
    image.load_state_dict(nano.model.state_dict())
    described: dict[str, Any] = config.to_dict() | {
        "image_size": SIDE,
        "num_maskmem": 4,
        "max_object_pointers_in_encoder": POINTERS,
        "memory_attention_hidden_size": HIDDEN,
        "memory_attention_num_layers": 2,
        "memory_attention_feed_forward_hidden_size": 256,
        "memory_attention_rope_feat_sizes": [SIDE // 16] * 2,
        "memory_encoder_hidden_size": HIDDEN,
        "mask_downsampler_embed_dim": HIDDEN,
        "memory_fuser_embed_dim": HIDDEN,
        "memory_fuser_intermediate_dim": 256,
        "memory_fuser_layer_scale_init_value": 0.1,
    }
    torch.manual_seed(seed)
    fields = {name: value for name, value in described.items() if name not in ("model_type", "architectures")}
    whole = Sam2VideoModel(Sam2VideoConfig(**fields))
    reset_layers(whole)
    for parameter in (whole.memory_temporal_positional_encoding, whole.no_object_pointer):
        torch.nn.init.normal_(parameter, std=0.02)
    torch.nn.init.constant_(whole.mask_downsample.weight, 20 / 16)  # a mask as logits from -10 to 10
    assert whole.mask_downsample.bias is not None
    torch.nn.init.constant_(whole.mask_downsample.bias, -10)
    kept = image.state_dict()
    memory = {name: tensor for name, tensor in whole.state_dict().items() if name not in kept}
    full = whole.config.to_dict() | {"model_type": VIDEO}
    return LoadedModel(image, "nano with a memory", "drawn clips", "custom", "nano with a memory", full, memory)


@dataclass(frozen=True)
class Kept:
    """Embeddings of all frames of all clips, and their labels.

    Attributes:
        low, fine, middle: `[clips, T, C, h, w]`, float16; `low` without the no-memory embedding.
        labels: uint8 `[clips, T, S, S]`.
    """

    low: Tensor
    fine: Tensor
    middle: Tensor
    labels: Tensor


def draw_and_embed(model: Sam2Model, count: int, file: Path) -> Kept:
    """Draw clips and embed their frames; read from `file` where that has been done."""
    if not file.exists():
        parts: list[list[Tensor]] = [[], [], [], []]
        for number in range(count):
            frames, labels = moving_camera(number) if number % 2 else still_camera(number)
            pixels = torch.stack([to_model_input(frame, SIDE) for frame in frames])
            with torch.inference_mode():
                found = encode(model, pixels)
                low = found.image_embeddings - model.no_memory_embedding.view(1, -1, 1, 1)
                tensors = (low, *found.high_resolution_features)
            for part, tensor in zip(parts, (*tensors, torch.from_numpy(labels)), strict=True):
                part.append(tensor.half().contiguous() if tensor.is_floating_point() else tensor)
        torch.save([torch.stack(part) for part in parts], file.with_suffix(".new"))
        file.with_suffix(".new").rename(file)
    return Kept(*torch.load(file, weights_only=True, mmap=True))


def still_camera(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and labels of a clip in which objects move."""
    clip = draw_clip(np.random.default_rng((11, seed)), LENGTH, SIDE)
    return clip.frames, clip.labels


def moving_camera(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same seen through a window that moves over a larger clip."""
    rng = np.random.default_rng((12, seed))
    clip = draw_clip(rng, LENGTH, SIDE * 4 // 3)
    ends = rng.integers(0, SIDE // 3 + 1, (2, 2))
    places = np.linspace(ends[0], ends[1], LENGTH).round().astype(int)
    windows = [(slice(None), slice(y, y + SIDE), slice(x, x + SIDE)) for y, x in places]
    frames = [clip.frames[number][window[1:]] for number, window in enumerate(windows)]
    labels = [clip.labels[number][window[1:]] for number, window in enumerate(windows)]
    return np.stack(frames), np.stack(labels)


class Sequences:
    """Draws of objects and frames to follow them through, from a seed and the step's number."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        numbers = torch.arange(1, int(kept.labels.max()) + 1)
        areas = torch.stack([(kept.labels == number).flatten(2).sum(2) for number in numbers], dim=2)
        self._starts = [tuple(place) for place in (areas >= SMALLEST).nonzero().tolist()]  # clip, frame, object - 1

    def draw(self, seed: tuple[int, ...], tracked: int, objects: int) -> tuple[list[Tensor], Tensor]:
        """Features `[low, fine, middle]`, `[B, T, ...]`, and true masks `[B, T, S, S]`, T = 1 + `tracked`."""
        rng = np.random.default_rng((13, *seed))
        rows: list[tuple[int, list[int], int]] = []
        while len(rows) < objects:
            clip, start, place = self._starts[rng.integers(len(self._starts))]
            stride = int(rng.choice([-2, -1, -1, 1, 1, 2]))
            frames = [start + stride * number for number in range(tracked + 1)]
            if min(frames) < 0:
                frames = [abs(number) for number in frames]  # turns round at the first frame
            if max(frames) >= LENGTH:
                frames = [min(number, 2 * (LENGTH - 1) - number) for number in frames]
            rows.append((clip, frames, place + 1))
        features = [
            torch.stack([tensor[clip, frames].float() for clip, frames, _ in rows])
            for tensor in (self._kept.low, self._kept.fine, self._kept.middle)
        ]
        truth = torch.stack([self._kept.labels[clip, frames] == number for clip, frames, number in rows])
        return features, truth.float()


class Follower:
    """Follows B objects at once with gradients; transformers' own session takes one object and allows none."""

    def __init__(self, model: Sam2VideoModel) -> None:
        self.model: Any = model
        with torch.no_grad():
            found = model.get_image_features(torch.zeros(1, 3, SIDE, SIDE), return_dict=True)
        self._places = found.fpn_position_encoding[-1]

    def answer(self, low: Tensor, fine: Tensor, middle: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
        """Masks `[B, 3, h, w]`, predicted IoUs `[B, 3]`, tokens `[B, 3, C]`, object scores `[B, 1]`; no points."""
        count, model = len(low), self.model
        sparse, dense = model.prompt_encoder(
            input_points=low.new_zeros(count, 1, 1, 2), input_labels=-torch.ones(count, 1, 1, dtype=torch.int32),
            input_boxes=None, input_masks=masks,
        )  # fmt: skip
        places = model.get_image_wide_positional_embeddings().expand(count, -1, -1, -1)
        found = model.mask_decoder(
            image_embeddings=low, image_positional_embeddings=places, sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense, multimask_output=True, high_resolution_features=[fine, middle],
        )  # fmt: skip
        return tuple(part[:, 0] for part in found[:4])

    def pointer(self, tokens: Tensor, scores: Tensor, here: Tensor) -> Tensor:
        """Object pointers `[B, C]` from the best of three tokens; `here` is 1 or 0, `[B, 1]`."""
        token = tokens[torch.arange(len(tokens)), scores.argmax(1)]
        return here * self.model.object_pointer_proj(token) + (1 - here) * self.model.no_object_pointer

    def remember(self, low: Tensor, logits: Tensor, here: Tensor, *, given: bool) -> tuple[Tensor, Tensor]:
        """The memory of a frame, `[HW, B, 64]`, and its places; `logits` at the input's size, `[B, 1, S, S]`."""
        rows = low.flatten(2).permute(2, 0, 1)
        return self.model._encode_new_memory(rows, logits, (here - 0.5)[..., None], given)

    def recall(self, low: Tensor, frame: int, memories: Memories, pointers: list[tuple[int, Tensor]]) -> Tensor:
        """Features of a frame with what is remembered, `[B, C, h, w]`; frame 0 is the one that was given."""
        model, count = self.model, len(low)
        near = [one for one in memories[1:] if frame - one[0] < model.num_maskmem]
        kept = [memories[0], *near]
        times = model.memory_temporal_positional_encoding
        places = [place + times[(frame - number if number else 0) - 1] for number, _, place in kept]
        ordered = pointers[:1] + pointers[:0:-1]
        rows, row_places = model._process_object_pointers(
            [frame - number for number, _ in ordered], [one for _, one in ordered], POINTERS, count, HIDDEN, low.device
        )
        found = model.memory_attention(
            current_vision_features=low.flatten(2).permute(2, 0, 1),
            current_vision_position_embeddings=self._places.expand(-1, count, -1),
            memory=torch.cat([*(features for _, features, _ in kept), rows]).float(),
            memory_posision_embeddings=torch.cat([*places, row_places]),
            num_object_pointer_tokens=len(rows),
        )
        return found[0].transpose(1, 2).unflatten(2, low.shape[2:])

    def given(self, features: list[Tensor], truth: Tensor) -> tuple[Memories, list[tuple[int, Tensor]]]:
        """Memory and pointer of the frame on which objects are given by their masks `[B, 1, S, S]`."""
        low, fine, middle = features
        sure = torch.ones(len(truth), 1)
        with torch.no_grad():
            _, scores, tokens, _ = self.answer(low, fine, middle, self.model.mask_downsample(truth))
        memory = self.remember(low, 20 * truth - 10, sure, given=True)
        return [(0, *memory)], [(0, self.pointer(tokens, scores, sure))]


Memories = list[tuple[int, Tensor, Tensor]]
"""Number of the frame, features, places."""
Figures = dict[str, float]


def decoder_step(follower: Follower, sequences: Sequences, step: int, share: float) -> tuple[Tensor, Figures]:
    """Coarse masks without clicks, some of them blank, and boxes."""
    (low, fine, middle), truth = sequences.draw((0, step), 0, 24)
    low, fine, middle, model = low[:, 0] + unremembered(follower), fine[:, 0], middle[:, 0], follower.model
    rng = np.random.default_rng((14, step))
    truth = truth * torch.from_numpy(rng.random((len(truth), 1, 1, 1)) > 0.15).float()
    moved = torch.roll(truth, tuple(rng.integers(-6, 7, 2)), (2, 3)) if rng.random() < 0.5 else truth
    logits, scores, _, present = follower.answer(low, fine, middle, coarse_prompt(moved))
    masked, figures = mask_loss(logits, scores, present, truth)
    rows = torch.arange(8)
    return masked + box_loss(model, low[rows], fine[rows], middle[rows], truth[rows]), figures


def places_step(follower: Follower, sequences: Sequences, step: int, share: float) -> tuple[Tensor, Figures]:
    """What is recalled against the features that a coarse prompt would give; true masks are remembered and prompted."""
    (low, fine, middle), truth = sequences.draw((1, step), 2, 12)
    model, losses, errors = follower.model, [], []
    memories, pointers = follower.given([low[:, 0], fine[:, 0], middle[:, 0]], truth[:, :1])
    for frame in range(1, truth.shape[1]):
        true = truth[:, frame, None]
        found = follower.recall(low[:, frame], frame, memories, pointers)
        with torch.no_grad():
            added = model.prompt_encoder.mask_embed(coarse_prompt(true))
            added = added - model.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
            blank = model.prompt_encoder.mask_embed(coarse_prompt(torch.zeros_like(true[:1])))
            weight = 1 + 8 * (functional.avg_pool2d(true, 16) > 0.02).float()
        wanted = low[:, frame] + unremembered(follower) + added
        error = ((found.float() - wanted) ** 2).mean(1, keepdim=True)
        losses.append((error * weight).sum() / weight.sum() / (added - blank).var())
        nearer = (error < ((found.float() - wanted + added - blank) ** 2).mean(1, keepdim=True)).float()
        errors.append((nearer * (weight > 1)).sum() / (weight > 1).sum().clamp(min=1))
        seen = (true.flatten(1).sum(1, keepdim=True) > 0).float()
        memories.append((frame, *follower.remember(low[:, frame], 20 * true - 10, seen, given=False)))
    return torch.stack(losses).mean(), {"object_cells_right": float(torch.stack(errors).mean())}


def whole_step(follower: Follower, sequences: Sequences, step: int, share: float) -> tuple[Tensor, Figures]:
    """Objects followed by what was found before; at first the truth is remembered, less and less often."""
    (low, fine, middle), truth = sequences.draw((2, step), 5, 8)
    forced = torch.from_numpy(np.random.default_rng((15, step)).random(len(truth)) < 0.6 - share)[:, None]
    start = [low[:, 0], fine[:, 0], middle[:, 0]]
    memories, pointers = follower.given(start, truth[:, :1])
    losses, all_figures = [], []
    for frame in range(1, truth.shape[1]):
        true = truth[:, frame, None]
        found = follower.recall(low[:, frame], frame, memories, pointers)
        logits, scores, tokens, present = follower.answer(found, fine[:, frame], middle[:, frame])
        loss, figures = mask_loss(logits, scores, present, true)
        losses.append(loss)
        all_figures.append(figures)
        with torch.no_grad():
            seen = (true.flatten(1).sum(1, keepdim=True) > 0).float()
            here = torch.where(forced, seen, (present > 0).float())
            chosen = logits.float()[torch.arange(len(true)), scores.argmax(1)][:, None]
            shown = torch.where(here[..., None, None] > 0, chosen, NOT_HERE)
            large = functional.interpolate(shown, (SIDE, SIDE), mode="bilinear", align_corners=False)
            large = torch.where(forced[..., None, None], 20 * true - 10, large)
        pointers.append((frame, follower.pointer(tokens, scores, here)))
        memories.append((frame, *follower.remember(low[:, frame], large, here, given=False)))
    boxes = box_loss(follower.model, start[0] + unremembered(follower), start[1], start[2], truth[:, :1])
    means = {name: float(np.nanmean([one[name] for one in all_figures])) for name in all_figures[0]}
    return torch.stack(losses).mean() + 0.3 * boxes, means


def unremembered(follower: Follower) -> Tensor:
    """What is added to features where nothing is remembered, `[1, C, 1, 1]`."""
    return follower.model.no_memory_embedding.view(1, -1, 1, 1)


def coarse_prompt(truth: Tensor) -> Tensor:
    """Masks `[B, 1, S, S]` as prompts `[B, 1, S/4, S/4]` that know no more than how much of each cell is covered."""
    cells = functional.avg_pool2d(truth, 16)
    return functional.interpolate(20 * cells - 10, scale_factor=4.0, mode="bilinear", align_corners=False)


def mask_loss(logits: Tensor, scores: Tensor, present: Tensor, truth: Tensor) -> tuple[Tensor, Figures]:
    """Dice and balanced cross-entropy of all masks `[B, M, h, w]`, the predicted IoU's and the object score's error."""
    logits, scores, present = logits.float(), scores.float(), present.float()
    target = functional.avg_pool2d(truth, 4)
    seen = (truth.flatten(1).sum(1, keepdim=True) > 0).float()
    _, dice = focal_and_dice(logits, target[:, 0], 0.25, 2.0)
    with torch.no_grad():
        true, found = target > 0.5, logits > 0
        ious = (found & true).flatten(2).sum(2) / (found | true).flatten(2).sum(2).clamp(min=1)
        shown = torch.where(present > 0, ious[torch.arange(len(ious)), scores.argmax(1)][:, None], 0.0)
        figures = {
            "iou": float(shown[seen > 0].mean()),
            "score_right": float(((present > 0).float() == seen).float().mean()),
        }
    each = dice + balanced_cross_entropy(logits, target) + (scores - ious).abs()
    masks = (each * seen).sum() / (logits.shape[1] * seen.sum().clamp(min=1))
    return masks + functional.binary_cross_entropy_with_logits(present, seen), figures


def box_loss(model: Any, low: Tensor, fine: Tensor, middle: Tensor, truth: Tensor) -> Tensor:
    """The loss of all four masks for the boxes of those objects that are there."""
    rows = torch.nonzero(truth.flatten(1).sum(1) > 0)[:, 0]
    boxes = []
    for mask in truth[rows, 0]:
        y, x = torch.nonzero(mask, as_tuple=True)
        boxes.append(torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float())
    prompts = PromptBatch.from_boxes(torch.stack(boxes))
    found = decode(model, ImageEmbeddings(low, (fine, middle)), prompts, rows)
    return mask_loss(found.masks, found.iou_scores, found.object_score_logits[:, None], truth[rows])[0]


@dataclass(frozen=True)
class Stage:
    """A part of the training: what a step does, how many there are, learning rates of decoder and memory."""

    name: str
    step: Callable[[Follower, Sequences, int, float], tuple[Tensor, Figures]]
    steps: int
    decoder: float
    memory: float


STAGES = (
    Stage("decoder", decoder_step, 300, 4e-4, 0),
    Stage("places", places_step, 900, 0, 1e-3),
    Stage("whole", whole_step, 700, 2e-4, 5e-4),
)


def calibrate(model: Sam2VideoModel, low: Tensor) -> None:
    """Start the memory attention's last norm where it gives the decoder features of the size that it knows."""
    rows = low.permute(0, 2, 3, 1).flatten(0, 2)
    flat = functional.layer_norm(rows, rows.shape[-1:])
    wanted = rows + model.no_memory_embedding[0, 0]
    scale = ((flat - flat.mean(0)) * (wanted - wanted.mean(0))).mean(0) / flat.var(0)
    norm: Any = model.memory_attention.layer_norm
    with torch.no_grad():
        norm.weight.copy_(scale)
        norm.bias.copy_(wanted.mean(0) - scale * flat.mean(0))


class Training:
    """The state that is kept between pieces: stage, step, weights, optimizer."""

    def __init__(self, model: Sam2VideoModel, memory: list[str], file: Path) -> None:
        self.model, self.file, self.stage, self.step = model, file, 0, 0
        own = dict(model.named_parameters())
        self.names = [
            name for name in own
            if name.startswith(("mask_decoder.", "prompt_encoder.mask_embed.", "prompt_encoder.no_mask_embed."))
            and not name.startswith(("mask_decoder.conv_s0", "mask_decoder.conv_s1"))
        ]  # fmt: skip
        self.decoder = [own[name] for name in self.names]
        self.memory = [own[name] for name in memory if name in own and not name.startswith("mask_downsample.")]
        self.names += memory
        self.optimizer = self._optimizer()
        if file.exists():
            saved = torch.load(file, weights_only=True)
            model.load_state_dict(saved["weights"], strict=False)
            self.stage, self.step = saved["stage"], saved["step"]
            self.optimizer = self._optimizer()
            self.optimizer.load_state_dict(saved["optimizer"])

    @property
    def now(self) -> Stage:
        """The stage at work."""
        return STAGES[min(self.stage, len(STAGES) - 1)]

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = []
        for parameters, rate in ((self.decoder, self.now.decoder), (self.memory, self.now.memory)):
            for parameter in parameters:
                parameter.requires_grad_(rate > 0)
                parameter.grad = None
            groups += [{"params": parameters, "full": rate}] if rate else []
        return torch.optim.AdamW(groups, weight_decay=0.01)

    def do(self, follower: Follower, sequences: Sequences) -> Figures:
        """One step."""
        share = self.step / self.now.steps
        for group in self.optimizer.param_groups:
            group["lr"] = group["full"] * min(1, (self.step + 1) / 30) * (0.52 + 0.48 * math.cos(math.pi * share))
        with torch.autocast("cpu", torch.bfloat16):
            loss, figures = self.now.step(follower, sequences, self.step, share)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimizer.step()
        self.step += 1
        return figures | {"loss": float(loss.detach())}

    def next_stage(self) -> None:
        """Go on with the next stage, from new moments."""
        self.stage, self.step = self.stage + 1, 0
        self.optimizer = self._optimizer()

    def save(self) -> None:
        """Write everything, as a whole or not at all."""
        state = self.model.state_dict()
        content = {
            "weights": {name: state[name] for name in self.names}, "optimizer": self.optimizer.state_dict(),
            "stage": self.stage, "step": self.step,
        }  # fmt: skip
        torch.save(content, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").rename(self.file)


def main() -> None:
    """Draw, embed, train; stop and go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/clips"))
    parser.add_argument("--clips", type=int, default=140, help="to draw and to learn from")
    parser.add_argument("--piece", type=float, default=0, help="seconds after which to stop; 0 for none")
    wanted = parser.parse_args()
    began = time.monotonic()
    wanted.out.mkdir(parents=True, exist_ok=True)
    loaded = untrained(0)
    kept = draw_and_embed(loaded.model, wanted.clips, wanted.out / "embedded.pt")
    model = video_model(loaded)  # shares the image model's tensors
    calibrate(model, kept.low[::8, 0].float())
    training = Training(model, list(loaded.video_state), wanted.out / "state.pt")
    follower, sequences = Follower(model), Sequences(kept)
    while training.stage < len(STAGES):
        recent: list[Figures] = []
        while training.step < training.now.steps:
            recent.append(training.do(follower, sequences))
            if training.step % 50 == 0:
                means = {name: round(float(np.nanmean([one[name] for one in recent])), 3) for name in recent[0]}
                spent = {"stage": training.now.name, "step": training.step, "seconds": round(time.process_time(), 1)}
                print(json.dumps(spent | means), flush=True)
                recent.clear()
                training.save()
            if wanted.piece and time.monotonic() - began > wanted.piece:
                training.save()
                sys.exit(MORE_TO_DO)
        training.next_stage()
        training.save()
    state = model.state_dict()
    memory = {name: state[name].detach() for name in loaded.video_state}
    save_model(replace(loaded, video_state=memory), wanted.out / "base")
    print(f"base       {wanted.out / 'base'}")


if __name__ == "__main__":
    main()
