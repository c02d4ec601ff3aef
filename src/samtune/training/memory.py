"""How much of a step goes through the model at once: as many images and prompts as fit into memory.

A step's gradients are added up over its parts, each divided by the whole step's counts, so that cutting it changes
memory and rounding, and nothing that is learned. On a CPU the need is estimated before the first step, because a
system out of memory ends a process without asking; on a GPU, and where the estimate was too low, a step that fails is
cut in halves and done again. What was found is part of the checkpoint: a resumed run cuts as the run had.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import replace

import torch

from samtune.errors import ConfigError, SamtuneError
from samtune.runtime.memory import free_memory, gigabytes, is_out_of_memory
from samtune.training.batches import TrainingBatch
from samtune.training.cuda_graphs import Learn
from samtune.training.footprint import measure_footprint, rough_footprint
from samtune.training.losses.tuning import Counts
from samtune.training.run import Run
from samtune.training.step import Figures, add_figures, count_prompts
from samtune.utils.text import counted

_SHARE = 0.85
"""Of the free memory that an estimate may fill."""


def fit_to_memory(run: Run) -> str:
    """Choose how many images and prompts go through the model at once, before a run's first step.

    Returns:
        What was chosen, for the user.

    Raises:
        ConfigError: one image and one prompt at once would not fit, or what the settings ask for would not.
    """
    free = free_memory(run.device) if run.device.type == "cpu" else None
    if free is not None:
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of one machine, as torchrun says
    if free is not None and _SHARE * free < rough_footprint(run):
        _cut_until_it_fits(run, free)
    images, prompts = run.images_at_once, run.chunk
    return f"{counted(images, 'image')} x {counted(prompts, 'prompt')} at once" + (
        f", {gigabytes(free)} free" if free is not None else ""
    )


def _cut_until_it_fits(run: Run, free: int) -> None:
    found = measure_footprint(run)
    while (needed := found.bytes(run.images_at_once, run.chunk)) > _SHARE * free:
        fixed = run.config.batch != "auto"
        if fixed or not _cut(run):
            asked = f"--batch {run.config.batch}" if fixed else "one image and one prompt at once"
            raise ConfigError.of(
                expected=f"memory for {asked}, about {gigabytes(needed)}",
                found=f"{gigabytes(free)} free",
                where=f"{run.loaded.name}, --train {run.config.trainable.train}",
                do="take --batch auto"
                if fixed
                else "take a smaller --model, let less of it learn (--train decoder), or free some memory",
            )


class WithinMemory:
    """Learns from batches, in parts where a whole one does not fit.

    Args:
        run: the run.
        learn: from a batch at once, its gradients in the place of earlier ones.
        learn_part: from a part of one, its gradients added.
        report: told what was cut, for the user.
    """

    def __init__(self, run: Run, learn: Learn, learn_part: Learn, report: Callable[[str], None]) -> None:
        self._run, self._learn, self._learn_part, self._report = run, learn, learn_part, report

    def __call__(self, batch: TrainingBatch) -> Figures:
        """Set the gradients of one batch, and return its figures.

        Raises:
            SamtuneError: not even one image and one prompt fit.
        """
        run = self._run
        batch = batch.to(run.device)
        counts = count_prompts(run, batch)  # here, once: several processes wait for each other in it
        while True:
            try:
                return self._in_parts(batch, counts)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                found = str(error).splitlines()[0]
            run.state.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            if run.device.type == "cuda":
                torch.cuda.empty_cache()
            if not _cut(run):
                raise SamtuneError.of(
                    expected="memory for one image and one prompt at once",
                    found=found,
                    where=f"step {batch.step + 1}",
                    do="take a smaller --model, or let less of it learn (--train decoder)",
                )
            self._report(
                f"step {batch.step + 1} did not fit into memory: {run.images_at_once} images x {run.chunk} prompts at "
                "once from here on; what is learned stays the same"
            )

    def _in_parts(self, batch: TrainingBatch, counts: Counts) -> Figures:
        parts = batch.by_images(self._run.images_at_once)
        if len(parts) == 1:
            return self._learn(batch, counts)
        figures: Figures = {}
        for part in parts:
            add_figures(figures, self._learn_part(part, counts))
        return figures


def _cut(run: Run) -> bool:
    """Halve the images at once, then the prompts; whether there was anything to halve."""
    images, prompts = run.images_at_once, run.chunk
    if images == 1 and prompts == 1:
        return False
    limits = {"images_at_once": -(-images // 2)} if images > 1 else {"prompts_at_once": -(-prompts // 2)}
    run.state.progress = replace(run.state.progress, **limits)
    return True
