"""Models compared on a dataset, as a folder with figures, images and report.

OUT/prompts.json                the prompts that all models were asked with
OUT/base.json, OUT/tuned.json   every object's figures; `report/folder.py` has the whole list
OUT/comparison.json             the paired differences and the verdict
OUT/gallery/                    panels of the best, worst and most changed objects; what was found without a prompt
OUT/report.html                 all of it in one file
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from samtune.config import CacheConfig, EvalConfig, FindEvalConfig
from samtune.data.table import Dataset
from samtune.errors import ConfigError
from samtune.evaluation.automatic import AutomaticComparison, AutomaticFigures
from samtune.evaluation.blend import BLEND
from samtune.evaluation.clips.guard import clip_guard, follow_drawn_clips
from samtune.evaluation.comparison import Comparison, compare, ranked
from samtune.evaluation.fixed_prompts import PromptSet, TrueMasks, make_prompts
from samtune.evaluation.guards import guarded_split
from samtune.evaluation.paired import Guard
from samtune.evaluation.protocol import evaluate_all
from samtune.evaluation.results import Evaluation
from samtune.finder.evaluation import BASE_GRID, TUNED_GRID, FindEvaluation, evaluate_finder, knows_classes
from samtune.finder.grid import GridFinds
from samtune.finder.results import Finder
from samtune.finder.storage import finder_of
from samtune.inference.predictor import Predictor
from samtune.report.automatic import GridsOfClicks, find_by_grids
from samtune.report.compared import Compared
from samtune.report.folder import COMPARISON, DATA_CURVE, save_comparisons
from samtune.report.gallery import GALLERY, Advance, draw_gallery
from samtune.report.guard_scenes import SCENE_EMBEDDINGS, guard_scenes
from samtune.report.health import dataset_health
from samtune.report.render import write_report
from samtune.runtime.distributed import Processes
from samtune.utils.files import new_folder
from samtune.utils.output_folders import check_output

SCENES = "procedural scenes"
"""Name of the guard that every comparison has unless it is turned off."""
ON_GUARDS = {"jitter": (), "mask_prompt": False, "clicks": 0, "boundaries": False, "background_clicks": 0}
"""Settings of an evaluation on a guard's images: exact boxes and single clicks only."""
Found = TypeVar("Found")
_CLIPS = TypeAdapter(list[tuple[Guard, ...]])
_AUTOMATIC = TypeAdapter(list[AutomaticFigures])


