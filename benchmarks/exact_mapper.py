"""The fast mapper against the exact one on fresh random CLIP products.

    python benchmarks/exact_mapper.py [PAIRS] [SEED]

Prints mean and worst errors for all pairs, large products, attention products and
bandwidth-starved chips; docs/cost-model.md quotes them.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.mapper import gemm_run
from codesign.cost.technology import technology
from codesign.oracle.exact import Exact
from codesign.oracle.interface import Constants, Point
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices
from machine import here


def draw(pairs: int, seed: int) -> tuple[np.ndarray, list[Accelerator]]:
    """GEMMs [pairs, 3] of CLIPs of all published widths, and a chip of the grid each."""
    rng = np.random.default_rng(seed)
    choices = AcceleratorChoices()
    axes = [getattr(choices, name) for name in choices.__dataclass_fields__]
    gemms, chips = [], []
    for _ in range(pairs):
        tokens = int(rng.choice([50, 77, 197, 257]))
        width, qkv = (64 * int(rng.integers(4, 17)) for _ in range(2))
        ffn = 128 * int(rng.integers(6, 33))
        kinds = [(tokens, width, qkv), (tokens, 64, tokens), (tokens, tokens, 64),
                 (tokens, qkv, width), (tokens, width, ffn), (tokens, ffn, width)]
        gemms.append(kinds[int(rng.integers(len(kinds)))])
        chips.append(Accelerator(*(axis[int(rng.integers(len(axis)))] for axis in axes)))
    return np.array(gemms), chips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=int, nargs="?", default=400)
    parser.add_argument("seed", type=int, nargs="?", default=7)
    args = parser.parse_args()
    pairs, seed = args.pairs, args.seed
    gemms, chips = draw(pairs, seed)
    constants = Constants.of_all(chips, Scenario())
    exact = Exact()
    rows = [
        exact(Point(*map(int, gemm), chip, c))[:2]
        for gemm, chip, c in zip(gemms, chips, constants, strict=True)
    ]
    cycles, energy = np.array(rows).T
    stacked = jax.tree.map(lambda *x: np.asarray(x, np.float32), *chips)
    m, k, n = gemms.astype(np.float32).T
    tech = technology(stacked, Scenario())
    found = jax.jit(jax.vmap(gemm_run))(m, k, n, stacked, tech)
    static = np.asarray(tech.static_pj, float)
    edp = lambda c, e: (e + static * c) * c  # noqa: E731
    ratios = {
        "latency": np.asarray(found.cycles) / cycles,
        "energy": np.asarray(found.dynamic_pj) / energy,
        "energy x delay": edp(*(np.asarray(x, float) for x in found)) / edp(cycles, energy),
    }
    kinds = {
        "all": np.ones(pairs, bool),
        "large (over 1e7 MACs)": gemms.prod(axis=1) > 1e7,
        "attention": (gemms[:, 1:] == 64).any(axis=1) & (gemms[:, 0] < 300),
        "starved (L2 rate <= columns / 4)": stacked.l2_bytes_per_cycle <= stacked.pe_x / 4,
    }
    print(f"{here()}, seed {seed}")
    print("| products | number | latency mean / worst | energy | energy x delay |")
    print("|---|---|---|---|---|")
    for kind, which in kinds.items():
        errors = [np.abs(r[which] - 1) * 100 for r in ratios.values()]
        cells = " | ".join(f"{e.mean():.2f} / {e.max():.1f} %" for e in errors)
        print(f"| {kind} | {which.sum()} | {cells} |")


if __name__ == "__main__":
    main()
