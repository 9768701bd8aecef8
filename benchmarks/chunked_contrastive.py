"""Memory and time of the contrastive loss with its gradient: all logits at once, and by chunks.

    python benchmarks/chunked_contrastive.py [--devices 8]

Prints, for several batches, temporary memory of the compiled gradient (`memory_analysis`) on one
device, and the ratio of times, run by turns within one process. `--devices N` splits the batch over
so many virtual devices of the CPU, or over so many real ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

WIDTH, ROUNDS = 512, 5
CASES = ((2048, 256), (8192, 512), (16384, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1)
    devices = parser.parse_args().devices
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}"
    from machine import here

    print(here())
    print("batch  rows  plain MiB  chunked MiB  ratio  time ratio (least-most)")
    for batch, rows in CASES:
        print(row(batch, rows, devices))


def row(batch: int, rows: int, devices: int) -> str:
    """A line of the table."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from codesign.models.chunked_contrastive import Chunks, chunked_contrastive_loss
    from codesign.models.contrastive import contrastive_loss

    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    chunks = Chunks(rows, mesh if devices > 1 else None)
    rng = np.random.default_rng(0)
    pairs = [
        jax.device_put(jnp.asarray(rng.normal(size=(batch, WIDTH)), jnp.float32), split)
        for _ in range(2)
    ]

    def compiled(loss: Callable[..., Any]) -> Any:
        gradient = jax.value_and_grad(lambda i, t: loss(i, t, 20.0), (0, 1))
        return jax.jit(gradient).lower(*pairs).compile()

    programs = (
        compiled(contrastive_loss),
        compiled(lambda *args: chunked_contrastive_loss(*args, chunks=chunks)),
    )
    plain, chunked = (p.memory_analysis().temp_size_in_bytes / 2**20 for p in programs)
    ratios = []
    for _ in range(ROUNDS):
        first, second = (seconds(p, pairs) for p in programs)
        ratios.append(second / first)
    return (
        f"{batch:5}  {rows:4}  {plain:9.1f}  {chunked:11.1f}  {chunked / plain:5.3f}  "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    )


def seconds(program: Any, arguments: list[Any]) -> float:
    """One call of a program that has run before."""
    import jax

    jax.block_until_ready(program(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
