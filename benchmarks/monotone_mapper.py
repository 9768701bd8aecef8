"""How often twice of a resource costs more energy x delay, at the energies of the smaller chip.

    python benchmarks/monotone_mapper.py [PRODUCTS] [SEED] [CHIPS]

The mapper looks at some mappings, not at all, so a larger chip may miss what a smaller one does.
docs/cost-model.md quotes the tables: for each grid of mapper_cases.py the share of products, and
of chips that run a whole network, above 2 %, and the worst ratio.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import numpy as np
from mapper_cases import GRIDS, PRODUCTS, chips_of, with_twice
from scipy.stats import binomtest

from codesign.accelerator import Accelerator
from codesign.cost.chips import run_on
from codesign.cost.mapper import best_mapping
from codesign.cost.mapping import work_of
from codesign.cost.technology import Technology, technology
from codesign.costing import costing_of
from codesign.scenario import Scenario
from codesign.workload import load_model
from machine import here

NETWORKS: dict[str, dict[str, int]] = {
    "clip-vit-b-16": {},
    "clip-vit-l-14": {},
    "bert-base": {"tokens": 512},
    "llama-3.2-1b": {"tokens": 512},
}
RESOURCES = [field.name for field in dataclasses.fields(Accelerator)]


@jax.jit
@jax.vmap
def _edp(gemm: jax.Array, chip: Accelerator, tech: Technology) -> jax.Array:
    return best_mapping(work_of(*gemm, chip, tech)).edp


def _edp_of_network(
    name: str, more: dict[str, int], chips: Accelerator, tech: Technology
) -> np.ndarray:
    """Of a whole network on each chip, [N]."""
    model = load_model(name, **more).in_scenario(Scenario())
    work = model.operators.under(costing_of(Scenario()))
    (run,) = run_on([jax.tree.map(lambda x: np.asarray(x)[None], work)], chips, tech)
    cycles, pj = (np.asarray(x[0], float) for x in (run.cycles, run.dynamic_pj))
    return (pj + np.asarray(tech.static_pj, float) * cycles) * cycles


def _row(name: str, ratio: np.ndarray, which: np.ndarray) -> str:
    cells = [ratio[which == i] for i in range(len(RESOURCES))]
    shown = [f"{100 * (x > 1.02).mean():.2f} % ({x.max():.2f})" for x in cells]
    return f"| {name} | " + " | ".join(shown) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("products", type=int, nargs="?", default=32768)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    parser.add_argument("chips", type=int, nargs="?", default=2100)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    tech_of = jax.jit(jax.vmap(lambda chip: technology(chip, Scenario())))

    def heading(what: str) -> None:
        print(f"| chips, {what} | " + " | ".join(RESOURCES) + " |")
        print("|---|" + "---|" * len(RESOURCES))

    print(f"{here()}, seed {args.seed}, {args.products} products a row")
    heading("products")
    for grid in GRIDS:
        for name, draw in PRODUCTS.items():
            gemms, chips = draw(args.products, rng), chips_of(grid, args.products, rng)
            which = np.arange(args.products) % len(RESOURCES)
            twice = with_twice(chips, which)
            tech = tech_of(chips)
            ratio = np.asarray(_edp(gemms, twice, tech)) / np.asarray(_edp(gemms, chips, tech))
            print(_row(f"{grid}, {name}", ratio, which), flush=True)
    print(f"\n{args.chips} chips a row")
    heading("networks")
    cell = args.chips // len(RESOURCES)
    worst = 0
    for grid in ("default", "wide"):
        for name, more in NETWORKS.items():
            chips = chips_of(grid, args.chips, rng)
            which = np.arange(args.chips) % len(RESOURCES)
            tech = jax.device_get(tech_of(chips))
            twice = _edp_of_network(name, more, with_twice(chips, which), tech)
            ratio = twice / _edp_of_network(name, more, chips, tech)
            print(_row(f"{grid}, {name}", ratio, which), flush=True)
            above = np.bincount(which[ratio > 1.02], minlength=len(RESOURCES))
            worst = max(worst, int(above.max()))
    low, high = binomtest(worst, cell).proportion_ci()
    share = f"{100 * worst / cell:.2f} %"
    print(f"a cell is of {cell} chips: {share} are {100 * low:.1f} to {100 * high:.1f} % (95 %)")


if __name__ == "__main__":
    main()