def build_report(
    dataset: Dataset,
    base: Predictor,
    tuned: Sequence[Predictor],
    out: Path,
    config: EvalConfig,
    *,
    names: Sequence[str],
    guards: Sequence[Dataset] = (),
    scenes: int = 0,
    runs: Sequence[Path | None] = (),
    data_curve: Path | None = None,
    automatic: bool = False,
    find: bool = True,
    processes: Processes | None = None,
    progress: Advance = lambda what, done, total: None,
) -> list[Compared]:
    """Evaluate all models on the same prompts, compare them, draw the gallery, write the report.

    Args:
        dataset: whole; the split is chosen by `config`.
        base: the model to compare with.
        tuned: one model or several.
        out: folder to write, as a whole or not at all; an earlier comparison there is replaced.
        config: what to measure.
        names: what to call the models, the base first.
        guards: datasets of images of another kind; their test split is used, or the one that has objects.
        scenes: procedural scenes as one more guard, and drawn clips where all models have video weights; 0
            leaves them out.
        runs: folder of each tuned model that has one, for its finder, its training curve (`metrics.jsonl`), its curve
            of blends (`blend.json`) or its data curve (`curve.json`).
        data_curve: `curve.json` of the dataset, where it lies elsewhere.
        automatic: also measure the masks that a grid of clicks finds.
        find: also measure what the finder of the best tuned model finds without prompts, where it has one.
        processes: those that share the images; all must call this. The main one measures what needs no prompts, and
            writes; all get the comparisons.
        progress: called with what is being done, images done and their total.

    Returns:
        The comparison of each tuned model with the base, the best first.

    Raises:
        ConfigError: `out` holds something that is no comparison, or two guards have one name.
        DataError: the split or a guard has no objects, or an image cannot be read.
        StorageError: the disk refused.
    """
    processes = processes or Processes()
    processes.all_or_none(
        lambda: check_output(out, mark=COMPARISON, earlier="an earlier comparison", inputs=[dataset.root])
    )
    sets = processes.all_or_none(lambda: guards_by_name(guards))
    finders = processes.all_or_none(
        lambda: [_finder_for(dataset, config, *one) for one in zip(tuned, runs, strict=True)] if find and runs else []
    )
    measuring = _Measuring(dataset, (base, *tuned), tuple(names), config, processes, progress)
    prompts, compared = measuring.compared(sets, scenes)
    if automatic:
        compared = measuring.with_automatic(compared)
    order = ranked(compared)
    best = next(number for number, one in enumerate(compared) if one is order[0])
    comparisons = [Compared.of(one, None) for one in order]
    comparisons[0] = replace(comparisons[0], others=tuple(order[1:]))

    def write() -> None:
        finder, no_finds = finders[best] if finders else (None, "")
        finds = None if finder is None else measuring.finds(best, finder)
        comparisons[0] = replace(comparisons[0], finds=finds, no_finds=no_finds)
        with new_folder(out) as folder:
            prompts.save(folder / "prompts.json")
            gallery = draw_gallery(dataset, (base, tuned[best]), comparisons[0], folder / GALLERY, progress, finds)
            save_comparisons(folder, comparisons, gallery, dataset_health(dataset))
            _write_report(folder, runs[best] if runs else None, data_curve)

    processes.on_main(write)
    return comparisons


@dataclass
class _Measuring:
    """What is measured of the models of a comparison, the base first; all processes share the images, or one does it.

    Attributes:
        dataset, models, names, config, processes, progress: those of `build_report`.
        grids: what the main process found by grids of clicks; empty where it did not look.
    """

    dataset: Dataset
    models: tuple[Predictor, ...]
    names: tuple[str, ...]
    config: EvalConfig
    processes: Processes
    progress: Advance
    grids: list[GridsOfClicks] = field(default_factory=list)

    def compared(self, sets: Mapping[str, Dataset], scenes: int) -> tuple[PromptSet, list[Comparison]]:
        """The prompts, and every tuned model with the base; guards are `sets`, drawn scenes and drawn clips."""
        truth, making = TrueMasks(self.dataset), _named(self.progress, "making prompts")
        prompts = self.processes.all_or_none(
            lambda: make_prompts(self.dataset, self.config, truth=truth, progress=making)
        )
        found = self._evaluated(self.dataset, self.config, "measuring", prompts=prompts, truth=truth)
        guards = {name: self._on_guard(guard) for name, guard in sets.items()}
        if scenes:
            with guard_scenes(scenes) as drawn:
                guards[SCENES] = self._on_guard(drawn, SCENE_EMBEDDINGS)
        following = _named(self.progress, "following objects through clips")
        clips = _from_main(self.processes, _CLIPS, lambda: _on_clips(self.models, scenes, following))
        return prompts, _compared(found, guards, clips)

    def with_automatic(self, compared: Sequence[Comparison]) -> list[Comparison]:
        """The comparisons with what grids of clicks find, which the main process measures."""

        def clicked() -> list[AutomaticFigures]:
            clicking = _named(self.progress, "clicking a grid")
            self.grids.append(find_by_grids(self.dataset, self.config.split, self.models, progress=clicking))
            return self.grids[0].figures()

        before, *after = _from_main(self.processes, _AUTOMATIC, clicked)
        pairs = zip(compared, after, strict=True)
        return [replace(one, automatic=AutomaticComparison(before, these)) for one, these in pairs]

    def finds(self, number: int, finder: Finder) -> FindEvaluation:
        """What the finder of a tuned model finds without prompts; in one process."""
        by_grid: dict[str, Sequence[GridFinds]] = {}
        if self.grids:
            by_grid = {BASE_GRID: self.grids[0].found[0], TUNED_GRID: self.grids[0].found[1 + number]}
        wish = FindEvalConfig(split=self.config.split, chunk=self.config.chunk)
        base, tuned = self.models[0], self.models[1 + number]
        finding = _named(self.progress, "finding")
        return evaluate_finder(self.dataset, tuned, base, finder, wish, grids=by_grid, progress=finding)

    def _on_guard(self, guard: Dataset, keep: CacheConfig | None = None) -> list[Evaluation]:
        """All models on the images of a guard, on its test split or the first that has objects."""
        settings = self.config.model_copy(update=ON_GUARDS | {"split": guarded_split(guard)})
        return self._evaluated(guard, settings, "measuring other images", keep=keep)

    def _evaluated(self, data: Dataset, config: EvalConfig, what: str, **more: Any) -> list[Evaluation]:
        shared = {"names": self.names, "processes": self.processes, "progress": _named(self.progress, what)}
        return evaluate_all(self.models, data, config, **shared, **more)


