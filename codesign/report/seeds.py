"""Runs of one config that differ in seed alone: figures with intervals over the seeds.

What the test images leave open is one thing; what another start of the same search would have
found is another, and usually more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from codesign.report.claims import Claims
from codesign.runs import Run
from codesign.search.statistics import Interval, mean_interval


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure over the seeds.

    Attributes:
      share: of an accuracy at matched cost, the cost as a share of the reference's; None: the
        hypervolume.
      mean: over the seeds.
      interval: Student's, of the mean; None: one seed.
      seeds: how many had a value: a front may not reach down to a cost.
    """

    share: float | None
    mean: float
    interval: Interval | None
    seeds: int


@dataclasses.dataclass(frozen=True)
class Over:
    """A group of runs.

    Attributes:
      name: of their config.
      runs: their indices among all runs.
      seeds: in the order of the runs.
      figures: those that at least one run has.
    """

    name: str
    runs: tuple[int, ...]
    seeds: tuple[int, ...]
    figures: list[Figure]

    def json(self) -> dict[str, Any]:
        """The group as plain JSON values."""
        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "figures": [
                {"figure": "hypervolume"} | _plain(figure)
                if figure.share is None
                else {"figure": "accuracy_at_cost", "share": figure.share} | _plain(figure)
                for figure in self.figures
            ],
        }


def _plain(figure: Figure) -> dict[str, Any]:
    interval = None if figure.interval is None else list(figure.interval)
    return {"mean": figure.mean, "interval": interval, "seeds": figure.seeds}


def seed_groups(runs: Sequence[Run]) -> list[list[int]]:
    """Indices of runs that differ in seed alone, groups of two or more.

    Runs are of one group where config and versions are the same but for the seed and no seed
    comes twice: two runs of one seed differ in something that they do not tell.
    """
    groups: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        if _seed(run) is not None:
            groups.setdefault(_key(run), []).append(i)
    return [
        group
        for group in groups.values()
        if len(group) > 1 and len({_seed(runs[i]) for i in group}) == len(group)
    ]


def _seed(run: Run) -> int | None:
    seed = run.record.get("seed")
    return seed if type(seed) is int else None


def _key(run: Run) -> str:
    """What runs of one group share."""
    config = run.record.get("config")
    known = {k: v for k, v in config.items() if k != "seed"} if isinstance(config, Mapping) else {}
    return json.dumps([known, run.record.get("versions")], sort_keys=True)


def run_groups(runs: Sequence[Run], found: Sequence[Claims]) -> list[Over]:
    """What the runs of each of `seed_groups` show together.

    Args:
      runs: read back.
      found: what the designs of each show.
    """
    return [
        Over(
            runs[group[0]].name,
            tuple(group),
            tuple(_seed(runs[i]) or 0 for i in group),
            means([found[i] for i in group]),
        )
        for group in seed_groups(runs)
    ]


def means(found: Sequence[Claims]) -> list[Figure]:
    """Means and intervals of the figures of independent runs."""
    values: dict[float | None, list[float]] = {}
    for claims in found:
        for share, value in figures(claims).items():
            values.setdefault(share, []).append(value)
    return [_figure(share, of_each) for share, of_each in values.items()]


def _figure(share: float | None, values: Sequence[float]) -> Figure:
    mean, interval = mean_interval(values)
    if interval is not None:  # Student's knows no bounds; a share has some.
        interval = Interval(max(interval.low, 0.0), min(interval.high, 1.0))
    return Figure(share, mean, interval, len(values))


def figures(claims: Claims) -> dict[float | None, float]:
    """Values of one run by the share of cost; the hypervolume's key is None."""
    volume: dict[float | None, float] = {}
    if claims.hypervolume is not None:
        volume[None] = claims.hypervolume
    return volume | {at.share: at.accuracy for at in claims.matched if at.accuracy is not None}
