"""What the fusions that codesign turns off on CPUs would save: the quickstart's joint step.

    python benchmarks/ynn_price.py [--pairs 5]

Each pair is two processes one after the other, in turn the one or the other first: with the
compiler's default list of YNN fusions, and with the empty list. Each compiles the joint step and
runs some; CPU seconds of all its threads a step, so that other work on the machine counts little.
Printed are the ratio, empty to default, and Student's interval of its mean over the pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

STEPS, ROUNDS = 10, 3


def step_cpu_ms(fusions: str) -> float:
    """CPU time of a joint step, in this process, of which it is the only program."""
    import codesign  # noqa: F401

    if fusions == "default":  # what importing the package has set, before the backend starts
        os.environ.pop("XLA_FLAGS", None)
    import time

    import jax
    from rich.console import Console

    from codesign.configs.quickstart import config
    from codesign.train.progress import Display
    from codesign.train.search.population import population_chunk
    from codesign.train.search.setup import prepare, start_population

    setup = prepare(config, Display(Console(stderr=True)))
    chunk = setup.feed.read(0, STEPS)
    population, times = start_population(setup, setup.params, 0), []
    for _ in range(1 + ROUNDS):
        before = time.process_time()
        population, metrics = population_chunk(
            population, setup.goals, chunk, jax.random.key(0), setup.constants, setup.trainer
        )
        jax.block_until_ready((population, metrics))
        times.append((time.process_time() - before) / STEPS * 1e3)
    return statistics.median(times[1:])  # the first compiles


def in_own_process(fusions: str) -> float:
    """The same, measured by a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, __file__, "--fusions", fusions],
        env=kept | {"JAX_PLATFORMS": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout.split()[-1])


def main(pairs: int) -> None:
    import jaxlib

    from codesign.search.statistics import mean_interval
    from machine import here

    print(f"{here()}, jaxlib {jaxlib.__version__}")
    ratios = []
    for pair in range(pairs):
        order = ("default", "empty") if pair % 2 == 0 else ("empty", "default")
        found = {fusions: in_own_process(fusions) for fusions in order}
        ratios.append(found["empty"] / found["default"])
        print(f"default {found['default']:.1f} ms, empty {found['empty']:.1f} ms", flush=True)
    mean, interval = mean_interval(ratios)
    low_high = f" ({interval.low:.3f} to {interval.high:.3f})" if interval else ""
    print(f"ratio {mean:.3f}{low_high}, {pairs} pairs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--fusions", choices=("default", "empty"), help="measure one, here")
    args = parser.parse_args()
    if args.fusions:
        print(step_cpu_ms(args.fusions))
    else:
        main(args.pairs)
