"""One optimizer step: gradients summed over all processes, clipped and applied, or skipped where not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samtune.training.run import Run
from samtune.training.step import Figures


class Update:
    """Applies the gradients that a step has left in the parameters.

    Losses are divided by the number of objects and prompts over all processes, so gradients and figures add up to those
    of one process with all the images.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._learning: list[nn.Parameter] | None = None

    def __call__(self, step: int, figures: Figures) -> Figures:
        """Update the weights and their moving average.

        A step whose loss or gradients are not finite changes neither weights nor optimizer: the fused optimizer decides
        that on the device, which therefore is never waited for.

        Args:
            step: which step, from 0.
            figures: of this process.

        Returns:
            The figures over all processes; `grad_norm`, the gradient norm before clipping; `skipped`, 1 or 0.
        """
        state, clip = self._run.state, self._run.config.optimizer.clip
        figures = self._summed(figures)
        norm = nn.utils.clip_grad_norm_(state.parameters.values(), clip)
        skipped = (~(norm.isfinite() & figures["loss"].isfinite())).float()
        if state.optimizer.defaults.get("fused"):
            # as torch.amp.GradScaler does it
            state.optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
            state.optimizer.step()
        elif not skipped:
            state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.update(step)
        return figures | {"grad_norm": norm, "skipped": skipped}

    def _summed(self, figures: Figures) -> Figures:
        """Sum gradients and figures over all processes, in one call; see docs/decisions/0004."""
        processes, parameters = self._run.processes, list(self._run.state.parameters.values())
        if processes.is_alone:
            return figures
        has_gradient = [parameter.grad is not None for parameter in parameters]
        if self._learning is None:  # which parameters get gradients depends on the settings, not on the batch
            anywhere = processes.sum(torch.tensor(has_gradient).float()).tolist()
            self._learning = [parameter for parameter, has in zip(parameters, anywhere, strict=True) if has]
        assert sum(has_gradient) <= len(self._learning), "a parameter without gradients in the first step got some"
        values = torch.stack([value.float() for value in figures.values()])
        own = [_gradient(parameter) for parameter in self._learning]
        total = processes.sum(torch.cat([*(gradient.flatten() for gradient in own), values]))
        *gradients, values = total.split([*(gradient.numel() for gradient in own), len(values)])
        for parameter, gradient in zip(self._learning, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return dict(zip(figures, values.unbind(), strict=True))


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
