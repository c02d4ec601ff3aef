"""Files and folders appear whole, reach the disk, and never take the place of somebody's work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import samtune
from samtune.errors import ConfigError, StorageError
from samtune.utils.files import new_file, new_folder
from samtune.utils.output_folders import check_output
from samtune.utils.workers import cpu_count

IN_THE_WAY = {
    "a file": (lambda out: out.write_text("mine"), False, "a file"),
    "somebody's folder": (lambda out: (out.mkdir(), (out / "thesis.txt").touch()), False, "something in it"),
    "somebody's folder, for a command that replaces": (
        lambda out: (out.mkdir(), (out / "thesis.txt").touch()),
        True,
        "something else in it",
    ),
    "an earlier result, for a command that never replaces": (
        lambda out: (out.mkdir(), (out / "mark.json").touch()),
        False,
        "something in it",
    ),
    "a folder named like the mark": (lambda out: (out / "mark.json").mkdir(parents=True), True, "something else"),
}
FREE = {
    "nothing": (lambda out: None, False),
    "an empty folder": (lambda out: out.mkdir(), False),
    "an earlier result": (lambda out: (out.mkdir(), (out / "mark.json").touch()), True),
}


@pytest.mark.parametrize(("make", "replaces", "message"), IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_what_somebody_could_lose_is_refused(tmp_path, make, replaces, message):
    make(tmp_path / "out")
    with pytest.raises(ConfigError, match=message):
        check_output(tmp_path / "out", mark="mark.json" if replaces else "", earlier="an earlier result")


@pytest.mark.parametrize(("make", "replaces"), FREE.values(), ids=FREE)
def test_what_nobody_can_lose_is_accepted(tmp_path, make, replaces):
    make(tmp_path / "out")
    check_output(tmp_path / "out", mark="mark.json" if replaces else "", earlier="an earlier result")


def test_an_input_inside_the_output_is_refused(tmp_path):
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out/mark.json").touch()
    with pytest.raises(ConfigError, match="apart from the input"):
        check_output(tmp_path / "out", mark="mark.json", earlier="a result", inputs=[tmp_path / "out/images"])


def test_the_rule_stands_in_one_place_only():
    """A command that looks into its output folder itself has a rule of its own."""
    own_rules = [
        path.name
        for path in Path(samtune.__file__).parent.rglob("*.py")
        if re.search(r"any\((out|path|target)\.iterdir\(\)", path.read_text(encoding="utf-8"))
    ]
    assert own_rules == ["output_folders.py"]


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="the system has no handles of folders")
def test_contents_and_names_reach_the_disk_and_contents_through_handles_that_may_write(tmp_path, monkeypatch):
    import fcntl

    synced: dict[str, int] = {}
    fsync = os.fsync

    def recording(handle: int) -> None:
        place = Path(f"/proc/self/fd/{handle}").readlink()
        synced[place.name] = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
        fsync(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not tell which file a handle is of")
    monkeypatch.setattr(os, "fsync", recording)
    with new_file(tmp_path / "texts/a.txt") as temporary:
        temporary.write_text("a")
    assert "texts" in synced, "without it a rename may be lost"
    with new_folder(tmp_path / "folders/result") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner/b.txt").write_text("b")
    assert synced["b.txt"] == os.O_RDWR, "Windows flushes only through a handle that may write"
    assert {"inner", "folders"} <= set(synced)


def test_a_place_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError), new_file(tmp_path / "file/inside.txt"):
        pass


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no CPU affinity")
def test_processors_that_the_process_may_not_use_do_not_count():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from samtune.utils.workers import cpu_count; print(cpu_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert cpu_count() == len(os.sched_getaffinity(0))


def test_processors_are_counted_in_one_place_only():
    counting = [
        path.name
        for path in Path(samtune.__file__).parent.rglob("*.py")
        if re.search(r"(os|multiprocessing)\.cpu_count|sched_getaffinity", path.read_text(encoding="utf-8"))
    ]
    assert counting == ["workers.py"]
