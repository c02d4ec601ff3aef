"""Image embeddings kept on disk, so that a frozen encoder sees every image once.

    CACHE/                          any folder
      SET/                          everything one encoder said; SET is a hash of all that decides the numbers
        about.json                  the same in words
        3f/3f09...c2.safetensors    one view of one image; the name is a hash of the image file's bytes and the view
      locks/, usage                 what keeps several processes out of each other's way

Nothing in here is trusted: a file is used only when it names the very set, image and view that were asked for and its
checksum agrees; otherwise it is computed again and replaced. Files come into being whole, by renaming. The cache may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import Sam2Model

from samtune.data.images import no_such_image
from samtune.errors import ConfigError, StorageError
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.io.load import fingerprint, input_size
from samtune.model.preprocess import processor_config
from samtune.utils.files import storage_errors, write_json
from samtune.utils.results import Result

FORMAT = 1
"""Raised whenever the files, the reading of images or the preprocessing change what is stored."""

Stored: TypeAlias = Literal["fp32", "bf16", "int8"]
_NAMES = ("image_embeddings", "high_resolution_0", "high_resolution_1")
_SUFFIX = ".safetensors"
_STRIPES = 256
_SET, _ENTRY = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{64}\.safetensors")
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.[0-9]+")
_ABANDONED_AFTER_SECONDS = 3600
_JUST_CHANGED_SECONDS = 2
_AFTER_EVICTION = 0.9
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedView:
    """What an entry is about: an image file, and how the encoder sees it (`""` as it is, `"flipped"`, ...)."""

    path: Path
    view: str = ""


Load: TypeAlias = Callable[[CachedView], Tensor]
"""Gives an image as the model takes it, float32 `[3, S, S]`."""
Encode: TypeAlias = Callable[[Tensor], ImageEmbeddings]
"""Runs the image encoder on `[B, 3, S, S]`."""


@dataclass
class CacheCounts:
    """What the cache did in this process: `found` entries were used, `encoded` ones computed."""

    found: int = 0
    encoded: int = 0


class EmbeddingCache:
    """The embeddings of one encoder. Several processes may use one folder at the same time, with several encoders.

    An entry is encoded by one process while the others that want it wait. What is handed out is always what the file
    says, also right after encoding, so that a run gives the same numbers with a cold cache and with a warm one.

    Args:
        folder: made when it does not exist. Where it cannot be written, what it has is used and nothing is added.
        model: its vision encoder, `no_memory_embedding`, `conv_s0` and `conv_s1` decide what is stored, and must not
            change while the cache is used.
        stored: how values are stored: fp32 exactly; bf16 in half the space; int8 in a quarter, with a scale per image
            and channel.
        limit: most bytes the whole folder may take; beyond it the least recently used entries go. None for no limit.
        arithmetic: what the encoder computes in, as a name; entries of different arithmetic are not exchanged.
        name: the model's name, for `cache_info`.
        resident: bytes of entries kept in the memory of the device they are asked for, first come first kept. For GPUs,
            see `resident_budget`; on a CPU the files are mapped, and the system keeps them in memory anyway.
    """

    def __init__(
        self,
        folder: Path,
        model: Sam2Model,
        *,
        stored: Stored = "bf16",
        limit: int | None = None,
        arithmetic: str = "fp32",
        name: str = "",
        resident: int = 0,
    ) -> None:
        self.folder = folder
        self.stored: Stored = stored
        self.limit = limit
        self.counts = CacheCounts()
        about = {
            "format": FORMAT,
            "stored": stored,
            "arithmetic": arithmetic,
            "image_size": input_size(model),
            "preprocessing": processor_config(input_size(model)),
            "weights": encoder_fingerprint(model),
        }
        self.set_id = _hash(json.dumps(about, sort_keys=True))[:16]
        self._set_folder = folder / self.set_id
        self._digests = _FileDigests()
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._resident: dict[tuple[str, str], dict[str, Tensor]] = {}
        self._resident_room = resident
        self._writes = True
        self._try_to_write(lambda: self._introduce(about | {"model": name}))

    @torch.no_grad()
    def get_or_encode(
        self,
        views: Sequence[CachedView],
        load: Load,
        encode: Encode,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int = 1,
    ) -> ImageEmbeddings:
        """The embeddings of some views, from the folder as far as they are there, computed and added otherwise.

        Args:
            views: B of them; the same one may occur several times.
            load: called for views that must be computed.
            encode: likewise, with up to `batch` of them at a time.
            device: where the result goes.
            dtype: what the result is made of, whatever is stored.
            batch: most images per call of `encode`.

        Returns:
            B images, without gradients, in `channels_last` memory order.
        """
        keys = [self._key(view) for view in views]
        wanted = dict(zip(keys, views, strict=True))
        found = self._read_all(wanted, str(device))
        missing = {key: view for key, view in wanted.items() if key not in found}
        if missing:
            with self._claimed(missing):
                found |= self._read_all(missing, str(device))  # another process may have been faster
                missing = {key: view for key, view in missing.items() if key not in found}
                self.counts.found += len(found)
                found |= self._encode_all(missing, load, encode, batch)
        else:
            self.counts.found += len(found)
        found = {key: self._kept(key, packed, device) for key, packed in found.items()}
        return ImageEmbeddings.cat([_unpack(found[key], dtype) for key in keys])

    def missing(self, views: Sequence[CachedView]) -> list[CachedView]:
        """Those views that have no file yet. Files are not opened; damage shows when they are used."""
        return [view for view in views if not self._path(self._key(view)).exists()]

    def _encode_all(
        self, views: dict[str, CachedView], load: Load, encode: Encode, batch: int
    ) -> dict[str, dict[str, Tensor]]:
        done: dict[str, dict[str, Tensor]] = {}
        keys = list(views)
        for start in range(0, len(keys), batch):
            part = keys[start : start + batch]
            embeddings = encode(torch.stack([load(views[key]) for key in part]))
            for position, key in enumerate(part):
                done[key] = _pack(embeddings[position], self.stored)
                self._write(key, done[key])
            self.counts.encoded += len(part)
        return done

    def _kept(self, key: str, packed: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
        """An entry on the device, as it is stored; kept there while there is room."""
        place = (key, str(device))
        if place in self._resident:
            return self._resident[place]
        packed = {name: tensor.to(device, non_blocking=True) for name, tensor in packed.items()}
        size = sum(tensor.nbytes for tensor in packed.values())
        if size <= self._resident_room:
            self._resident[place] = packed
            self._resident_room -= size
        return packed

    def _read_all(self, keys: dict[str, CachedView], device: str) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = {}
        for key in keys:
            packed = self._resident.get((key, device)) or self._read(key)
            if packed is not None:
                found[key] = packed
        return found

    def _read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, mapped from its file; None where there is none that can be used.

        The checksum is computed when this process first meets a file, and again when the file is another one.
        """
        path = self._path(key)
        try:
            state = path.stat()
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError):
            _log.warning("damaged cache file, computed again: %s", path)
            return None
        identity = (state.st_ino, state.st_size, state.st_mtime_ns)
        if self._checked.get(key) != identity:
            if metadata.get("key") != key or metadata.get("checksum") != fingerprint(tensors):
                _log.warning("damaged cache file, computed again: %s", path)
                return None
            if time.time() - state.st_mtime > _JUST_CHANGED_SECONDS:
                self._checked[key] = identity
        with suppress(OSError):  # somebody else's file: its age then is its time of writing
            os.utime(path, ns=(time.time_ns(), state.st_mtime_ns))
        return tensors

    def _write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Put an entry in its place, or leave it out where the disk refuses: training goes on without it."""
        content = save(tensors, {"key": key, "checksum": fingerprint(tensors)})
        if self.limit is not None and len(content) > self.limit:
            return
        self._try_to_write(lambda: self._place(self._path(key), content))

    def _place(self, path: Path, content: bytes) -> None:
        # No fsync: it would cost more than encoding a small image, and what a power cut damages the checksum finds.
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}")
        try:
            with _lock(self.folder, "usage"):
                _make_room(self.folder, len(content), self.limit)
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @contextmanager
    def _claimed(self, keys: dict[str, CachedView]) -> Iterator[None]:
        """Keep other processes from encoding the same. Locks are taken in order, so nobody waits in a circle."""
        if not self._writes:
            yield
            return
        with ExitStack() as held:
            for stripe in sorted({int(key[:8], 16) % _STRIPES for key in keys}):
                held.enter_context(_lock(self.folder, f"{stripe:02x}"))
            yield

    def _try_to_write(self, action: Callable[[], None]) -> None:
        if not self._writes:
            return
        try:
            action()
        except (OSError, StorageError, NotImplementedError) as error:
            self._writes = False
            _log.warning("the embedding cache %s takes no more entries in this run: %s", self.folder, error)

    def _introduce(self, about: dict[str, Any]) -> None:
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        with _lock(self.folder, "usage"):
            target = self._set_folder / "about.json"
            if _read_json(target) != about:
                write_json(target, about)

    def _key(self, view: CachedView) -> str:
        return _hash(f"{self.set_id}\n{self._digests.of(view.path)}\n{view.view}")

    def _path(self, key: str) -> Path:
        return self._set_folder / key[:2] / f"{key}{_SUFFIX}"


def encoder_fingerprint(model: Sam2Model) -> str:
    """sha256 over every weight that decides an image's embeddings, hexadecimal.

    These are the vision encoder (adapters inside it included), `no_memory_embedding`, `conv_s0` and `conv_s1`.
    """
    parts = ("vision_encoder.", "no_memory_embedding", "mask_decoder.conv_s0.", "mask_decoder.conv_s1.")
    return fingerprint({name: value for name, value in model.state_dict().items() if name.startswith(parts)})


def resident_budget(device: torch.device) -> int:
    """Bytes of device memory the cache may keep entries in: half of what is free on a GPU, nothing elsewhere."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0


