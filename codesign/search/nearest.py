"""The design nearest to limits that nothing meets, so that a message can name what would do.

Nearest is the design whose largest cost, in units of its limit, is least: each limit would have to
be raised by that factor at most.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.model import Costs
from codesign.search.grid import AnyTable, Choice
from codesign.search.objectives import Limits, Objective
from codesign.workload.clip import CLIP_FAMILY
from codesign.workload.families import ModelFamily


def shortfall(limits: Limits) -> Objective:
    """The largest cost in units of its limit; at most 1 where all limits are met."""
    bounds = tuple(limits.bounds())

    def of(costs: Costs) -> Any:
        ratios = [bounded(costs) / limit for bounded, limit in bounds]
        maximum = jnp.maximum if isinstance(ratios[0], jax.Array) else np.maximum
        return functools.reduce(maximum, ratios)

    return Objective("shortfall", "shortfall", of, all(bounded.monotone for bounded, _ in bounds))


def enough(costs: Costs, limits: Limits) -> str:
    """The limits that the costs of a design exceed, raised to what it takes, in a few digits."""
    raised = [
        f"{bounded.key} {_rounded_up(value):g}"
        for bounded, limit in limits.bounds()
        if (value := float(bounded(costs))) > limit
    ]
    return " and ".join(raised)


def nearest(table: AnyTable, networks: np.ndarray, limits: Limits, choice: Choice) -> str:
    """What the nearest of some networks on any accelerator would take, as a part of a message.

    Args:
      table: exact costs.
      networks: choice indices [n, d].
      limits: that none of them meets.
      choice: the accelerators on which they fall short of the limits least.
    """
    best = int(np.argmin(choice.value))
    at, space = int(choice.accelerator[best]), table.space
    costs = table.on_accelerator(jnp.asarray(networks[best]), at)
    chip = space.accelerator_at(np.asarray(table.accelerator_indices(jnp.asarray(at))))
    network = space.architecture_at(networks[best])
    shown = network_text(network, space.family)
    return f"{enough(costs, limits)} would do, for {shown} on {chip_text(chip)}"


def chip_text(chip: Accelerator) -> str:
    """An accelerator by its fields."""
    return _fields_text(chip)


def network_text(network: Any, family: ModelFamily = CLIP_FAMILY) -> str:
    """A network by its towers."""
    return "; ".join(
        f"{name} {_fields_text(family.tower(network, name))}" for name in family.towers
    )


def _fields_text(part: Any) -> str:
    fields = ((field.name, getattr(part, field.name)) for field in dataclasses.fields(part))
    return ", ".join(f"{name} {float(value):g}" for name, value in fields)


def _rounded_up(value: float, digits: int = 3) -> float:
    """The next number of so many digits that is not below."""
    scale = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    # As it is read back: at 5 digits more, noise of the division is no next number.
    return float(f"{math.ceil(round(value / scale, 5)) * scale:.{digits}g}")
