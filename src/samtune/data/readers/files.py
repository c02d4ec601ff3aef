"""Files of a source: what is visible in it, and which image file is meant by the name an annotation file gives.

Annotation files come from other machines: names carry the folders of a server, a drive letter, an address, or are
spelled in another encoding. A name that leads nowhere is looked up by its last part among all images of the source.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from samtune.data.images import SUFFIXES
from samtune.data.paths import confine
from samtune.data.readers.folders import context_of, is_mask_folder, parts_below
from samtune.errors import DataError

_SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found",
     "system volume information", "__pycache__", "ipynb_checkpoints"}
)  # fmt: skip
_MOST_FILES = 2_000_000
"""Files looked at below one folder; a source that holds more is not searched for names that lead nowhere."""
_MOST_WRAPPERS = 4
_NO_DATA = re.compile(r"(readme|license|licence|changelog|citation|notice)", re.IGNORECASE)
_ROLE = re.compile(r"(^|[^a-z])(train|val|valid|test|images?|imgs?|masks?|labels?|ann|annotations?|img|json)")
"""What a folder is called that is a part of the data, so that its name means something."""
_UPLOAD_PREFIX = re.compile(r"^([0-9a-f]{8}-)+(?=.)")
"""What Label Studio puts before the name of an uploaded file, once for each time it was uploaded."""
_JSON_ESCAPE = re.compile(r"\\u((?![dD][89a-fA-F])[0-9a-fA-F]{4})")
_ZIP_ESCAPE = re.compile(r"#U((?![dD][89a-fA-F])[0-9a-fA-F]{4})")
"""How unzip writes letters that the system's encoding lacks."""
_UNREADABLE = re.compile("[?\ufffd]+")
"""What stands for letters that a tool could not decode."""


class ImageNameError(DataError):
    """A name in an annotation file does not lead to one image. `code` is the kebab-case name of the finding."""

    code: str = "image-path"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a file manager's, an editor's or a notebook's, and no part of the data."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_NAMES


