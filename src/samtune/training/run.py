"""Everything a run needs before its first step: model, what learns, data, optimizer, device, what to measure."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam2Model

from samtune.config import TrainConfig
from samtune.data.fingerprint import fingerprint
from samtune.data.table import Dataset, ImageEntry
from samtune.data.training_share import with_training_share
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.errors import ConfigError
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.choice import DECODERS
from samtune.model.decoder.reference import DecoderOutput
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.save import write_model
from samtune.model.io.tensors import hash_tensors
from samtune.model.trainable import Trainable, merged, parameter_groups, save_adapter, select_trainable
from samtune.prompts.batch import PromptBatch
from samtune.runtime.device import choose_device, configure_process
from samtune.runtime.distributed import Processes, join_processes
from samtune.runtime.precision import arithmetic, autocast
from samtune.training.batches import Sampling, TrainingBatch, TrainingBatches
from samtune.training.checkpoint import (
    RunFolder,
    choose_folder,
    has_checkpoint,
    has_steps,
    load_last,
    make_folder,
    read_settings,
    remove_folder,
    tidy,
)
from samtune.training.identity import (
    require_dataset,
    require_same_base,
    require_same_processes,
    require_same_settings,
)
from samtune.training.optimizer import MovingAverage, make_optimizer
from samtune.training.state import Progress, TrainingState
from samtune.training.tracking.services import require_trackers
from samtune.training.validation import Validation
from samtune.utils.checksums import write_checksums
from samtune.utils.files import new_folder
from samtune.utils.text import counted


@dataclass(frozen=True)
class Run:
    """A run that is ready to train, or to be resumed: what does not change while it goes on, and its `state`.

    Attributes:
        folder: where it writes.
        dataset: whole; the batches are of its training split.
        config: its settings.
        loaded: the base model, whose weights the training changes in place.
        weights: checksum of the base model's weights.
        trainable: what learns.
        batches: what each step works on.
        validation: what is measured.
        embeddings: of the dataset's images; from a cache on disk, unless what it would keep is learning.
        device: where this process computes.
        precision: of the arithmetic, `no` (fp32) or `bf16`.
        processes: this process among those that train together.
        notes: what the user should know.
        state: what changes.
    """

    folder: RunFolder
    dataset: Dataset
    config: TrainConfig
    loaded: LoadedModel
    weights: str
    trainable: Trainable
    batches: TrainingBatches
    validation: Validation
    embeddings: DatasetEmbeddings
    device: torch.device
    precision: str
    processes: Processes
    notes: tuple[str, ...]
    state: TrainingState

    @property
    def model(self) -> Sam2Model:
        """The model as it is now."""
        return self.loaded.model

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return self.trainable.parameters

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return _validate_every(self.config)

    @property
    def validates_now(self) -> bool:
        """Whether the steps done so far are followed by a validation."""
        return self._is_due(self.validate_every)

    @property
    def saves_now(self) -> bool:
        """Whether the steps done so far are followed by a checkpoint to resume from."""
        return self._is_due(self.config.save_every or self.validate_every)

    def _is_due(self, every: int) -> bool:
        step = self.state.progress.step
        return step % every == 0 or step == self.config.steps

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the last validations, as many as the patience, were all no better than an earlier one."""
        progress, wait = self.state.progress, self.config.patience * self.validate_every
        return 0 < wait <= progress.step - progress.best_step and progress.step < self.config.steps

    @property
    def chunk(self) -> int:
        """Prompts per decoder call. Larger ones hold more memory, and on a CPU gain little."""
        wanted = self.config.chunk or (16 if self.device.type == "cpu" else 32)
        return min(wanted, self.state.progress.prompts_at_once or wanted)

    @property
    def images_at_once(self) -> int:
        """Images of a step that go through the model together; its gradients are added up over such parts."""
        config = self.config
        whole = config.images_per_step * config.accumulate
        asked = config.images_per_step if config.batch == "auto" else min(config.batch, whole)
        return min(asked, self.state.progress.images_at_once or asked)

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""
        return autocast(self.device, self.precision)

    def embed(self, views: Sequence[View], then: Iterable[View] = ()) -> ImageEmbeddings:
        """Embeddings of B = `len(views)` images, of others `then`; gradients flow where the encoder learns."""
        return self.embeddings(views, then)

    def embed_step(self, batch: TrainingBatch) -> ImageEmbeddings:
        """Embeddings of a step's images, before those of the steps that follow."""
        return self.embed(batch.views, self.batches.upcoming(batch.step, self.config.steps))

    def decode(self, embeddings: ImageEmbeddings, prompts: PromptBatch, image_index: Tensor) -> DecoderOutput:
        """Masks and scores for prompts, by the decoder path of the settings."""
        return DECODERS[self.config.decoder](self.model, embeddings, prompts, image_index)

    def measure(self) -> dict[str, float]:
        """Mean IoU on the fixed prompts, by `split/kind`. Every process measures its share of the images."""
        upcoming = deque(View(image) for image in self.validation.images(self.processes))

        def embed(image: ImageEntry) -> EmbeddedImage:
            view = upcoming.popleft()
            assert view.image == image
            return EmbeddedImage(self.embed([view], upcoming), (image.height, image.width))

        with torch.no_grad(), self.arithmetic():
            return self.validation.measure(Predictor(self.loaded, self.config.decoder), embed, self.processes)

    def save_best(self) -> None:
        """Write the weights as they are now to `checkpoints/best`, and a LoRA adapter to `checkpoints/adapter`."""
        with new_folder(self.folder.best) as temporary:
            write_model(replace(self.loaded, model=merged(self.trainable)), temporary)
            write_checksums(temporary)
        if self.trainable.adapter is not None:
            save_adapter(self.trainable, self.folder.adapter, self.loaded.name)


