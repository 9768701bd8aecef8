"""Chooses the mappings that the mapper looks at: codesign/cost/data/mapper_points.csv.

    python benchmarks/fit_mapper.py --out codesign/cost/data/mapper_points.csv

1. A pool that is near the best: every mapping of a large lattice (about 350,000) is priced for
   random products on random chips (mapper_cases.py), dense and sparse, and as few as hold one
   within 1.2 % of the best for each are taken, greedily: a set cover. Each further round draws
   new cases and adds what those need that the pool misses.
2. A pool that is monotone: products are priced on a chip and on one with twice of a resource,
   at the energies of the first. Where the larger is worse, mappings that use half of the
   resource, or of what it leads to, are added: again as few as serve all such cases.
3. What the lattice is too coarse for: mappings whose trips lie between those of the pool's
   winners are added where they are better by over `REPAIR`.
4. The list: as few of the pool as serve fresh cases of both kinds, within tolerances that
   are strict where designs are searched and loose where chips are merely accepted. What
   crowded chips alone need (mapping.is_crowded) is a list of its own.

A quarter of an hour on two cores. It prints what each round finds.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mapper_cases import GRIDS, PRODUCTS, chips_of, with_twice

from codesign.accelerator import Accelerator
from codesign.cost.mapper import price
from codesign.cost.mapping import CUTS, Point, is_crowded, points, skipping, tiles_of, work_of
from codesign.cost.schedules import SCHEDULES, Schedule, Walk
from codesign.cost.technology import technology
from codesign.cost.unrolling import SPLITS
from codesign.scenario import Scenario

N_TRIPS = (1, 2, 3, 4, 6, 8, 16, 32, np.inf)
K_TRIPS = (1, 2, 4, 8, 16, 32, "registers", np.inf)
CORES = (1, 0.5, 0.25)
LINES = (1, 0.5, 0.25, 0.125, 0.0625)  # of columns, of rows
FILLS = (1, 0.5, 0.25)
DENSITIES = (0.05, 0.1, 0.2, 0.5)
AT_ONCE = 256  # mappings
WITHIN = 1.012  # of the best energy x delay: what the pool is to hold
REPAIR = 1.015  # of the energy x delay on a chip with half of a resource
TOLERANCES = {
    ("default", "CLIP"): 1.004,
    ("default", "1 to 16,384"): 1.008,
    ("small", "CLIP"): 1.008,
    ("small", "1 to 16,384"): 1.010,
    ("accepted", "CLIP"): 1.018,
    ("accepted", "1 to 16,384"): 1.018,
    ("wide", "CLIP"): 1.008,
    ("wide", "1 to 16,384"): 1.012,
}

Rows = list[tuple]
Mapping = tuple[int, tuple]  # number of a schedule and row of a Point


def lattice(schedule: Schedule) -> Rows:
    """Points of a schedule without those that differ in nothing that it heeds."""
    fills = (1,) if schedule.one_row else FILLS
    whole_k = schedule.keeps != "O" and schedule.dram[0] != "k"
    cuts = (0,) if whole_k else range(len(CUTS))
    axes = (range(len(SPLITS)), N_TRIPS, K_TRIPS, CORES, LINES, LINES, fills, cuts)
    return [
        (split, n, 1.0 if k == "registers" else k, k == "registers", *rest)
        for split, n, k, *rest in itertools.product(*axes)
    ]


def cases(number: int, rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Dense cases and sparse ones: products [N, 3], chips, densities [N], scenario, and the
    chips whose energies count."""
    drawn = []
    for grid, draw in itertools.product(GRIDS, PRODUCTS.values()):
        drawn.append((draw(number, rng), chips_of(grid, number, rng)))
    gemms = np.concatenate([gemm for gemm, _ in drawn])
    chips = jax.tree.map(lambda *x: np.concatenate(x), *(chip for _, chip in drawn))
    # A doubled resource must not cost more: so the larger chip is held to the same.
    which = rng.integers(6, size=len(gemms))
    twice = with_twice(chips, which)
    both = lambda a, b: jax.tree.map(lambda *x: np.concatenate(x), a, b)  # noqa: E731
    # Energies are those of the chip that was doubled.
    dense = (both(gemms, gemms), both(chips, twice), None, Scenario(), both(chips, chips))
    some = rng.permutation(len(gemms))[: len(gemms) // 4]
    density = rng.choice(DENSITIES, len(some)).astype(np.float32)
    chips = jax.tree.map(lambda x: x[some], chips)
    sparse = (gemms[some], chips, density, Scenario(index_bits=8), chips)
    return [dense, sparse]


@functools.partial(jax.jit, static_argnames="scenario")
def _prices(
    at: Point,
    gemms: Any,
    chips: Accelerator,
    density: Any,
    costed: Accelerator,
    walk: Walk,
    scenario: Scenario,
) -> Any:
    """Energy x delay [P, N] of points [P] of a schedule."""

    def one(gemm: Any, chip: Accelerator, tech: Any, density: Any, point: Point) -> Any:
        work = work_of(*gemm, chip, tech)
        work = work if density is None else skipping(work, density)
        cost, fits = price(walk, work, tiles_of(work, point, walk))
        edp = (cost.dynamic_pj + cost.cycles * work.tech.static_pj) * cost.cycles
        return jnp.where(fits, edp, jnp.inf)

    tech = jax.vmap(lambda chip: technology(chip, scenario))(costed)
    every = jax.vmap(one, in_axes=(0, 0, 0, None if density is None else 0, None))
    return jax.lax.map(lambda point: every(tuple(gemms.T), chips, tech, density, point), at)


def lattices() -> dict[int, Rows]:
    """The whole lattice, by the number of the schedule."""
    return {number: lattice(schedule) for number, schedule in enumerate(SCHEDULES)}


def priced(
    cases: list[tuple[Any, ...]], mappings: dict[int, Rows]
) -> Iterator[tuple[int, Rows, np.ndarray]]:
    """Yields (schedule, rows, energy x delay [rows, all cases]) of mappings, part by part."""
    for number, rows in mappings.items():
        walk = SCHEDULES[number].walk
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            at = points(part + part[-1:] * (AT_ONCE - len(part)))
            found = [
                _prices(at, gemms, chips, density, costed, walk, scenario)
                for gemms, chips, density, scenario, costed in cases
            ]
            edp = np.concatenate([np.asarray(x) for x in found], axis=1)[: len(part)]
            yield number, part, edp


def cover(near: np.ndarray) -> list[int]:
    """Rows of near [P, N] that together have a True in every column that has any; greedily."""
    left = near.any(axis=0)
    counts = near[:, left].sum(axis=1, dtype=np.int64)
    chosen = []
    while left.any():
        best = int(counts.argmax())
        chosen.append(best)
        done = near[best] & left
        counts -= near[:, done].sum(axis=1, dtype=np.int64)
        left &= ~done
    return chosen


def choices(drawn: list[tuple[Any, ...]], best: np.ndarray, within: float) -> list[Mapping]:
    """As few mappings as hold one within a factor of the best for every case."""
    which: list[Mapping] = []
    near = []
    for number, part, edp in priced(drawn, lattices()):
        good = edp <= best * within
        some = good.any(axis=1)
        near.append(good[some])
        which += [(number, row) for row, kept in zip(part, some, strict=True) if kept]
    return [which[i] for i in cover(np.concatenate(near))]


def best_of(drawn: list[tuple[Any, ...]], mappings: dict[int, Rows]) -> np.ndarray:
    """Least energy x delay of every case."""
    best = np.full(sum(len(case[0]) for case in drawn), np.inf)
    for _, _, edp in priced(drawn, mappings):
        best = np.minimum(best, np.nanmin(edp, axis=0))
    return best


def by_schedule(mappings: list[Mapping]) -> dict[int, Rows]:
    return {i: [row for number, row in mappings if number == i] for i in range(len(SCHEDULES))}


def only(drawn: list[tuple[Any, ...]], kept: np.ndarray) -> list[tuple[Any, ...]]:
    """The cases of a mask [N]."""
    ends = np.cumsum([0, *(len(case[0]) for case in drawn)])
    parts = []
    for case, first, last in zip(drawn, ends[:-1], ends[1:], strict=True):
        mask = kept[first:last]
        take = lambda x, mask=mask: jax.tree.map(lambda leaf: leaf[mask], x)  # noqa: E731
        gemms, chips, density, scenario, costed = case
        if mask.any():
            parts.append((take(gemms), take(chips), take(density), scenario, take(costed)))
    return parts


def pool_near_best(args: argparse.Namespace, rng: np.random.Generator) -> list[Mapping]:
    """The first step."""
    pool: list[Mapping] = []
    for _ in range(args.rounds):
        drawn = cases(args.cases, rng)
        best = best_of(drawn, lattices())
        missed = best_of(drawn, by_schedule(pool)) > best * WITHIN
        if missed.any():
            pool += choices(only(drawn, missed), best[missed], WITHIN)
        print(f"{missed.sum()} of {len(missed)} cases missed; now {len(pool)}", flush=True)
    return pool


def doubled(
    grid: str, products: str, number: int, rng: np.random.Generator
) -> tuple[np.ndarray, Accelerator, Accelerator]:
    """Products [N, 3], chips [N], and the chips with twice of a random resource."""
    gemms, chips = PRODUCTS[products](number, rng), chips_of(grid, number, rng)
    return gemms, chips, with_twice(chips, rng.integers(6, size=number))


def prices_of(pool: list[Mapping], case: tuple[Any, ...]) -> np.ndarray:
    """Energy x delay [pool, N] of mappings in the order of `by_schedule`."""
    parts = [edp for _, _, edp in priced([case], by_schedule(pool))]
    return np.concatenate(parts)


def repaired(pool: list[Mapping], number: int, rng: np.random.Generator) -> list[Mapping]:
    """The pool and what a chip needs to be no worse than one with half of a resource."""
    ordered = [(i, row) for i, rows in by_schedule(pool).items() for row in rows]
    worse, least, halves = [], [], {}
    for grid, products in itertools.product(GRIDS, PRODUCTS):
        gemms, chips, twice = doubled(grid, products, number, rng)
        small = prices_of(pool, (gemms, chips, None, Scenario(), chips))
        large = prices_of(pool, (gemms, twice, None, Scenario(), chips)).min(axis=0)
        bad = large > REPAIR * small.min(axis=0)
        worse.append(jax.tree.map(lambda x, bad=bad: x[bad], (gemms, twice, chips)))
        least.append(small.min(axis=0)[bad])
        for i in small.argmin(axis=0)[bad]:
            schedule, row = ordered[i]
            halves.update({(schedule, other): None for other in with_less(row)})
    bound = np.concatenate(least)
    if not bound.size:
        return pool
    # Repeated up to a power of two: a program for each size, not for each number of cases.
    size = 1 << (bound.size - 1).bit_length()
    gemms, twice, chips = jax.tree.map(
        lambda *x: np.resize(np.concatenate(x), (size, *x[0].shape[1:])), *worse
    )
    bound = np.resize(bound, size)
    known = set(pool)
    new = [mapping for mapping in halves if mapping not in known]
    which, near = [], []
    for schedule, rows, edp in priced([(gemms, twice, None, Scenario(), chips)], by_schedule(new)):
        which += [(schedule, row) for row in rows]
        near.append(edp <= bound * (1 + 0.8 * (REPAIR - 1)))
    added = [which[i] for i in cover(np.concatenate(near))]
    number = sum(map(len, least))
    print(f"{number} chips worse than smaller ones; {len(added)} mappings more", flush=True)
    return pool + added


def between(pool: list[Mapping], number: int, rng: np.random.Generator) -> list[Mapping]:
    """The pool and mappings of other numbers of trips that are better than all of it."""
    for grid, products in itertools.product(("default", "small"), PRODUCTS):
        ordered = [(i, row) for i, rows in by_schedule(pool).items() for row in rows]
        gemms, chips = PRODUCTS[products](number, rng), chips_of(grid, number, rng)
        case = (gemms, chips, None, Scenario(), chips)
        edp = prices_of(pool, case)
        winners = [ordered[i] for i in np.unique(edp.argmin(axis=0))]
        new = {(i, other): None for i, row in winners for other in with_other_trips(row)}
        new = by_schedule([mapping for mapping in new if mapping not in pool])
        others = np.concatenate([part for _, _, part in priced([case], new)])
        needed = others.min(axis=0) * REPAIR < edp.min(axis=0)
        near = others[:, needed] <= others[:, needed].min(axis=0) * 1.01
        rows = [(i, row) for i, part in new.items() for row in part]
        added = [rows[i] for i in cover(near)]
        print(f"{grid}, {products}: {needed.sum()} bettered; {len(added)} more", flush=True)
        pool = pool + added
    return pool


def with_other_trips(row: tuple) -> list[tuple]:
    """Points with trips between the lattice's."""
    split, n, k, registers, *rest = row
    points = [(split, n * x, k, registers, *rest) for x in (0.75, 1.5, 0.625)]
    trips = (3, 5, 6, 10, 12, 24) if registers else (0.75 * k, 1.5 * k, 0.625 * k)
    return points + [(split, n, float(x), False, *rest) for x in trips]


def with_less(row: tuple) -> list[tuple]:
    """Points that use less of a machine than a point does, or cut it elsewhere."""
    split, n, k, registers, cores, columns, rows, fill, cut = row
    shares = (
        (0.5, 1, 1),
        (1, 0.5, 1),
        (1, 1, 0.5),
        (1, 0.5, 0.5),
        (0.5, 0.5, 1),
        (0.5, 1, 0.5),
        (1, 0.25, 1),
        (1, 1, 0.25),
    )
    points = [
        (split, n, k, registers, cores * a, columns * b, rows * c, fill, cut) for a, b, c in shares
    ]
    part = (cores, columns, rows)
    points += [(split, n * 2, k, registers, *part, fill, cut)]
    points += [(split, n, k * 2, registers, *part, fill, cut)] if not registers else []
    points += [(split, n, k, registers, *part, fill * x, cut) for x in (0.75, 0.5)]
    for other in set(range(len(CUTS))) - {cut}:
        points += [
            (split, n, k, registers, *part, fill, other),
            (split, n, k, registers, cores, columns / 2, rows, fill, other),
        ]
    return points


def final(
    pool: list[Mapping], number: int, rng: np.random.Generator
) -> tuple[list[Mapping], list[Mapping]]:
    """The last step: mappings for all chips, and those for crowded ones alone."""
    near, crowded = [], []
    for grid, products in itertools.product(GRIDS, PRODUCTS):
        within = TOLERANCES[grid, products]
        gemms, chips, twice = doubled(grid, products, number, rng)
        small = prices_of(pool, (gemms, chips, None, Scenario(), chips))
        large = prices_of(pool, (gemms, twice, None, Scenario(), chips))
        # The larger chip is to be about as good as the smaller, no better than it must be.
        least = np.maximum(small.min(axis=0), large.min(axis=0))
        some = slice(number // 4)
        gemms, skipping_chips = gemms[some], jax.tree.map(lambda x, s=some: x[s], chips)
        density = rng.choice(DENSITIES, len(gemms)).astype(np.float32)
        sparse = prices_of(
            pool, (gemms, skipping_chips, density, Scenario(index_bits=8), skipping_chips)
        )
        near += [
            small <= small.min(axis=0) * within,
            large <= least * within,
            sparse <= sparse.min(axis=0) * within,
        ]
        crowded += [np.asarray(is_crowded(x)) for x in (chips, twice, skipping_chips)]
    good, alone = np.concatenate(near, axis=1), np.concatenate(crowded)
    ordered = [(i, row) for i, rows in by_schedule(pool).items() for row in rows]
    every = cover(good[:, ~alone])
    left = good[:, alone & ~good[every].any(axis=0)]
    return [ordered[i] for i in every], [ordered[i] for i in cover(left)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a list to go on from, instead of step 1")
    parser.add_argument("--cases", type=int, default=250, help="of each of eight kinds, a round")
    parser.add_argument("--rounds", type=int, default=3, help="of the first step")
    parser.add_argument("--pairs", type=int, default=16384, help="of chips, of each of eight kinds")
    parser.add_argument(
        "--repairs", type=int, default=12, help="rounds of the second step; 0: the last step alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    pool = read(args.start) if args.start else pool_near_best(args, rng)
    for _ in range(args.repairs):
        pool = repaired(pool, args.pairs, rng)
        jax.clear_caches()  # thousands of programs exhaust the compiler's memory
    if args.repairs:
        pool = between(pool, args.pairs // 2, rng)
    chosen = final(pool, args.pairs, rng)
    print(f"{len(chosen[0])} mappings, {len(chosen[1])} more for crowded chips")
    write(args.out, chosen)


def read(path: Path) -> list[Mapping]:
    """The mappings of a file that `write` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    found: list[Mapping] = []
    for row in rows:
        registers = row["k_trips"] == "registers"
        k_trips = 1.0 if registers else float(row["k_trips"])
        shares = (float(row[name]) for name in ("cores", "columns", "rows", "fill"))
        found.append(
            (
                int(row["schedule"]),
                (
                    SPLITS.index(row["split"]),
                    float(row["n_trips"]),
                    k_trips,
                    registers,
                    *shares,
                    CUTS.index(row["cut"]),
                ),
            )
        )
    return found


def write(path: Path, chosen: tuple[list[Mapping], list[Mapping]]) -> None:
    names = (
        "schedule",
        "split",
        "n_trips",
        "k_trips",
        "cores",
        "columns",
        "rows",
        "fill",
        "cut",
        "machines",
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        print(
            '# Mappings that the mapper looks at: docs/cost-model.md, "The mapper", says what the '
            "columns mean.\n# Chosen by benchmarks/fit_mapper.py.",
            file=file,
        )
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for machines, mappings in zip(("any", "crowded"), chosen, strict=True):
            for number, (split, n, k, registers, *shares, cut) in sorted(mappings, key=str):
                k_trips = "registers" if registers else f"{k:g}"
                part = (f"{x:g}" for x in shares)
                writer.writerow(
                    (number, SPLITS[split], f"{n:g}", k_trips, *part, CUTS[cut], machines)
                )


if __name__ == "__main__":
    main()
