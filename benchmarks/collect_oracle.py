"""Buys the samples that the package ships of an external simulator.

    python benchmarks/collect_oracle.py [--processes N] [--only-ship]

Needs `pip install codesign[oracle]`; about a second of one core a point. What is bought is
kept in the user's cache as it comes, so a stopped run goes on where it was; --only-ship
writes the package's files from what there is. A seeded choice of

- whole designs (`SETS` of codesign/oracle/stored.py): random CLIPs of CATransformers' ranges
  and published ones, each on a random accelerator of its grid; CLIP ViT-B/16 on one accelerator
  and its neighbours in every dimension; CarbonCLIP-S on random accelerators;
- pairs: one GEMM of such a CLIP on an accelerator of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from importlib import resources
from pathlib import Path

import numpy as np

from codesign.accelerator import ON_CHIP, Accelerator
from codesign.architecture import Architecture, Tower, clip_vit_b16
from codesign.oracle import SAMPLED_SCENARIO, cache
from codesign.oracle.collect import collect
from codesign.oracle.interface import Point, Sample
from codesign.oracle.stored import StoredDesign, gemms, points, write_designs
from codesign.oracle.zigzag import ZigZag
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices

SEED = 20261123
DESIGNS, REGRET, PAIRS = 36, 40, 800
CENTRE = Accelerator(2, 128, 16, 256, 64, 4)
CARBONCLIP_S = Architecture(vision=Tower(8, 672, 6, 1920), text=Tower(6, 512, 6, 1024))
# Sources: Radford et al., ICML 2021; Wu et al., ICCV 2023 (TinyCLIP); arXiv 2505.01386.
PUBLISHED = (
    clip_vit_b16(),
    dataclasses.replace(clip_vit_b16(), patch=32),
    Architecture(Tower(24, 1024, 16, 4096), Tower(12, 768, 12, 3072), patch=14, projection=768),
    Architecture(vision=Tower(12, 512, 8, 2048), text=Tower(6, 512, 8, 2048)),
    Architecture(Tower(12, 640, 10, 2560), Tower(9, 512, 8, 2048), patch=32),
    CARBONCLIP_S,
)
# Constants are written to this many digits: the events price a sample, they only guard it.
DIGITS = 4

Pair = tuple[tuple[int, int, int], Accelerator]


def random_clip(rng: np.random.Generator) -> Architecture:
    """One of CATransformers' search ranges, or, one time in four, a published one."""
    if rng.random() < 0.25:
        return PUBLISHED[rng.integers(len(PUBLISHED))]

    def tower(width: int, heads: tuple[int, int]) -> Tower:
        eighths = rng.integers(4, 9, size=2)
        return Tower(
            layers=int(rng.integers(6, 13)),
            width=int(width * eighths[0]) // 8,
            heads=int(rng.integers(heads[0], heads[1] + 1)),
            ffn=int(4 * width * eighths[1]) // 8,
        )

    patch = int(rng.choice([14, 16, 16, 32]))
    return Architecture(vision=tower(768, (6, 12)), text=tower(512, (4, 8)), patch=patch)


def random_accelerator(rng: np.random.Generator) -> Accelerator:
    """Any of the grid."""
    grid = AcceleratorChoices()
    return Accelerator(*(rng.choice(getattr(grid, f)).item() for f in ON_CHIP))


def neighbours(centre: Accelerator) -> list[Accelerator]:
    """`centre` and what is one step away in one dimension."""
    found = [centre]
    for field in ON_CHIP:
        choices = getattr(AcceleratorChoices(), field)
        at = choices.index(getattr(centre, field))
        for value in choices[max(at - 1, 0) : at + 2]:
            if value != choices[at]:
                found.append(dataclasses.replace(centre, **{field: value}))
    return found


def chosen() -> tuple[list[StoredDesign], list[Pair]]:
    """Designs and pairs; the designs of different sets alternate, for a run cut short."""
    rng = np.random.default_rng(SEED)
    near = [StoredDesign("neighbours", clip_vit_b16(), chip) for chip in neighbours(CENTRE)]
    whole = [
        StoredDesign("designs", random_clip(rng), random_accelerator(rng)) for _ in range(DESIGNS)
    ]
    chips = dict.fromkeys(random_accelerator(rng) for _ in range(REGRET))
    regret = [StoredDesign("regret", CARBONCLIP_S, chip) for chip in chips]
    mixed = [
        design
        for both in itertools.zip_longest(near, whole, regret)
        for design in both
        if design is not None
    ]
    pairs = []
    for _ in range(PAIRS):
        shapes = [shape for shape in gemms(random_clip(rng)) if shape[0] * shape[2] > 1]
        pairs.append((shapes[rng.integers(len(shapes))], random_accelerator(rng)))
    return mixed, pairs


def in_turn(designs: list[StoredDesign], pairs: list[Pair], scenario: Scenario) -> list[Point]:
    """Points of the designs with the pairs strewn in, so that a stopped run has of both."""
    of_designs = [[(shape, d.accelerator) for shape in gemms(d.architecture)] for d in designs]
    share = -(-len(pairs) // len(designs))
    order = [
        pair
        for i, design in enumerate(of_designs)
        for pair in (*design, *pairs[i * share : (i + 1) * share])
    ]
    return list(dict.fromkeys(points(order, scenario)))


def ship(answers: dict[Point, Sample], designs: list[StoredDesign], oracle: ZigZag) -> None:
    """Writes the package's files: all samples, and the designs that lack none."""
    folder = Path(str(resources.files("codesign.oracle.data")))
    bought = {(p.m, p.k, p.n, p.accelerator) for p in answers}
    complete = [
        d for d in designs if all((*s, d.accelerator) in bought for s in gemms(d.architecture))
    ]
    cache.write(folder / f"{oracle.name}.csv", oracle, answers.items(), DIGITS)
    write_designs(str(folder / "designs.csv"), sorted(complete, key=lambda d: d.set))
    sets = {d.set: sum(e.set == d.set for e in complete) for d in complete}
    print(f"{len(answers)} samples, {(folder / 'zigzag.csv').stat().st_size / 1e3:.0f} kB, {sets}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=None, help="worker processes")
    parser.add_argument("--only-ship", action="store_true", help="buy nothing")
    arguments = parser.parse_args()
    oracle = ZigZag()
    designs, pairs = chosen()
    wanted = in_turn(designs, pairs, SAMPLED_SCENARIO)
    folder = cache.default_cache()
    if arguments.only_ship:
        rows = cache.read_folder(folder, oracle)
        found = ((point, cache.find(rows, point)) for point in wanted)
        answers = {point: x.sample for point, x in found if x is not None}
        failures: dict[Point, str] = {}
    else:
        samples = collect(oracle, wanted, cache=folder, processes=arguments.processes)
        answers, failures = samples.answers, samples.failures
    for point, reason in failures.items():
        print(f"{point.m}x{point.k}x{point.n} on {point.accelerator}: {reason}")
    print(f"{len(wanted)} wanted")
    ship(answers, designs, oracle)


if __name__ == "__main__":
    main()