def new(dataset: Path, config: TrainConfig) -> Run:
    """Set up a new run and make its folder, when nothing else can go wrong any more.

    Raises:
        DataError: the dataset cannot be read or has nothing to train on.
        ModelError: the model cannot be loaded.
        ConfigError: the run folder is taken, or a tracker is not at hand.
        SystemExit: one of these, in a process that is not the main one.
    """
    require_trackers(config.track)
    processes = join_processes()
    folder = RunFolder(Path(processes.on_main(lambda: str(choose_folder(config)))))
    run = processes.all_or_none(lambda: _set_up(dataset, config, folder, processes))

    with removed_if_not_started(run):
        # Of the whole dataset, also where the run uses a share of it: that is what a resumed run is compared with.
        processes.on_main(lambda: make_folder(folder, dataset, config, _about(run), fingerprint(Dataset.open(dataset))))
    return run


def resumed(path: Path) -> Run:
    """Set up an interrupted run where its last whole checkpoint left it; at its start, where it had saved none yet.

    Raises:
        ModelError: the folder is no run, has no checkpoint to resume from, was started with other settings or another
            number of processes, or its base model is not what it was.
        DataError: its dataset is no longer there, or has changed.
        SystemExit: one of these, in a process that is not the main one.
    """
    folder, processes = RunFolder(path), join_processes()

    def set_up() -> Run:
        dataset, config = read_settings(folder)
        require_trackers(config.track)
        require_same_processes(folder, processes)
        require_same_settings(folder, config)
        require_dataset(folder, dataset)
        run = _set_up(dataset, config, folder, processes)
        require_same_base(folder, run.weights)
        if not has_checkpoint(folder) and not has_steps(folder):
            return replace(run, notes=(*run.notes, "nothing had been saved yet: from the start"))
        note = load_last(folder, run.state)
        if run.state.progress.step == 0:
            run.state.progress = Progress()  # the base model is measured again, and that is written again
        return replace(run, notes=(*run.notes, *([note] if note else [])))

    run = processes.all_or_none(set_up)
    processes.on_main(lambda: tidy(folder, run.state.progress.step))
    return run


@contextmanager
def removed_if_not_started(run: Run) -> Iterator[None]:
    """Removes a new run's folder when what happens inside fails before the first step is done.

    Nothing in it could be resumed, and it would stand in the way of the same command.
    """
    try:
        yield
    except BaseException:
        if run.processes.is_main and run.state.progress.step == 0:
            remove_folder(run.folder)
        raise