@dataclass(frozen=True, slots=True)
class CacheSet:
    """Everything one encoder said: its folder's name, what is known of it, and how much there is."""

    set_id: str
    model: str
    stored: str
    image_size: int
    entries: int
    bytes: int
    last_used: float


@dataclass(frozen=True)
class CacheInfo(Result):
    """What a cache folder holds, the most recently used set first."""

    folder: Path
    sets: tuple[CacheSet, ...] = field(default=())

    @property
    def bytes(self) -> int:
        """Bytes of all entries."""
        return sum(found.bytes for found in self.sets)

    def lines(self) -> list[str]:
        """What to tell the user."""
        lines = [f"{self.folder}: {_words(self.bytes)} in {sum(found.entries for found in self.sets)} entries"]
        for found in self.sets:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.last_used)) if found.entries else "never"
            lines.append(
                f"  {found.set_id}  {found.model or 'unknown model'}, {found.image_size} px, {found.stored}: "
                f"{found.entries} entries, {_words(found.bytes)}, last used {used}"
            )
        return lines


def cache_info(folder: Path) -> CacheInfo:
    """Look a cache folder over. A folder that does not exist holds nothing."""
    with storage_errors(folder):
        sets = [_describe(path) for path in _set_folders(folder)]
    return CacheInfo(folder, tuple(sorted(sets, key=lambda found: found.last_used, reverse=True)))


