"""How well the elastic supernet ranks networks before any of them is tuned.

    python benchmarks/rank_fidelity.py --out runs/fidelity --seeds 0 1 2

Draws networks of the quickstart's space whose log cost is uniform between the cheapest and the
whole one, ranks them by the elastic supernet's loss on the validation images, tunes each from the
supernet's weights as a search tunes its designs, and prints Spearman's correlation of that loss
with the tuned accuracy on the test images, and the partial one with the cost taken out. Beside
them what the cost alone says, which is the ranking that knows nothing of the network but its size.
Ten minutes a seed on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
from elastic_supernet import elastic_supernet

from codesign.configs.quickstart import config as QUICKSTART
from codesign.report.fidelity import Fidelity
from codesign.search.front import network_shape
from codesign.search.grid import best_accelerators
from codesign.search.objectives import Limits
from codesign.search.statistics import mean_interval, rank_correlation
from codesign.train.search.compare_config import ELASTIC_STEPS
from codesign.train.search.elastic import make_pool
from codesign.train.search.proxy import examples, proxy_of
from codesign.train.search.run import Searched
from codesign.train.search.setup import Setup
from codesign.train.search.trials import Trials
from machine import here

_SIDE_BY_SIDE = 6


def drawn(setup: Setup, number: int) -> np.ndarray:
    """Choice indices [number, architecture_size] of networks, no two alike."""
    space, mode = setup.space, setup.config.targets.mode
    pool = make_pool(setup.tables.dense, mode, setup.config.seed + 1)
    rows = np.asarray(space.round(pool.draw(jax.random.key(setup.config.seed), 4 * number)))
    own = space.part(rows, "architecture")
    _, first = np.unique(own, axis=0, return_index=True)
    return own[np.sort(first)[:number]]


def fidelity(setup: Setup, state: Searched, number: int) -> tuple[Fidelity, float]:
    """Of so many networks, and the rank correlation of their cost with the tuned accuracy."""
    space, config, table = setup.space, setup.config, setup.tables.dense
    params, fixed = state.trained.params, state.fixed
    held = examples(
        setup.held_out.validation, setup.processor, config.schedule.proxy_images, config.threads
    )
    proxy = proxy_of(setup.trainer.task.student, params, fixed, space, held)
    networks = drawn(setup, number)
    losses = proxy.loss.reshape(network_shape(space))[tuple(networks.T)]
    padded = np.zeros((len(networks), len(space.steps)), np.int32)
    padded[:, : space.architecture_size] = networks
    costs = np.asarray(best_accelerators(table, padded, config.targets.mode, Limits()).value)
    trials = Trials.start(setup, params, fixed, None)
    tuned: list[float] = []
    for i in range(0, number, _SIDE_BY_SIDE):
        # All lots of one size: one program.
        lot = networks[np.arange(i, i + _SIDE_BY_SIDE) % number]
        tuned += [result.test for result in trials.results(lot)]
    rows = list(zip(losses.tolist(), tuned[:number], costs.tolist(), strict=True))
    found = Fidelity.of_rows(rows)
    assert found is not None
    return found, rank_correlation(costs, np.array(tuned[:number]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", type=int, default=30)
    args = parser.parse_args()
    print(here())
    every = []
    for seed in args.seeds:
        setup, state = elastic_supernet(QUICKSTART, seed, ELASTIC_STEPS, args.out / str(seed))
        found, by_cost = fidelity(setup, state, args.networks)
        every.append((found.spearman, found.at_equal_cost, by_cost))
        print(f"seed {seed}: {found}; cost alone {by_cost:.2f}", flush=True)
    for name, values in zip(
        ("Spearman", "at equal cost", "cost alone"), np.array(every).T, strict=True
    ):
        mean, interval = mean_interval(values.tolist())
        between = "" if interval is None else f" ({interval.low:.2f} to {interval.high:.2f})"
        print(f"{name}: {mean:.2f}{between}")


if __name__ == "__main__":
    main()
