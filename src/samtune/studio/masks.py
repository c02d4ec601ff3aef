"""Masks on their way between page and server: a part of the image as a PNG of one bit per pixel, in base64."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image

from samtune.data.masks import Region, encode_region, format_counts, mask_png, parse_counts, rasterise_region, region_of
from samtune.errors import UsageError

_EXPECTED = "a mask: bbox as x, y, width, height in whole pixels inside the image, and a gray PNG of that size"


def pack_mask(region: Region | None) -> dict[str, Any]:
    """A mask as the page takes it: `bbox` xywh in pixels of the image, `png` base64; no size where nothing is set."""
    tight = None if region is None else region_of(region.mask)
    if region is None or tight is None:
        return {"bbox": [0, 0, 0, 0], "png": ""}
    height, width = tight.mask.shape
    x0, y0 = region.x0 + tight.x0, region.y0 + tight.y0
    png = mask_png(Region(tight.mask, 0, 0), height, width)
    return {"bbox": [x0, y0, width, height], "png": base64.b64encode(png).decode("ascii")}


def unpack_mask(bbox: tuple[int, int, int, int], png: str, height: int, width: int) -> Region:
    """A mask as the page sent it, for an image of `height` x `width`.

    Raises:
        UsageError: a box outside the image, something that is no PNG of that size, or no pixel set.
    """
    x, y, w, h = bbox
    if not (0 <= x < width and 0 <= y < height and 1 <= w <= width - x and 1 <= h <= height - y):
        raise _refused(f"bbox {list(bbox)} in an image of {width} x {height}")
    try:
        content = io.BytesIO(base64.b64decode(png, validate=True))
        with Image.open(content, formats=("PNG",)) as image:
            if image.size != (w, h):  # known from the header: nothing is decoded for a size that is not the box's
                raise _refused(f"a PNG of {image.size[0]} x {image.size[1]} for bbox {list(bbox)}")
            pixels = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _refused(f"no PNG: {error}") from error
    tight = region_of(pixels)
    if tight is None:
        raise _refused("a mask without a pixel")
    return tight.moved(x, y)


def counts_of(region: Region, height: int, width: int) -> str:
    """COCO's compressed run lengths of a mask in an image of `height` x `width`."""
    return format_counts(encode_region(region, height, width))


def region_from(counts: str, height: int, width: int) -> Region:
    """The mask that COCO's compressed run lengths describe.

    Raises:
        DataError: they do not describe a mask of this size, or one without a pixel.
    """
    region = rasterise_region(parse_counts(counts, height, width), height, width)
    if region is None:
        raise _refused("run lengths without a pixel")
    return region


def _refused(found: str) -> UsageError:
    return UsageError.of(expected=_EXPECTED, found=found, where="mask", do="send the part of the image that it covers")
