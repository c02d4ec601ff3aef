"""Fetching an export from Roboflow, or an archive from a URL: retried, resumed, checked, unpacked like a stranger's.

The API key comes from `ROBOFLOW_API_KEY` only. It travels in the Authorization header of requests to the API's own host
and nowhere else: links and redirects are followed by a client that has never seen it, errors and logs show addresses
without their query, and what the service says is searched for the key before it is shown.

Source of the API: https://docs.roboflow.com/developer/rest-api - `GET /WORKSPACE/PROJECT/VERSION/FORMAT` answers 202
with a progress while the export is being made, then 200 with `{"export": {"link": ...}}`; the link redirects to a
signed address.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import httpx

from samtune.data.archive import unpack
from samtune.errors import ConfigError, DataError, RemoteError, SamtuneError
from samtune.utils.files import storage_errors, write_json
from samtune.utils.output_folders import check_output

API = "https://api.roboflow.com"
KEY_VARIABLE = "ROBOFLOW_API_KEY"

Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all or 0 where unknown)."""

_CHUNK = 1 << 18
_MOST_JSON = 8 << 20
_MOST_BYTES = 64 << 30
_MOST_REDIRECTS = 10
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})
_LOGGERS = (
    "httpx",
    "httpcore",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)
_PROJECT = re.compile(
    r"(?:https?://(?:app|universe)\.roboflow\.com/)?"
    r"(?P<workspace>[\w-]+)/(?P<project>[\w-]+)/(?:dataset/|model/)?(?P<version>\d{1,6})/?",
    re.ASCII,
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


def download(
    project: str,
    out: Path,
    *,
    export_format: str = "coco-segmentation",
    base_url: str = API,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Download a dataset version from Roboflow and unpack it.

    A download that was cut off goes on where it stopped, also in a later call with the same arguments.

    Args:
        project: `WORKSPACE/PROJECT/VERSION`, or the address of the version in the browser.
        out: new or empty folder for the dataset.
        export_format: Roboflow's name of the format, such as `coco-segmentation` or `yolov8`.
        base_url: address of the API; plain http is accepted for this machine only.
        progress: called as bytes arrive.
        patience: how long to wait and how often to try.

    Returns:
        The folder with the data, inside or equal to `out`.

    Raises:
        ConfigError: no key, a key the service refuses, arguments of the wrong form, or `out` holds something.
        DataError: no such project or version, or an archive that is refused.
        RemoteError: the service did not answer as it should, or sent a damaged file.
        StorageError: the disk refused.
    """
    patience = patience or Patience()
    path = _export_path(project, export_format)
    key = _key()
    _require_safe(base_url)
    with _quiet_loggers():
        link = _export_link(base_url.rstrip("/") + path, key, patience)
        return _fetch_and_unpack(link, out, path.strip("/"), None, progress, patience)


def from_url(
    url: str,
    out: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Download an archive from a URL, such as the link Roboflow shows under "raw URL", and unpack it.

    Args:
        url: http or https address.
        out: new or empty folder for the dataset.
        sha256: the file's SHA-256 in hex, where it is known.
        progress: called as bytes arrive.
        patience: how long to wait and how often to try.

    Returns:
        The folder with the data, inside or equal to `out`.

    Raises:
        ConfigError: not an http or https address, or `out` holds something.
        DataError: nothing at the address, or an archive that is refused.
        RemoteError: the service did not answer as it should, or sent a damaged file.
        StorageError: the disk refused.
    """
    if not _is_http(url):
        raise ConfigError.of(expected="an http or https address", found=_shown(url), where="the URL")
    with _quiet_loggers():
        return _fetch_and_unpack(url, out, _shown(url), sha256, progress, patience or Patience())


def _export_path(project: str, export_format: str) -> str:
    match = _PROJECT.fullmatch(project.strip())
    if match is None:
        raise ConfigError.of(
            expected="WORKSPACE/PROJECT/VERSION",
            found=repr(project[:200]),
            where="the project",
            do="take the three parts from the version's address in the browser, such as my-team/leaves/3",
        )
    if not re.fullmatch(r"[a-z0-9-]{1,40}", export_format):
        raise ConfigError.of(
            expected="Roboflow's name of an export format",
            found=repr(export_format[:200]),
            where="--format",
            do="use coco-segmentation",
        )
    return f"/{match['workspace']}/{match['project']}/{match['version']}/{export_format}"


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ConfigError.of(
            expected=f"a Roboflow API key in the environment variable {KEY_VARIABLE}",
            found="none",
            do=f"copy it from Roboflow's settings, then: export {KEY_VARIABLE}=...",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError.of(expected="a key of letters and digits", found="other characters", where=KEY_VARIABLE)
    return key


def _require_safe(base_url: str) -> None:
    parts = urlsplit(base_url)
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ConfigError.of(
            expected="an https address to send the key to",
            found=_shown(base_url),
            where="the API's address",
        )


def _export_link(url: str, key: str, patience: Patience) -> str:
    """Ask for the export until it is ready; returns the link to the archive."""
    headers = {"Authorization": f"Bearer {key}"}
    deadline = time.monotonic() + patience.generation
    with httpx.Client(timeout=patience.timeout, headers=headers, follow_redirects=False) as client:
        while True:
            status, location, body = _ask(client, url, patience)
            if status in _MOVED and location:
                return _next_address(url, location)
            answer = _json(body)
            if status == 200 and (link := _link_in(answer)):
                return _next_address(url, link)
            if status not in (200, 202):
                raise _api_error(status, answer, url, key)
            if status == 200 and not _is_generating(answer):
                raise _unexpected("no link in the answer", url)
            if time.monotonic() + patience.poll > deadline:
                raise RemoteError.of(
                    expected=f"the export to be ready within {patience.generation:g} s",
                    found="that Roboflow is still making it",
                    where=_shown(url),
                    do="run the same command again later",
                )
            time.sleep(patience.poll)


def _ask(client: httpx.Client, url: str, patience: Patience) -> tuple[int, str, bytes]:
    """One answer of the API, retried while it is busy: status, Location, body."""
    failures = _Failures(patience, url)
    while True:
        try:
            with client.stream("GET", url, params={"nocache": "true"}) as response:
                if response.status_code not in _BUSY:
                    return response.status_code, response.headers.get("location", ""), _read_some(response, url)
                problem, wait = f"status {response.status_code}", _retry_after(response)
        except httpx.RequestError as error:
            problem, wait = _said(error), None
        failures.wait(problem, wait)


def _read_some(response: httpx.Response, url: str) -> bytes:
    body = b""
    for chunk in response.iter_bytes(_CHUNK):
        body += chunk
        if len(body) > _MOST_JSON:
            raise _unexpected(f"an answer of more than {_MOST_JSON >> 20} MiB", url)
    return body


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _link_in(answer: dict[str, Any]) -> str | None:
    export = answer.get("export")
    link = cast("dict[str, Any]", export).get("link") if isinstance(export, dict) else None
    return link if isinstance(link, str) and link else None


def _is_generating(answer: dict[str, Any]) -> bool:
    version = answer.get("version")
    generating = isinstance(version, dict) and bool(cast("dict[str, Any]", version).get("generating"))
    return generating or "progress" in answer


def _api_error(status: int, answer: dict[str, Any], url: str, key: str) -> SamtuneError:
    if status in (401, 403):
        return ConfigError.of(
            expected=f"a key in {KEY_VARIABLE} that may read this project",
            found=f"that Roboflow refuses it (status {status}){_message_in(answer, key)}",
            where=_shown(url),
            do="check the key, and that it belongs to the project's workspace",
        )
    if status == 404:
        return DataError.of(
            expected="a project version, and an export format, that exist",
            found=f"none (status 404){_message_in(answer, key)}",
            where=_shown(url),
            do="compare workspace, project, version and format with the version's address in the browser",
        )
    return _unexpected(f"status {status}{_message_in(answer, key)}", url)


def _message_in(answer: dict[str, Any], key: str) -> str:
    """What the service says about an error, without the key should it repeat it."""
    said: Any = answer.get("error") or answer.get("message") or ""
    if isinstance(said, dict):
        said = cast("dict[str, Any]", said).get("message", "")
    text = " ".join(str(said).replace(key, "***").split())[:300]
    return f": {text}" if text.isprintable() and text else ""


def _fetch_and_unpack(
    url: str, out: Path, source: str, sha256: str | None, progress: Progress | None, patience: Patience
) -> Path:
    check_output(out)
    part = _Part(out.with_name(f".{out.name}.part"), source)
    _fetch(url, part, progress or (lambda _done, _total: None), patience)
    if sha256 is not None and (found := part.digest("sha256")) != sha256.lower():
        part.discard()
        raise RemoteError.of(expected=f"a file with SHA-256 {sha256}", found=found, where=_shown(url))
    try:
        return unpack(part.path, out)
    finally:
        part.discard()  # unpacked, or refused: going on with it later would not help


@dataclass(frozen=True, slots=True)
class _Version:
    """What a server says about the file it sends, to tell whether two answers are about one file."""

    etag: str = ""
    length: int = 0
    md5: str = ""


class _Part:
    """A download under way: a file, and beside it a note of what it is, so that a later call can go on with it."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source
        self.note = path.with_name(path.name + ".json")
        self.version = self._read_note()
        if self.version is None:
            self.discard()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, version: _Version) -> None:
        """Start from nothing with what the server now has."""
        self.discard()
        self.version = version
        write_json(self.note, {"source": self.source, **asdict(version)})

    def discard(self) -> None:
        self.version = None
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)

    def digest(self, name: str) -> str:
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


def _fetch(url: str, part: _Part, progress: Progress, patience: Patience) -> None:
    """Fill `part` from `url`, going on after every cut, until length and checksum agree."""
    failures = _Failures(patience, url)
    with httpx.Client(timeout=patience.timeout, headers={"Accept-Encoding": "identity"}) as client:
        while True:
            before = part.size
            try:
                problem, wait = _receive(client, url, part, progress)
            except httpx.RequestError as error:
                problem, wait = _said(error), None
            if problem is None:
                return
            if part.size > before > 0:
                failures.forget()  # as long as bytes arrive, patience does not run out
            failures.wait(problem, wait)


def _receive(client: httpx.Client, url: str, part: _Part, progress: Progress) -> tuple[str | None, float | None]:
    """One request; returns what went wrong (None: the file is whole) and the wait the server asks for."""
    headers: dict[str, str] = {}
    if part.size and part.version:
        headers["Range"] = f"bytes={part.size}-"
        if part.version.etag:
            headers["If-Range"] = part.version.etag
    with _redirected(client, url, headers) as response:
        if response.status_code in _BUSY:
            return f"status {response.status_code}", _retry_after(response)
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
            if response.status_code not in _MOVED:
                yield response
                return
            location = response.headers.get("location", "")
        url = _next_address(url, location)
    raise _unexpected(f"more than {_MOST_REDIRECTS} redirects", url)


def _next_address(url: str, location: str) -> str:
    """Where a link or redirect found at `url` leads; never from https to http, never to another kind of address."""
    try:
        target = urljoin(url, location)
    except ValueError:
        target = ""
    secure = urlsplit(url).scheme == "https"
    if not location or not _is_http(target) or (secure and urlsplit(target).scheme != "https"):
        raise _unexpected(f"a link to {_shown(target) or 'nowhere'}", url)
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


def _append(response: httpx.Response, part: _Part) -> Iterator[int]:
    with storage_errors(part.path), part.path.open("ab") as file:
        for chunk in response.iter_raw():  # no chunk size: what a cut connection has brought is kept to the last byte
            file.write(chunk)
            if file.tell() > _MOST_BYTES:
                raise RemoteError.of(
                    expected=f"an archive of at most {_MOST_BYTES >> 30} GiB", found="more", where=str(part.path)
                )
            yield file.tell()


def _verify(part: _Part) -> tuple[str | None, float | None]:
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
            where=_shown(url),
            do="links to exports expire: ask for a new one",
        )
    return _unexpected(f"status {status}", url)


class _Failures:
    """Counts failures in a row, waits between them, and gives up with an error that names the last one."""

    def __init__(self, patience: Patience, url: str) -> None:
        self.patience, self.url, self.count = patience, url, 0

    def forget(self) -> None:
        self.count = 0

    def wait(self, problem: str, asked: float | None) -> None:
        self.count += 1
        too_long = asked is not None and asked > self.patience.longest_wait
        if self.count >= self.patience.attempts or too_long:
            found = problem + (f", and to wait {asked:.0f} s" if too_long else f", {self.count} times in a row")
            raise RemoteError.of(
                expected="an answer",
                found=found,
                where=_shown(self.url),
                do="run the same command again later; what has arrived is kept",
            )
        backoff = self.patience.backoff * 2 ** (self.count - 1)
        time.sleep(min(backoff if asked is None else asked, self.patience.longest_wait))


def _retry_after(response: httpx.Response) -> float | None:
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


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_http(url: str) -> bool:
    try:
        return httpx.URL(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except (httpx.InvalidURL, ValueError):
        return False


def _shown(url: str) -> str:
    """An address without user, password and query, all of which may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    host = parts.netloc.rpartition("@")[2]
    shown = parts._replace(netloc=host, query="", fragment="").geturl()[:300]
    return shown if shown.isprintable() else ascii(shown)


def _unexpected(found: str, url: str) -> RemoteError:
    return RemoteError.of(expected="an archive, or word of how far it is", found=found, where=_shown(url))


@contextmanager
def _quiet_loggers() -> Generator[None]:
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
