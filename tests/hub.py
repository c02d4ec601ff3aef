"""A Hugging Face hub of one repository on this machine: enough of its interface to list files and to fetch them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0" * 40


@dataclass
class Hub:
    """A running hub.

    Attributes:
        folder: files of its repository.
        name: the repository, `OWNER/NAME`.
        token: without it, nothing is shown; None shows everything.
        cut: break off in the middle of every weight file.
        asked: paths of the requests so far.
        url: where it listens.
    """

    folder: Path
    name: str
    token: str | None = None
    cut: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Inside, the hub answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer(401)
            if self.path.startswith(f"/api/models/{hub.name}/revision/"):
                return self.answer(200, json.dumps({"id": hub.name, "sha": COMMIT}).encode())
            if self.path.startswith(f"/api/models/{hub.name}/tree/"):
                return self.answer(200, json.dumps([_described(file) for file in hub.folder.iterdir()]).encode())
            file = hub.folder / self.path.rpartition("/")[2]
            if self.path.startswith(f"/{hub.name}/resolve/") and file.is_file():
                return self.answer(200, file.read_bytes(), file.suffix == ".safetensors" and hub.cut)
            return self.answer(404)

        def answer(self, code: int, body: bytes = b"", cut: bool = False) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)

    return Handler


def _described(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
