"""From annotations to a dataset: every object's mask as its own file, and the table that links images to masks.

    DATASET/table.parquet, table.csv   one row per object, one per image without objects (see `table.py`)
    DATASET/masks/SPLIT/IMAGE-NNN.png  one mask per object
    DATASET/images/SPLIT/...           the images, with `copy_images`, from an archive, or where EXIF turns them
    DATASET/merged/...                 one mask per image or category, with `merge`
    DATASET/issues.json                everything that was found wrong, and what was done about it
    DATASET/dataset.json               where the dataset came from, and what it holds

The same source gives the same bytes. The folder appears whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.archive import unpack
from samtune.data.images import probe_image, read_image
from samtune.data.masks import Region, SegmentationError, rasterise_region, write_region_file
from samtune.data.paths import relative_to
from samtune.data.readers import detect_format, read
from samtune.data.split import SplitItem, assign_splits, group_of
from samtune.data.table import SCHEMA, TABLE, Dataset, write_table
from samtune.errors import DataError
from samtune.files import new_folder, write_json
from samtune.types import Annotation, ImageRecord, Issue, Severity, Split

ISSUES, ABOUT = "issues.json", "dataset.json"
DEFAULT_SHARES = (0.8, 0.1, 0.1)
_CHUNK = 16
_SMALL = 64
"""With fewer images than this, starting processes costs more than they save."""


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What `prepare` made.

    Attributes:
        dataset: the dataset, opened.
        issues: everything found wrong.
        images: images by split.
        objects: objects by split.
        broken: objects and images that could not be used.
    """

    dataset: Dataset
    issues: tuple[Issue, ...]
    images: dict[str, int]
    objects: dict[str, int]
    broken: int

    def lines(self) -> list[str]:
        """What to tell the user."""
        counts = [
            f"{split:<10} {count} images, {self.objects.get(split, 0)} objects" for split, count in self.images.items()
        ]
        kinds = Counter((issue.severity.value, issue.code) for issue in self.issues)
        found = [f"{severity:<10} {count} x {code}" for (severity, code), count in sorted(kinds.items())]
        where = self.dataset.root
        listed = [f"issues     {where / ISSUES}"] if self.issues else []
        return [*counts, *found, *listed, f"table      {where / TABLE}"]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What became of one image: its rows for the table (none when it cannot be used) and what was found."""

    rows: list[dict[str, Any]]
    issues: list[Issue]


def prepare(
    source: Path,
    out: Path,
    config: PrepareConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Write a dataset.

    Args:
        source: folder, annotation file, or zip of an export.
        out: dataset folder; an earlier dataset there is replaced, anything else is refused.
        config: how.
        progress: told of images done and their total.

    Raises:
        DataError: the source cannot be read, holds no usable object, or more broken objects than allowed; or `out`
            holds something else.
        StorageError: the disk refused; nothing is left behind.
    """
    _check_out(out)
    with _unpacked(source) as (folder, is_temporary):
        issues: list[Issue] = []
        source_format = detect_format(folder) if config.source_format == "auto" else config.source_format
        records = _placed(list(read(folder, source_format, config.images, on_issue=issues.append)), config)
        copy = config.copy_images or is_temporary
        with new_folder(out) as target:
            rows: list[dict[str, Any]] = []
            work = partial(_prepare_image, target=target, final=out, config=config, copy=copy)
            for done, prepared in enumerate(_mapped(work, records, config.workers), start=1):
                rows += prepared.rows
                issues += prepared.issues
                progress(done, len(records))
            _judge(rows, issues, records, source, config)
            table = pl.DataFrame(rows, schema=SCHEMA)
            write_table(target, table)
            write_json(target / ISSUES, {"format": 1, "issues": [asdict(issue) for issue in issues]})
            write_json(target / ABOUT, _about(table, source_format, config))
    return _report(Dataset.open(out), issues)


