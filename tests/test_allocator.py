"""The allocator setting, in a process of its own: it cannot be undone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_PAGE_FAULTS = """
import resource, torch
from samtune.runtime.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
before = faults()
assert keep_freed_memory(torch.device("cpu"))
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_blocks_are_used_again_without_asking_the_system():
    command = [sys.executable, "-c", COUNT_PAGE_FAULTS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    before, after = map(int, result.stdout.split())
    assert after * 10 < before
