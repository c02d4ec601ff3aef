"""How much memory this process may still take: on the device, and on a CPU by every limit that a system knows."""

from __future__ import annotations

from pathlib import Path

import torch

_GROUP = Path("/sys/fs/cgroup")
_GROUP_V1 = _GROUP / "memory"
_UNLIMITED = 1 << 60


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had; None where the system does not say.

    On a CPU the least of what the machine has available, what is left in the control group (v2 or v1), and what is left
    of the address space (`ulimit -v`).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [bytes_left for bytes_left in (_machine(), _control_group(), _address_space()) if bytes_left is not None]
    return min(found, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is about memory that could not be had, on a GPU or on a CPU."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )


def gigabytes(size: float) -> str:
    """A size for people."""
    return f"{size / 1e9:.1f} GB"


def _machine() -> int | None:
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _control_group() -> int | None:
    for limit, used, statistics, inactive in (
        (_GROUP / "memory.max", _GROUP / "memory.current", _GROUP / "memory.stat", "inactive_file"),
        (
            _GROUP_V1 / "memory.limit_in_bytes",
            _GROUP_V1 / "memory.usage_in_bytes",
            _GROUP_V1 / "memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most, now = limit.read_text().strip(), int(used.read_text())
            given_back = next(int(line.split()[1]) for line in statistics.read_text().splitlines() if inactive in line)
        except (OSError, ValueError, StopIteration, IndexError):
            continue
        if most.isdecimal() and int(most) < _UNLIMITED:
            return max(0, int(most) - now + given_back)
    return None


def _address_space() -> int | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _kilobytes(Path("/proc/self/status"), "VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else max(0, limit - used)


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
