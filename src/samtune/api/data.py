"""Data, before any model: doctor, prepare, download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samtune.config import PrepareConfig, ReadingConfig
from samtune.utils.progress import progress

if TYPE_CHECKING:
    from samtune.data.checks.doctor import Audit
    from samtune.data.prepare.prepare import PrepareReport


def doctor(
    source: Path | str,
    *,
    source_format: str = "auto",
    images: Path | None = None,
    crowd: str = "auto",
    mask_pattern: str = "",
    reading: ReadingConfig | None = None,
    html: Path | None = None,
    quiet: bool = False,
) -> Audit:
    """Check annotations and images without changing anything.

    Args:
        source: folder, annotation file, or zip of an export; it is only read.
        source_format: `auto`, or the name of a format.
        images: image folder, when the annotation file stands elsewhere.
        crowd: what COCO's iscrowd marks: `objects`, `regions` of many, or `auto`.
        mask_pattern: how masks are named, `{stem}` for the image's name; empty tells by their names.
        reading: bands, page and tiles with which `prepare` will be asked.
        html: also write a page with images of the findings here.
        quiet: show no progress.

    Raises:
        DataError: the source as a whole cannot be read; the message names file, field and line.
    """
    from samtune.data.checks.doctor import audit
    from samtune.data.checks.page import render_html
    from samtune.data.readers import ReadOptions
    from samtune.data.reading import reading_of

    with progress("checking", quiet=quiet) as advance:
        read = reading or ReadingConfig()
        options = ReadOptions.of(crowd, mask_pattern, read.page)
        found = audit(
            Path(source), source_format, images, options=options, reading=reading_of(read), grid=(read.tile, read.halo),
            progress=advance,
        )  # fmt: skip
    if html is not None:
        render_html(found, html)
    return found


def prepare(
    source: Path | str, out: Path | str, config: PrepareConfig | None = None, *, quiet: bool = False
) -> PrepareReport:
    """Turn annotations into a dataset: one mask file per object, and a table that links images and masks.

    Args:
        source: folder, annotation file, or zip of an export.
        out: dataset folder; an earlier dataset there is replaced, anything else is refused.
        config: how.
        quiet: show no progress.

    Raises:
        DataError: the source cannot be read, holds no usable object, or more broken objects than allowed.
        ConfigError: `out` holds something else.
        StorageError: the disk refused; nothing is left behind.
    """
    from samtune.data.prepare.prepare import prepare as prepare_source

    with progress("preparing", quiet=quiet) as advance:
        return prepare_source(Path(source), Path(out), config or PrepareConfig(), progress=advance)


def download_roboflow(
    project: str, out: Path | str, *, export_format: str = "coco-segmentation", quiet: bool = False
) -> Path:
    """Download an export from Roboflow.

    Args:
        project: WORKSPACE/PROJECT/VERSION, for which the key is read from ROBOFLOW_API_KEY; or the https address of
            an export's zip.
        out: folder to write.
        export_format: Roboflow's name of the format.
        quiet: show no progress.

    Returns:
        The folder with the export.

    Raises:
        ConfigError: no key, or no such kind of project name.
        RemoteError: the service did not answer as it should.
        DataError: the archive is broken or hostile.
    """
    from samtune.data import roboflow

    with progress("downloading", quiet=quiet) as advance:
        if project.startswith(("https://", "http://")):
            return roboflow.from_url(project, Path(out), progress=advance)
        return roboflow.download(project, Path(out), export_format=export_format, progress=advance)
