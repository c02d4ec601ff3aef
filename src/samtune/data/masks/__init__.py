"""Polygons, run lengths and mask files <-> boolean arrays, with every native call guarded.

Rasterisation is the COCO mask API's, bit for bit. The native library gives run lengths; they are expanded only within
the object's box, which is what makes preparing fast. Hostile numbers (NaN, 1e30, sizes of 2^31, counts that do not fit)
are refused before the library sees them, because mask libraries crash or return uninitialised memory on them.
"""

from samtune.data.masks.files import (
    components_of,
    mask_png,
    read_labels,
    read_labels_of_any_size,
    read_mask_file,
    write_mask_file,
    write_region_file,
)
from samtune.data.masks.large import LabelRuns
from samtune.data.masks.polygons import MAX_COORDINATE, MAX_OUTLINE, MAX_POINTS, check_polygons
from samtune.data.masks.regions import Region, SegmentationError, mask_box, region_of
from samtune.data.masks.run_lengths import check_run_lengths, encode_region, encode_rle, format_counts, parse_counts
from samtune.data.masks.segmentations import decode_rle, rasterise, rasterise_region

__all__ = [
    "MAX_COORDINATE",
    "MAX_OUTLINE",
    "MAX_POINTS",
    "LabelRuns",
    "Region",
    "SegmentationError",
    "check_polygons",
    "check_run_lengths",
    "components_of",
    "decode_rle",
    "encode_region",
    "encode_rle",
    "format_counts",
    "mask_box",
    "mask_png",
    "parse_counts",
    "rasterise",
    "rasterise_region",
    "read_labels",
    "read_labels_of_any_size",
    "read_mask_file",
    "region_of",
    "write_mask_file",
    "write_region_file",
]
