"""A job: its folder, what is asked of which images, and who may join it.

    OUT/job.json              what is asked; its presence says that the plan is whole
    OUT/manifest.parquet      the images
    OUT/prompts.parquet       boxes, where detections are prompts
    OUT/open, taken, done     who works on which shard, see `claims`
    OUT/shards/00012.images.parquet, 00012.masks.parquet    results

The first process plans, the others join; a job started again goes on. A command that asks something else of the same
folder is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samtune.errors import ConfigError, DataError
from samtune.inference.shards.claims import Claims
from samtune.inference.shards.tables import read_manifest, read_prompts
from samtune.utils.checksums import sha256
from samtune.utils.files import new_folder, storage_errors, write_json
from samtune.utils.output_folders import check_output

JOB, MANIFEST, PROMPTS, RESULTS = "job.json", "manifest.parquet", "prompts.parquet", "shards"


class JobFile(BaseModel):
    """The content of `job.json`.

    Attributes:
        format: of the folder.
        asked: what decides the results, by name: digests of manifest, prompts and weights, and settings.
        images, shard_images: how many, in all and in a shard.
        root: folder of the images.
        categories: names of classes by number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=1, ge=1, le=1)
    asked: dict[str, str]
    images: int = Field(ge=1)
    shard_images: int = Field(ge=1)
    root: str
    categories: dict[int, str]


@dataclass(frozen=True)
class Job:
    """A planned job.

    Attributes:
        folder: where it is.
        about: its `job.json`.
    """

    folder: Path
    about: JobFile

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.about.images // self.about.shard_images)

    @property
    def root(self) -> Path:
        """Folder of the images."""
        return Path(self.about.root)

    def images_of(self, shard: int) -> pl.DataFrame:
        """A shard's images: `number`, `path`, `image_id`; no other row is read."""
        rows = self.about.shard_images
        with storage_errors(self.folder):
            return pl.scan_parquet(self.folder / MANIFEST).slice(shard * rows, rows).collect()

    def prompts_of(self, shard: int) -> pl.DataFrame | None:
        """The prompts of a shard's images; None where they do not come from a file."""
        file = self.folder / PROMPTS
        if not file.is_file():
            return None
        first = shard * self.about.shard_images
        inside = pl.col("image").is_between(first, first + self.about.shard_images, closed="left")
        with storage_errors(self.folder):
            return pl.scan_parquet(file).filter(inside).collect()

    def results(self, shard: int, kind: str) -> Path:
        """The file of a shard's `images` or `masks`."""
        return self.folder / RESULTS / f"{shard:05}.{kind}.parquet"


def open_job(
    source: Path,
    out: Path,
    *,
    boxes: Path | None,
    root: Path | None,
    shard_images: int,
    asked: Mapping[str, Any],
    categories: Mapping[int, str],
) -> Job:
    """Join the job in `out`, or plan it where there is none.

    Args:
        source: manifest, or folder of images.
        out: folder of the job.
        boxes: detections whose boxes are prompts.
        root: what paths in the manifest are relative to.
        shard_images: images in a shard.
        asked: what else decides the results, by name.
        categories: names of classes, where the model has some.

    Raises:
        ConfigError: another job is there, or something else.
        DataError: manifest or detections cannot be used; nothing is written.
        StorageError: the disk refused.
    """
    described = {name: json.dumps(value, sort_keys=True) for name, value in asked.items()}
    described |= {"images": _digest(source), "boxes": _digest(boxes) if boxes else "none"}
    described |= {"images in a shard": str(shard_images), "folder of the images": str(root.absolute()) if root else ""}
    if (out / JOB).is_file():
        return _joined(out, described)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.parent / f".{out.name}.lock")
    with lock:
        if (out / JOB).is_file():  # planned while this process waited
            return _joined(out, described)
        check_output(out, inputs=[path for path in (source, boxes) if path])
        manifest = read_manifest(source, root)
        prompts, names = read_prompts(boxes, manifest) if boxes else (None, {})
        home = root or (source if source.is_dir() else source.parent)
        about = JobFile(
            asked=described, images=len(manifest), shard_images=shard_images, root=str(home.absolute()),
            categories=names or dict(categories),
        )  # fmt: skip
        with new_folder(out) as folder:
            job = Job(folder, about)
            Claims.create(folder, job.shards)
            (folder / RESULTS).mkdir()
            manifest.write_parquet(folder / MANIFEST, row_group_size=max(shard_images, 1000))
            if prompts is not None:
                prompts.write_parquet(folder / PROMPTS, row_group_size=max(shard_images, 10_000))
            write_json(folder / JOB, about.model_dump(mode="json"))
        Path(lock.lock_file).unlink(missing_ok=True)  # nobody needs it where there is a plan
        return Job(out, about)


def read_job(folder: Path) -> Job:
    """The job in a folder.

    Raises:
        DataError: there is none, or its file is damaged.
    """
    try:
        return Job(folder, JobFile.model_validate_json((folder / JOB).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise DataError.of(
            expected="the folder of a job that samtune predict --many wrote",
            found=f"no {JOB}" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0],
            where=str(folder),
        ) from error


def _joined(out: Path, asked: Mapping[str, str]) -> Job:
    """The job in `out`, where it is the one asked for."""
    job = read_job(out)
    known = job.about.asked
    other = [name for name in sorted(known.keys() | asked.keys()) if known.get(name) != asked.get(name)]
    if other:
        raise ConfigError.of(
            expected="the job that this folder was started with, to go on with it",
            found=f"another one: different {', '.join(other)}",
            where=str(job.folder),
            do="give the same command to go on, or another --out for another job; nothing was changed",
        )
    return job


def _digest(source: Path) -> str:
    """sha256 of a file, or of a folder's names."""
    if source.is_dir():
        names = sorted(path.name for path in source.iterdir())
        return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    try:
        return sha256(source)
    except OSError as error:
        raise DataError.of(
            expected="a file", found=(error.strerror or str(error)).lower(), where=str(source)
        ) from error
