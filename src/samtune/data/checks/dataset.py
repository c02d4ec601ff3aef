"""What only the whole set shows: images that stand in more than one split, categories that are never learned.

`prepare` and the doctor call the same functions, as they do for single images (`checks.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samtune.data.checks.duplicates import Fingerprint, Pair
from samtune.data.prepare.split import source_stem
from samtune.types import ImageRecord, Issue, Severity, Split

KEPT_APART = "Given splits are kept; --split makes new ones in which such images stay together."


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of a usable image to compare it with the others.

    Attributes:
        file: the image file, as text, which takes a third of the memory of a path.
        split: the split it is in.
        stem: name of the image that it is a copy of, where its own name tells; see `split.source_stem`.
        print: its fingerprint.
        page: of the file, where each page is an image of its own.
    """

    file: str
    split: Split
    stem: str | None
    print: Fingerprint
    page: int | None = None

    @property
    def path(self) -> Path:
        """The image file."""
        return Path(self.file)

    @classmethod
    def of(cls, record: ImageRecord, print: Fingerprint) -> Seen:
        """What is kept of a record."""
        return cls(str(record.path), record.split, source_stem(record.path.name), print, record.page)


@dataclass(frozen=True, slots=True)
class Leak:
    """An image that also stands in an earlier split, in the order train, valid, test.

    Attributes:
        issue: the finding.
        leaked: the image in the later split.
        original: the image in the earlier one.
    """

    issue: Issue
    leaked: Seen
    original: Seen


def find_leaks(seen: Sequence[Seen], pairs: Iterable[Pair], repair: str = KEPT_APART) -> list[Leak]:
    """Images that stand in more than one split.

    Of each image the plainest reason is reported: the same bytes, the same source, the same look.

    Args:
        seen: the usable images.
        pairs: what `hashing.same_images` says of their fingerprints.
        repair: what is done about it.
    """
    order = list(Split)
    reported: set[int] = set()
    leaks: list[Leak] = []

    def report(one: int, other: int, code: str, text: str) -> None:
        first, second = sorted((one, other), key=lambda position: order.index(seen[position].split))
        if seen[first].split is seen[second].split or second in reported:
            return
        reported.add(second)
        leaked, original = seen[second], seen[first]
        message = text.format(f"{original.path.name!r} in {original.split}") + f" It stands in {leaked.split} too."
        issue = Issue(code, Severity.WARNING, message, repair, file=str(leaked.path), image=leaked.path.name)
        leaks.append(Leak(issue, leaked, original))

    for one, other in _across([(image.print.digest, image.page) for image in seen], seen):
        report(one, other, "leak-same-bytes", "The file has the same bytes as {}.")
    for one, other in _across([image.stem and (image.stem, image.page) for image in seen], seen):
        report(one, other, "leak-same-source", "The image was made from the same image as {}.")
    for one, other, kind in pairs:
        if kind == "looks":
            report(one, other, "leak-look-alike", "The image looks the same as {}.")
    return leaks


def never_learned(objects: Mapping[str, Mapping[str, int]], source: Path) -> list[Issue]:
    """Categories that are evaluated but never learned.

    Args:
        objects: usable objects by split and category.
        source: what is looked at, for the findings.
    """
    train = objects.get(Split.TRAIN.value)
    if train is None:
        return []
    issues: list[Issue] = []
    for split in (Split.VALID.value, Split.TEST.value):
        counts = objects.get(split, {})
        for category in sorted(name for name, count in counts.items() if count and not train.get(name)):
            text = f"Category {category!r} has {counts[category]} objects in {split} and none in train."
            issues.append(Issue("category-not-in-train", Severity.WARNING, text, "It is prepared as it is.",
                                file=str(source), where="categories"))  # fmt: skip
    return issues


def splits_without_objects(objects: Mapping[str, Mapping[str, int]], source: Path) -> list[Issue]:
    """Splits that have images but no object: nothing is learned from them, or nothing can be measured on them.

    Args:
        objects: usable objects by split and category, with an entry for each split that has images.
        source: what is looked at, for the findings.
    """
    issues: list[Issue] = []
    for split in Split:
        counts = objects.get(split.value)
        if counts is None or sum(counts.values()) or not any(sum(other.values()) for other in objects.values()):
            continue
        missing = "nothing can be learned from it" if split is Split.TRAIN else "nothing can be measured on it"
        text = f"The images in {split.value} have no object, so {missing}; are its annotations missing?"
        repair = "Its images are prepared as images without objects; --split makes new splits."
        issues.append(
            Issue("split-without-objects", Severity.WARNING, text, repair, file=str(source), where=split.value)
        )
    return issues


def _across(keys: Sequence[object], seen: Sequence[Seen]) -> list[tuple[int, int]]:
    """For each image whose key an image in an earlier split has: the two positions."""
    order = list(Split)
    first: dict[object, int] = {}
    for position in sorted(range(len(seen)), key=lambda position: order.index(seen[position].split)):
        if keys[position] is not None:
            first.setdefault(keys[position], position)
    return [(first[key], position) for position, key in enumerate(keys) if key is not None and first[key] != position]
