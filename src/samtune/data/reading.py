"""What of an image file is looked at, and how it becomes 8-bit RGB: stated in a dataset, used again by `predict`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.data.intensity import Limits
from samtune.errors import DataError

if TYPE_CHECKING:
    from samtune.config.reading import ReadingConfig

ABOUT = "dataset.json"
"""What a prepared dataset says about itself."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What of an image file is looked at, and how it becomes 8-bit RGB.

    Attributes:
        bands: counted from 1: three as red, green and blue, or one as gray; empty for the file's own colours, or its
            first three bands, or its first. Where a file has one band and several pages, these are counted.
        page: counted from 1.
        percentiles: of deep values, what becomes 0 and 255, see `samtune.data.intensity`.
        limits: what becomes 0 and 255 in every image; None for each image's own percentiles.
        in_tiles: whether the image is only ever read in windows, so that it may be larger than `MAX_PIXELS`.
    """

    bands: tuple[int, ...] = ()
    page: int = 1
    percentiles: tuple[float, float] = (0.1, 99.9)
    limits: Limits | None = None
    in_tiles: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether files are read as they are: all of their own colours, of the first page."""
        return not self.bands and self.page == 1

    @property
    def key(self) -> str:
        """Text that differs where images are read differently; empty for the usual way."""
        usual = replace(self, in_tiles=False)
        return "" if usual == PLAIN else json.dumps(asdict(usual), sort_keys=True)

    def to_json(self) -> dict[str, Any]:
        """What `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Reading:
        """From what `to_json` gave.

        Raises:
            TypeError, ValueError, KeyError: it gave something else.
        """
        limits = value["limits"]
        return cls(
            bands=tuple(int(band) for band in value["bands"]),
            page=int(value["page"]),
            percentiles=_pair(value["percentiles"]),
            limits=limits and Limits(*(tuple(float(number) for number in limits[name]) for name in ("low", "high"))),
            in_tiles=bool(value["in_tiles"]),
        )


def _pair(values: Any) -> tuple[float, float]:
    low, high = (float(value) for value in values)
    return low, high


PLAIN = Reading()
"""Images as they are."""


def reading_of(config: ReadingConfig) -> Reading:
    """How the settings say that images are read; of all pages the first."""
    return Reading(config.band_numbers, config.page_number, config.percentile_pair, in_tiles=config.tile > 0)


IN_TILES = Reading(in_tiles=True)
"""Images that may be too large to be read whole; whether they are is checked later."""


def read_reading(dataset: Path) -> Reading:
    """How a dataset's images are read; in the usual way, where it does not say.

    Raises:
        DataError: what it says cannot be understood.
    """
    path = dataset / ABOUT
    try:
        return Reading.of_json(json.loads(path.read_text(encoding="utf-8")).get("reading") or PLAIN.to_json())
    except FileNotFoundError:
        return PLAIN
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError.of(
            expected="a dataset that samtune prepare wrote",
            found=f"one that does not say how its images are read: {error}",
            where=str(path),
            do="run samtune prepare again",
        ) from error
