"""What is said where nothing meets the limits: the design that comes nearest, by brute force."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.estimate import estimate
from codesign.search.front import every_network, unmet
from codesign.search.grid import best_accelerators
from codesign.search.nearest import _rounded_up, chip_text, network_text, shortfall
from codesign.search.objectives import FunctionLimit, Limits

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def every(table):
    """(architecture, accelerator, costs) of the whole space, one by one."""
    space, found = table.space, []
    for network in (every_network(space)[0], every_network(space)[-1]):
        architecture = space.architecture_at(network)
        for i in np.ndindex(1, 2, 2, 2, 1, 1, 1):
            chip = space.accelerator_at(np.array(i))
            found.append((architecture, chip, estimate(architecture, chip, table.scenario)))
    return found


def raised(said):
    """The limits that a message names as enough."""
    (part,) = re.findall(r"; ([^;]*) would do, for", said)
    return {key: float(value) for key, value in re.findall(r"(\w+) ([\d.e+-]+)", part)}


@pytest.mark.parametrize("together", [False, True])
def test_the_nearest_design_is_the_one_whose_limits_are_raised_least(table, every, together):
    latency_s = min(float(c.latency_s) for *_, c in every)
    area_mm2 = min(float(c.area_mm2) for *_, c in every)
    factor = 1.0001 if together else 0.5  # each can be met, on different chips; or none
    limits = Limits(latency_s=factor * latency_s, area_mm2=factor * area_mm2)
    said = unmet(table, limits)

    def worst(entry):
        costs = entry[2]
        return max(costs.latency_s / limits.latency_s, costs.area_mm2 / limits.area_mm2)

    architecture, chip, costs = min(every, key=worst)
    assert said.endswith(f"for {network_text(architecture)} on {chip_text(chip)}")
    assert ("not all together" in said) == together
    enough = Limits(**({"latency_s": limits.latency_s, "area_mm2": limits.area_mm2} | raised(said)))
    for key in raised(said):
        value = float(getattr(costs, key))
        assert value <= getattr(enough, key) <= 1.011 * value
    # What the line asks for is indeed enough.
    choice = best_accelerators(table, every_network(table.space), "carbon", enough)
    assert np.isfinite(choice.value).any()


def test_only_limits_that_are_exceeded_are_to_be_raised(table, every):
    latency_s = min(float(c.latency_s) for *_, c in every)
    said = unmet(table, Limits(latency_s=latency_s / 2, area_mm2=1e3))
    assert list(raised(said)) == ["latency_s"]


def twice_the_energy_j(costs):
    return 2 * costs.energy_j


def test_a_function_of_ones_own_is_a_limit_like_others(table):
    limits = Limits(functions=(FunctionLimit(twice_the_energy_j, 1e-12),))
    assert list(raised(unmet(table, limits))) == ["twice_the_energy_j"]
    assert not shortfall(limits).monotone and shortfall(Limits(latency_s=1.0)).monotone


@given(st.floats(1e-12, 1e12))
def test_what_is_named_is_never_below_what_it_takes(value):
    up = _rounded_up(value)
    assert value * (1 - 1e-5) <= up <= 1.011 * value
    assert float(f"{up:g}") == up
