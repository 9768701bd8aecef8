"""The joint step against plain CLIP training of the same networks, side by side.

Both train the quickstart's population (searched designs and references) on the same batches
with the same optimizer. The plain step has no gates, no cost model, no distillation and
no design variables. Chunks alternate, so that a busy machine slows both alike.
"""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from codesign.configs.quickstart import config
from codesign.train import placement
from codesign.train.progress import Display
from codesign.train.search.population import population_chunk
from codesign.train.search.setup import prepare, start_population
from codesign.train.step import steps_of_chunk, train_step
from machine import here

STEPS, ROUNDS = 20, 12


def main() -> None:
    print(
        f"{here()}, jax {jax.__version__}, {jax.default_backend()}, {jax.device_count()} device(s)"
    )
    setup = prepare(config, Display(Console(stderr=True)))
    trainer, (fixed, data, _) = setup.trainer, setup.constants
    chunk = setup.feed.read(0, STEPS)
    key = jax.random.key(0)
    population = start_population(setup, setup.params, 0)
    population = placement.put(population, placement.replicated(trainer.mesh))

    @functools.partial(jax.jit, donate_argnums=0)
    def plain_chunk(states: Any, chunk: Any) -> Any:
        def step(states: Any, drawn: Any) -> Any:
            batch = trainer.batch(drawn, data, jax.random.fold_in(key, states.step[0]))
            return jax.vmap(lambda s: train_step(s, fixed, batch, key, trainer.warmup))(states)

        return steps_of_chunk(step, states, chunk)

    plain = jax.vmap(trainer.warmup.init)(jax.tree.map(jnp.copy, population.params))
    times_ms: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for joint in (True, False):
            before = time.perf_counter()
            if joint:
                population, metrics = population_chunk(
                    population, setup.goals, chunk, key, setup.constants, trainer
                )
            else:
                plain, metrics = plain_chunk(plain, chunk)
            jax.block_until_ready(metrics)
            times_ms[joint].append((time.perf_counter() - before) / STEPS * 1e3)
    # The first two rounds compile.
    joint_ms, plain_ms = (statistics.median(times_ms[joint][2:]) for joint in (True, False))
    networks = len(setup.start)
    print(
        f"{networks} networks, batch {config.optim.batch_size}: joint step {joint_ms:.1f} ms, "
        f"plain step {plain_ms:.1f} ms, ratio {joint_ms / plain_ms:.2f}"
    )


if __name__ == "__main__":
    main()