def clear_cache(folder: Path) -> CacheInfo:
    """Remove all entries of a cache folder and whatever else the cache put there; other files stay.

    Returns:
        What was there.

    Raises:
        StorageError: something cannot be removed.
    """
    info = cache_info(folder)
    with storage_errors(folder):
        if not (folder / "locks").is_dir():
            return info
        for path in _set_folders(folder):
            for file in [*_files(path, _ENTRY), *_files(path, _UNFINISHED), path / "about.json"]:
                file.unlink(missing_ok=True)
            for inner in [*path.iterdir(), path]:
                _remove_if_empty(inner)
        (folder / "usage").unlink(missing_ok=True)
        for lock in (folder / "locks").glob("*.lock"):
            lock.unlink()
        _remove_if_empty(folder / "locks")
        _remove_if_empty(folder)
    return info


def parse_size(text: str) -> int:
    """Bytes from `40GB`, `500 MB`, `1.5TB` or a plain number; units are powers of 1000.

    Raises:
        ConfigError: not such a size, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    unit = "" if match is None or match[2] in ("", "B") else match[2].removesuffix("B") + "B"
    size = 0 if match is None else int(float(match[1]) * _UNITS[unit])
    if size <= 0:
        raise ConfigError.of(expected="a size above 0 such as 40GB or 500MB", found=repr(text), where="cache_limit")
    return size


def _pack(embeddings: ImageEmbeddings, stored: Stored) -> dict[str, Tensor]:
    """One image as tensors `[h, w, C]` of the stored type; int8 has scales `[C]` beside each."""
    packed: dict[str, Tensor] = {}
    for name, tensor in zip(_NAMES, embeddings.tensors, strict=True):
        rows = tensor[0].permute(1, 2, 0).float().cpu()
        if stored == "int8":
            scale = rows.abs().amax((0, 1)).clamp(min=torch.finfo(torch.float32).tiny) / 127
            packed[f"{name}.scale"] = scale
            rows = (rows / scale).round()
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[stored]
        packed[name] = rows.to(kind).contiguous()
    return packed


def _unpack(packed: dict[str, Tensor], dtype: torch.dtype) -> ImageEmbeddings:
    """The inverse of `_pack`, as far as the stored type allows."""
    tensors: list[Tensor] = []
    for name in _NAMES:
        rows = packed[name]
        if f"{name}.scale" in packed:
            rows = rows * packed[f"{name}.scale"]
        tensors.append(rows.to(dtype)[None].permute(0, 3, 1, 2))
    return ImageEmbeddings(tensors[0], (tensors[1], tensors[2]))


class _FileDigests:
    """sha256 of files, remembered while the file looks untouched.

    A file changed within the last moments is read again each time: its time stamp may be too coarse to tell.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def of(self, path: Path) -> str:
        """The digest, hexadecimal.

        Raises:
            DataError: there is no such file.
            StorageError: the file cannot be read.
        """
        with storage_errors(path):
            try:
                state = path.stat()
            except FileNotFoundError as error:
                raise no_such_image(path) from error
            identity = (state.st_ino, state.st_size, state.st_mtime_ns)
            known = self._known.get(path)
            if known is not None and known[0] == identity:
                return known[1]
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time() - state.st_mtime > _JUST_CHANGED_SECONDS:
            self._known[path] = (identity, digest)
        return digest


