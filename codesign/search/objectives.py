"""What a search makes small, and what it must not exceed: functions of a design's costs.

Anywhere an objective is asked for (`--targets.mode`, `HardwareConfig.objectives`, the functions
here) it may be

* the name of a row of OBJECTIVES, "carbon" or "edp", or the key that the row has in files;
* a product of powers of these, "carbon^0.7 * latency^0.3": the weighted sum of their logarithms,
  in which costs of different units weigh by their relative change; powers add up to at most 4;
* a function of Costs, written in a config file, or in any file as "FILE.py:NAME". A last word of
  its name that is a unit (`_s`, `_j`, `_mm2`, `_kgco2e`) is taken for one.

A row of OBJECTIVES is all that a new named objective takes; its key is then a limit too, once it
is a field of Limits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from codesign.bounds import DocInfo, Predicate
from codesign.constraints import Positive
from codesign.cost.model import Costs
from codesign.errors import UserError, did_you_mean
from codesign.quantities import without_unit
from codesign.scenario import Scenario
from codesign.userfile import is_member, load_member

CostFunction: TypeAlias = Callable[[Costs], Any]


@dataclasses.dataclass(frozen=True)
class Objective:
    """One number that a design costs; less is better.

    Attributes:
      name: what users call it, "carbon"; fit for a file's name.
      key: its name in files, unit included, "carbon_kgco2e".
      of: the number, of Costs of any shape; positive, and differentiable where it is searched.
      monotone: whether it never falls when a cost rises; of a user's own function nobody knows.
    """

    name: str
    key: str
    of: CostFunction
    monotone: bool = True

    def __call__(self, costs: Costs) -> Any:
        """The number, in the shape of the costs."""
        return self.of(costs)


def _cost(name: str, key: str) -> Objective:
    return Objective(name, key, operator.attrgetter(key))


OBJECTIVES = (
    _cost("carbon", "carbon_kgco2e"),
    _cost("latency", "latency_s"),
    _cost("energy", "energy_j"),
    _cost("area", "area_mm2"),
    _cost("operational", "operational_kgco2e"),
    _cost("embodied", "embodied_kgco2e"),
    _cost("tops", "tops"),
    Objective("edp", "edp_js", lambda costs: costs.energy_j * costs.latency_s),
    Objective(
        "carbon-delay", "carbon_delay_kgco2es", lambda costs: costs.carbon_kgco2e * costs.latency_s
    ),
)
_NAMED = {name: row for row in OBJECTIVES for name in (row.name, row.key)}
# A factor of a product of powers.
_FACTOR = re.compile(r"\s*([\w-]+?)\s*(?:\^\s*(\d+\.?\d*|\.\d+))?\s*")
# What the powers of a product may add up to.
_MOST_POWERS = 4
# Keys in files of the costs that searches were always made for.
METRIC = {row.name: row.key for row in OBJECTIVES[:3]}


def objective(mode: str | CostFunction) -> Objective:
    """The objective that a name, a product of powers, or a function stands for.

    Raises:
      ValueError: there is none of that name, or its file cannot be run.
    """
    if isinstance(mode, Objective):
        return mode
    if callable(mode):
        name = getattr(mode, "__name__", type(mode).__name__)
        return Objective(without_unit(name), name, _told(name, mode), monotone=False)
    if mode in _NAMED:
        return _NAMED[mode]
    if is_member(mode):
        return _of_file(mode)
    return _product(mode)


def _of_file(name: str) -> Objective:
    """The objective of "FILE.py:NAME"."""
    try:
        found = load_member(name, "objective")
    except UserError as error:
        raise ValueError(str(error)) from error
    if not callable(found):
        raise ValueError(f"the objective {name} is a {type(found).__name__}, not a function")
    return objective(found)


def _told(name: str, function: CostFunction) -> CostFunction:
    """A user's function, whose errors are one line."""

    @functools.wraps(function, updated=())
    def of(costs: Costs) -> Any:
        try:
            return function(costs)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"objective {name}: {why}; a search gives it the totals of Costs, without breakdown"
            ) from error

    return of


def _product(text: str) -> Objective:
    """The objective of "carbon^0.7 * latency^0.3"."""
    factors = []
    for factor in text.split("*"):
        parsed = _FACTOR.fullmatch(factor)
        if parsed is None or parsed[1] not in _NAMED:
            name = parsed[1] if parsed else factor.strip()
            raise ValueError(
                f"there is no objective '{name}'; {did_you_mean(name, _NAMED)} "
                "(or a product of powers such as carbon^0.7*latency^0.3)"
            )
        factors.append((_NAMED[parsed[1]], float(parsed[2] or 1)))
    if not any(power for _, power in factors):
        raise ValueError(f"the objective '{text}' has no power above 0")
    # Products of small numbers to high powers are 0 in float32.
    if (powers := sum(power for _, power in factors)) > _MOST_POWERS:
        raise ValueError(
            f"the powers of the objective '{text}' add up to {powers:g}; only their ratios matter, "
            f"so divide them until they are at most {_MOST_POWERS}"
        )

    def of(costs: Costs) -> Any:
        return math.prod(_precise(row(costs)) ** power for row, power in factors)

    name = "-".join(f"{row.name}{power:g}" for row, power in factors)
    return Objective(name, re.sub(r"\W", "_", name), of)


