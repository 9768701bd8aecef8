"""What a finding of a paper is: a claim, numbers beside the published ones, and verdicts.

A verdict under a costing is "yes", the claim holds, "in part" or "no". Where the paper gives a
size, "yes" takes the same sign and at least half of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from codesign.search.objectives import Limits
from codesign.study.config import PaperConfig
from codesign.study.priced import At, Priced
from codesign.study.published import as_printed

# Under each costing, by its name.
Of: TypeAlias = Mapping[str, Any]
YES, IN_PART, NO = "yes", "in part", "no"


class Verdict(NamedTuple):
    """Whether a claim holds under a costing, and the numbers that say so, in a sentence."""

    holds: str
    why: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a finding.

    Attributes:
      subject: what it is of.
      quantity: what it is, with its unit: "carbon_kgco2e", "latency_ms", "saving_percent", ...
      found: the number under each costing; None: no accelerator meets the limits.
      accelerators: what it was found on, where it is of one accelerator.
      published: the paper's number; None: there is none.
      source: table or section of the paper.
    """

    subject: str
    quantity: str
    found: Mapping[str, float | None]
    accelerators: Mapping[str, dict[str, Any] | None] = dataclasses.field(default_factory=dict)
    published: float | None = None
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim of the paper, and what becomes of it.

    Attributes:
      name: of it.
      title: in words.
      claim: what the paper concludes.
      rows: the numbers.
      verdicts: by costing.
    """

    name: str
    title: str
    claim: str
    rows: tuple[Row, ...]
    verdicts: Mapping[str, Verdict]


Everything: TypeAlias = Mapping[str, Priced]


# What of a network on an accelerator, by quantity.
_QUANTITIES: dict[str, Callable[[At], float]] = {
    "carbon_kgco2e": lambda at: at.costs.carbon_kgco2e,
    "latency_ms": lambda at: 1e3 * at.costs.latency_s,
    "operational_percent": lambda at: 100 * at.costs.operational_kgco2e / at.costs.carbon_kgco2e,
}


def row_of(
    subject: str,
    quantity: str,
    where: Mapping[str, At | None],
    published: float | None = None,
    source: str | None = None,
) -> Row:
    """A number of a network on an accelerator under each costing."""
    of = _QUANTITIES[quantity]
    return Row(
        subject,
        quantity,
        {costing: None if at is None else of(at) for costing, at in where.items()},
        {c: None if at is None else dataclasses.asdict(at.accelerator) for c, at in where.items()},
        published,
        source,
    )


def saving_percent_of(better: At | None, worse: At | None) -> float | None:
    """How much carbon the better one saves, per cent; None where one is missing."""
    if better is None or worse is None:
        return None
    return 100 * (1 - better.costs.carbon_kgco2e / worse.costs.carbon_kgco2e)


def slowdown_of(slower: At | None, faster: At | None) -> float | None:
    """How many times as long the slower one takes; None where one is missing."""
    if slower is None or faster is None:
        return None
    return slower.costs.latency_s / faster.costs.latency_s


def best_on(
    priced: Everything, network: str, mode: str, limits: Limits, region: str = ""
) -> dict[str, At | None]:
    """The accelerator of least cost for a network under each costing, within limits."""
    return {c: each.best(network, mode, limits, region) for c, each in priced.items()}


def limits_of(config: PaperConfig) -> Limits:
    """The limits where latency is none of the objectives."""
    latencies = config.latency_s
    return dataclasses.replace(config.limits, latency_s=latencies[len(latencies) // 2])


def variants_of(network: str) -> list[str]:
    """As released and, of TinyCLIP, as published costs have it."""
    return list(dict.fromkeys([network, as_printed(network)]))


def grade_of(found: float | None, published: float) -> str:
    """The verdict on one number that the paper gives a size of."""
    if found is None or found / published <= 0:
        return NO
    return YES if found / published >= 0.5 else IN_PART


def grade_of_all(grades: Sequence[str]) -> str:
    """The verdict on several."""
    if all(grade == YES for grade in grades):
        return YES
    return NO if all(grade == NO for grade in grades) else IN_PART


def text_of(value: float | None, form: str = ".0f") -> str:
    """A number, or "none"."""
    return "none" if value is None else format(value, form)


def list_of(values: Sequence[float | None], form: str = ".0f") -> str:
    """Numbers with commas between."""
    return ", ".join(text_of(value, form) for value in values)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
