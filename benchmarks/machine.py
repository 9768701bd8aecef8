"""Where a benchmark runs: what stands beside its figures."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

# Dense bf16 peak of a chip by a part of its name in JAX and PyTorch, FLOP/s: the tensor cores'
# figures in NVIDIA's data sheets, halved where a sheet gives the one "with sparsity". A name's
# parts are tried in this order.
#   H100 data sheet, SXM 1,979 and PCIe 1,513 TFLOPS with sparsity; JAX names them
#   "NVIDIA H100 80GB HBM3" and "NVIDIA H100 PCIe"
#   H200 data sheet, SXM 1,979 with sparsity
#   A100 data sheet, 312; L4 and L40S data sheets, 242 and 733 with sparsity
#   H100 NVL product brief, 1,671 with sparsity; DGX B200 data sheet, 36,000 of 8 chips
BF16_PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "B200": 2250e12,
}


def bf16_peak_flops(name: str) -> float | None:
    """Dense bf16 peak of the chip of this name, FLOP/s; None of one not in the table."""
    return next((peak for part, peak in BF16_PEAK_FLOPS.items() if part in name), None)


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
