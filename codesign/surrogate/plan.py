"""What to ask an oracle: GEMMs to fit on, and others, whole designs and neighbours to test on.

Either the points whose samples the package ships, or points drawn from a space of the
user's; from a seed alone, so that the same config asks for the same points and finds them
in the cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codesign.accelerator import ON_CHIP, Accelerator
from codesign.architecture import ELASTIC, Architecture, Tower
from codesign.oracle.interface import Point
from codesign.oracle.stored import points, stored_designs, stored_pairs
from codesign.oracle.zigzag import ZigZag
from codesign.scenario import Scenario
from codesign.space import ACCELERATOR_FIELDS
from codesign.surrogate.config import PlanConfig, SampleSpace
from codesign.surrogate.designs import Complete
from codesign.workload.clip import ClipNetwork


class Plan(NamedTuple):
    """Points to price, and what each is for.

    Attributes:
      points: distinct.
      train, gemms, neighbours: rows of the points to fit on, to test on, to difference.
      designs: complete designs held out.
      pool: one CLIP on many accelerators.
    """

    points: list[Point]
    train: np.ndarray
    gemms: np.ndarray
    neighbours: np.ndarray
    designs: list[Complete]
    pool: list[Complete]

    def in_turn(self) -> list[Point]:
        """All points, the kinds by turns, so that the first so many serve every purpose."""
        turns: dict[int, float] = {}
        for kind in (self.train, self.gemms, self.neighbours, self.designs, self.pool):
            for i, item in enumerate(kind):
                for row in item.rows if isinstance(item, Complete) else [int(item)]:
                    turns[row] = min(turns.get(row, 1.0), i / len(kind))
        return [self.points[row] for row in sorted(turns, key=turns.__getitem__)]


Shape = tuple[int, int, int]


def gemm_shapes(architecture: Architecture) -> list[Shape]:
    """m, k, n of each GEMM of `clip_workload`, in its order."""
    return [(g.m, g.k, g.n) for g in ClipNetwork(architecture).operators().gemms]


class _Book:
    """Points by what they are, each once."""

    def __init__(self) -> None:
        self.known: dict[tuple[Shape, Accelerator], int] = {}

    def row(self, shape: Shape, chip: Accelerator) -> int:
        return self.known.setdefault((shape, chip), len(self.known))

    def rows(self, pairs: Sequence[tuple[Shape, Accelerator]]) -> np.ndarray:
        return np.array([self.row(*pair) for pair in pairs], int)

    def complete(self, architecture: Architecture, chip: Accelerator) -> Complete:
        shapes = gemm_shapes(architecture)
        return Complete(architecture, chip, self.rows([(s, chip) for s in shapes]))

    def plan(
        self,
        train: Sequence[int] | np.ndarray,
        gemms: Sequence[int] | np.ndarray,
        neighbours: Sequence[int] | np.ndarray,
        designs: list[Complete],
        pool: list[Complete],
        scenario: Scenario,
    ) -> Plan:
        """The plan of these rows, repetitions left out."""
        distinct = lambda rows: np.unique(np.array(rows, int))  # noqa: E731
        return Plan(
            points(self.known, scenario),
            np.array(train, int),
            distinct(gemms),
            distinct(neighbours),
            designs,
            pool,
        )


def stored_plan(config: PlanConfig, scenario: Scenario, seed: int) -> Plan:
    """Points that the package ships samples of; `seed` decides what is fitted to.

    The neighbourhoods are those of one CLIP's GEMMs, the pool is CarbonCLIP-S's; of the
    single GEMMs a quarter is held out, or fewer.
    """
    book = _Book()
    designs = [book.complete(*d[1:]) for d in stored_designs("designs")[: config.designs]]
    pool = [book.complete(*d[1:]) for d in stored_designs("regret")[: config.pool]]
    near = stored_designs("neighbours")
    shapes = dict.fromkeys(shape for d in near for shape in gemm_shapes(d.architecture))
    centred = list(shapes)[: config.neighbourhoods]
    neighbours = book.rows([(shape, d.accelerator) for d in near for shape in centred])
    pairs = [((p.m, p.k, p.n), p.accelerator) for p in stored_pairs(ZigZag(), scenario)]
    order = np.random.default_rng(seed).permutation(len(pairs))
    held = min(config.gemms, len(pairs) // 4)
    rows = [book.row(*pairs[i]) for i in order[: held + config.train]]
    gemms, train = rows[:held], rows[held:]
    return book.plan(train, gemms, neighbours, designs, pool, scenario)


def drawn_plan(config: PlanConfig, space: SampleSpace, scenario: Scenario, seed: int) -> Plan:
    """Draws points; none to fit on is also one to test on.

    Raises:
      ValueError: choices too few to tell points for fitting from those for testing.
    """
    # A stream each, so that more of one kind leaves the others as they were.
    streams = dict(
        zip(
            ("train", "gemms", "designs", "neighbours", "pool"),
            np.random.default_rng(seed).spawn(5),
            strict=True,
        )
    )
    book = _Book()
    designs = [
        book.complete(_draw_clip(space, rng), _draw_chip(space, rng))
        for rng in streams["designs"].spawn(config.designs)
    ]
    clip = _draw_clip(space, streams["pool"])
    pool = [book.complete(clip, _draw_chip(space, streams["pool"])) for _ in range(config.pool)]
    neighbours = book.rows(
        [
            pair
            for rng in streams["neighbours"].spawn(config.neighbourhoods)
            for pair in _neighbourhood(space, rng)
        ]
    )
    gemms = book.rows([_draw_pair(space, streams["gemms"]) for _ in range(config.gemms)])
    tested = len(book.known)
    train: dict[int, None] = {}
    for _ in range(100 * config.train):
        if len(train) == config.train:
            break
        row = book.row(*_draw_pair(space, streams["train"]))
        if row >= tested:
            train[row] = None
    else:
        if config.train:
            raise ValueError("the space has too few points: fewer samples, or more choices")
    return book.plan(list(train), gemms, neighbours, designs, pool, scenario)


def _draw_clip(space: SampleSpace, rng: np.random.Generator) -> Architecture:
    vision, text = (
        Tower(*(int(rng.choice(getattr(choices, d))) for d in ELASTIC))
        for choices in (space.vision, space.text)
    )
    return Architecture(vision, text, patch=int(rng.choice(space.patch)))


def _draw_chip(space: SampleSpace, rng: np.random.Generator) -> Accelerator:
    return Accelerator(
        *(rng.choice(getattr(space.accelerator, f)).item() for f in ACCELERATOR_FIELDS)
    )


def _draw_pair(space: SampleSpace, rng: np.random.Generator) -> tuple[Shape, Accelerator]:
    shapes = gemm_shapes(_draw_clip(space, rng))
    return shapes[rng.integers(len(shapes))], _draw_chip(space, rng)


def _neighbourhood(space: SampleSpace, rng: np.random.Generator) -> list[tuple[Shape, Accelerator]]:
    """A GEMM on a chip, and on all chips one choice away along one axis."""
    shape, chip = _draw_pair(space, rng)
    pairs = [(shape, chip)]
    for name in ON_CHIP:
        choices = getattr(space.accelerator, name)
        at = choices.index(getattr(chip, name))
        for other in choices[max(at - 1, 0) : at] + choices[at + 1 : at + 2]:
            pairs.append((shape, dataclasses.replace(chip, **{name: other})))
    return pairs
