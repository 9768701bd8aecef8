"""How much memory is left, as far as the system tells."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import jax

_MEMINFO = Path("/proc/meminfo")
# Limit and use of a container, as versions 2 and 1 of Linux's control groups have them.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def free_host_bytes() -> int | None:
    """Bytes that this process can still take without swapping; None: the system does not tell."""
    free = [_available_bytes(), *(_left_of_group(*files) for files in _CGROUPS)]
    return min((x for x in free if x is not None), default=None)


def free_device_bytes() -> int | None:
    """Bytes left on the fullest of this process's devices; None: they have the host's memory."""
    free = []
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return min(free, default=None)


def _available_bytes() -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    return None


def _left_of_group(limit: Path, used: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        return max(0, int(limit.read_text()) - int(used.read_text()))
    return None
