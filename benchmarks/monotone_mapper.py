"""How often twice of a resource costs more energy x delay, at the energies of the smaller chip.

    python benchmarks/monotone_mapper.py [PRODUCTS] [SEED]

The mapper looks at some mappings, not at all, so a larger chip may miss what a smaller one does.
docs/cost-model.md quotes the table: for each grid of mapper_cases.py the share of products above
2 %, and the worst ratio.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import numpy as np
from mapper_cases import GRIDS, PRODUCTS, chips_of, with_twice

from codesign.accelerator import Accelerator
from codesign.cost.mapper import best_mapping
from codesign.cost.mapping import work_of
from codesign.cost.technology import Technology, technology
from codesign.scenario import Scenario
from machine import here

RESOURCES = [field.name for field in dataclasses.fields(Accelerator)]


@jax.jit
@jax.vmap
def _edp(gemm: jax.Array, chip: Accelerator, tech: Technology) -> jax.Array:
    return best_mapping(work_of(*gemm, chip, tech)).edp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("products", type=int, nargs="?", default=32768)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    print(f"{here()}, seed {args.seed}, {args.products} products a row")
    print("| chips, products | " + " | ".join(RESOURCES) + " |")
    print("|---|" + "---|" * len(RESOURCES))
    tech_of = jax.jit(jax.vmap(lambda chip: technology(chip, Scenario())))
    for grid in GRIDS:
        for name, draw in PRODUCTS.items():
            gemms, chips = draw(args.products, rng), chips_of(grid, args.products, rng)
            which = np.arange(args.products) % len(RESOURCES)
            twice = with_twice(chips, which)
            tech = tech_of(chips)
            ratio = np.asarray(_edp(gemms, twice, tech)) / np.asarray(_edp(gemms, chips, tech))
            cells = [ratio[which == i] for i in range(len(RESOURCES))]
            cells = [f"{100 * (x > 1.02).mean():.2f} % ({x.max():.2f})" for x in cells]
            print(f"| {grid}, {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
