"""Commands about data, before any model: doctor, prepare, download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from samtune import api
from samtune.cli.common import AsJson, Flat, Out, Quiet, say, show
from samtune.config import PrepareConfig, ReadingConfig

download = App(name="download", help="Download a dataset.")
_AS_IT_IS = ReadingConfig()


def doctor(
    source: Path,
    /,
    *,
    source_format: str = "auto",
    images: Path | None = None,
    crowd: Literal["auto", "objects", "regions"] = "auto",
    mask_pattern: str = "",
    reading: Annotated[ReadingConfig, Flat] = _AS_IT_IS,
    as_json: AsJson = False,
    html: Path | None = None,
    quiet: Quiet = False,
) -> int:
    """Say what is wrong with annotations and images before any training, and what `prepare` would do about it.

    Ends with 0 when there are at most warnings, and with 2 when there are errors.

    Args:
        source: What `prepare` takes.
        source_format: Format of the source; auto recognises it.
        images: Image folder, when the annotation file stands elsewhere.
        crowd: What COCO's iscrowd marks: single objects, as CVAT's painted masks, or regions of many.
        mask_pattern: How masks are named, {stem} for the image's name, such as masks/{stem}_x.png.
        html: Also write a page with images of the findings.
    """
    audit = api.doctor(
        source,
        source_format=source_format,
        images=images,
        crowd=crowd,
        mask_pattern=mask_pattern,
        reading=reading,
        html=html,
        quiet=quiet,
    )
    show(audit, as_json=as_json)
    return audit.exit_code


def prepare(
    source: Path, /, *, out: Out, config: Annotated[PrepareConfig, Flat] = PrepareConfig(), quiet: Quiet = False
) -> None:
    """Turn annotations into a dataset: one mask file per object and a table that links images and masks.

    Args:
        source: Roboflow export, zip of one, image folder with one annotation file, or another known format.
    """
    show(api.prepare(source, out, config, quiet=quiet))


@download.command
def roboflow(
    project: str, /, *, out: Out, format: Literal["coco-segmentation", "coco", "yolov8"] = "coco-segmentation"
) -> None:
    """Download a dataset version from Roboflow. The key is read from ROBOFLOW_API_KEY and written nowhere.

    Args:
        project: WORKSPACE/PROJECT/VERSION, or the https address of an export's zip.
        format: Export format.
    """
    say(f"export     {api.download_roboflow(project, out, export_format=format)}")