def _finder_for(dataset: Dataset, config: EvalConfig, tuned: Predictor, run: Path | None) -> tuple[Finder | None, str]:
    """The finder that stands in a run, or None and why one that is there cannot be measured."""
    if run is None:
        return None, ""
    finder, why_not = finder_of(run, tuned.loaded)
    if finder is None:
        return None, f"not measured: {why_not}" if why_not else ""
    if not knows_classes(finder, dataset.split(config.split).images):
        return None, f"not measured: none of these objects is of its classes, {', '.join(finder.classes)}"
    finder.head.to(tuned.device)
    return finder, ""


def _write_report(folder: Path, run: Path | None, data_curve: Path | None) -> None:
    """The report, with what the best model's run has to show."""
    if run is None:
        write_report(folder, data_curve=data_curve)
    else:
        curve = data_curve or run / DATA_CURVE
        write_report(folder, curve=run / "metrics.jsonl", blend=run / BLEND, data_curve=curve)


def guards_by_name(guards: Sequence[Dataset]) -> dict[str, Dataset]:
    """Guards by the names of their folders; each has objects to ask for."""
    for guard in guards:
        guarded_split(guard)
    sets = {guard.root.resolve().name: guard for guard in guards}
    if len(sets) < len(guards) or SCENES in sets:
        raise ConfigError.of(
            expected="guards whose folders have different names",
            found=", ".join(str(guard.root) for guard in guards),
            where="--guard",
            do="rename one of the folders",
        )
    return sets


def _from_main(processes: Processes, kind: TypeAdapter[Found], work: Callable[[], Found]) -> Found:
    """What the main process finds, for all of them."""
    if processes.is_alone:
        return work()
    return kind.validate_json(processes.on_main(lambda: kind.dump_json(work()).decode()))


def _on_clips(
    models: Sequence[Predictor], scenes: int, progress: Callable[[int, int], None]
) -> list[tuple[Guard, ...]]:
    """For every model the guard of clips, as far as all models have video weights and drawn guards are wanted."""
    scores = follow_drawn_clips([model.loaded for model in models], progress=progress) if scenes else []
    return [(clip_guard(scores[0], tuned),) for tuned in scores] or [()] * len(models)


def _compared(
    found: Sequence[Evaluation],
    on_guards: Mapping[str, Sequence[Evaluation]],
    clips: Sequence[tuple[Guard, ...]],
) -> list[Comparison]:
    """Every tuned model with the base, which comes first in all of them."""
    return [
        compare(
            found[0],
            found[number],
            sets={name: (evaluations[0], evaluations[number]) for name, evaluations in on_guards.items()},
            guards=clips[number],
            models=len(found) - 1,
        )
        for number in range(1, len(found))
    ]


def _named(progress: Advance, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)
