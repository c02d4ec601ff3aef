"""Downloading one file over HTTP: retried, resumed after a cut, checked against the length and MD5 the server states.

Errors and logs show addresses without user, password and query, all of which may be secrets.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from samtune.errors import DataError, RemoteError, SamtuneError
from samtune.utils.files import storage_errors, write_json

Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all or 0 where unknown)."""
CHUNK = 1 << 18
_MOST_BYTES = 64 << 30
_MOST_REDIRECTS = 10
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
MOVED = frozenset({301, 302, 303, 307, 308})
_LOGGERS = (
    "httpx",
    "httpcore",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a service, all in seconds.

    Attributes:
        attempts: failures in a row without a new byte before giving up.
        backoff: first wait after a failure; doubles each time.
        longest_wait: longest single wait, also where the service asks for more.
        timeout: without an answer or a byte.
        poll: between questions whether the export is ready.
        generation: for the service to make the export.
    """

    attempts: int = 6
    backoff: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 30.0
    poll: float = 2.0
    generation: float = 1800.0


@dataclass(frozen=True, slots=True)
class _Version:
    """What a server says about the file it sends, to tell whether two answers are about one file."""

    etag: str = ""
    length: int = 0
    md5: str = ""


class PartialFile:
    """A download under way: a file, and beside it a note of what it is, so that a later call can go on with it."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source
        self.note = path.with_name(path.name + ".json")
        self.version = self._read_note()
        if self.version is None:
            self.discard()

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, version: _Version) -> None:
        """Start from nothing with what the server now has."""
        self.discard()
        self.version = version
        write_json(self.note, {"source": self.source, **asdict(version)})

    def discard(self) -> None:
        """Remove what has arrived, and the note about it."""
        self.version = None
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)

    def digest(self, name: str) -> str:
        """Hash of what has arrived, in hex; `name` as hashlib knows it."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, name).hexdigest()

    def _read_note(self) -> _Version | None:
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            if note.pop("source") == self.source:
                return _Version(str(note["etag"]), int(note["length"]), str(note["md5"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # no note, or none that can be read: start from nothing
        return None


def fetch_file(url: str, part: PartialFile, progress: Progress, patience: Patience) -> None:
    """Fill `part` from `url`, going on after every cut, until length and checksum agree."""
    failures = Retries(patience, url)
    with httpx.Client(timeout=patience.timeout, headers={"Accept-Encoding": "identity"}) as client:
        while True:
            before = part.size
            try:
                problem, wait = _receive(client, url, part, progress)
            except httpx.RequestError as error:
                problem, wait = error_text(error), None
            if problem is None:
                return
            if part.size > before > 0:
                failures.forget()  # as long as bytes arrive, patience does not run out
            failures.wait(problem, wait)


def _receive(client: httpx.Client, url: str, part: PartialFile, progress: Progress) -> tuple[str | None, float | None]:
    """One request; returns what went wrong (None: the file is whole) and the wait the server asks for."""
    headers: dict[str, str] = {}
    if part.size and part.version:
        headers["Range"] = f"bytes={part.size}-"
        if part.version.etag:
            headers["If-Range"] = part.version.etag
    with _redirected(client, url, headers) as response:
        if response.status_code in BUSY:
            return f"status {response.status_code}", retry_after(response)
        if response.status_code == 416:  # nothing comes after the part: it is whole, or of another file
            problem, wait = _verify(part)
            if problem:
                part.discard()
            return problem, wait
        if response.status_code not in (200, 206):
            raise _link_error(response.status_code, url)
        start, version = _describe(response)
        if start == 0 or part.version is None or start != part.size or version.length != part.version.length:
            if start != 0:
                part.discard()
                return "a piece of another file", None
            part.begin(version)
        for size in _append(response, part):
            progress(size, version.length)
    return _verify(part)


@contextmanager
def _redirected(client: httpx.Client, url: str, headers: dict[str, str]) -> Generator[httpx.Response]:
    """The answer at the end of the redirects, which may not lead from https to http or to another kind of address."""
    for _ in range(_MOST_REDIRECTS):
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code not in MOVED:
                yield response
                return
            location = response.headers.get("location", "")
        url = next_address(url, location)
    raise unexpected_answer(f"more than {_MOST_REDIRECTS} redirects", url)


def next_address(url: str, location: str) -> str:
    """Where a link or redirect found at `url` leads; never from https to http, never to another kind of address."""
    try:
        target = urljoin(url, location)
    except ValueError:
        target = ""
    secure = urlsplit(url).scheme == "https"
    if not location or not is_http(target) or (secure and urlsplit(target).scheme != "https"):
        raise unexpected_answer(f"a link to {shown_address(target) or 'nowhere'}", url)
    return target


def _describe(response: httpx.Response) -> tuple[int, _Version]:
    """First byte of the answer's piece, and the file it is a piece of."""
    headers = response.headers
    start, length = 0, _number(headers.get("content-length", ""))
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("content-range", "").strip())
        start, length = (int(match[1]), int(match[2])) if match else (-1, 0)
    etag = headers.get("etag", "")
    return start, _Version("" if etag.startswith("W/") else etag, length, _md5_in(headers))


