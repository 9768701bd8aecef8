"""The designs and points whose samples the package ships, and a design as points.

data/designs.csv lists whole designs in named sets; the other samples of a file are of
random GEMMs on random accelerators. benchmarks/collect_oracle.py chose and bought them.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import TOWER_COLUMNS, Architecture, read_towers
from codesign.errors import did_you_mean
from codesign.oracle import cache
from codesign.oracle.interface import Constants, Oracle, Point
from codesign.scenario import Scenario
from codesign.workload.clip import clip_workload

SETS = {
    "designs": "random CLIPs, each on a random accelerator: for errors of whole designs",
    "neighbours": "CLIP ViT-B/16 on one accelerator and those one step away: for gradients",
    "regret": "CarbonCLIP-S on random accelerators: for the choice of an accelerator",
}
COLUMNS = ("set", "patch", "projection", *TOWER_COLUMNS, *cache.CHIP)


class StoredDesign(NamedTuple):
    """One line of data/designs.csv."""

    set: str
    architecture: Architecture
    accelerator: Accelerator


def stored_designs(name: str) -> list[StoredDesign]:
    """The designs of the set `name`, one of SETS.

    Raises:
      ValueError: no such set.
    """
    if name not in SETS:
        raise ValueError(f"unknown set of designs '{name}'; {did_you_mean(name, SETS)}")
    return [design for design in _all_designs() if design.set == name]


def stored_pairs(oracle: Oracle, scenario: Scenario) -> list[Point]:
    """Random GEMMs on random accelerators, at the scenario's constants: what fits are made on.

    None of them is a point of a stored design. Empty where nothing is shipped of this oracle.
    """
    path = cache.shipped_file(oracle)
    if path is None:
        return []
    in_designs = {
        (float(m), float(k), float(n), *(float(getattr(d.accelerator, f)) for f in cache.CHIP))
        for d in _all_designs()
        for m, k, n in gemms(d.architecture)
    }
    keys = [key for key in cache.read(path, oracle) if key not in in_designs]
    chips = [Accelerator(*(_plain(x) for x in key[3:])) for key in keys]
    shapes = [(int(key[0]), int(key[1]), int(key[2])) for key in keys]
    return points(zip(shapes, chips, strict=True), scenario)


def gemms(architecture: Architecture) -> dict[tuple[int, int, int], int]:
    """How often each distinct (m, k, n) occurs in one inference of a discrete CLIP."""
    return dict(_gemms(architecture))


@functools.cache
def _gemms(architecture: Architecture) -> Mapping[tuple[int, int, int], int]:
    workload = clip_workload(architecture)
    shapes = np.stack([workload.m, workload.k, workload.n], axis=-1).astype(int).tolist()
    counts: dict[tuple[int, int, int], int] = {}
    for (m, k, n), count in zip(shapes, np.asarray(workload.count), strict=True):
        counts[m, k, n] = counts.get((m, k, n), 0) + int(count)
    return counts


def points(
    pairs: Iterable[tuple[tuple[int, int, int], Accelerator]], scenario: Scenario
) -> list[Point]:
    """(m, k, n) and accelerator each, as points at the scenario's constants."""
    pairs = list(pairs)
    chips = list(dict.fromkeys(chip for _, chip in pairs))
    constants = dict(zip(chips, Constants.of_all(chips, scenario), strict=True))
    return [Point(*shape, chip, constants[chip]) for shape, chip in pairs]


def write_designs(path: str, designs: Sequence[StoredDesign]) -> None:
    """Writes a file like data/designs.csv."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("# designs whose GEMMs all have stored samples, by set; see oracle/stored.py\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, a, chip in designs:
            towers = [size for tower in a.towers.values() for size in vars(tower).values()]
            chip_values = [getattr(chip, f) for f in cache.CHIP]
            writer.writerow([name, a.patch, a.projection, *towers, *chip_values])


def _all_designs() -> list[StoredDesign]:
    text = (resources.files("codesign.oracle.data") / "designs.csv").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return [_design(row) for row in csv.DictReader(lines)]


def _design(row: dict[str, str]) -> StoredDesign:
    architecture = Architecture(
        **read_towers(row), patch=int(row["patch"]), projection=int(row["projection"])
    )
    chip = Accelerator(*(_plain(float(row[f])) for f in cache.CHIP))
    return StoredDesign(row["set"], architecture, chip)


def _plain(x: float) -> int | float:
    return int(x) if x == int(x) else x
