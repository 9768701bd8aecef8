"""Where the time and energy of a run's designs go, operator by operator, priced again.

Run folders keep totals, of which a report shows the operators behind them: the cost model is asked
once more, and is only believed where it still gives the totals that the run wrote down.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codesign.cost.capacity import contents_bytes
from codesign.cost.costing import costing_of
from codesign.cost.demand import Demand, dense_demand, sparse_demand
from codesign.cost.discrete import Job, Priced, priced
from codesign.design_file import Design, parse_design
from codesign.errors import UserError
from codesign.report.entries import cost
from codesign.report.text import is_number
from codesign.scenario import Scenario
from codesign.workload import Model, Workload, load_model

# How far a total may be from the run's: single precision, on another machine.
_TOLERANCE = 1e-2

Row = Mapping[str, Any]
Parts = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Split:
    """One design's costs, taken apart.

    Attributes:
      operators: "latency_s" and "energy_j" by operator, an operator's starts and its share of the
        static energy included. Energy that passes between inferences belongs to none.
      parts: "latency_s", "energy_j", "area_mm2", "embodied_kgco2e" by part, as in
        `Costs.breakdown`.
    """

    operators: dict[str, Parts]
    parts: dict[str, Parts]


def split(designs: Sequence[Row], config: Row | None = None) -> list[Split | None]:
    """Operators and parts of designs of a run.

    Args:
      designs: entries of designs.json.
      config: of a hardware search, which says what model runs where designs have no architecture.

    Returns:
      One for each design; None where the design cannot be priced or the cost model no longer
      gives the costs that are written in it.
    """
    demands = [_demand(design, config or {}) for design in designs]
    splits = _priced([demand for demand in demands if demand is not None])
    found = [None if demand is None else next(splits) for demand in demands]
    return [
        one if one is not None and _agrees(one, design) else None
        for one, design in zip(found, designs, strict=True)
    ]


def _demand(design: Row, config: Row) -> tuple[Design, Demand] | None:
    """What runs, and on which chip; None where that cannot be told."""
    if not isinstance(design.get("accelerator"), Mapping) or cost(design, "energy_j") is None:
        return None
    try:
        if isinstance(design.get("architecture"), Mapping):
            read = parse_design(design)
            a, scenario = read.architecture, read.scenario
            if read.sparsity:
                return read, sparse_demand(a, scenario, read.sparsity)
            return read, dense_demand(a, scenario)
        read = parse_design({key: design[key] for key in ("accelerator", "scenario")})
        return read, _model_demand(_model(config, design), read.scenario)
    except (UserError, ValueError, KeyError, TypeError):
        return None


def _model(config: Row, design: Row) -> Model:
    options = {key: config.get(key) for key in ("tokens", "phase", "context")}
    numbers = tuple(sorted(options.items()))
    return _loaded(str(config["model"]), design.get("name") and config.get("name"), numbers)


@functools.lru_cache(maxsize=1)
def _loaded(model: str, name: str | None, options: tuple[tuple[str, Any], ...]) -> Model:
    return load_model(model, design=name, **dict(options))


def _model_demand(model: Model, scenario: Scenario) -> Demand:
    model = model.in_scenario(scenario)
    work = model.operators.under(costing_of(scenario))
    return Demand([work], (1.0,), float(contents_bytes(model.memory, scenario)), scenario)


def _priced(demands: Sequence[tuple[Design, Demand]]) -> Iterator[Split]:
    """The designs of any workloads, one after the other."""
    jobs = [
        Job(work, design.accelerator, demand.scenario, demand.contents)
        for design, demand in demands
        for work in demand.workloads
    ]
    each = iter(priced(jobs))
    for _, demand in demands:
        yield _of_family(demand, list(itertools.islice(each, len(demand.workloads))))


def _of_family(demand: Demand, subnets: Sequence[Priced]) -> Split:
    """Of one network, or of a family: energy by the subnets' shares, time of the slowest."""
    operators = [_by_operator(w, p) for w, p in zip(demand.workloads, subnets, strict=True)]
    parts = [subnet.costs.breakdown for subnet in subnets]
    slowest = max(range(len(parts)), key=lambda k: sum(parts[k]["latency_s"].values()))

    def mean(of_each: Sequence[Mapping[str, Any]]) -> Parts:
        return {
            name: float(sum(s * e[name] for s, e in zip(demand.shares, of_each, strict=True)))
            for name in of_each[0]
        }

    plain = lambda of_part: {name: float(x) for name, x in of_part.items()}  # noqa: E731
    return Split(
        {
            "latency_s": operators[slowest]["latency_s"],
            "energy_j": mean([each["energy_j"] for each in operators]),
        },
        {
            "latency_s": plain(parts[slowest]["latency_s"]),
            "energy_j": mean([each["energy_j"] for each in parts]),
            "area_mm2": plain(parts[0]["area_mm2"]),
            "embodied_kgco2e": plain(parts[0]["embodied_kgco2e"]),
        },
    )


def _by_operator(work: Workload, priced: Priced) -> dict[str, Parts]:
    """Sums by name: an element-wise operator of several steps has one."""
    found: dict[str, Parts] = {"latency_s": {}, "energy_j": {}}
    both = (work.gemm_names, priced.gemms), (work.vector_names, priced.vector)
    for names, (seconds, joules) in both:
        for name, s, j in zip(names, seconds, joules, strict=True):
            found["latency_s"][name] = found["latency_s"].get(name, 0.0) + float(s)
            found["energy_j"][name] = found["energy_j"].get(name, 0.0) + float(j)
    return found


def _agrees(found: Split, design: Row) -> bool:
    """Whether the costs are those that the run wrote down."""
    for key in ("latency_s", "energy_j"):
        ours, theirs = sum(found.parts[key].values()), cost(design, key)
        if not is_number(ours) or theirs is None:
            return False
        if not math.isclose(ours, theirs, rel_tol=_TOLERANCE):
            return False
    return True
