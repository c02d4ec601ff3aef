"""Which mask belongs to which image, told from the names of files and folders alone.

A mask stands beside its image under the image's name and an ending, in a folder of masks under the same name, in a
folder named after the image, or in a folder per image. Names that follow another habit are matched by what is left of
them without the parts that all images, and all masks, have in common. Nothing is matched in two ways.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from samtune.data.images import SUFFIXES
from samtune.data.readers.files import spellings
from samtune.data.readers.folders import context_of, is_image_folder, is_mask_folder, parts_below
from samtune.data.readers.mask_names import (
    BEGINNINGS,
    COUNTED,
    ENDINGS,
    IMAGE_WORD,
    MASK_SUFFIXES,
    SEPARATORS,
    is_beside_the_point,
    masks_among,
    role_folder,
    stripped,
)
from samtune.errors import ConfigError

_CLASS_FILES = ("_classes.csv", "labelmap.txt", "class_names.txt", "label_names.txt", "class_dict.csv")
_Keys: TypeAlias = Callable[[Path, Path], list[str]]


@dataclass
class MaskPairs:
    """What belongs together.

    Attributes:
        matched: masks by image, both in the order of their names.
        images: images without a mask.
        masks: masks without an image.
        ambiguous: masks that several images claim.
        spare: masks of images that have another one, from the same tool or in a form that is read better.
        classes: for instance masks, the mask of classes of the same image (VOC's SegmentationClass).
        class_file: the file that names classes, if there is one.
        tried: how masks without an image were compared, in words.
    """

    matched: dict[Path, list[Path]] = field(default_factory=lambda: dict[Path, list[Path]]())
    images: list[Path] = field(default_factory=lambda: list[Path]())
    masks: list[Path] = field(default_factory=lambda: list[Path]())
    ambiguous: list[Path] = field(default_factory=lambda: list[Path]())
    spare: list[Path] = field(default_factory=lambda: list[Path]())
    classes: dict[Path, Path] = field(default_factory=lambda: dict[Path, Path]())
    class_file: Path | None = None
    tried: str = "the image's name, with an ending such as _mask, and what names have in common"


def pair_masks(
    root: Path, files: Iterable[Path], *, images: Sequence[Path] | None = None, pattern: str = ""
) -> MaskPairs:
    """Pair the masks and images of a source.

    Args:
        root: the source.
        files: all files in it.
        images: the images, where they stand elsewhere; every image file of the source is then a mask.
        pattern: path of an image's masks below `root` or beside the image, `{stem}` for the image's name and `*` for
            anything; empty matches by names.

    Raises:
        ConfigError: a pattern without `{stem}`.
    """
    found = MaskPairs()
    listed = [file for file in files if not is_beside_the_point(file, root)]
    found.class_file = next((file for name in _CLASS_FILES for file in files if file.name == name), None)
    shown = [file for file in listed if file.suffix.lower() in SUFFIXES] if images is None else list(images)
    candidates = [file for file in listed if file.suffix.lower() in MASK_SUFFIXES]
    if pattern:
        _by_pattern(found, root, shown, candidates, pattern)
        return found
    masks = candidates if images is not None else masks_among(root, candidates)
    taken = set(masks)
    shown = [file for file in shown if file not in taken]
    masks, found.classes = _one_kind(root, masks)
    _match(found, root, shown, masks)
    return found


def _one_kind(root: Path, masks: list[Path]) -> tuple[list[Path], dict[Path, Path]]:
    """Of several folders of masks the one that tells objects apart; and VOC's masks of classes beside them."""
    by_role: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        by_role[role_folder(root, mask)].append(mask)
    if len(by_role) < 2:
        return masks, {}

    # Folders of different splits (train_masks, val_masks) are of one kind; those that share names are not.
    chosen: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for role in sorted(by_role, key=_role_rank):
        keys = {(*context_of(root, mask), mask.stem) for mask in by_role[role]}
        if not keys & seen:
            chosen.append(role)
            seen |= keys
    classes = [role for role in by_role if ("class" in role or "semantic" in role) and role not in chosen]
    by_name = {(context_of(root, mask), mask.stem): mask for role in classes for mask in by_role[role]}
    kept = [mask for mask in masks if role_folder(root, mask) in chosen]
    pairs = {mask: by_name[key] for mask in kept if (key := (context_of(root, mask), mask.stem)) in by_name}
    return kept, pairs


def _match(found: MaskPairs, root: Path, images: list[Path], masks: list[Path]) -> None:
    """Match what can be, step by step from the plainest way."""
    left = masks
    ways = ((_image_names, _mask_names), (_folder_of_image, _folder_of_mask), (_plain_image_names, _plain_mask_names))
    for keys_of_image, keys_of_mask in ways:
        left = _by_keys(found, root, images, left, keys_of_image, keys_of_mask)
    for role in sorted({role_folder(root, mask) for mask in left}, key=_role_rank) if not found.matched else ():
        of_role = [mask for mask in left if role_folder(root, mask) == role]
        left_of_role = _by_common_parts(found, root, images, of_role)
        if found.matched:  # what other folders hold, such as the tracks beside the outlines, shows the same objects
            found.spare += [mask for mask in left if mask not in of_role]
            left = left_of_role
            break
    if left:
        left = _by_longest_beginning(found, root, images, left)
    found.ambiguous = [mask for mask in found.ambiguous if mask in set(left)]
    found.masks = [mask for mask in left if mask not in set(found.ambiguous)]
    for image, those in found.matched.items():
        chosen, spare = _best_beside(root, image, those)
        found.matched[image], others = _best_folder(root, chosen)
        found.spare += spare + others
    found.matched = {image: sorted(found.matched[image]) for image in images if image in found.matched}
    found.images = [image for image in images if image not in found.matched]


def _image_names(_: Path, image: Path) -> list[str]:
    return sorted(spellings(image.stem) | {image.name})


def _mask_names(_: Path, mask: Path) -> list[str]:
    """The names an image of this mask may have, likeliest first."""
    stems = [mask.stem, *(stem for stem, _ in stripped(mask.stem))]
    return [name for stem in stems for name in sorted(spellings(stem))]


def _plain_image_names(_: Path, image: Path) -> list[str]:
    """The image's name in lower case, and that without a word that only says image."""
    low = image.stem.lower()
    return [low, IMAGE_WORD.sub("", low).strip(SEPARATORS)]


def _plain_mask_names(root: Path, mask: Path) -> list[str]:
    return [name.lower() for name in _mask_names(root, mask)]


def _folder_of_image(root: Path, image: Path) -> list[str]:
    """The folder an image has for itself: the one above `images/`, and its own name."""
    names = [image.stem]
    parts = parts_below(root, image)
    if len(parts) > 1 and is_image_folder(parts[-1]):
        names.append("/".join(parts[:-1]))
    return [*names, f"{'/'.join(parts)}/"]


def _folder_of_mask(root: Path, mask: Path) -> list[str]:
    """The folder of an image's masks: one named after it, or the one above `masks/`."""
    parts = parts_below(root, mask)
    alone = mask.stem.lower() in BEGINNINGS or COUNTED.fullmatch(mask.stem) is not None
    names = [f"{'/'.join(parts)}/"] if alone else []
    if parts and not is_mask_folder(parts[-1]):
        names.append(parts[-1])
    elif len(parts) > 1:
        names += ["/".join(parts[:-1]), parts[-2]]
    return names


def _by_keys(
    found: MaskPairs, root: Path, images: list[Path], masks: list[Path], image_keys: _Keys, mask_keys: _Keys
) -> list[Path]:
    """Match by the first key of a mask that an image has; gives the masks left."""
    by_key: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        for key in dict.fromkeys(image_keys(root, image)):
            by_key[key].append(image)
    left: list[Path] = []
    for mask in masks:
        candidates = next((by_key[key] for key in mask_keys(root, mask) if key in by_key), list[Path]())
        chosen = _nearest(root, mask, candidates)
        if len(chosen) == 1:
            found.matched.setdefault(chosen[0], []).append(mask)
        else:
            left.append(mask)
            if chosen:
                found.ambiguous.append(mask)
    return left


def _nearest(root: Path, mask: Path, images: list[Path]) -> list[Path]:
    """Of images with a fitting name those whose folders are most like the mask's."""
    if len(images) < 2:
        return images
    wanted = context_of(root, mask)

    def likeness(image: Path) -> tuple[bool, int]:
        own = context_of(root, image)
        return own == wanted, _shared_length(own, wanted)

    most = max(map(likeness, images))
    return [image for image in images if likeness(image) == most]


def _by_common_parts(found: MaskPairs, root: Path, images: list[Path], masks: list[Path]) -> list[Path]:
    """Match by what is left of names without the beginning and end that all images, or all masks, share."""
    groups: dict[tuple[str, ...], tuple[list[Path], list[Path]]] = defaultdict(lambda: (list[Path](), list[Path]()))
    for image in images:
        groups[context_of(root, image)][0].append(image)
    for mask in masks:
        groups[context_of(root, mask)][1].append(mask)
    if any(not some_images for some_images, _ in groups.values()):
        groups = {(): (images, masks)}
    left: list[Path] = []
    for some_images, some_masks in groups.values():
        if len(some_images) == len(some_masks) == 1:
            if _pieces(some_images[0]) & _pieces(some_masks[0]):
                found.matched[some_images[0]] = list(some_masks)
            else:
                left += some_masks
            continue
        keys = _middles(some_images), _middles(some_masks)
        if len(set(keys[0])) < len(some_images) or not set(keys[1]) <= set(keys[0]):
            left += some_masks
            continue
        by_key = dict(zip(keys[0], some_images, strict=True))
        for key, mask in zip(keys[1], some_masks, strict=True):
            found.matched.setdefault(by_key[key], []).append(mask)
    return left


def _pieces(file: Path) -> set[str]:
    """The words and numbers of a name, without zeros in front of them."""
    words = re.findall(r"[a-z]{2,}", file.stem.lower())
    return {*words, *(number.lstrip("0") or "0" for number in re.findall(r"[0-9]+", file.stem))}


def _middles(files: list[Path]) -> list[str]:
    """The names without what all have in common; digits are not cut apart, zeros in front of them dropped."""
    stems = [file.stem for file in files]
    if len(stems) < 2:
        return stems
    front = len(re.sub(r"[0-9]+$", "", _shared_start(stems)))
    back = len(re.sub(r"^[0-9]+", "", _shared_start([stem[front:][::-1] for stem in stems])[::-1]))
    middles = [stem[front : len(stem) - back].strip(SEPARATORS).lower() for stem in stems]
    return [re.sub(r"0+(?=\d)", "", middle) if middle.isdigit() else middle for middle in middles]


def _by_longest_beginning(found: MaskPairs, root: Path, images: list[Path], masks: list[Path]) -> list[Path]:
    """Match masks whose name begins with that of an image without a mask and goes on behind a separator."""
    stems: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        if image not in found.matched:
            stems[image.stem].append(image)
    left: list[Path] = []
    for mask in masks:
        chosen: list[Path] = []
        for end in range(len(mask.stem) - 1, 0, -1):
            if mask.stem[end] in SEPARATORS and mask.stem[:end] in stems:
                chosen = _nearest(root, mask, stems[mask.stem[:end]])
                break
        if len(chosen) == 1 and mask != chosen[0]:
            found.matched.setdefault(chosen[0], []).append(mask)
        else:
            left.append(mask)
    return left


def _shared_start(texts: Sequence[str]) -> str:
    """The letters that all texts begin with."""
    low, high = min(texts), max(texts)
    return low[: _shared_length(low, high)]


def _shared_length(one: Sequence[str], other: Sequence[str]) -> int:
    """How many elements two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _best_folder(root: Path, masks: list[Path]) -> tuple[list[Path], list[Path]]:
    """Of an image's masks in folders of several kinds those that tell objects apart best, and the others."""
    roles = {mask: role_folder(root, mask) for mask in masks}
    best = min(set(roles.values()), key=_role_rank)
    return [mask for mask in masks if roles[mask] == best], [mask for mask in masks if roles[mask] != best]


def _role_rank(role: str) -> tuple[bool, bool, bool, bool, str]:
    """How well a folder's masks tell objects apart, by its name; the lowest is best."""
    tells = "object" in role or "instance" in role
    poor = any(word in role for word in ("class", "semantic", "binary"))
    return not tells, poor, "mask" not in role, "seg" not in role, role


def _best_beside(root: Path, image: Path, masks: list[Path]) -> tuple[list[Path], list[Path]]:
    """Of masks beside an image that are named by different endings the one that is read best, and the others."""
    endings = {mask: next((end for stem, end in stripped(mask.stem) if stem == image.stem), "") for mask in masks}
    kinds = {re.sub(r"[0-9]+$", "", ending) for ending in endings.values()}
    if len(masks) < 2 or len(kinds) == 1 or not all(endings.values()) or any(role_folder(root, mask) for mask in masks):
        return masks, []
    order = {ending: number for number, ending in enumerate(ENDINGS)}

    def rank(mask: Path) -> tuple[bool, int, str]:
        ending = re.sub(r"[-. ]", "_", endings[mask])
        return mask.suffix.lower() == ".npy", order.get(ending, len(order)), mask.name

    best, *spare = sorted(masks, key=rank)
    return [best], spare


def _by_pattern(found: MaskPairs, root: Path, images: list[Path], masks: list[Path], pattern: str) -> None:
    """Match by the path that the user gives."""
    if "{stem}" not in pattern:
        raise ConfigError.of(
            expected="a path with {stem} for the image's name, such as masks/{stem}_x.png or {stem}/*.png",
            found=repr(pattern),
            where="--mask-pattern",
        )
    slashed = pattern.replace("\\", "/").lstrip("/")
    expressions = [_expression(slashed, greedy) for greedy in ("+", "+?")]
    stems: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        stems[image.stem].append(image)
    for mask in masks:
        name = mask.relative_to(root).as_posix() if mask.is_relative_to(root) else mask.name
        text = name if "/" in slashed else mask.name
        named = (match.group("stem") for expression in expressions if (match := expression.search(text)))
        stem = next((stem for stem in named if stem in stems), None)
        chosen = _nearest(root, mask, [image for image in stems[stem] if image != mask]) if stem else []
        if len(chosen) == 1:
            found.matched.setdefault(chosen[0], []).append(mask)
        elif chosen:
            found.ambiguous.append(mask)
    used = {mask for those in found.matched.values() for mask in those}
    found.matched = {
        image: sorted(found.matched[image]) for image in images if image in found.matched and image not in used
    }
    found.images = [image for image in images if image not in found.matched and image not in used]
    found.masks = [mask for mask in masks if mask not in used and role_folder(root, mask)]
    found.tried = f"--mask-pattern {pattern}"


def _expression(pattern: str, greedy: str) -> re.Pattern[str]:
    r"""A pattern as an expression: `{stem}` is the group stem at its first place, `*` is anything but a slash."""
    text = re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    first, *rest = text.split(r"\{stem\}")
    return re.compile(f"(^|/){first}(?P<stem>[^/]{greedy})" + "(?P=stem)".join(rest) + "$")