def _md5_in(headers: httpx.Headers) -> str:
    """The MD5 in hex that Google Cloud Storage (`x-goog-hash: md5=...`) and others (`Content-MD5`) send with a file."""
    found = re.search(r"md5=([\w+/]+={0,2})", headers.get("x-goog-hash", ""))
    encoded = found[1] if found else headers.get("content-md5", "")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError:
        return ""
    return digest.hex() if len(digest) == 16 else ""


def _append(response: httpx.Response, part: PartialFile) -> Iterator[int]:
    with storage_errors(part.path), part.path.open("ab") as file:
        for chunk in response.iter_raw():  # no chunk size: what a cut connection has brought is kept to the last byte
            file.write(chunk)
            if file.tell() > _MOST_BYTES:
                raise RemoteError.of(
                    expected=f"a file of at most {_MOST_BYTES >> 30} GiB", found="more", where=str(part.path)
                )
            yield file.tell()


def _verify(part: PartialFile) -> tuple[str | None, float | None]:
    """Compare the part with what the server said; a part that cannot become right is discarded."""
    version, size = part.version or _Version(), part.size
    if version.length and size < version.length:
        return f"{size:,} of {version.length:,} bytes", None
    problem = None
    if version.length and size > version.length:
        problem = f"{size:,} bytes where {version.length:,} were announced"
    elif version.md5 and part.digest("md5") != version.md5:
        problem = "a file whose MD5 is not the announced one"
    elif not size:
        problem = "an empty file"
    if problem:
        part.discard()
    return problem, None


def _link_error(status: int, url: str) -> SamtuneError:
    if status in (401, 403, 404, 410):
        return DataError.of(
            expected="a file at this address",
            found=f"status {status}",
            where=shown_address(url),
            do="links to exports expire: ask for a new one",
        )
    return unexpected_answer(f"status {status}", url)


class Retries:
    """Counts failures in a row, waits between them, and gives up with an error that names the last one."""

    def __init__(self, patience: Patience, url: str) -> None:
        self.patience, self.url, self.count = patience, url, 0

    def forget(self) -> None:
        """Start counting again: something has arrived."""
        self.count = 0

    def wait(self, problem: str, asked: float | None) -> None:
        """Wait before the next attempt.

        Args:
            problem: what went wrong, for the message.
            asked: seconds that the server asks to wait, where it does.

        Raises:
            RemoteError: too many failures in a row, or a longer wait than the settings allow.
        """
        self.count += 1
        too_long = asked is not None and asked > self.patience.longest_wait
        if self.count >= self.patience.attempts or too_long:
            found = problem + (f", and to wait {asked:.0f} s" if too_long else f", {self.count} times in a row")
            raise RemoteError.of(
                expected="an answer",
                found=found,
                where=shown_address(self.url),
                do="run the same command again later; what has arrived is kept",
            )
        backoff = self.patience.backoff * 2 ** (self.count - 1)
        time.sleep(min(backoff if asked is None else asked, self.patience.longest_wait))


def retry_after(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait. Source: RFC 9110, section 10.2.3: a number of seconds or a date."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment - time.time())


def _number(text: str) -> int:
    return int(text) if text.isdigit() and len(text) < 19 else 0


def error_text(error: Exception) -> str:
    """Kind and message of an error of the HTTP library."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def is_http(url: str) -> bool:
    """Whether a text is an http or https address with a host."""
    try:
        return httpx.URL(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except (httpx.InvalidURL, ValueError):
        return False


def shown_address(url: str) -> str:
    """An address without user, password and query, all of which may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    host = parts.netloc.rpartition("@")[2]
    shown = parts._replace(netloc=host, query="", fragment="").geturl()[:300]
    return shown if shown.isprintable() else ascii(shown)


def unexpected_answer(found: str, url: str) -> RemoteError:
    """The error about an answer that fits no step of the exchange."""
    return RemoteError.of(
        expected="the file, or a message that it is not ready yet", found=found, where=shown_address(url)
    )


@contextmanager
def quiet_loggers() -> Generator[None]:
    """Keep the HTTP libraries from logging addresses and headers: signed links are as good as keys."""

    def nothing(_record: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(nothing)
