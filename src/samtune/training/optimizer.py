"""AdamW, the learning rate over the run, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from samtune.config import OptimizerConfig


def make_optimizer(groups: Iterable[dict[str, object]], device: torch.device) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over parameter groups that bring their own `lr` and `weight_decay`.

    Each group's `lr` is kept as its `peak`, which `set_learning_rate` scales.
    """
    prepared = [group | {"peak": group["lr"]} for group in groups]
    return torch.optim.AdamW(prepared, fused=device.type in ("cpu", "cuda"))


def lr_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up, then a cosine down to `final_lr`."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup - 1, 1)
    return config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group to `factor` of its peak; returns the first group's rate, which is the decoder's."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return optimizer.param_groups[0]["lr"]


class MovingAverage:
    """Exponential moving average of the learning weights; it follows them closely while the steps are few."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        follow = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        follow(list(self.values.values()), list(self.parameters.values()), None)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the weights; a second call undoes the first."""
        for name, parameter in self.parameters.items():
            kept: Tensor = parameter.clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)
