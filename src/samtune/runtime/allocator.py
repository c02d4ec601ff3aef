"""One setting of the C library's allocator that computing on a CPU gains a quarter from."""

from __future__ import annotations

import ctypes
import platform

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Numbers of `mallopt`'s parameters, from glibc's malloc.h."""
_NEVER = 2**31 - 1
_STEP = 64 * 2**20


def keep_freed_memory(device: torch.device) -> bool:
    """Let this process keep the memory it frees for its next allocations, instead of returning it to the system.

    glibc maps large blocks afresh each time and hands them back when freed. The decoder allocates some hundred blocks
    of megabytes per step, and the system then clears every page of them again: see docs/decisions/0051. The process
    holds on to its peak in return.

    Args:
        device: where this process computes; on a GPU, whose memory PyTorch manages itself, nothing is done.

    Returns:
        Whether it was done; only glibc has the setting.
    """
    if device.type != "cpu" or platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _STEP))
    return sum(library.mallopt(name, value) for name, value in settings) == len(settings)
