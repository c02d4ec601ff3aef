"""What the page was told is kept is kept, whenever the server is killed, and the journal can always be read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from samtune.errors import UsageError
from samtune.studio.masks import region_from
from samtune.studio.store import Store
from tests.conftest import REPO
from tests.studio_server import Page, mask_json, write_images

CASES = int(os.environ.get("SAMTUNE_KILLS", "5"))


@contextmanager
def worker(images, folder):
    command = [sys.executable, "-m", "tests.studio_worker", str(images), str(folder)]
    path = os.pathsep.join(filter(None, (str(REPO / "src"), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=REPO, env=os.environ | {"PYTHONPATH": path}
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Page(int(process.stdout.readline()))
        finally:
            process.kill()


def disc(rng) -> np.ndarray:
    y, x = np.mgrid[:72, :80]
    mask = (x - rng.uniform(10, 70)) ** 2 + (y - rng.uniform(10, 60)) ** 2 < rng.uniform(2, 12) ** 2
    mask[5, 7] = True
    return mask


class Script:
    """Annotates, and notes what it was told: accepted objects, and those that were taken away again."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.masks: dict[str, tuple[str, np.ndarray]] = {}
        self.deleted: set[str] = set()
        self.asked_to_delete: set[str] = set()

    def run(self, page: Page) -> None:
        """Until the server is gone."""
        try:
            while True:
                image = str(self.rng.integers(1, 4))
                mask = disc(self.rng)
                told = page.accept(image, mask_json(mask))
                self.masks[told["id"]] = image, mask
                if self.rng.random() < 0.3:
                    number = list(self.masks)[int(self.rng.integers(len(self.masks)))]
                    self.asked_to_delete.add(number)
                    if page.change(self.masks[number][0], "delete", id=number).status_code == 200:
                        self.deleted.add(number)
        except httpx.TransportError:
            return

    def check(self, folder) -> None:
        store = Store(folder)
        try:
            for number, (image, mask) in self.masks.items():
                found = store.image(image)
                one = found.objects[number]
                assert (region_from(one.counts, found.height, found.width).paste(72, 80) == mask).all()
                assert one.is_deleted or number not in self.deleted
                assert not one.is_deleted or number in self.asked_to_delete
        finally:
            store.close()


def test_nothing_accepted_is_lost_by_a_kill(tmp_path):
    rng = np.random.default_rng()
    write_images(tmp_path / "images")
    script = Script(int(rng.integers(1 << 30)))
    for case in range(CASES):
        with worker(tmp_path / "images", tmp_path / "studio") as (process, page), page:
            before = len(script.masks)
            timer = threading.Timer(float(rng.uniform(0.0, 1.0)), process.kill)
            timer.start()
            script.run(page)
            process.wait(20)
            timer.join()
        assert process.returncode < 0, "it was killed, and did not end by itself"
        assert case == 0 or len(script.masks) >= before
    assert script.masks, "at least once there was time for an object"
    script.check(tmp_path / "studio")


def test_a_studio_that_is_open_is_left_alone(tmp_path):
    write_images(tmp_path / "images")
    running, refused = worker(tmp_path / "images", tmp_path / "studio"), pytest.raises(UsageError, match="another")
    with running, refused:
        Store(tmp_path / "studio")