def _prepare_image(record: ImageRecord, *, target: Path, final: Path, config: PrepareConfig, copy: bool) -> _Prepared:
    """Write one image's masks; the rows and issues are all that comes back."""
    issues: list[Issue] = []
    try:
        info = probe_image(record.path)
        image_path, size = _placed_image(record, info.orientation, target, final, copy, issues)
    except DataError as error:
        found = str(error).splitlines()[1].removeprefix("found    ")
        issues.append(_about_image(record, "unusable-image", f"The image cannot be used: {found}.", "It is left out."))
        return _Prepared([], issues)
    width, height = size
    image = {
        "image_path": image_path,
        "split": record.split.value,
        "image_id": record.image_id,
        "width": width,
        "height": height,
        "group": record.group,
    }
    rows: list[dict[str, Any]] = []
    regions: list[tuple[str, Region]] = []
    for number, annotation in enumerate(record.annotations):
        region = _region(annotation, record, width, height, config, issues)
        if region is None:
            continue
        mask_path = f"masks/{record.split}/{_stem(record)}-{number:03}.{config.mask_format}"
        _parent(target / mask_path)
        write_region_file(target / mask_path, region, height, width)
        x0, y0, x1, y1 = region.box
        rows.append(
            image
            | {
                "mask_path": mask_path,
                "annotation_id": annotation.annotation_id,
                "category": annotation.category,
                "x0": x0,
                "y0": y0,
                "x1": x1,
                "y1": y1,
                "area": region.area,
                "iscrowd": annotation.iscrowd,
            }
        )
        regions.append((annotation.category, region))
    _write_merged(regions, record, target, height, width, config)
    nothing = dict.fromkeys(("mask_path", "annotation_id", "category", "x0", "y0", "x1", "y1", "area", "iscrowd"))
    return _Prepared(rows or [image | nothing], issues)


def _placed_image(
    record: ImageRecord, orientation: int, target: Path, final: Path, copy: bool, issues: list[Issue]
) -> tuple[str, tuple[int, int]]:
    """Where the table finds the image, and its size (width, height) in the frame of the annotations.

    Readers downstream turn pictures upright. Where the annotations live in the frame before that, the picture is
    written into the dataset as stored, without the tag, so that nobody has to think of it again.
    """
    info = probe_image(record.path)
    stored, upright = (info.width, info.height), info.upright_size
    stated = (record.width, record.height)
    annotated_as_stored = orientation > 1 and stated == stored != upright
    size = stored if annotated_as_stored else upright
    if orientation > 1 and stored == upright:
        issues.append(
            _about_image(
                record,
                "exif-orientation-unclear",
                f"The picture carries EXIF orientation {orientation}; its size does not tell how it was annotated.",
                "It is taken to be annotated upright, as it is shown.",
                Severity.WARNING,
            )
        )
    if stated != size and 0 not in stated:
        issues.append(
            _about_image(
                record,
                "image-size-differs",
                f"The annotations say {stated[0]} x {stated[1]} pixels, the file has {size[0]} x {size[1]}.",
                "The file's size counts.",
                Severity.WARNING,
            )
        )
    if not (copy or annotated_as_stored):
        return relative_to(record.path, final), size
    suffix = ".png" if annotated_as_stored else record.path.suffix.lower()
    path = f"images/{record.split}/{_stem(record)}{suffix}"
    _parent(target / path)
    if annotated_as_stored:
        Image.fromarray(read_image(record.path, upright=False)).save(target / path)
    else:
        shutil.copyfile(record.path, target / path)
    return path, size


def _region(
    annotation: Annotation, record: ImageRecord, width: int, height: int, config: PrepareConfig, issues: list[Issue]
) -> Region | None:
    """The object's pixels, or None and an issue."""

    def refuse(code: str, message: str) -> None:
        issues.append(
            replace(
                _about_image(record, code, message, "The object is left out."),
                annotation=annotation.annotation_id,
                where=annotation.where,
                file=str(record.source),
            )
        )

    if annotation.segmentation is None:
        refuse("no-segmentation", "The object has only a box, no outline.")
        return None
    try:
        region = rasterise_region(annotation.segmentation, height, width)
    except SegmentationError as error:
        refuse(error.code, f"The outline cannot be used: {str(error).splitlines()[1].removeprefix('found    ')}.")
        return None
    if region is None:
        refuse("empty-mask", "The outline covers no pixel of the image.")
        return None
    if region.area < config.min_area:
        refuse("too-small", f"The object has {region.area} pixels, fewer than --min-area {config.min_area}.")
        return None
    return region


def _placed(records: list[ImageRecord], config: PrepareConfig) -> list[ImageRecord]:
    """The records with their groups, and with new splits where these are asked for or the source has only one."""
    records = [replace(record, group=group_of(record.path.as_posix(), config.group_by)) for record in records]
    records = [replace(record, group=Path(record.group).name) for record in records]
    shares = config.shares
    if shares is None and {record.split for record in records} == {Split.TRAIN}:
        shares = DEFAULT_SHARES
    if shares is None:
        return records
    items = [
        SplitItem(str(number), record.group, Counter(annotation.category for annotation in record.annotations))
        for number, record in enumerate(records)
    ]
    splits = assign_splits(items, shares, config.seed)
    return [replace(record, split=splits[str(number)]) for number, record in enumerate(records)]


