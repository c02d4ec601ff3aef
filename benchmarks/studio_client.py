"""What the studio's benchmarks share: a real `samtune studio` in a process of its own, and a client for it."""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray


class Client(httpx.Client):
    """Asks as the page does; errors end the benchmark."""

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer to a GET or, with a body, to a POST."""
        answer = self.get(path) if body is None else self.post(path, json=body)
        if answer.is_error:
            raise SystemExit(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()

    def ask(self, image: str, model: str, **question: Any) -> dict[str, Any]:
        """A model's answer."""
        return self.call(f"/api/images/{image}/predict", {"model": model, **question})


@contextmanager
def studio(source: Path, model: str) -> Iterator[Client]:
    """`samtune studio` on a source, in a folder that is removed in the end."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "samtune", "studio", str(source), "--model", model]
        command += ["--out", f"{out}/studio", "--no-browser", "--quiet"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            if "http" not in first:
                raise SystemExit(f"the studio did not start: {first}")
            address, _, token = first.split()[1].partition("/?token=")
            try:
                with Client(base_url=address, headers={"X-Samtune-Token": token}, timeout=600) as client:
                    yield client
            finally:
                process.terminate()
                process.wait()


def mask_of(mask: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """A mask as the page gets it, at the image's size."""
    whole = np.zeros((height, width), bool)
    if mask["png"]:
        x, y, w, h = mask["bbox"]
        content = np.frombuffer(base64.b64decode(mask["png"]), np.uint8)
        whole[y : y + h, x : x + w] = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) > 0
    return whole


def deepest(region: NDArray[np.bool_]) -> tuple[float, float]:
    """The pixel of a region farthest from its edge, xy of its centre."""
    depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5