def visible(folder: Path) -> list[Path]:
    """Files and folders directly in a folder, by name, hidden ones left out; empty where there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    except OSError:
        return []


def visible_folders(folder: Path) -> list[Path]:
    """Folders directly in a folder, by name, hidden ones left out."""
    return [path for path in visible(folder) if path.is_dir()]


def image_files(folder: Path, suffixes: Iterable[str] = SUFFIXES) -> list[Path]:
    """Image files directly in a folder, by name."""
    wanted = frozenset(suffixes)
    return [path for path in visible(folder) if path.suffix.lower() in wanted]


def files_below(root: Path, suffixes: Iterable[str] = SUFFIXES) -> Iterator[Path]:
    """Files of these endings in a folder and all folders below, by folder and name; links to folders are not followed.

    At most `_MOST_FILES` files are looked at.
    """
    wanted = tuple(suffix.lower() for suffix in suffixes)
    seen = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        seen += len(names)
        if seen > _MOST_FILES:
            return
        place = Path(folder)
        for name in sorted(names):
            if name.lower().endswith(wanted) and not is_hidden(name):
                yield place / name


def content_folder(source: Path) -> Path:
    """The one folder that all data of a source stands in, where archives or copies have wrapped it; else the source."""
    for _ in range(_MOST_WRAPPERS):
        if not source.is_dir():
            break
        inside = visible(source)
        folders = [path for path in inside if path.is_dir()]
        rest = [path for path in inside if not path.is_dir() and not _NO_DATA.match(path.name)]
        if len(folders) != 1 or rest or folders[0].is_symlink() or _ROLE.search(folders[0].name.lower()):
            break
        source = folders[0]
    return source


def name_parts(name: str) -> tuple[str, ...]:
    r"""A name from an annotation file as parts, whatever machine it is from.

    `C:\a\b.jpg`, `../a/b.jpg`, `https://host/a/b.jpg?key=1`, `/data/local-files/?d=a%2Fb.jpg` all end in `b.jpg`.
    """
    text = _JSON_ESCAPE.sub(_letter, name).strip()
    if "?d=" in text:
        text = unquote(text.rpartition("?d=")[2])
    if "://" in text:
        text = text.partition("://")[2].partition("?")[0].partition("#")[0]
    before, mark, _ = text.partition("?")
    if mark and before.lower().endswith(tuple(SUFFIXES)):
        text = before
    parts = text.replace("\\", "/").split("/")
    return tuple(part for part in parts if part not in ("", ".", "..") and not re.fullmatch(r"[A-Za-z]:", part))


def spellings(name: str) -> set[str]:
    """One file name in every encoding it may have been read in: percent signs, composed accents, UTF-8 as code page."""
    if name.isascii() and "%" not in name and "#U" not in name:
        return {name}
    found = {name, unquote(name), unquote(unquote(name)), _ZIP_ESCAPE.sub(_letter, name)}
    for text in tuple(found):
        if not text.isascii():
            for wrong in ("cp437", "cp1252", "latin-1"):
                try:
                    found.add(text.encode(wrong).decode("utf-8"))
                except UnicodeError:
                    continue
    return {unicodedata.normalize("NFC", text) for text in found}


class ImageFinder:
    """Finds image files by the names that annotation files give them.

    A name is taken as a path below a few folders, the last successful first. Where it leads nowhere, the image of the
    same base name is taken, if there is one only, or one only shares the most folders with the name; last, an image
    whose name differs in its ending, in marks that tools replace, or in letters that a tool could not decode.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        root: Path | None = None,
        names: Callable[[], Iterable[object]] = tuple,
        prefer: str = "",
    ) -> None:
        """Set where to look.

        Args:
            folders: where names are relative to, likeliest first.
            root: folder whose images are searched for base names; None does not search.
            names: all names the annotation file lists, so that two of them are never taken for one file.
            prefer: folder name that decides between images of one base name, such as a CVAT subset.
        """
        assert folders
        self._folders = list(dict.fromkeys(folders))
        self._root, self._names, self._prefer = root, names, prefer.lower()
        self._by_name: dict[str, list[Path]] | None = None
        self._by_folded: dict[str, list[Path]] = {}
        self._by_plain: dict[str, list[Path]] = {}
        self._listed: Counter[str] = Counter()
        self._listed_plain: Counter[str] = Counter()
        self.guessed: dict[str, Path] = {}

    def find(self, name: object, *, where: str, near: Path | None = None) -> Path:
        """Path of the image; below the first folder where it is nowhere.

        Args:
            name: as the annotation file has it.
            where: place of the name, for the message.
            near: the annotation file, where each image has its own: of images of one base name the one in the folders
                that belong to it is meant.

        Raises:
            DataError: the name is no name, or leads out of the folder and no image has its base name.
            ImageNameError: several images have the base name.
        """
        problem: DataError | None = None
        for position, folder in enumerate(self._folders):
            try:
                path = confine(folder, name, where=where)
            except DataError as error:
                problem = error
                break
            if os.path.isfile(path):  # noqa: PTH113 - `Path.is_file` raises for a name that the system cannot take
                self._folders.insert(0, self._folders.pop(position))
                return path
        if isinstance(name, str) and (guess := self._by_base_name(name, where, near)) is not None:
            self.guessed[name] = guess
            return guess
        if problem is not None:
            raise problem
        return confine(self._folders[0], name, where=where)

    def _by_base_name(self, name: str, where: str, near: Path | None) -> Path | None:
        parts = name_parts(name)
        if self._root is None or not parts or "\0" in name:
            return None
        candidates = [path for path in self._candidates(parts[-1]) if _is_inside(path, self._root)]
        if not candidates:
            return None
        shared = [_shared_parts(parts, path) for path in candidates]
        best = [path for path, count in zip(candidates, shared, strict=True) if count == max(shared)]
        if len(best) > 1 and self._prefer:
            best = [path for path in best if self._prefer in (part.lower() for part in path.parts)] or best
        if len(best) > 1 and near is not None:
            wanted = context_of(self._root, near)
            best = [path for path in best if context_of(self._root, path) == wanted] or best
        listed = self._listed[_key(parts[-1])]
        if len(best) > 1 or (listed > len(candidates) and max(shared) < 2):
            raise self._ambiguous(name, best, listed, where)
        return best[0]

    def _ambiguous(self, name: str, best: list[Path], listed: int, where: str) -> ImageNameError:
        assert self._root is not None
        shown = ", ".join(path.relative_to(self._root).as_posix() for path in best[:4])
        more = f" and {len(best) - 4} more" if len(best) > 4 else ""
        found = f"{len(best)} images of that name: {shown}{more}"
        if len(best) == 1:
            found = f"{listed} entries of that name and only {shown}"
        error = ImageNameError.of(
            expected=f"one image for {name!r}", found=found, where=where, do="write file_name as a path in the source"
        )
        error.code = "image-name-ambiguous"
        return error

    def _candidates(self, base: str) -> list[Path]:
        """Images that may be meant by a base name: spelled alike, else but for upper case, else without a prefix."""
        by_name = self._index()
        for text in (base, _UPLOAD_PREFIX.sub("", base)):
            for spelled in sorted(spellings(text)):
                if found := by_name.get(spelled):
                    return found
            for spelled in sorted(spellings(text)):
                if found := self._by_folded.get(spelled.casefold()):
                    return found
        return self._nearly(base)

    def _nearly(self, base: str) -> list[Path]:
        """The one image that a base name nearly is, which no other name in the list nearly is; no file of masks."""
        found = {
            path for key in plain_names(base) if self._listed_plain[key] < 2 for path in self._by_plain.get(key, ())
        }
        if not found and _UNREADABLE.search(base):
            letters = "[^\x00-\x7f]+".join(map(re.escape, _UNREADABLE.split(base)))
            pattern = re.compile(letters, re.IGNORECASE)
            found = {path for name, paths in self._index().items() if pattern.fullmatch(name) for path in paths}
        assert self._root is not None
        found = {path for path in found if not any(map(is_mask_folder, parts_below(self._root, path)))}
        return list(found) if len(found) == 1 else []

    def _index(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            assert self._root is not None
            for path in files_below(self._root):
                for spelled in spellings(path.name):
                    self._by_name.setdefault(spelled, []).append(path)
                    self._by_folded.setdefault(spelled.casefold(), []).append(path)
                for key in plain_names(path.name):
                    self._by_plain.setdefault(key, []).append(path)
            distinct = {name for name in self._names() if isinstance(name, str)}
            bases = [parts[-1] for name in distinct if (parts := name_parts(name))]
            self._listed.update(map(_key, bases))
            self._listed_plain.update(key for base in bases for key in plain_names(base))
        return self._by_name


def _key(base: str) -> str:
    return min(spellings(base)).casefold()


def plain_names(base: str) -> set[str]:
    """A base name in all its spellings without its ending, and with one mark for all that tools replace."""
    stems = (Path(text).stem if text.lower().endswith(tuple(SUFFIXES)) else text for text in (base, unquote_plus(base)))
    bare = (_UPLOAD_PREFIX.sub("", spelled) for stem in stems for spelled in spellings(stem))
    return {re.sub(r"[^\w.]+|_+", "_", text.casefold()) for text in bare}


def _letter(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 16))


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve()) and path.is_file()
    except (OSError, RuntimeError, ValueError):
        return False


def _shared_parts(parts: tuple[str, ...], path: Path) -> int:
    """How many parts, from the last, a name and a path have in common; the last is taken to be."""
    count = 1
    for one, other in zip(reversed(parts[:-1]), reversed(path.parts[:-1]), strict=False):
        if not spellings(one) & spellings(other) and one.casefold() != other.casefold():
            break
        count += 1
    return count