def _set_up(path: Path, config: TrainConfig, folder: RunFolder, processes: Processes) -> Run:
    dataset = with_training_share(Dataset.open(path), config.train_share, config.seed)
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    configure_process(device)
    loaded = load_model(config.model, device=device)
    weights = hash_tensors(loaded.model.state_dict())
    precision = arithmetic(config.precision, device, loaded.image_size)
    trainable = select_trainable(loaded.model, config.trainable, freeze_high_res_convs=config.cache, seed=config.seed)
    sampling = Sampling(
        mask_size=loaded.mask_size,
        images_per_step=config.images_per_step * config.accumulate,
        objects_per_image=config.objects_per_image,
        flip=config.flip,
        views=config.views,
        loss_scale=config.loss.scale,
        seed=config.seed,
        prompts=config.prompts,
        steps=config.steps,
    )
    lr = config.optimizer.lr_of(config.steps)
    validation = Validation(dataset, config.prompts, config.eval_objects)
    if config.patience and "valid" not in validation.objects:
        raise ConfigError.of(
            expected="a validation split, which --patience waits for to get better",
            found="a dataset without one",
            where=str(path),
            do="leave --patience out, or prepare the dataset with a validation split (--split)",
        )
    return Run(
        folder=folder,
        dataset=dataset,
        config=config,
        loaded=loaded,
        weights=weights,
        trainable=trainable,
        batches=TrainingBatches(dataset.split("train"), sampling, rank=processes.rank, world=processes.count),
        validation=validation,
        embeddings=_embeddings(dataset, config, loaded, trainable, device, precision),
        device=device,
        precision=precision,
        processes=processes,
        notes=(
            trainable.note,
            *_cache_note(config, trainable),
            *_patience_note(config),
            *([f"learning rate {lr:.2g}, for {config.steps} steps"] if config.optimizer.lr == "auto" else []),
            *_processes_note(config, processes),
        ),
        state=TrainingState(
            parameters=trainable.parameters,
            optimizer=make_optimizer(parameter_groups(trainable, config.optimizer, lr), device),
            average=MovingAverage(trainable.parameters, config.optimizer.ema) if config.optimizer.ema else None,
        ),
    )


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


def open_embeddings(path: Path, loaded: LoadedModel) -> DatasetEmbeddings:
    """The embeddings of a run's dataset, as far as its training has kept them, for its model or one of its encoder.

    Raises:
        ModelError: the folder is no run.
        DataError: its dataset cannot be read.
    """
    dataset, config = read_settings(RunFolder(path))
    device = loaded.model.device
    precision = arithmetic(config.precision, device, loaded.image_size)
    return DatasetEmbeddings.open(Dataset.open(dataset), loaded, config, device, precision)


def _cache_note(config: TrainConfig, trainable: Trainable) -> list[str]:
    if config.cache and not trainable.upstream_frozen:
        return ["the embedding cache is off: what it would keep is learning"]
    return []


def _validate_every(config: TrainConfig) -> int:
    return config.eval_every or max(1, config.steps // 10)


def _patience_note(config: TrainConfig) -> list[str]:
    if config.patience * _validate_every(config) < config.steps:
        return []
    return [f"--patience {config.patience} cannot end this run early: it has no more validations than that"]


def _processes_note(config: TrainConfig, processes: Processes) -> list[str]:
    if processes.is_alone:
        return []
    each = config.images_per_step * config.accumulate
    return [f"{processes.count} processes, {counted(each, 'image')} each, {processes.count * each} images per step"]


def _about(run: Run) -> dict[str, Any]:
    return {
        "format": 1,
        "base": {
            "name": run.loaded.name,
            "source": run.loaded.source,
            "family": run.loaded.family,
            "weights": run.weights,
        },
        "trainable": {
            "what": run.config.trainable.train,
            "parameters": run.trainable.trainable,
            "frozen": run.trainable.frozen,
        },
        "notes": list(run.notes),
        "device": str(run.device),
        "processes": run.processes.count,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("samtune", "torch", "transformers")},
        },
    }
