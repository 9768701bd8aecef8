"""Where a benchmark runs: what stands beside its figures."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's own name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load() -> float | None:
    """Processes that wait for a processor, on average of a minute; None where none tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def here(threads: int | None = None) -> str:
    """Date, processor, its threads (those used, where fewer) and load, for a heading.

    Where speed is measured, call it before the work: the load is to be that of others.
    """
    busy = load()
    parts = [
        str(datetime.date.today()),
        cpu_name(),
        f"{os.cpu_count()} CPUs" if threads is None else f"{threads} threads",
        *([] if busy is None else [f"load {busy:.1f}"]),
    ]
    return ", ".join(parts)
