"""The image encoder forward and backward on a CPU: transformers' own modules and samtune's, in turns.

    python benchmarks/encoder_learning.py nano --images 4
    python benchmarks/encoder_learning.py tiny --rounds 3

What a run with `--train all` or a LoRA adapter spends most of its time on. `tiny` is SAM 2.1 tiny's layout with random
weights. Every round runs both once; the fastest of each counts. With `--only` one side runs alone, so that the peak
memory that is printed is its own. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model

from samtune.config import TrainableConfig
from samtune.model.architecture import input_size
from samtune.model.encoder import embeddings, fast
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.io.load import load_model
from samtune.model.trainable import select_trainable

Encoder = Callable[[Sam2Model, Tensor], ImageEmbeddings]
SIDES: dict[str, Encoder] = {"transformers": embeddings.encode, "samtune": fast.encode}


def learning_model(name: str, *, recomputed: bool) -> Sam2Model:
    """A model in which everything learns."""
    torch.manual_seed(0)
    model = load_model("nano").model if name == "nano" else Sam2Model(Sam2Config())
    return select_trainable(model, TrainableConfig(train="all", gradient_checkpointing=recomputed)).model


def seconds(encode: Encoder, model: Sam2Model, pixels: Tensor, *, bf16: bool) -> tuple[float, Tensor]:
    """Time of one forward and backward pass, and the gradients as one vector."""
    model.zero_grad()
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        found = encode(model, pixels)
    torch.autograd.backward([tensor.float().square().mean() for tensor in found.tensors])
    spent = time.perf_counter() - begin
    return spent, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["nano", "tiny"])
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--recomputed", action="store_true", help="with gradient checkpointing, as training does")
    options = parser.parse_args()
    model = learning_model(options.model, recomputed=options.recomputed)
    size = input_size(model)
    pixels = torch.randn(options.images, 3, size, size)
    sides = {name: encode for name, encode in SIDES.items() if options.only in (None, name)}
    for bf16 in (True, False):
        best = dict.fromkeys(sides, float("inf"))
        gradients: dict[str, Tensor] = {}
        for _ in range(options.rounds):
            for name, encode in sides.items():
                spent, gradients[name] = seconds(encode, model, pixels, bf16=bf16)
                best[name] = min(best[name], spent)
        line = ", ".join(f"{name} {value:.3f} s" for name, value in best.items())
        if len(sides) == 2:
            theirs, ours = gradients.values()
            line += f", ratio {best['transformers'] / best['samtune']:.2f}"
            line += f", gradients differ by {float((ours - theirs).norm() / theirs.norm()):.1e}"
        print(f"{options.model}, {options.images} x {size} px, {'bf16' if bf16 else 'fp32'}: {line}", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
