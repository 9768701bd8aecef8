"""The joint step against plain CLIP training of the same networks, side by side.

Both train the quickstart's family (searched designs and references) on the same batches
with the same optimizer. The plain step has no gates, no cost model, no distillation and
no design variables. Chunks alternate, so that a busy machine slows both alike.
"""

from __future__ import annotations

import statistics
import time

import jax
from flax import nnx
from rich.console import Console

from codesign.configs.quickstart import config
from codesign.train import placement
from codesign.train.data import batch_indices, template_indices
from codesign.train.family import Draw, Family, train_chunk
from codesign.train.progress import Display
from codesign.train.setup import prepare, start_family
from machine import here

STEPS, ROUNDS = 20, 12


def main() -> None:
    print(f"{here()}, jax {jax.__version__}, "
          f"{jax.default_backend()}, {jax.device_count()} device(s)")
    setup = prepare(config, Display(Console(stderr=True)))
    _, params, rest = nnx.split(setup.model, nnx.Param, ...)
    mesh = setup.trainer.mesh
    rest = placement.put(rest, placement.replicated(mesh))
    size, images = config.optim.batch_size, len(setup.data.train.labels)
    templates = len(setup.data.templates)
    draw = placement.put(
        Draw(
            batch_indices(0, 0, STEPS, size, images),
            template_indices(0, 0, STEPS, size, templates),
        ),
        placement.batched(mesh, axis=1),
    )
    key = jax.random.key(0)

    def start() -> Family:
        return placement.put(start_family(setup, params, 0), placement.replicated(mesh))

    families = {True: start(), False: start()}
    times_ms: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for joint in (True, False):
            before = time.perf_counter()
            families[joint], metrics = train_chunk(
                families[joint], setup.members, draw, setup.dataset, key, rest, setup.tables,
                setup.trainer, joint,
            )
            jax.block_until_ready((families[joint], metrics))
            times_ms[joint].append((time.perf_counter() - before) / STEPS * 1e3)
    # The first two rounds compile.
    joint_ms, plain_ms = (statistics.median(times_ms[joint][2:]) for joint in (True, False))
    members = len(setup.start)
    print(f"{members} networks, batch {size}: joint step {joint_ms:.1f} ms, "
          f"plain step {plain_ms:.1f} ms, ratio {joint_ms / plain_ms:.2f}")


if __name__ == "__main__":
    main()