def _make_room(folder: Path, size: int, limit: int | None) -> None:
    """Count `size` more bytes; beyond the limit, remove the least recently used entries of all sets.

    The count on file is a guess, corrected from the files themselves whenever something has to go. To be called with
    the lock "usage".
    """
    usage = folder / "usage"
    try:
        used = int(usage.read_text())
    except (FileNotFoundError, ValueError):
        used = sum(state.st_size for _, state in _entries(folder))
    if limit is not None and used + size > limit:
        entries = sorted(_entries(folder), key=lambda entry: entry[1].st_atime_ns)
        used = sum(state.st_size for _, state in entries)
        target = max(0, int(limit * _AFTER_EVICTION) - size)
        for path, state in entries if used + size > limit else ():
            if used <= target:
                break
            path.unlink(missing_ok=True)
            used -= state.st_size
        _remove_abandoned(folder)
    usage.write_text(str(used + size))


def _remove_abandoned(folder: Path) -> None:
    """Files that a killed process left half written."""
    for path in _set_folders(folder):
        for file in _files(path, _UNFINISHED):
            if time.time() - file.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                file.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in _set_folders(folder):
        for file in _files(path, _ENTRY):
            try:
                yield file, file.stat()
            except FileNotFoundError:  # another process was faster to evict it
                continue


def _set_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _SET.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def _files(set_folder: Path, name: re.Pattern[str]) -> Iterator[Path]:
    for inner in set_folder.iterdir():
        if len(inner.name) == 2 and inner.is_dir() and not inner.is_symlink():
            yield from (file for file in inner.iterdir() if name.fullmatch(file.name))


def _describe(path: Path) -> CacheSet:
    about = _read_json(path / "about.json") or {}
    states = [file.stat() for file in _files(path, _ENTRY)]
    return CacheSet(
        set_id=path.name,
        model=str(about.get("model", "")),
        stored=str(about.get("stored", "unknown")),
        image_size=int(about.get("image_size", 0)),
        entries=len(states),
        bytes=sum(state.st_size for state in states),
        last_used=max((state.st_atime for state in states), default=0.0),
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _lock(folder: Path, name: str) -> FileLock:
    return FileLock(folder / "locks" / f"{name}.lock")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _words(size: int) -> str:
    for unit in ("TB", "GB", "MB", "KB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f} {unit}"
    return f"{size} bytes"
