"""The fast mapper against the exact one on fresh random products.

    python benchmarks/exact_mapper.py [PAIRS] [SEED] [--bits 4|8|16] [--only-wide]

Two tables for chips of the published grid: CLIPs' products by kind, with the errors of latency,
energy and their product; products from 1 to 16,384 in each dimension by size, with the ratio
of energy x delay. A third for CLIPs' products on the wide grid, by whether the global buffer is as
large as all local buffers together. docs/cost-model.md quotes them. The exact mapper uses the
whole array always, so it may be beaten.
"""

from __future__ import annotations

import argparse
import itertools

import jax
import numpy as np
from mapper_cases import any_products, chips_of, clip_products

from codesign.accelerator import Accelerator
from codesign.cost.mapper import gemm_run
from codesign.cost.technology import technology
from codesign.oracle.exact import Exact
from codesign.oracle.interface import Constants, OracleError, Point
from codesign.scenario import Scenario
from machine import here


def ratios(gemms: np.ndarray, chips: Accelerator, scenario: Scenario) -> dict[str, np.ndarray]:
    """Latency, energy and energy x delay of the fast mapper over the exact one's, [pairs]."""
    each = [Accelerator(*map(float, axes)) for axes in zip(*jax.tree.leaves(chips), strict=True)]
    exact = Exact()

    def found_by_it(point: Point) -> tuple[float, float]:
        try:
            return exact(point)[:2]
        except OracleError:  # no block of its fits the global buffer
            return np.nan, np.nan

    cycles, energy = np.array(
        [
            found_by_it(Point(*map(int, gemm), chip, constants))
            for gemm, chip, constants in zip(
                gemms, each, Constants.of_all(each, scenario), strict=True
            )
        ]
    ).T
    tech = technology(chips, scenario)
    found = jax.jit(jax.vmap(gemm_run))(*gemms.T, chips, tech)
    static = np.asarray(tech.static_pj, float)
    edp = lambda c, e: (e + static * c) * c  # noqa: E731
    ours = np.asarray(found.cycles, float), np.asarray(found.dynamic_pj, float)
    return {
        "latency": ours[0] / cycles,
        "energy": ours[1] / energy,
        "energy x delay": edp(*ours) / edp(cycles, energy),
    }


def wide_grid(pairs: int, seed: int, scenario: Scenario) -> None:
    """The third table; chips of tiny buffers take the exact mapper a minute each."""
    rng = np.random.default_rng(seed)
    gemms, chips = clip_products(pairs, rng), chips_of("wide", pairs, rng)
    edp = ratios(gemms, chips, scenario)["energy x delay"]
    holds = chips.glb_mib * 1024 >= chips.cores * chips.l2_kib
    print("| wide grid | number | energy x delay, median ratio | mean | 95 % | worst |")
    print("|---|---|---|---|---|---|")
    for name, which in (("GLB holds all L2", holds), ("it does not", ~holds)):
        some = edp[which & np.isfinite(edp)]
        print(
            f"| {name} | {some.size} | {np.median(some):.3f} | {np.exp(np.log(some).mean()):.3f} "
            f"| {np.quantile(some, 0.95):.3f} | {some.max():.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=int, nargs="?", default=400)
    parser.add_argument("seed", type=int, nargs="?", default=7)
    parser.add_argument("--only-wide", action="store_true", help="the third table alone")
    parser.add_argument("--bits", type=int, choices=(4, 8, 16), default=8, help="of a word")
    args = parser.parse_args()
    scenario = Scenario(precision_bits=args.bits)
    print(f"{here()}, seed {args.seed}, {args.bits} bits")
    if args.only_wide:
        wide_grid(args.pairs // 4, args.seed, scenario)
        return
    rng = np.random.default_rng(args.seed)
    gemms, chips = clip_products(args.pairs, rng), chips_of("default", args.pairs, rng)
    found = ratios(gemms, chips, scenario)
    kinds = {
        "all": np.ones(args.pairs, bool),
        "large (over 1e7 MACs)": gemms.prod(axis=1) > 1e7,
        "attention": (gemms[:, 1:] == 64).any(axis=1) & (gemms[:, 0] < 300),
        "starved (L2 rate <= columns / 4)": chips.l2_bytes_per_cycle <= chips.pe_x / 4,
    }
    print(
        "| CLIPs' products | number | latency mean / worst | energy | energy x delay "
        "| its ratio, mean (least .. most) |"
    )
    print("|---|---|---|---|---|---|")
    for kind, which in kinds.items():
        errors = [np.abs(r[which] - 1) * 100 for r in found.values()]
        cells = " | ".join(f"{e.mean():.2f} / {e.max():.1f} %" for e in errors)
        edp = found["energy x delay"][which]
        ratio = f"{edp.mean():.3f} ({edp.min():.3f} .. {edp.max():.3f})"
        print(f"| {kind} | {which.sum()} | {cells} | {ratio} |")
    gemms, chips = any_products(args.pairs, rng), chips_of("default", args.pairs, rng)
    edp = ratios(gemms, chips, scenario)["energy x delay"]
    macs = gemms.astype(float).prod(axis=1)
    bounds = [0, 1e2, 1e4, 1e6, 1e8, 1e10, np.inf]
    print("| MACs | number | energy x delay, mean ratio | worst |\n|---|---|---|---|")
    for low, high in [*itertools.pairwise(bounds), (0, np.inf)]:
        some = edp[(macs >= low) & (macs < high)]
        if some.size:
            print(
                f"| {low:.0e} .. {high:.0e} | {some.size} | {some.mean():.3f} | {some.max():.3f} |"
            )
    wide_grid(args.pairs // 4, args.seed, scenario)


if __name__ == "__main__":
    main()
