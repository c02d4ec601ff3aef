"""Image embeddings kept on disk, so that a frozen encoder sees every image once.

`store.py` shows the folder. Nothing in it is trusted: a file is used only when it names the very set, image and view
that were asked for and its checksum agrees; otherwise the embeddings are computed again and the file is replaced. Files
are written under another name and renamed when they are whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import Sam2Model

from samtune.data.images import no_such_image
from samtune.embeddings.packing import Stored, pack, unpack
from samtune.embeddings.store import SUFFIX, lock, make_room, read_json
from samtune.errors import StorageError
from samtune.model.architecture import input_size
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.io.tensors import hash_tensors
from samtune.model.preprocess import processor_config
from samtune.utils.files import storage_errors, write_json

FORMAT = 2
"""Raised whenever the files, the reading of images or the preprocessing change what is stored."""

_STRIPES = 256
_JUST_CHANGED_SECONDS = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedView:
    """The subject of an entry: an image file, and how it is seen (`""` as it is, `"flipped"`, a window, ...)."""

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

    An entry is encoded by one process while the others that want it wait. What is returned is always what the file
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
        return ImageEmbeddings.cat([unpack(found[key], dtype) for key in keys])

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
                done[key] = pack(embeddings[position], self.stored)
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
            if metadata.get("key") != key or metadata.get("checksum") != hash_tensors(tensors):
                _log.warning("damaged cache file, computed again: %s", path)
                return None
            if time.time() - state.st_mtime > _JUST_CHANGED_SECONDS:
                self._checked[key] = identity
        with suppress(OSError):  # somebody else's file: its age then is its time of writing
            os.utime(path, ns=(time.time_ns(), state.st_mtime_ns))
        return tensors

    def _write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Put an entry in its place, or leave it out where the disk refuses: training goes on without it."""
        content = save(tensors, {"key": key, "checksum": hash_tensors(tensors)})
        if self.limit is not None and len(content) > self.limit:
            return
        self._try_to_write(lambda: self._place(self._path(key), content))

    def _place(self, path: Path, content: bytes) -> None:
        # No fsync: it would cost more than encoding a small image, and what a power cut damages the checksum finds.
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}")
        try:
            with lock(self.folder, "usage"):
                make_room(self.folder, len(content), self.limit)
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @contextmanager
    def _claimed(self, keys: dict[str, CachedView]) -> Iterator[None]:
        """Keep other processes from encoding the same. Locks are taken in one order: no deadlocks."""
        if not self._writes:
            yield
            return
        with ExitStack() as held:
            for stripe in sorted({int(key[:8], 16) % _STRIPES for key in keys}):
                held.enter_context(lock(self.folder, f"{stripe:02x}"))
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
        with lock(self.folder, "usage"):
            target = self._set_folder / "about.json"
            if read_json(target) != about:
                write_json(target, about)

    def _key(self, view: CachedView) -> str:
        return _hash(f"{self.set_id}\n{self._digests.of(view.path)}\n{view.view}")

    def _path(self, key: str) -> Path:
        return self._set_folder / key[:2] / f"{key}{SUFFIX}"


def encoder_fingerprint(model: Sam2Model) -> str:
    """sha256 over every weight that decides an image's embeddings, hexadecimal.

    These are the vision encoder (adapters inside it included), `no_memory_embedding`, `conv_s0` and `conv_s1`.
    """
    parts = ("vision_encoder.", "no_memory_embedding", "mask_decoder.conv_s0.", "mask_decoder.conv_s1.")
    return hash_tensors({name: value for name, value in model.state_dict().items() if name.startswith(parts)})


def resident_budget(device: torch.device) -> int:
    """Bytes of device memory the cache may keep entries in: half of what is free on a GPU, nothing elsewhere."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0


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


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
