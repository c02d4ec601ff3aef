"""Which of the given image files a COCO entry is about: by its file name, or by `image_id` as a name or a number."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from samtune.data.readers.files import name_parts, plain_names, spellings


class ImageNames:
    """The given images, to be found by what results lists write.

    A number is the number an image's name is, as COCO's own files are called (139 for `000000000139.jpg`), or the last
    number in it where that tells all images apart. A name may differ in its ending, or carry an upload's prefix.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_spelling: dict[str, set[str]] = defaultdict(set)
        self._by_plain: dict[str, set[str]] = defaultdict(set)
        numbers: dict[int, set[str]] = defaultdict(set)
        last: dict[int, set[str]] = defaultdict(set)
        for name in self._names:
            stem = name.rpartition(".")[0] or name
            for text in (name, stem):
                for spelled in spellings(text):
                    self._by_spelling[spelled.casefold()].add(name)
            for plain in plain_names(name):
                self._by_plain[plain].add(name)
            if stem.isascii() and stem.isdigit():
                numbers[int(stem)].add(name)
            if found := re.findall(r"[0-9]+", stem):
                last[int(found[-1])].add(name)
        tells_apart = sum(map(len, last.values())) == len(self._names) == len(last)
        self._by_number = numbers | (last if not numbers and tells_apart else {})

    def find(self, value: object) -> str | None:
        """The image that a name, a path or a number is about; None where it is none, or could be several."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            return None
        if value in self._names:
            return str(value)
        text = str(value)
        parts = name_parts(text)
        for spelled in sorted(spellings(parts[-1])) if parts else ():
            found = self._by_spelling.get(spelled.casefold(), set[str]())
            if len(found) == 1:
                return next(iter(found))
        found = self._by_number.get(int(text), set[str]()) if re.fullmatch(r"[0-9]{1,18}", text) else set[str]()
        if not found and parts:
            found = {name for plain in plain_names(parts[-1]) for name in self._by_plain.get(plain, ())}
        return next(iter(found)) if len(found) == 1 else None
