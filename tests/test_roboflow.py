"""The download client against a local server that behaves like the service: slow, busy, cut off, wrong, and nosy."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import io
import json
import logging
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

import pytest

from samtune.data.roboflow import KEY_VARIABLE, download, from_url
from samtune.errors import ConfigError, DataError, RemoteError
from samtune.utils.downloads import Patience

KEY = "rf_sEcReT0123456789"
SIGNATURE = "X-Signature-abcdef"
QUICK = Patience(attempts=4, backoff=0.01, longest_wait=1.5, timeout=5, poll=0.01, generation=1)
API_PATH = "/my-team/leaves/3/coco-segmentation"


def export_zip(size: int = 400_000) -> bytes:
    """An archive of about `size` bytes that does not compress."""
    block = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(size // 32))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("train/_annotations.coco.json", '{"images": [], "annotations": [], "categories": []}')
        file.writestr("train/a.jpg", block)
    return buffer.getvalue()


@dataclass
class Service:
    """What the server does, changed by each test, and what it saw."""

    archive: bytes = field(default_factory=export_zip)
    api: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)  # answers before the link, in order
    storage: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # refusals before the archive, in order
    cuts: list[int] = field(default_factory=list)  # bytes after which the connection is cut, in order
    etag: str = '"v1"'
    ranges: bool = True
    extra: dict[str, str] = field(default_factory=dict)
    link: str = "/ds/token?key=download-token"
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    urls: dict[str, str] = field(default_factory=dict)

    def seen(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers in self.requests if asked.startswith(path)]


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingTCPServer(("127.0.0.1", 0), handler)  # an HTTPServer would look up the name of its address
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The API and its `/ds/` links on one server, the signed storage on another."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Service()

    class Base(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    class Api(Base):
        def do_GET(self) -> None:
            state.requests.append((self.path, dict(self.headers)))
            if self.path.startswith("/ds/"):
                return self.answer(302, {"Location": f"{state.urls['storage']}/bucket/export.zip?{SIGNATURE}"})
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                return self.answer(401, {}, b'{"error": {"message": "This API key does not exist"}}')
            if state.api:
                status, headers, value = state.api.pop(0)
                return self.answer(status, headers, json.dumps(value).encode())
            if self.path.split("?")[0] != API_PATH:
                return self.answer(404, {}, b'{"error": {"message": "Unsupported get request"}}')
            return self.answer(200, {}, json.dumps({"export": {"format": "x", "link": state.link}}).encode())

    class Storage(Base):
        def do_GET(self) -> None:
            state.requests.append((self.path, dict(self.headers)))
            if state.storage:
                self.answer(*state.storage.pop(0))
                return
            start, total = 0, len(state.archive)
            asked = self.headers.get("Range", "")
            if state.ranges and asked and self.headers.get("If-Range", state.etag) == state.etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= total:
                    self.answer(416, {"Content-Range": f"bytes */{total}"})
                    return
            body = state.archive[start:]
            headers = {"ETag": state.etag} | state.extra
            if start:
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            self.send_response(206 if start else 200)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else len(body)
            self.wfile.write(body[:cut])
            state.sent += len(body[:cut])
            self.close_connection = cut < len(body) or "Content-Length" in state.extra

    with running(Api) as api, running(Storage) as storage:
        state.urls = {"api": api, "storage": storage}
        yield state


def fetch(service: Service, out: Path, **options: Any) -> Path:
    options.setdefault("patience", QUICK)
    return download("my-team/leaves/3", out, base_url=service.urls["api"], **options)


def assert_whole(root: Path, service: Service) -> None:
    with zipfile.ZipFile(io.BytesIO(service.archive)) as file:
        assert (root / "train/a.jpg").read_bytes() == file.read("train/a.jpg")
    assert [path.name for path in root.parent.iterdir()] == [root.name], "something was left beside the dataset"


def assert_no_secret(text: str) -> None:
    for secret in (KEY, SIGNATURE, "download-token"):
        assert secret not in text


def test_download(service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps: list[tuple[int, int]] = []
    with caplog.at_level(logging.DEBUG):
        root = fetch(service, tmp_path / "out", progress=lambda done, total: steps.append((done, total)))
    assert_whole(root, service)
    assert steps[-1] == (len(service.archive), len(service.archive))
    assert_no_secret(caplog.text)
    api, link, storage = (service.seen(path)[0] for path in (API_PATH, "/ds/", "/bucket/"))
    assert api["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in link | storage, "the key left the API"
    assert KEY not in str([request for request in service.requests if not request[0].startswith(API_PATH)])
    assert all(KEY not in path for path, _ in service.requests), "the key stands in an address"


def test_the_key_is_in_no_file(service: Service, tmp_path: Path) -> None:
    service.cuts = [1000] * 9
    service.ranges = False
    with pytest.raises(RemoteError):
        fetch(service, tmp_path / "out")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files, "the part should be kept for a later call"
    for path in files:
        assert_no_secret(path.read_bytes().decode("latin-1"))


def test_export_that_is_still_being_made(service: Service, tmp_path: Path) -> None:
    generating = {"version": {"generating": True, "progress": 0.2}}
    service.api = [(202, {}, {"progress": 0.1}), (200, {}, generating), (202, {}, {"progress": 0.9})]
    assert_whole(fetch(service, tmp_path / "out"), service)
    service.api = [(202, {}, {"progress": 0.1})] * 1000
    with pytest.raises(RemoteError, match="still making it"):
        fetch(service, tmp_path / "other", patience=Patience(poll=0.01, generation=0.1))


def test_api_that_redirects_to_the_archive(service: Service, tmp_path: Path) -> None:
    service.api = [(302, {"Location": f"{service.urls['storage']}/bucket/export.zip?{SIGNATURE}"}, {})]
    assert_whole(fetch(service, tmp_path / "out"), service)
    assert "Authorization" not in service.seen("/bucket/")[0]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_api_and_storage(service: Service, tmp_path: Path, status: int) -> None:
    service.api = [(status, {}, {})] * 2
    service.storage = [(status, {})] * 2
    assert_whole(fetch(service, tmp_path / "out"), service)


def test_retry_after_is_honoured(service: Service, tmp_path: Path) -> None:
    service.api = [(429, {"Retry-After": "1"}, {})]
    soon = email.utils.formatdate(time.time() + 1, usegmt=True)
    start = time.monotonic()
    assert_whole(fetch(service, tmp_path / "out"), service)
    assert time.monotonic() - start >= 1
    service.storage = [(503, {"Retry-After": soon})]
    assert_whole(fetch(service, tmp_path / "second" / "out"), service)
    service.api = [(429, {"Retry-After": "3600"}, {})]
    with pytest.raises(RemoteError, match="wait 3600 s"):
        fetch(service, tmp_path / "third")


def test_service_that_stays_down(service: Service, tmp_path: Path) -> None:
    service.api = [(503, {}, {})] * 99
    with pytest.raises(RemoteError, match="status 503, 4 times"):
        fetch(service, tmp_path / "out")
    assert len(service.seen(API_PATH)) == QUICK.attempts
    assert not list(tmp_path.iterdir())


def test_nobody_there(service: Service, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="4 times in a row"):
        download("a/b/1", tmp_path / "out", base_url="http://127.0.0.1:9", patience=QUICK)


def test_wrong_key(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "wrong-key-1234")
    with pytest.raises(ConfigError, match="refuses it") as caught:
        fetch(service, tmp_path / "out")
    assert "does not exist" in str(caught.value)
    assert len(service.requests) == 1, "a refused key must not be tried again"


def test_error_that_repeats_the_key(service: Service, tmp_path: Path) -> None:
    service.api = [(403, {}, {"error": {"message": f"key {KEY} may not\nread this"}})]
    with pytest.raises(ConfigError) as caught:
        fetch(service, tmp_path / "out")
    assert_no_secret(str(caught.value))
    assert "key *** may not read this" in str(caught.value)


@pytest.mark.parametrize("key", ["", "  ", "two words", "line\nbreak", "schlüssel"])
def test_no_usable_key(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match=KEY_VARIABLE) as caught:
        fetch(service, tmp_path / "out")
    assert not key.strip() or key not in str(caught.value)
    assert not service.requests


def test_no_such_project(service: Service, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        download("my-team/trees/3", tmp_path / "out", base_url=service.urls["api"], patience=QUICK)


@pytest.mark.parametrize("project", ["leaves", "a/b", "a/b/c", "../b/1", "a/b/1/2", "a/b/1?x=", "a b/c/1"])
def test_project_of_the_wrong_form(service: Service, tmp_path: Path, project: str) -> None:
    with pytest.raises(ConfigError, match="WORKSPACE/PROJECT/VERSION"):
        download(project, tmp_path / "out", base_url=service.urls["api"])
    assert not service.requests


def test_address_from_the_browser(service: Service, tmp_path: Path) -> None:
    address = "https://universe.roboflow.com/my-team/leaves/dataset/3"
    assert_whole(download(address, tmp_path / "out", base_url=service.urls["api"], patience=QUICK), service)


def test_key_goes_over_https_only(tmp_path: Path, service: Service) -> None:
    with pytest.raises(ConfigError, match="https"):
        download("a/b/1", tmp_path / "out", base_url="http://api.example.com")


@pytest.mark.parametrize("answer", [{}, {"export": {}}, {"export": {"link": 7}}, {"export": []}, [], "text"])
def test_answers_without_a_link(service: Service, tmp_path: Path, answer: Any) -> None:
    service.api = [(200, {}, answer)]
    with pytest.raises(RemoteError, match="no link"):
        fetch(service, tmp_path / "out")


@pytest.mark.parametrize("link", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1"])
def test_links_that_are_no_web_address(service: Service, tmp_path: Path, link: str) -> None:
    service.link = link
    with pytest.raises(RemoteError):
        fetch(service, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cut_connection_goes_on_where_it_stopped(service: Service, tmp_path: Path) -> None:
    service.cuts = [100_000, 50_000, 50_000, 50_000, 50_000, 50_000]  # more cuts than attempts: each brings bytes
    assert_whole(fetch(service, tmp_path / "out"), service)
    assert service.sent < 1.5 * len(service.archive), "bytes were sent twice"
    assert [headers.get("Range") for headers in service.seen("/bucket/")][:2] == [None, "bytes=100000-"]


def test_a_later_call_goes_on(service: Service, tmp_path: Path) -> None:
    service.cuts = [150_000, 0, 0, 0, 0]
    with pytest.raises(RemoteError, match="what has arrived is kept"):
        fetch(service, tmp_path / "out")
    service.cuts = []
    assert_whole(fetch(service, tmp_path / "out"), service)
    assert service.seen("/bucket/")[-1]["Range"] == "bytes=150000-"


def test_a_part_of_another_download_is_not_used(service: Service, tmp_path: Path) -> None:
    service.cuts = [150_000, 0, 0, 0, 0]
    with pytest.raises(RemoteError):
        fetch(service, tmp_path / "out")
    service.cuts = []
    assert_whole(from_url(f"{service.urls['storage']}/bucket/other.zip", tmp_path / "out", patience=QUICK), service)
    assert "Range" not in service.seen("/bucket/other")[0]


def test_file_that_changed_between_two_pieces(service: Service, tmp_path: Path) -> None:
    service.cuts = [150_000, 0, 0, 0, 0]
    with pytest.raises(RemoteError):
        fetch(service, tmp_path / "out")
    service.cuts, service.etag, service.archive = [], '"v2"', export_zip(300_000)
    assert_whole(fetch(service, tmp_path / "out"), service)


def test_server_without_ranges(service: Service, tmp_path: Path) -> None:
    service.ranges, service.cuts = False, [150_000]
    assert_whole(fetch(service, tmp_path / "out"), service)


def test_wrong_length(service: Service, tmp_path: Path) -> None:
    service.extra = {"Content-Length": str(len(service.archive) + 10)}
    with pytest.raises(RemoteError) as caught:
        fetch(service, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert_no_secret(str(caught.value))


def test_checksum(service: Service, tmp_path: Path) -> None:
    right = base64.b64encode(hashlib.md5(service.archive).digest()).decode()
    service.extra = {"x-goog-hash": f"crc32c=AAAAAA==,md5={right}"}
    assert_whole(fetch(service, tmp_path / "out"), service)
    service.extra = {"Content-MD5": base64.b64encode(bytes(16)).decode()}
    with pytest.raises(RemoteError, match="MD5"):
        fetch(service, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_checksum_given_by_the_user(service: Service, tmp_path: Path) -> None:
    url = f"{service.urls['storage']}/bucket/export.zip?{SIGNATURE}"
    with pytest.raises(RemoteError, match="SHA-256") as caught:
        from_url(url, tmp_path / "out", sha256="00", patience=QUICK)
    assert_no_secret(str(caught.value))
    digest = hashlib.sha256(service.archive).hexdigest().upper()
    assert_whole(from_url(url, tmp_path / "out", sha256=digest, patience=QUICK), service)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_expired_link(service: Service, tmp_path: Path, status: int) -> None:
    service.storage = [(status, {})]
    with pytest.raises(DataError, match="expire") as caught:
        from_url(f"{service.urls['api']}/ds/token?key=download-token", tmp_path / "out", patience=QUICK)
    assert_no_secret(str(caught.value))


def test_redirects_without_end(service: Service, tmp_path: Path) -> None:
    service.storage = [(302, {"Location": "/bucket/again"})] * 99
    with pytest.raises(RemoteError, match="redirects"):
        fetch(service, tmp_path / "out")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "export.zip", "https://", "http://[::1", "s3://bucket/x.zip"])
def test_not_an_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="http or https"):
        from_url(url, tmp_path / "out")


def test_archive_that_is_refused(service: Service, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../evil", "x")
    service.archive = buffer.getvalue()
    with pytest.raises(DataError, match="leads out"):
        fetch(service, tmp_path / "deep" / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_target_that_holds_files(service: Service, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="new or empty"):
        fetch(service, tmp_path)
    assert not service.seen("/bucket/")