def _precise(values: Any) -> Any:
    """NumPy's numbers in float64; others, traced ones too, as they are."""
    return np.asarray(values, float) if isinstance(values, (np.ndarray, np.floating)) else values


def is_objective(mode: Any) -> bool:
    """Whether `objective` knows it."""
    try:
        objective(mode)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


Mode: TypeAlias = Annotated[
    str | CostFunction,
    Predicate(is_objective),
    DocInfo(
        ", ".join(repr(row.name) for row in OBJECTIVES)
        + ", a product of powers such as 'carbon^0.7*latency^0.3', or a function of Costs, such as "
        "FILE.py:NAME"
    ),
]


@dataclasses.dataclass(frozen=True)
class FunctionLimit:
    """A limit on a function of a config file.

    Attributes:
      of: the function of Costs.
      limit: its largest value.
    """

    of: CostFunction
    limit: float


@dataclasses.dataclass(frozen=True)
class Limits:
    """Hard limits that every feasible design meets; None is no limit.

    Attributes:
      latency_s: longest time of one inference, s.
      area_mm2: largest chip, mm2.
      tops: highest peak throughput, 1e12 int8 operations/s.
      energy_j: most energy of one inference, J.
      carbon_kgco2e: most carbon, in use and embodied, kgCO2e.
      operational_kgco2e: most carbon in use, kgCO2e.
      embodied_kgco2e: most embodied carbon, kgCO2e.
      edp_js: largest energy x delay, J s.
      carbon_delay_kgco2es: largest carbon x delay, kgCO2e s.
      functions: limits on functions of Costs, in a config file.
    """

    latency_s: Positive | None = None
    area_mm2: Positive | None = None
    tops: Positive | None = None
    energy_j: Positive | None = None
    carbon_kgco2e: Positive | None = None
    operational_kgco2e: Positive | None = None
    embodied_kgco2e: Positive | None = None
    edp_js: Positive | None = None
    carbon_delay_kgco2es: Positive | None = None
    functions: tuple[FunctionLimit, ...] | None = None

    def bounds(self) -> Iterator[tuple[Objective, float]]:
        """Every limit that is set, with what it bounds."""
        for field in dataclasses.fields(Limits):
            limit = getattr(self, field.name)
            if field.name != "functions" and limit is not None:
                yield _NAMED[field.name], limit
        for own in self.functions or ():
            yield objective(own.of), own.limit

    def active(self) -> dict[str, float]:
        """The limits that are set, by the key of the cost they bound."""
        return {bounded.key: limit for bounded, limit in self.bounds()}


def keeping_up(limits: Limits, scenario: Scenario) -> Limits:
    """The limits, with the latency at which a chip just keeps up with the scenario's inferences."""
    longest = 1 / scenario.inferences_per_s
    if limits.latency_s is not None and limits.latency_s <= longest:
        return limits
    return dataclasses.replace(limits, latency_s=longest)


def metric(costs: Costs, mode: str | CostFunction) -> Any:
    """The cost that `mode` makes small."""
    return objective(mode)(costs)


def feasible(costs: Costs, limits: Limits) -> Any:
    """Whether the costs meet every limit; bool of the costs' shape."""
    met = jnp.isfinite(costs.latency_s)
    for bounded, limit in limits.bounds():
        met = met & (bounded(costs) <= limit)
    return met


def excess(costs: Costs, limits: Limits, mode: str | CostFunction, target: Any) -> jax.Array:
    """log(cost / bound) for the target of the mode and every limit, [1 + limits].

    Positive where a bound is exceeded; in logarithms, so that bounds of any unit weigh
    alike and the pull near a bound does not depend on its size.
    """
    ratios = [metric(costs, mode) / target]
    ratios += [bounded(costs) / limit for bounded, limit in limits.bounds()]
    return jnp.log(jnp.stack(ratios))


def least_index(sought: Objective, costs: Costs, allowed: np.ndarray) -> int:
    """Index of the least objective among the allowed ones, of which there are some.

    Args:
      sought: of what.
      costs: leaves [A].
      allowed: [A].

    Raises:
      UserError: it gives something else than a finite number for each.
    """
    values = np.asarray(sought(costs), float)
    if values.shape not in ((), allowed.shape):
        raise UserError(
            f"objective {sought.name}: it gives numbers of shape {list(values.shape)} for "
            f"{len(allowed)} accelerators; it must give one for each"
        )
    values = np.broadcast_to(values, allowed.shape)
    if wrong := int((~np.isfinite(values[allowed])).sum()):
        raise UserError(
            f"objective {sought.name}: it is no finite number on {wrong:,} of the "
            f"{int(allowed.sum()):,} accelerators within the limits"
        )
    return int(np.argmin(np.where(allowed, values, np.inf)))


def named_costs(costs: Costs, modes: Sequence[str | CostFunction]) -> dict[str, Any]:
    """The objectives of the costs by their keys in files."""
    return {row.key: row(costs) for row in map(objective, modes)}


def spread_targets(largest: float, low: float, high: float, designs: int) -> list[float]:
    """Targets spaced evenly in the logarithm from low to high times the largest cost."""
    if designs == 1:
        return [largest * low]
    return [largest * low * (high / low) ** (i / (designs - 1)) for i in range(designs)]
