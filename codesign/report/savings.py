"""What designs save against the references, never without saying how surely."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codesign.printable import printable
from codesign.report.entries import is_reference, number
from codesign.report.front import (
    Box,
    Matched,
    Row,
    best_within_budget,
    design_name,
    found_within_limits,
    known_cost,
    matched,
)
from codesign.report.text import percent, percent_interval, share, si
from codesign.search import statistics
from codesign.search.statistics import Difference, Interval

# Accuracies of families are sums of products: closer ones are ties.
_TIE = 1e-9
_INTERVAL = f"{100 * statistics.COVERAGE:.0f} % interval"


@dataclasses.dataclass(frozen=True)
class Saving:
    """What the cheapest design measured as accurate as a reference saves.

    Attributes:
      reference: the reference's name.
      accuracy: the reference's accuracy, a share.
      carbon_kgco2e: the reference's total carbon.
      accuracy_standard_error: of its accuracy, where known.
      design: the cheapest feasible found design whose measured accuracy is not below the
        reference's; None: none is.
      design_accuracy: its accuracy.
      design_accuracy_standard_error: of its accuracy, where known.
      design_carbon_kgco2e: its total carbon.
      saved_kgco2e: reference minus design; negative where the design costs more.
      saved_share: the same as a share of the reference.
      saved_share_interval: of the share, over the test images; None where the design costs more.
        Where no cheaper design is as accurate on a resample, the reference itself is taken, which
        saves 0.
      at_cost: the front at the reference's cost in the searched metric, where that is known.
      at_cost_difference: accuracy of that design minus the reference's.
    """

    reference: str
    accuracy: float
    carbon_kgco2e: float
    accuracy_standard_error: float | None = None
    design: str | None = None
    design_accuracy: float | None = None
    design_accuracy_standard_error: float | None = None
    design_carbon_kgco2e: float | None = None
    saved_kgco2e: float | None = None
    saved_share: float | None = None
    saved_share_interval: Interval | None = None
    at_cost: Matched | None = None
    at_cost_difference: Difference | None = None

    def __str__(self) -> str:
        """A few sentences for people."""
        own = share(self.accuracy, self.accuracy_standard_error)
        reference = f"{printable(self.reference)} ({own}, {si(self.carbon_kgco2e, 'kgCO2e')})"
        return f"{reference}: " + "; ".join(filter(None, (self._accuracy(), self._saving())))

    def _accuracy(self) -> str:
        """How accurate the front is at the reference's cost."""
        at, difference = self.at_cost, self.at_cost_difference
        if at is None or at.design is None:
            return ""
        accuracy = share(at.accuracy, at.standard_error)
        reached = f"at no higher cost {printable(at.design)} reaches {accuracy}"
        if difference is None:
            return reached
        low, high = (100 * end for end in difference.interval)
        order = "more accurate" if difference.value > 0 else "less accurate"
        verdict = order if difference.distinguishable else "equal within noise"
        return (
            f"{reached}, {100 * difference.value:+.1f} points "
            f"({_INTERVAL} {low:+.1f} to {high:+.1f}: {verdict})"
        )

    def _saving(self) -> str:
        """What the cheapest design measured as accurate saves, and how surely."""
        if self.design is None or self.saved_kgco2e is None:
            return "no feasible design found measured as accurate"
        accuracy = share(self.design_accuracy, self.design_accuracy_standard_error)
        design = f"{printable(self.design)} ({accuracy}, {si(self.design_carbon_kgco2e, 'kgCO2e')})"
        cheapest = f"the cheapest measured no less accurate, {design},"
        if self.saved_kgco2e < 0:
            return f"{cheapest} costs {si(-self.saved_kgco2e, 'kgCO2e')} more"
        interval = self.saved_share_interval
        if interval is None:
            return f"{cheapest} costs less; how surely is not known without per-image results"
        saved = f"saves {percent(self.saved_share)} ({_INTERVAL} {percent_interval(interval)}"
        unsure = ": not distinguishable from 0" if interval.low <= 0 else ""
        return f"{cheapest} {saved}{unsure})"


def savings(
    designs: Sequence[Row], right: np.ndarray | None = None, box: Box | None = None
) -> list[Saving]:
    """How each reference compares with the found designs that are not infeasible.

    References whose accuracy or carbon is not known are left out.

    Args:
      designs: entries of designs.json.
      right: float [D, N], how far each is right on each test image; None: not known.
      box: tells the searched metric; None: not known.
    """
    draws = None if right is None else statistics.resampled_accuracy(right)
    return [
        _saving(designs, i, right, draws, box)
        for i, design in enumerate(designs)
        if is_reference(design)
        and number(design, "accuracy") is not None
        and known_cost(design, "carbon_kgco2e") is not None
    ]


def _saving(
    designs: Sequence[Row],
    index: int,
    right: np.ndarray | None,
    draws: np.ndarray | None,
    box: Box | None,
) -> Saving:
    reference = designs[index]
    accuracy, error = number(reference, "accuracy") or 0.0, "accuracy_standard_error"
    carbon = known_cost(reference, "carbon_kgco2e") or math.inf
    found = found_within_limits(designs, "carbon_kgco2e")
    costs = {i: known_cost(designs[i], "carbon_kgco2e") or math.inf for i in found}
    reaching = [i for i in found if (number(designs[i], "accuracy") or 0.0) >= accuracy - _TIE]
    same = Saving(
        design_name(reference),
        accuracy,
        carbon,
        number(reference, error),
        **_at_same_cost(designs, index, right, box),
    )
    if not reaching:
        return same
    design = min(reaching, key=costs.__getitem__)
    saved = carbon - costs[design]
    # What costs more saves nothing, and the interval is of what is saved.
    interval = None
    if draws is not None and saved >= 0:
        interval = _saved_interval(draws, index, costs, carbon)
    return dataclasses.replace(
        same,
        design=design_name(designs[design]),
        design_accuracy=number(designs[design], "accuracy"),
        design_accuracy_standard_error=number(designs[design], error),
        design_carbon_kgco2e=costs[design],
        saved_kgco2e=saved,
        saved_share=saved / carbon if math.isfinite(saved / carbon) else None,
        saved_share_interval=interval,
    )


def _saved_interval(
    draws: np.ndarray, reference: int, costs: Mapping[int, float], carbon: float
) -> Interval:
    """Of the share saved at no lower accuracy, the reference itself among those to take."""
    found = list(costs)
    reaching = draws[:, found] >= draws[:, [reference]] - _TIE
    least = np.min(np.where(reaching, list(costs.values()), np.inf), axis=1, initial=carbon)
    return statistics.percentile_interval(1 - least / carbon)


def _at_same_cost(
    designs: Sequence[Row], index: int, right: np.ndarray | None, box: Box | None
) -> dict[str, Any]:
    """The front at a reference's cost in the searched metric, against the reference."""
    own = None if box is None else known_cost(designs[index], box.metric)
    if box is None or own is None:
        return {}
    at_cost = matched(designs, box, own / box.worst_cost, None)
    chosen = best_within_budget(designs, box.metric, at_cost.cost)
    difference = None
    if right is not None and chosen is not None:
        difference = statistics.paired_difference(right[chosen], right[index])
    return {"at_cost": at_cost, "at_cost_difference": difference}
