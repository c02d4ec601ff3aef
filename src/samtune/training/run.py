"""Everything a run needs before its first step: model, what learns, data, optimizer, devices, what to measure."""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import Sam2Model

from samtune.config import TrainConfig
from samtune.data.table import Dataset, ImageEntry
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.errors import ModelError
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.choice import DECODERS
from samtune.model.decoder.reference import DecoderOutput
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.save import save_model
from samtune.model.trainable import Trainable, merged, parameter_groups, save_adapter, select_trainable
from samtune.prompts.batch import PromptBatch
from samtune.runtime.device import choose_device, configure_process
from samtune.runtime.precision import arithmetic, autocast
from samtune.training.batches import Batch, Sampling, TrainingBatches
from samtune.training.checkpoint import Progress, RunFolder, forget_after, load_last, new_run
from samtune.training.optimizer import MovingAverage, make_optimizer
from samtune.training.validation import Validation
from samtune.utils.files import write_json


@dataclass
class Run:
    """A run that is ready to train, or to be resumed.

    Attributes:
        folder: where it writes.
        dataset: whole; the batches are of its training split.
        config: its settings.
        progress: how far it is.
        loaded: the base model, whose weights the training changes in place.
        trainable: what learns.
        average: moving average of what learns, or None.
        embeddings: of the dataset's images; from a cache on disk, unless what it would keep is learning.
        device: where this process computes.
        precision: of the arithmetic, `no` (fp32) or `bf16`.
        accelerator: the other processes.
        notes: what the user should know.
    """

    folder: RunFolder
    dataset: Dataset
    config: TrainConfig
    progress: Progress
    loaded: LoadedModel
    trainable: Trainable
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    batches: TrainingBatches
    validation: Validation
    embeddings: DatasetEmbeddings
    device: torch.device
    precision: str
    accelerator: Accelerator
    notes: tuple[str, ...]

    @property
    def model(self) -> Sam2Model:
        """The model as it is now."""
        return self.loaded.model

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return self.trainable.parameters

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.accelerator.is_main_process

    @property
    def is_alone(self) -> bool:
        """Whether no other process trains with this one."""
        return self.accelerator.num_processes == 1

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return self.config.eval_every or max(1, self.config.steps // 10)

    @property
    def chunk(self) -> int:
        """Prompts per decoder call. Larger ones hold more memory, and on a CPU gain little."""
        return self.config.chunk or (16 if self.device.type == "cpu" else 32)

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""
        return autocast(self.device, self.precision)

    def embed(self, views: Sequence[View], then: Iterable[View] = ()) -> ImageEmbeddings:
        """Embeddings of B = `len(views)` images, of others `then`; gradients flow where the encoder learns."""
        return self.embeddings(views, then)

    def embed_step(self, batch: Batch) -> ImageEmbeddings:
        """Embeddings of a step's images, before those of the steps that follow."""
        return self.embed(batch.views, self.batches.upcoming(batch.step, self.config.steps))

    def decode(self, embeddings: ImageEmbeddings, prompts: PromptBatch, image_index: Tensor) -> DecoderOutput:
        """Answers to prompts, by the decoder path of the settings."""
        return DECODERS[self.config.decoder](self.model, embeddings, prompts, image_index)

    def measure(self) -> dict[str, float]:
        """Mean IoU on the fixed prompts, by `split/kind`."""
        images = deque(View(image) for image in self.validation.images)

        def embed(image: ImageEntry) -> EmbeddedImage:
            view = images.popleft()
            assert view.image == image
            return EmbeddedImage(self.embed([view], images), (image.height, image.width))

        with torch.no_grad(), self.arithmetic():
            return self.validation.measure(Predictor(self.loaded, self.config.decoder), embed)

    def save_best(self) -> None:
        """Write the weights as they are now to `checkpoints/best`, and a LoRA adapter to `checkpoints/adapter`."""
        save_model(replace(self.loaded, model=merged(self.trainable)), self.folder.best)
        if self.trainable.adapter is not None:
            save_adapter(self.trainable, self.folder.adapter, self.loaded.name)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model has the moving average of its weights, where one is kept."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def average_gradients(self) -> None:
        """Give every process the mean of all processes' gradients; see docs/decisions/0004."""
        if self.is_alone:
            return
        flat = torch.cat([_gradient(parameter).flatten() for parameter in self.parameters.values()])
        mean = self._reduced(flat, "mean")
        sizes = [parameter.numel() for parameter in self.parameters.values()]
        for parameter, values in zip(self.parameters.values(), mean.split(sizes), strict=True):
            parameter.grad = values.view_as(parameter)

    def any_process(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if self.is_alone:
            return flag
        return bool(self._reduced(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def _reduced(self, tensor: Tensor, reduction: str) -> Tensor:
        """Sum or mean of a tensor over all processes."""
        found = self.accelerator.reduce(tensor, reduction=reduction)
        assert isinstance(found, Tensor)
        return found


def new(dataset: Path, config: TrainConfig) -> Run:
    """Set up a new run and make its folder.

    Raises:
        DataError: the dataset cannot be read or has nothing to train on.
        ModelError: the model cannot be loaded, or the run folder is taken.
    """
    run = _set_up(dataset, config, RunFolder(Path()))
    run.folder = new_run(dataset, config)
    if run.is_main:
        write_json(run.folder.about, _about(run))
    return run


def resumed(path: Path) -> Run:
    """Set up an interrupted run where its last checkpoint left it.

    Raises:
        ModelError: the folder is no run, has no checkpoint to resume from, or its base model is not what it was.
    """
    folder = RunFolder(path)
    dataset, config = _read_config(folder)
    run = _set_up(dataset, config, folder)
    run.progress = load_last(folder, run.parameters, run.optimizer, run.average)
    if run.is_main:
        forget_after(folder, run.progress.step)
    return run


def _set_up(path: Path, config: TrainConfig, folder: RunFolder) -> Run:
    dataset = Dataset.open(path)
    device = choose_device(config.device)
    accelerator = _processes(device)
    configure_process(device)
    loaded = load_model(config.model, device=device)
    precision = arithmetic(config.precision, device, loaded.image_size)
    trainable = select_trainable(loaded.model, config.trainable, freeze_high_res_convs=config.cache, seed=config.seed)
    sampling = Sampling(
        mask_size=loaded.mask_size,
        images_per_step=config.images_per_step,
        objects_per_image=config.objects_per_image,
        flip=config.flip,
        seed=config.seed,
        prompts=config.prompts,
    )
    return Run(
        folder=folder,
        dataset=dataset,
        config=config,
        progress=Progress(),
        loaded=loaded,
        trainable=trainable,
        optimizer=make_optimizer(parameter_groups(trainable, config.optimizer), device),
        average=MovingAverage(trainable.parameters, config.optimizer.ema) if config.optimizer.ema else None,
        batches=TrainingBatches(
            dataset.split("train"), sampling, rank=accelerator.process_index, world=accelerator.num_processes
        ),
        validation=Validation(dataset, config.prompts, config.eval_objects),
        embeddings=_embeddings(dataset, config, loaded, trainable, device, precision),
        device=device,
        precision=precision,
        accelerator=accelerator,
        notes=(trainable.note, *_cache_note(config, trainable)),
    )


def _processes(device: torch.device) -> Accelerator:
    """The processes that train together. Device and precision are ours: accelerate settles them once for a process."""
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerator(cpu=distributed and device.type == "cpu")


def _embeddings(
    dataset: Dataset,
    config: TrainConfig,
    loaded: LoadedModel,
    trainable: Trainable,
    device: torch.device,
    precision: str,
) -> DatasetEmbeddings:
    """With a cache, where one is wanted and nothing learns that its entries contain."""
    if not config.cache or not trainable.upstream_frozen:
        return DatasetEmbeddings(dataset, loaded, None, device, precision)
    return DatasetEmbeddings.open(dataset, loaded, config, device, precision)


def _cache_note(config: TrainConfig, trainable: Trainable) -> list[str]:
    if config.cache and not trainable.upstream_frozen:
        return ["the embedding cache is off: what it would keep is learning"]
    return []


def _read_config(folder: RunFolder) -> tuple[Path, TrainConfig]:
    try:
        settings = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        return Path(settings.pop("dataset")), TrainConfig(**settings)
    except (OSError, yaml.YAMLError, ValidationError, AttributeError, KeyError, TypeError) as error:
        raise ModelError.of(
            expected="a run folder with its config.yaml",
            found=str(error).splitlines()[0],
            where=str(folder.config),
            do="give the folder that `samtune train` made",
        ) from error


def _about(run: Run) -> dict[str, Any]:
    return {
        "format": 1,
        "base": {"name": run.loaded.name, "source": run.loaded.source, "family": run.loaded.family},
        "trainable": {
            "what": run.config.trainable.train,
            "parameters": run.trainable.trainable,
            "frozen": run.trainable.frozen,
        },
        "notes": list(run.notes),
        "device": str(run.device),
        "processes": run.accelerator.num_processes,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("samtune", "torch", "transformers")},
        },
    }


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
