"""Steps recorded as CUDA graphs and replayed: a GPU runs a step's thousand kernels faster than Python can name them.

A graph replays fixed kernels on fixed memory. So a batch is brought into a grid of B images x N prompts, N rounded up
to one of a few sizes, and copied over the inputs of that size's recording. What a step draws at random comes with the
batch (`TrainingBatch.draws`). The optimizer stays outside, and so does everything that waits for other processes.
Recorded are prompts, decoder, loss, backward pass and correction rounds: everything in `learn_from`, which reads no
value back.

Source of the rules: PyTorch's notes on CUDA graphs ("Whole-network capture", "Graph memory management"). See
docs/decisions/0054.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch

from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.training.batches import TrainingBatch
from samtune.training.losses.tuning import Counts
from samtune.training.run import Run
from samtune.training.step import Figures, count_prompts, learn, learn_from, learn_on_grid

WARM_UPS = 3
"""Steps before recording, which let libraries set themselves up: PyTorch's notes ask for a few."""

Learn: TypeAlias = Callable[[TrainingBatch, Counts], Figures]
_log = logging.getLogger(__name__)


def learner(run: Run) -> Learn:
    """How this run learns from a whole batch: recorded steps, steps on a grid, or batches as they come.

    Recorded where a GPU trains from embeddings that nothing learns upstream of. Where the encoder or an adapter in it
    learns, a GPU works on grids without recording. Everywhere else, and with the plain decoder, a batch is taken as it
    comes, which pads nothing.
    """
    uses_grids = run.device.type == "cuda" and run.config.decoder == "fast"
    if uses_grids and run.config.cuda_graphs and run.trainable.upstream_frozen:
        return RecordedSteps(run)
    return part_learner(run)


def part_learner(run: Run) -> Learn:
    """How this run learns from a part of a batch: on a grid or as it comes. Gradients are added to those there are."""
    if run.device.type != "cuda" or run.config.decoder != "fast":
        return partial(learn, run)
    return lambda batch, counts: learn_on_grid(run, gridded(run, batch), counts)


def gridded(run: Run, batch: TrainingBatch) -> TrainingBatch:
    """A batch as a grid on the run's device, of one of the sizes that are recorded."""
    return batch.to(run.device).grid(grid_size(max(batch.counts)))


def grid_size(count: int) -> int:
    """`count` rounded up to 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most a third of the grid is padding."""
    count = max(count, 1)
    power = 1 << (count - 1).bit_length()
    between = power * 3 // 4
    return between if count <= between else power


class RecordedSteps:
    """Learns from batches by replaying recordings, one for each grid size with or without masks and corrections.

    Attributes:
        is_recording: false once a recording has failed, which a warning reports: steps then run on grids without it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stream = torch.cuda.Stream(run.device)
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[tuple[int, int, bool, int], _Recording] = {}
        self.is_recording = True

    def __call__(self, batch: TrainingBatch, counts: Counts | None = None) -> Figures:
        """Set the gradients of one batch, and return its figures."""
        grid = gridded(self._run, batch)
        counts = counts or count_prompts(self._run, grid)
        embeddings = self._run.embed_step(grid)
        shape = (len(grid.views), len(grid), grid.has_masks, grid.corrections)
        if self.is_recording and shape not in self._recordings:
            self._record(shape, StaticInputs(embeddings, grid, counts))
        if not self.is_recording:
            return learn_from(self._run, embeddings, grid, counts)
        return self._recordings[shape].replay(embeddings, grid, counts)

    def _record(self, shape: tuple[int, int, bool, int], inputs: StaticInputs) -> None:
        try:
            self._recordings[shape] = _Recording(self._run, inputs, self._stream, self._pool)
        except RuntimeError as error:  # no memory for it, or a driver that cannot
            _log.warning("steps are not recorded as CUDA graphs, and run slower: %s", error)
            self.is_recording = False
            self._recordings.clear()
            self._run.state.optimizer.zero_grad(set_to_none=True)


class StaticInputs:
    """Memory of one grid size that is written over for each step.

    Attributes:
        embeddings: of the B images.
        grid: the prompts.
        counts: what their losses are divided by.
    """

    def __init__(self, embeddings: ImageEmbeddings, grid: TrainingBatch, counts: Counts) -> None:
        image, s0, s1 = (tensor.clone() for tensor in embeddings.tensors)
        self.embeddings = ImageEmbeddings(image, (s0, s1))
        self.grid = grid.with_tensors([tensor.clone() for tensor in grid.tensors])
        self.counts = Counts(counts.prompts.clone(), counts.objects.clone())

    def copy_from(self, embeddings: ImageEmbeddings, grid: TrainingBatch, counts: Counts) -> None:
        """Take in another step's inputs, of the same shapes."""
        given = (*embeddings.tensors, *grid.tensors, counts.prompts, counts.objects)
        kept = (*self.embeddings.tensors, *self.grid.tensors, self.counts.prompts, self.counts.objects)
        for old, new in zip(kept, given, strict=True):
            old.copy_(new)

    def learn(self, run: Run) -> Figures:
        """Learn from what they hold now."""
        return learn_from(run, self.embeddings, self.grid, self.counts)


class _Recording:
    """One step on one grid size.

    Recordings share a memory pool, although they are replayed in any order, because nothing in it outlives a step:
    inputs lie outside, figures are copied out, and the optimizer has used the gradients before the next replay.
    """

    def __init__(self, run: Run, inputs: StaticInputs, stream: torch.cuda.Stream, pool: Any) -> None:
        self._inputs = inputs
        self._parameters = list(run.parameters.values())
        self._graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                run.state.optimizer.zero_grad(set_to_none=True)
                inputs.learn(run)
            # without gradients in place the recorded pass writes them, rather than adding to what was there
            run.state.optimizer.zero_grad(set_to_none=True)
        # other threads may allocate pinned memory, or look after several processes, in the meantime: thread_local
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            figures = inputs.learn(run)
            self._names, self._figures = list(figures), torch.stack([value.float() for value in figures.values()])
        self._gradients = [parameter.grad for parameter in self._parameters]
        torch.cuda.current_stream().wait_stream(stream)

    def replay(self, embeddings: ImageEmbeddings, grid: TrainingBatch, counts: Counts) -> Figures:
        """Set the gradients of another step, and return its figures."""
        self._inputs.copy_from(embeddings, grid, counts)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return dict(zip(self._names, self._figures.clone().unbind(), strict=True))
