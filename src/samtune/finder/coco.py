"""COCO's average precision and recall of finds, by faster-coco-eval.

Over IoUs from 0.5 to 0.95, masks at the image's own size, at most `MOST` finds an image (COCO's own limit of 100 would
cut images with hundreds of objects). Crowd regions are COCO's too: finds inside count neither way.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as native

from samtune.evaluation.intervals import jackknife_interval
from samtune.finder.measure import MOST, FoundImage, TrueImage

_BLOCKS = 20
"""Parts of the groups that are left out one at a time for an interval."""


@dataclass(frozen=True, slots=True)
class Precision:
    """COCO's average precision of masks, 0 to 1; None where there are no objects of a size.

    Attributes:
        ap: over IoUs from 0.5 to 0.95.
        ap50, ap75: at these IoUs.
        ar: average recall, all finds, over the same IoUs.
        ar_small, ar_medium, ar_large: the same by COCO's sizes, up to 32 x 32 and 96 x 96 pixels and above.
        ap_interval, ap50_interval: 95 % intervals over groups of images; None with fewer than two groups.
    """

    ap: float
    ap50: float
    ap75: float
    ar: float
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    ap_interval: tuple[float, float] | None = None
    ap50_interval: tuple[float, float] | None = None

    def in_short(self) -> str:
        """AP and AP50 in %, each with its interval where there is one."""
        parts = (("AP", self.ap, self.ap_interval), ("AP50", self.ap50, self.ap50_interval))
        return ", ".join(f"{name} {100 * value:.1f}{_percent(interval)}" for name, value, interval in parts)

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        intervals = {"ap_interval": self.ap_interval, "ap50_interval": self.ap50_interval}
        return asdict(self) | {name: value and list(value) for name, value in intervals.items()}


def coco_precision(truth: Sequence[TrueImage], found: Sequence[FoundImage], *, named: bool) -> Precision:
    """Mask AP and AR, equal to pycocotools', with intervals over groups of images.

    Args:
        truth, found: of the same images, in order; at least one object.
        named: whether a find must have its object's class; otherwise all are of one class.
    """
    results = coco_results(found, named=named)
    if not results:
        return Precision(0.0, 0.0, 0.0, 0.0, None, None, None)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(coco_truth(truth, named=named))
        evaluator = _Evaluator(coco, coco.loadRes(results), "segm")
        evaluator.params.maxDets = [1, 10, MOST]
        stats = _stats_of(evaluator, range(1, len(truth) + 1))
        without = [_stats_of(evaluator, rest)[:2] for rest in _all_but_some(truth)]
    ap, ap50 = (jackknife_interval(stats[place], [one[place] for one in without]) for place in range(2))
    small, medium, large = (None if value < 0 else value for value in stats[9:12])
    return Precision(stats[0], stats[1], stats[2], stats[8], small, medium, large, ap, ap50)


def _percent(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


class _Evaluator(COCOeval_faster):
    """COCO's evaluation, which computes the overlaps of an image once, however often it is asked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._known: dict[tuple[int, int], Any] = {}

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803  (COCO's names)
        if (imgId, catId) not in self._known:
            self._known[imgId, catId] = super().computeIoU(imgId, catId)
        return self._known[imgId, catId]


def _stats_of(evaluator: _Evaluator, images: Iterable[int]) -> list[float]:
    """COCO's twelve figures of some images."""
    evaluator.params.imgIds = list(images)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def _all_but_some(truth: Sequence[TrueImage]) -> Iterator[list[int]]:
    """Numbers of the images that are left without one group at a time, where some of them have objects.

    More than `_BLOCKS` groups are left out several at a time: AP is no mean, and has to be computed anew for each.
    """
    groups = {name: place for place, name in enumerate(sorted({one.image.group for one in truth}))}
    blocks = min(len(groups), _BLOCKS)
    for block in range(blocks):
        rest = [place for place, one in enumerate(truth) if groups[one.image.group] % blocks != block]
        if any(truth[place].masks for place in rest):
            yield [place + 1 for place in rest]


def coco_truth(truth: Sequence[TrueImage], *, named: bool) -> dict[str, Any]:
    """Annotated objects as a COCO file's content; images are numbered from 1 in their order, classes from 1."""
    annotations: list[dict[str, Any]] = []
    numbers = sorted({int(one) for image in truth for one in image.classes}) if named else [0]
    for image_id, one in enumerate(truth, start=1):
        rows = [(mask, int(number) if named else 0, 0) for mask, number in zip(one.masks, one.classes, strict=True)]
        # A crowd region belongs to every class: what is found inside is right in none and wrong in none.
        rows += [(mask, number, 1) for mask in one.crowd for number in numbers]
        for mask, number, crowd in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number + 1,
                    "segmentation": mask,
                    "area": int(native.area(mask)),
                    "bbox": [float(value) for value in native.toBbox(mask)],
                    "iscrowd": crowd,
                }
            )
    images = [
        {"id": number, "width": one.image.width, "height": one.image.height, "file_name": one.image.image_path}
        for number, one in enumerate(truth, start=1)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": str(n)} for n in numbers],
    }


def coco_results(found: Sequence[FoundImage], *, named: bool) -> list[dict[str, Any]]:
    """Finds as COCO results, with the numbers of `coco_truth`."""
    return [
        {
            "image_id": image_id,
            "category_id": int(number) + 1 if named else 1,
            "segmentation": mask,
            "score": float(score),
        }
        for image_id, one in enumerate(found, start=1)
        for mask, number, score in zip(one.masks, one.classes, one.scores, strict=True)
    ]
