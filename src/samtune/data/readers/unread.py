"""Exports that are not read, told from a file or two, and which export of the same tool to choose instead.

`docs/formats.md` says the same in a table.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from samtune.data.images import SUFFIXES
from samtune.data.readers.files import files_below
from samtune.data.readers.text import read_text

_HEAD = 1 << 16
_LOOKED_AT = 2_000

# Ending of the file, test of its first bytes as text, what it is, which export to choose.
_KNOWN: tuple[tuple[str, Callable[[str], bool], str, str], ...] = (
    (".xml", lambda head: "<annotations" in head and any(mark in head for mark in ("<meta", "<version>", "points=")),
     "CVAT's own XML", "export from CVAT as COCO 1.0, or as Segmentation mask 1.1"),
    (".xml", lambda head: "<annotation" in head and "<bndbox" in head,
     "Pascal VOC XML, which holds boxes and no outlines", "export masks or polygons, such as COCO"),
    (".xml", lambda head: "<annotation" in head and "<polygon" in head,
     "LabelMe's old XML", "convert it to LabelMe JSON or COCO"),
    (".npy", lambda head: True,
     "arrays without an image of their name; cellpose's _seg.npy are pickles, which are not loaded",
     "in cellpose save masks as PNG or TIFF (File menu, or --save_png, --save_tif)"),
    (".ndjson", lambda head: '"data_row"' in head, "Labelbox's NDJSON",
     "convert it to COCO with Labelbox's labelbox[data] package"),
    (".json", lambda head: '"data_row"' in head or '"Labeled Data"' in head, "Labelbox's JSON",
     "convert it to COCO with Labelbox's labelbox[data] package"),
    (".json", lambda head: '"visitedRegions' in head or '"currentProjectVersion"' in head or '"vott' in head.lower(),
     "VoTT's JSON", "export from VoTT as Pascal VOC or CSV holds boxes only; draw outlines in another tool"),
    (".json", lambda head: '"coordinates"' in head and '"annotations"' in head and '"image"' in head,
     "CreateML's JSON, which holds boxes and no outlines", "export COCO with polygons"),
    (".json", lambda head: '"className"' in head and '"instances"' in head, "SuperAnnotate's JSON",
     "convert it to COCO with SuperAnnotate's package (export_annotation_format)"),
    (".json", lambda head: '"jsonResponse"' in head, "Kili's JSON", "export from Kili as COCO or YOLO with polygons"),
    (".json", lambda head: '"poly2d"' in head or '"box2d"' in head, "Scalabel's JSON, which BDD100K has too",
     "convert it to COCO with scalabel.label.to_coco"),
    (".json", lambda head: '"imgHeight"' in head and '"objects"' in head, "polygons as Cityscapes draws them",
     "take the gtFine_instanceIds images, which cityscapesscripts writes from them"),
    (".json", lambda head: head.lstrip().startswith("[") and '"image_id"' in head and '"score"' in head,
     "a COCO results list, which has no list of images", "put its entries into a COCO file with images and categories"),
    (".json", lambda head: '"objectHash"' in head or '"label_hash"' in head, "Encord's JSON",
     "export from Encord as COCO"),
    (".json", lambda head: '"export_format_version"' in head, "Hasty's JSON", "export from Hasty as COCO"),
    (".csv", lambda head: "EncodedPixels" in head or "rle" in head.lower().split("\n")[0],
     "a table of run lengths, as Kaggle competitions give them", "write one mask image per image, or COCO"),
    (".csv", lambda head: "region_shape_attributes" in head, "VIA's CSV", "export from VIA as JSON"),
    (".csv", lambda head: "xmin" in head.lower() or "XMin" in head,
     "a table of boxes, which holds no outlines", "export polygons or masks, such as COCO"),
    (".roi", lambda head: True, "ImageJ's ROI files", "save a label image as TIFF"),
    ("roiset.zip", lambda head: True, "ImageJ's ROI files", "save a label image as TIFF"),
    (".tfrecord", lambda head: True, "TFRecord", "export COCO or YOLO from the tool that wrote it"),
    (".record", lambda head: True, "TFRecord", "export COCO or YOLO from the tool that wrote it"),
    (".parquet", lambda head: True, "a Parquet table", "export COCO or a folder of masks"),
    (".qpdata", lambda head: True, "QuPath's own data", "export annotations from QuPath as GeoJSON"),
    (".xcf", lambda head: True, "GIMP's own files", "export masks as PNG"),
    (".shp", lambda head: True, "a shapefile, whose coordinates are a map's", "save it as GeoJSON in pixels"),
    (".nii", lambda head: True, "NIfTI volumes", "save slices and their masks as PNG or TIFF"),
    (".dcm", lambda head: True, "DICOM", "save slices and their masks as PNG or TIFF"),
    (".mat", lambda head: True, "MATLAB files", "save the label matrices as PNG or TIFF"),
)  # fmt: skip


def advice_for(source: Path) -> tuple[str, str]:
    """What a source that no reader takes holds, and what to do; two empty texts where that is not known."""
    files = [source] if source.is_file() else list(islice(files_below(source, ("",)), _LOOKED_AT))
    for ending, test, what, do in _KNOWN:
        for file in files:
            if file.name.lower().endswith((ending, f"{ending}.gz")) and test(read_text(file, _HEAD)):
                return f"{what}: {file.name}", do
    if files and all(file.suffix.lower() in SUFFIXES for file in files) and source.is_dir():
        return f"{len(files)} images and no annotations", "put the annotations or masks beside them, or give their path"
    return "", ""