def _judge(
    rows: Sequence[dict[str, Any]],
    issues: Sequence[Issue],
    records: Sequence[ImageRecord],
    source: Path,
    config: PrepareConfig,
) -> None:
    """Refuse a dataset without objects, or one with more broken objects than the settings allow."""
    objects = sum(row["mask_path"] is not None for row in rows)
    broken = [issue for issue in issues if issue.severity is Severity.ERROR]
    share = len(broken) / max(len(broken) + objects, 1)
    allowed = {"fail": 0.0, "skip": 1.0, "auto": config.max_broken}[config.on_error]
    if broken and share > allowed:
        first = broken[0]
        raise DataError.of(
            expected=f"at most {allowed:.0%} unusable objects",
            found=f"{len(broken)} of {len(broken) + objects} ({share:.0%}); the first: {first.message}",
            where=f"{first.file} {first.where}".strip(),
            do="run `samtune doctor` for all of them, repair the source, or accept the loss with --on-error skip",
        )
    if objects == 0:
        raise DataError.of(
            expected="at least one object",
            found=f"{len(records)} images without any usable one",
            where=str(source),
            do="check the export; `samtune doctor` says what is in it",
        )


def _write_merged(
    regions: Sequence[tuple[str, Region]],
    record: ImageRecord,
    target: Path,
    height: int,
    width: int,
    config: PrepareConfig,
) -> None:
    """One mask per image, or per image and category, with `--merge`."""
    if config.merge == "none":
        return
    merged: dict[str, NDArray[np.bool_]] = {}
    for category, region in regions:
        name = category if config.merge == "category" else ""
        x0, y0, x1, y1 = region.box
        merged.setdefault(name, np.zeros((height, width), bool))[y0:y1, x0:x1] |= region.mask
    for name, mask in merged.items():
        suffix = f"-{_safe(name)}" if name else ""
        path = target / f"merged/{record.split}/{_stem(record)}{suffix}.{config.mask_format}"
        _parent(path)
        write_region_file(path, Region(mask, 0, 0), height, width)


def _mapped(
    work: Callable[[ImageRecord], _Prepared], records: Sequence[ImageRecord], workers: int
) -> Iterator[_Prepared]:
    """`work` on every record, in order, by several processes where that pays; few records are ever under way."""
    processes = workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processes == 1 or len(records) < _SMALL:
        yield from map(work, records)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) as pool:
        for batch in _batches(records, _CHUNK * processes * 4):
            yield from pool.map(work, batch, chunksize=_CHUNK)


def _batches(records: Iterable[ImageRecord], size: int) -> Iterator[list[ImageRecord]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def _unpacked(source: Path) -> Iterator[tuple[Path, bool]]:
    """The source as a folder, and whether that folder will vanish: an archive's is temporary."""
    if not (source.is_file() and source.suffix.lower() == ".zip"):
        yield source, False
        return
    with TemporaryDirectory(prefix="samtune-") as folder:
        yield unpack(source, Path(folder) / "export"), True


def _check_out(out: Path) -> None:
    if out.exists() and not (out / TABLE).exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError.of(
            expected="a new folder, or an earlier dataset to replace",
            found="something else",
            where=str(out),
            do="choose another --out",
        )


def _about(table: pl.DataFrame, source_format: str, config: PrepareConfig) -> dict[str, Any]:
    objects = table.filter(pl.col("mask_path").is_not_null())
    return {
        "format": 1,
        "source_format": source_format,
        "categories": sorted(objects["category"].unique().to_list()),
        "config": config.model_dump(mode="json", exclude={"workers"}),
    }


def _report(dataset: Dataset, issues: Sequence[Issue]) -> PrepareReport:
    images = {split.value: len(dataset.split(split).images) for split in Split}
    objects = {split.value: sum(len(image.objects) for image in dataset.split(split).images) for split in Split}
    broken = sum(issue.severity is Severity.ERROR for issue in issues)
    return PrepareReport(dataset, tuple(issues), images, objects, broken)


def _about_image(
    record: ImageRecord, code: str, message: str, repair: str, severity: Severity = Severity.ERROR
) -> Issue:
    return Issue(code, severity, message, repair, file=str(record.path), image=record.path.name)


def _stem(record: ImageRecord) -> str:
    """A file name that is safe everywhere and unique within a split: the image's id and the picture's own name."""
    return f"{_safe(record.image_id)}-{_safe(record.path.stem)}"[:120]


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name).lstrip(".") or "_"


def _parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
