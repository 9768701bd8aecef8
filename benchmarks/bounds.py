"""How near the lower bounds of accelerators are, and what an exact hardware search takes.

    python benchmarks/bounds.py            some three minutes on two CPU cores
    python benchmarks/bounds.py --quick    ratios alone

Costs over bounds of accelerators drawn from the wide grid, a draw a seed, as quantiles with the
range over the seeds; then the accelerators that a search maps, and its wall time in processes of
their own: with an empty cache of programs, and again with what that one left there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from codesign.cost.capacity import contents_bytes
from codesign.cost.chips import accelerator_grid, grid_costs
from codesign.cost.costing import costing_of
from codesign.cost.least import least_costs
from codesign.scenario import Scenario
from codesign.space import WIDE_GRID
from codesign.workload import load_model
from machine import here

MODELS = ("clip-vit-b-16", "tinyclip-8m-16")
QUANTITIES = ("latency_s", "energy_j", "carbon_kgco2e")
QUANTILES = (0.5, 0.9, 0.99)
DRAWN = 1024


def ratios(name: str, seed: int) -> np.ndarray:
    """Quantiles of costs over their bounds, [quantities, quantiles], of drawn accelerators."""
    model, scenario = load_model(name), Scenario()
    work = model.operators.under(costing_of(scenario))
    grid = accelerator_grid(WIDE_GRID)
    at = np.random.default_rng(seed).choice(len(grid.cores), DRAWN, replace=False)
    chips = jax.tree.map(lambda x: np.asarray(x)[at], grid)
    contents = float(contents_bytes(model.memory, scenario))
    low, costs = (f(work, chips, scenario, contents) for f in (least_costs, grid_costs))
    found = []
    for quantity in QUANTITIES:
        ratio = np.asarray(getattr(costs, quantity)) / np.asarray(getattr(low, quantity))
        ratio = ratio[np.isfinite(ratio)]
        assert ratio.min() > 1 - 1e-4, f"{name}: {quantity} below its bound"
        found.append(np.quantile(ratio, QUANTILES))
    return np.array(found)


def search(name: str, cache: str) -> tuple[float, int, int]:
    """Wall time of `codesign search hardware`, s; accelerators mapped, and in the grid."""
    with tempfile.TemporaryDirectory() as place:
        command = ["search", "hardware", "--model", name, "--json", "--out", f"{place}/run"]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "codesign", *command],
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
            check=True,
            capture_output=True,
            text=True,
        )
        took_s = time.perf_counter() - began
    found = json.loads(done.stdout)
    return took_s, found["priced"], found["accelerators"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="ratios alone")
    args = parser.parse_args()
    print(f"{here()}, jax {jax.__version__}; seeds {args.seeds}\n")
    print("| model | cost over bound | " + " | ".join(f"{q:.0%}" for q in QUANTILES) + " |")
    print("|---|---|" + "---:|" * len(QUANTILES))
    for name in MODELS:
        found = np.array([ratios(name, seed) for seed in args.seeds])
        for i, quantity in enumerate(QUANTITIES):
            cells = (f"{x.mean():.3f} ({x.min():.3f} to {x.max():.3f})" for x in found[:, i].T)
            print(f"| {name} | {quantity} | " + " | ".join(cells) + " |")
    if args.quick:
        return
    print("\n| model | mapped | of | cold, s | with its programs cached, s |")
    print("|---|---:|---:|---:|---:|")
    for name in MODELS:
        with tempfile.TemporaryDirectory() as cache:
            (cold_s, mapped, number), (warm_s, *_) = search(name, cache), search(name, cache)
        print(f"| {name} | {mapped:,} | {number:,} | {cold_s:.1f} | {warm_s:.1f} |")


if __name__ == "__main__":
    main()
