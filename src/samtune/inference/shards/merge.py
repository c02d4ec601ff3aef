"""The results of a job in one COCO file: read shard by shard, written as it is read, every image once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import polars as pl

from samtune.errors import ConfigError, DataError, SamtuneError
from samtune.inference.shards.claims import done_shards
from samtune.inference.shards.job import Job, read_job
from samtune.utils.files import new_file, write_text
from samtune.utils.results import Result

DAMAGED = "damaged.csv"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class MergeReport(Result):
    """What was merged.

    Attributes:
        out: the COCO file.
        images, objects: how many.
        damaged: images that could not be looked at, as many as are shown, and why.
        damaged_count: how many they are.
        list: file with all of them; None where there are none.
    """

    out: Path
    images: int
    objects: int
    damaged: tuple[str, ...]
    damaged_count: int
    list: Path | None

    def lines(self) -> list[str]:
        """What to tell the user."""
        lines = [f"{self.objects:,} masks in {self.images:,} images"]
        if self.list is not None:
            lines.append(f"damaged    {self.damaged_count:,} images could not be looked at, see {self.list}")
            lines += [f"  {one}" for one in self.damaged]
        return [*lines, f"results    {self.out}"]


def merge(
    folder: Path,
    out: Path,
    format: Literal["coco", "results"] = "coco",
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MergeReport:
    """Write a finished job's results as one COCO file, and the images that could not be looked at beside it.

    Args:
        folder: the job's.
        out: file to write, in place of an earlier one.
        format: `coco` has images, annotations and categories, `results` the list that `pycocotools` loads.
        progress: called with shards read and their total.

    Raises:
        DataError: no job there, or one that is not finished.
        ConfigError: `out` is a folder.
        StorageError: the disk refused.
    """
    job = read_job(folder)
    if out.is_dir():
        raise ConfigError.of(expected="a file to write", found="a folder", where=str(out))
    missing = sorted(set(range(job.shards)) - set(done_shards(folder)))
    if missing:
        raise DataError.of(
            expected=f"{job.shards} finished shards",
            found=f"{len(missing)} that are not: {', '.join(map(str, missing[:_SHOWN]))}",
            where=str(folder),
            do="run the command that started the job again: it goes on with them",
        )
    writer = _Writer(job, progress)
    with new_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        (writer.coco if format == "coco" else writer.results)(file)
    if writer.images != job.about.images:
        raise SamtuneError.of(
            expected=f"{job.about.images:,} images", found=f"{writer.images:,}", where=str(folder),
            do="please report this with the job's folder",
        )  # fmt: skip
    found: Path | None = None
    if writer.damaged:
        found = out.with_name(f"{out.stem}.{DAMAGED}")
        write_text(found, pl.DataFrame(writer.damaged, schema=["path", "error"], orient="row").write_csv())
    shown = tuple(f"{path}: {error}" for path, error in writer.damaged[:_SHOWN])
    return MergeReport(out, writer.images, writer.objects, shown, len(writer.damaged), found)


class _Writer:
    """Writes the parts of a COCO file, one shard in memory at a time."""

    def __init__(self, job: Job, progress: Callable[[int, int], None]) -> None:
        self._job, self._progress = job, progress
        self.images, self.objects = 0, 0
        self.damaged: list[tuple[str, str]] = []

    def coco(self, file: TextIO) -> None:
        """Images, annotations and categories."""
        file.write('{"images": [')
        _write_list(file, self._images())
        file.write('], "annotations": [')
        _write_list(file, self._annotations())
        known = self._job.about.categories
        categories = [
            {"id": number, "name": known.get(number, str(number))} for number in sorted(self._seen | known.keys())
        ]
        file.write('], "categories": ')
        json.dump(categories, file)
        file.write("}\n")

    def results(self, file: TextIO) -> None:
        """The list that pycocotools loads."""
        for _ in self._images():
            continue
        file.write("[")
        _write_list(file, ({k: v for k, v in one.items() if k not in ("id", "iscrowd")} for one in self._annotations()))
        file.write("]\n")

    def _images(self) -> Iterator[dict[str, Any]]:
        self.images, self.damaged = 0, []
        for shard in range(self._job.shards):
            for row in pl.read_parquet(self._job.results(shard, "images")).iter_rows(named=True):
                self.images += 1
                if row["error"]:
                    self.damaged.append((row["path"], row["error"]))
                yield {"id": row["image_id"], "file_name": row["path"], "width": row["width"], "height": row["height"]}

    def _annotations(self) -> Iterator[dict[str, Any]]:
        self.objects, self._seen = 0, set[int]()
        for shard in range(self._job.shards):
            images = pl.read_parquet(self._job.results(shard, "images")).select("number", "image_id", "width", "height")
            ids = {number: (image_id, [height, width]) for number, image_id, width, height in images.iter_rows()}
            for row in pl.read_parquet(self._job.results(shard, "masks")).iter_rows(named=True):
                self.objects += 1
                self._seen.add(row["category_id"])
                image_id, size = ids[row["number"]]
                scores = ("score", "object_score", "detection_score")
                yield {
                    "id": self.objects,
                    "image_id": image_id,
                    "category_id": row["category_id"],
                    "segmentation": {"size": size, "counts": row["counts"]},
                    "bbox": [row["x"], row["y"], row["width"], row["height"]],
                    "area": row["area"],
                    "iscrowd": 0,
                } | {name: round(row[name], 6) for name in scores if row[name] is not None}
            self._progress(shard + 1, self._job.shards)


def _write_list(file: TextIO, values: Iterator[dict[str, Any]]) -> None:
    for number, value in enumerate(values):
        file.write(",\n" if number else "\n")
        json.dump(value, file, ensure_ascii=False, allow_nan=False)
