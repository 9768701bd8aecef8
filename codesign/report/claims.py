"""What a search's designs show, and how surely: the figures that a report may claim.

Hypervolume and accuracy at matched cost speak of the front as a whole; a single saving is the
difference of two noisy picks and never stands without its interval. Intervals and tests are over
the test images, from correct.json; without that file there are none.

Axes: D designs, N test images, B resamples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.printable import printable
from codesign.report.correct import read_correct
from codesign.report.entries import number
from codesign.report.fidelity import Fidelity
from codesign.report.footprint import Payback, paybacks
from codesign.report.front import (
    LEVELS,
    Box,
    Matched,
    Row,
    design_name,
    found_within_limits,
    known_cost,
    matched,
)
from codesign.report.savings import Saving, savings
from codesign.report.text import is_number
from codesign.runs import Run, jsonable
from codesign.search import statistics
from codesign.search.pareto import hypervolume, hypervolumes
from codesign.search.statistics import Interval


@dataclasses.dataclass(frozen=True)
class Claims:
    """What a run's designs show.

    Attributes:
      box: of the hypervolume; None where summary.json does not tell it.
      hypervolume: share of the box that the feasible found designs dominate.
      hypervolume_interval: of it, over the test images.
      matched: the front's accuracy at each of LEVELS.
      equal: groups of designs of which no two differ by more than noise, by name.
      savings: how each reference compares.
      images: test images that the intervals are over; None: there are no intervals.
      fidelity: of the ranking that designs were chosen by, where there was one.
      paybacks: after how many devices each saving has made up for the run.
    """

    box: Box | None
    hypervolume: float | None
    hypervolume_interval: Interval | None
    matched: list[Matched]
    equal: list[list[str]]
    savings: list[Saving]
    images: int | None
    fidelity: Fidelity | None = None
    paybacks: list[Payback] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """What is to be said beside the figures, a line each."""
        tested = f"paired on the same {self.images:,} test images" if self.images else ""
        said = [
            f"equal in accuracy within noise ({tested}): {', '.join(map(printable, group))}"
            for group in self.equal
        ]
        said += [str(saving) for saving in self.savings]
        said += [str(payback) for payback in self.paybacks]
        said += [str(self.fidelity)] if self.fidelity else []
        if self.images is None and (self.matched or self.savings):
            said.append("no intervals over test images: the run kept no correct.json")
        return said

    def summary(self) -> dict[str, Any]:
        """The part of it that summary.json holds, as plain JSON values."""
        metric = self.box.metric if self.box else "cost"
        plain: dict[str, Any] = jsonable(
            {
                "hypervolume": self.hypervolume,
                "hypervolume_interval": self.hypervolume_interval,
                "accuracy_at_cost": [
                    {
                        "share": at.share,
                        metric: at.cost,
                        "design": at.design,
                        "accuracy": at.accuracy,
                        "interval": at.interval,
                    }
                    for at in self.matched
                ],
                "equal_within_noise": self.equal,
            }
        )
        plain |= {"rank_fidelity": self.fidelity.json()} if self.fidelity else {}
        return plain | ({"paybacks": jsonable(self.paybacks)} if self.paybacks else {})


def claims(designs: Sequence[Row], summary: Row, right: np.ndarray | None) -> Claims:
    """What the designs of a run show.

    Args:
      designs: entries of designs.json.
      summary: of summary.json "reference_point" and "best_cost", the box; "hypervolume" where
        there is no box; "run_carbon_kgco2e", where it was measured.
      right: float [D, N], how far each design is right on each test image; None: not known.
    """
    box = Box.of(summary)
    draws = None if right is None else statistics.resampled_accuracy(right)
    kept = summary.get("hypervolume")
    volume, interval = (kept if is_number(kept) else None), None
    if box is not None:
        volume, interval = _volume(designs, box, draws)
    groups = [] if right is None else statistics.equal_groups(right)
    saved = savings(designs, right, box)
    return Claims(
        box=box,
        hypervolume=volume,
        hypervolume_interval=interval,
        matched=[matched(designs, box, s, draws) for s in LEVELS] if box else [],
        equal=[[design_name(designs[i]) for i in group] for group in groups],
        savings=saved,
        images=None if right is None else right.shape[1],
        fidelity=Fidelity.of(designs, box.metric) if box else None,
        paybacks=paybacks(summary, saved),
    )


def run_claims(run: Run) -> Claims:
    """What the designs of a run folder show.

    Raises:
      UserError: a damaged correct.json.
    """
    return claims(run.designs, run.summary, read_correct(run.path, run.designs))


def _volume(
    designs: Sequence[Row], box: Box, draws: np.ndarray | None
) -> tuple[float, Interval | None]:
    found = found_within_limits(designs, box.metric)
    costs = [known_cost(designs[i], box.metric) or math.inf for i in found]
    volume = hypervolume(costs, [number(designs[i], "accuracy") or 0.0 for i in found], **box.sides)
    if draws is None:
        return volume, None
    drawn = hypervolumes(costs, draws[:, found], **box.sides)
    return volume, statistics.percentile_interval(drawn)
