"""A disk with faults: builds `faults.c`, and arms it in a process that has it loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

KILL, NO_SPACE, IO_ERROR, SHORT = 1, 2, 3, 4
FAULTS = {"no space": NO_SPACE, "input/output error": IO_ERROR, "short write": SHORT}
COUNT_ONLY = -1
"""A number of a call that never comes."""


def compiler() -> str | None:
    """A C compiler, where there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    command = [str(compiler()), "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def arm(folder: Path, what: int, call: int, *, stays: bool = False) -> None:
    """Let call number `call`, from 1, of those that write below `folder` fail; `stays` and all that follow."""
    _library().fault_arm(os.fsencode(folder.resolve()), what, call, int(stays))


def calls() -> int:
    """How many there have been since."""
    return _library().fault_calls()


def disarm() -> None:
    """No more faults."""
    _library().fault_arm(b"", 0, COUNT_ONLY, 0)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int]
    library.fault_calls.restype = ctypes.c_long
    return library
