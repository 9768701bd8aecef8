"""How well the ranking that designs were chosen by foretold what they reach."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codesign.report.entries import is_reference, number
from codesign.report.front import Row, known_cost
from codesign.search import statistics


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How the ranking of untuned networks agrees with what the tuned ones reach.

    Attributes:
      designs: how many are compared.
      spearman: rank correlation of proxy and tuned accuracy on the test images.
      at_equal_cost: the same with the correlation of both with the cost taken out.
    """

    designs: int
    spearman: float
    at_equal_cost: float

    @classmethod
    def of(cls, designs: Sequence[Row], metric: str) -> Fidelity | None:
        """Of the designs found that have a proxy; None where there are fewer than three."""
        rows = [
            (proxy, accuracy, known_cost(design, metric))
            for design in designs
            if (proxy := number(design, "proxy_loss")) is not None
            and (accuracy := number(design, "accuracy")) is not None
            and known_cost(design, metric) is not None
            and not is_reference(design)
        ]
        return cls.of_rows(rows)

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[float, float, float | None]]) -> Fidelity | None:
        """Of networks' (proxy loss, tuned accuracy, cost); None of fewer than three."""
        if len(rows) < 3:
            return None
        losses, tuned, costs = np.array(rows, float).T
        return cls(
            len(rows),
            statistics.rank_correlation(-losses, tuned),
            statistics.partial_rank_correlation(-losses, tuned, costs),
        )

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Fidelity:
        """What `json` made these of."""
        numbers = (written[name] for name in ("spearman", "at_equal_cost"))
        return cls(written["designs"], *(math.nan if x is None else x for x in numbers))

    def json(self) -> dict[str, float | None]:
        """For summary.json: what is not determined is null."""
        return {
            name: None if math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def __str__(self) -> str:
        partial = self.at_equal_cost
        given = "" if math.isnan(partial) else f", {partial:.2f} at equal cost"
        return (
            f"the supernet's ranking against tuned accuracy, {self.designs} designs: Spearman's "
            f"correlation {self.spearman:.2f}{given}"
        )
