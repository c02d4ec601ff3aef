"""Who works on which shard: empty files that are claimed by renaming, which succeeds for one process alone.

    open/00012               nobody's
    taken/00012@OWNER        someone's; its time of change is the owner's heartbeat
    done/00012.json          finished; written before the claim is removed

An owner that has died leaves its claim behind. Another process takes it over: at once where it can see that the
process is gone (the same machine), else when no heartbeat came for `STALE` seconds. Times are compared on the file
system's own clock, so that clocks of machines may differ. A process that was only held up finds its claim gone and
drops its work; should both write the shard, both write the same.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from samtune.utils.files import storage_errors, write_json

OPEN, TAKEN, DONE = "open", "taken", "done"
HEARTBEAT, STALE = 10.0, 90.0
"""Seconds between heartbeats, and without one after which an owner counts as dead."""
_POLL = 0.5


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that is this process's.

    Attributes:
        shard: its number.
        path: the file that says so.
    """

    shard: int
    path: Path

    def beat(self) -> bool:
        """Show that the owner lives; False where another process has taken the shard over."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True


class Claims:
    """The shards of one job, as this process sees them.

    Args:
        folder: the job's, with `open`, `taken` and `done` in it.
        shards: how many it has.
        heartbeat, stale: seconds, see `HEARTBEAT`.
    """

    def __init__(self, folder: Path, shards: int, *, heartbeat: float = HEARTBEAT, stale: float = STALE) -> None:
        self._folder, self._shards = folder, shards
        self._heartbeat, self._stale = heartbeat, stale
        self._owner = f"{machine()}-{os.getpid()}-{secrets.token_hex(4)}"

    @staticmethod
    def create(folder: Path, shards: int) -> None:
        """Write the files of a job of so many shards."""
        for name in (OPEN, TAKEN, DONE):
            (folder / name).mkdir()
        for shard in range(shards):
            (folder / OPEN / f"{shard:05}").touch()

    def take(self) -> Claim | None:
        """Claim a shard: an open one, or one whose owner has died; None where every other is done or alive."""
        with storage_errors(self._folder):
            names = sorted(entry.name for entry in os.scandir(self._folder / OPEN))
            start = zlib.crc32(self._owner.encode()) % len(names) if names else 0  # apart from where others begin
            for name in names[start:] + names[:start]:
                if claim := self._rename(self._folder / OPEN / name, name):
                    return claim
            for path in self._abandoned():
                if claim := self._rename(path, path.name.partition("@")[0]):
                    return claim
        return None

    def is_complete(self) -> bool:
        """Whether every shard is done."""
        with storage_errors(self._folder):
            return self.count_done() == self._shards

    def count_done(self) -> int:
        """How many shards are done, by whomever."""
        return len(done_shards(self._folder))

    def wait(self) -> None:
        """Wait a little for what others are doing."""
        time.sleep(_POLL)

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Keeps a claim alive while the block works on it; where the block fails, the shard is open again."""
        end = threading.Event()

        def beat() -> None:
            while not end.wait(self._heartbeat):
                with suppress(OSError):  # a network file system that is away for a moment
                    if not claim.beat():
                        return

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self.release(claim)
            raise
        finally:
            end.set()
            thread.join()

    def finish(self, claim: Claim, about: dict[str, object]) -> bool:
        """Mark a shard whose files are in place as done; False where another process has taken it over."""
        if not claim.beat():
            return False
        write_json(self._folder / DONE / f"{claim.shard:05}.json", about | {"worker": self._owner})
        claim.path.unlink(missing_ok=True)
        return True

    def release(self, claim: Claim) -> None:
        """Give a shard back that was not finished."""
        try:
            claim.path.rename(self._folder / OPEN / f"{claim.shard:05}")
        except FileNotFoundError:  # taken over meanwhile
            return

    def _rename(self, path: Path, name: str) -> Claim | None:
        """Claim what `path` stands for; None where another process was faster, or the shard is done already."""
        claim = Claim(int(name), self._folder / TAKEN / f"{name}@{self._owner}")
        try:
            os.utime(path)  # before the name says that it is ours: an old time would make us look dead
            path.rename(claim.path)
        except FileNotFoundError:
            return None
        if (self._folder / DONE / f"{name}.json").is_file():  # its owner died between the mark and the end of the claim
            claim.path.unlink(missing_ok=True)
            return None
        return claim

    def _abandoned(self) -> Iterator[Path]:
        now = self._now()
        for entry in list(os.scandir(self._folder / TAKEN)):
            home, _, rest = entry.name.partition("@")[2].partition("-")
            try:
                silent = now - entry.stat().st_mtime
            except FileNotFoundError:
                continue
            gone = home == machine() and not _is_alive(int(rest.partition("-")[0]))
            if gone or silent > self._stale:
                yield Path(entry.path)

    def _now(self) -> float:
        """The time by the file system's clock."""
        with tempfile.TemporaryFile(dir=self._folder) as probe:
            probe.write(b".")
            probe.flush()
            return os.fstat(probe.fileno()).st_mtime


def done_shards(folder: Path) -> list[int]:
    """Numbers of a job's finished shards, in order."""
    return sorted(int(entry.name[:-5]) for entry in os.scandir(folder / DONE) if entry.name[:-5].isdigit())


def machine() -> str:
    """What processes share that can see one another: the host, since it was started, and the container."""
    parts = [socket.gethostname()]
    for read in (_boot, _namespace):
        try:
            parts.append(read())
        except OSError:  # not Linux
            continue
    return f"{zlib.crc32('/'.join(parts).encode()):08x}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine exists; where that cannot be asked (Windows), only heartbeats count."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
