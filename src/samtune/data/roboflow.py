"""Fetching an export from Roboflow, or an archive from a URL: retried, resumed, checked, unpacked like a stranger's.

The API key comes from `ROBOFLOW_API_KEY` only. It travels in the Authorization header of requests to the API's own host
and nowhere else: links and redirects are followed by a client that has never seen it, errors and logs show addresses
without their query, and what the service says is searched for the key before it is shown.

Source of the API: https://docs.roboflow.com/developer/rest-api - `GET /WORKSPACE/PROJECT/VERSION/FORMAT` answers 202
with a progress while the export is being made, then 200 with `{"export": {"link": ...}}`; the link redirects to a
signed address.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from samtune.data.archive import unpack
from samtune.errors import ConfigError, DataError, RemoteError, SamtuneError
from samtune.utils.downloads import (
    BUSY,
    CHUNK,
    MOVED,
    PartialFile,
    Patience,
    Progress,
    Retries,
    error_text,
    fetch_file,
    is_http,
    next_address,
    quiet_loggers,
    retry_after,
    shown_address,
    unexpected_answer,
)
from samtune.utils.output_folders import check_output

API = "https://api.roboflow.com"
KEY_VARIABLE = "ROBOFLOW_API_KEY"
_MOST_JSON = 8 << 20
_PROJECT = re.compile(
    r"(?:https?://(?:app|universe)\.roboflow\.com/)?"
    r"(?P<workspace>[\w-]+)/(?P<project>[\w-]+)/(?:dataset/|model/)?(?P<version>\d{1,6})/?",
    re.ASCII,
)


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
    with quiet_loggers():
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
    if not is_http(url):
        raise ConfigError.of(expected="an http or https address", found=shown_address(url), where="the URL")
    with quiet_loggers():
        return _fetch_and_unpack(url, out, shown_address(url), sha256, progress, patience or Patience())


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
            found=shown_address(base_url),
            where="the API's address",
        )


def _export_link(url: str, key: str, patience: Patience) -> str:
    """Ask for the export until it is ready; returns the link to the archive."""
    headers = {"Authorization": f"Bearer {key}"}
    deadline = time.monotonic() + patience.generation
    with httpx.Client(timeout=patience.timeout, headers=headers, follow_redirects=False) as client:
        while True:
            status, location, body = _ask(client, url, patience)
            if status in MOVED and location:
                return next_address(url, location)
            answer = _json(body)
            if status == 200 and (link := _link_in(answer)):
                return next_address(url, link)
            if status not in (200, 202):
                raise _api_error(status, answer, url, key)
            if status == 200 and not _is_generating(answer):
                raise unexpected_answer("no link in the answer", url)
            if time.monotonic() + patience.poll > deadline:
                raise RemoteError.of(
                    expected=f"the export to be ready within {patience.generation:g} s",
                    found="that Roboflow is still making it",
                    where=shown_address(url),
                    do="run the same command again later",
                )
            time.sleep(patience.poll)


def _ask(client: httpx.Client, url: str, patience: Patience) -> tuple[int, str, bytes]:
    """One answer of the API, retried while it is busy: status, Location, body."""
    failures = Retries(patience, url)
    while True:
        try:
            with client.stream("GET", url, params={"nocache": "true"}) as response:
                if response.status_code not in BUSY:
                    return response.status_code, response.headers.get("location", ""), _read_some(response, url)
                problem, wait = f"status {response.status_code}", retry_after(response)
        except httpx.RequestError as error:
            problem, wait = error_text(error), None
        failures.wait(problem, wait)


def _read_some(response: httpx.Response, url: str) -> bytes:
    body = b""
    for chunk in response.iter_bytes(CHUNK):
        body += chunk
        if len(body) > _MOST_JSON:
            raise unexpected_answer(f"an answer of more than {_MOST_JSON >> 20} MiB", url)
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
            where=shown_address(url),
            do="check the key, and that it belongs to the project's workspace",
        )
    if status == 404:
        return DataError.of(
            expected="a project version, and an export format, that exist",
            found=f"none (status 404){_message_in(answer, key)}",
            where=shown_address(url),
            do="compare workspace, project, version and format with the version's address in the browser",
        )
    return unexpected_answer(f"status {status}{_message_in(answer, key)}", url)


def _message_in(answer: dict[str, Any], key: str) -> str:
    """What the service says about an error, without the key should it repeat it."""
    message: Any = answer.get("error") or answer.get("message") or ""
    if isinstance(message, dict):
        message = cast("dict[str, Any]", message).get("message", "")
    text = " ".join(str(message).replace(key, "***").split())[:300]
    return f": {text}" if text.isprintable() and text else ""


def _fetch_and_unpack(
    url: str, out: Path, source: str, sha256: str | None, progress: Progress | None, patience: Patience
) -> Path:
    check_output(out)
    part = PartialFile(out.with_name(f".{out.name}.part"), source)
    fetch_file(url, part, progress or (lambda _done, _total: None), patience)
    if sha256 is not None and (found := part.digest("sha256")) != sha256.lower():
        part.discard()
        raise RemoteError.of(expected=f"a file with SHA-256 {sha256}", found=found, where=shown_address(url))
    try:
        return unpack(part.path, out)
    finally:
        part.discard()  # unpacked, or refused: going on with it later would not help
