"""Any kind of segmentation to pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks.files import file_region
from samtune.data.masks.polygons import polygon_region
from samtune.data.masks.regions import Region, check_size, expand_runs
from samtune.data.masks.run_lengths import check_run_lengths
from samtune.types import MaskFile, Polygons, RunLengths, Segmentation


def rasterise(segmentation: Segmentation, height: int, width: int) -> NDArray[np.bool_]:
    """An object's mask, equal to the COCO mask API's in every pixel.

    Args:
        segmentation: polygons (their union, less the holes), run lengths, or a mask file.
        height, width: the image, in pixels.

    Returns:
        bool `[H, W]`; may be empty of pixels, where the object lies outside the image or is thinner than a pixel.

    Raises:
        DataError: numbers the mask API cannot take or a size that is not the image's (both `SegmentationError`), or a
            mask file that cannot be read.
    """
    check_size(height, width)
    region = rasterise_region(segmentation, height, width)
    return np.zeros((height, width), bool) if region is None else region.paste(height, width)


def rasterise_region(segmentation: Segmentation, height: int, width: int) -> Region | None:
    """As `rasterise`, but only the part that holds the object, also of images that are only read in tiles.

    Returns:
        The part; None where there is no pixel.

    Raises:
        DataError: see `rasterise`.
    """
    check_size(height, width, in_tiles=True)
    match segmentation:
        case Polygons():
            return polygon_region(segmentation, height, width)
        case RunLengths():
            check_run_lengths(segmentation, height, width)
            return expand_runs(np.asarray(segmentation.counts, np.int64), height)
        case MaskFile():
            return file_region(segmentation, height, width)


def decode_rle(runs: RunLengths) -> NDArray[np.bool_]:
    """The mask bool `[H, W]` that run lengths describe.

    Raises:
        SegmentationError: a size beyond the caps, a negative count, counts that do not sum to the size.
    """
    return rasterise(runs, runs.height, runs.width)
