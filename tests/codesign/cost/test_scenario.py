"""A scenario's numbers are leaves: traced, mapped, derived by, and no reason to compile anew."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from codesign import Accelerator, Scenario, clip_costs, clip_vit_b16, estimate
from codesign.cost.capacity import OverloadWarning
from codesign.cost.discrete import _map, _sum
from codesign.cost.estimate import estimate_subnets, family_costs

pytestmark = pytest.mark.usefixtures("quick_compilation")

DESIGN = clip_vit_b16(), Accelerator()


def with_all(**fields):
    """A scenario none of whose numbers is None."""
    given = {
        "dram_gb": 2.0,
        "dram_data_rate_mts": 3200.0,
        "dram_channel_bits": 32,
        "dram_usable_share": 0.8,
        "dram_package_g": 100.0,
        "defects_per_cm2": 0.1,
    }
    return Scenario(**given | fields)


def test_a_scenario_is_put_together_again_with_its_grids_as_numbers():
    scenario = Scenario(use_grid="sweden", subnet_shares=(0.5, 0.5), texts_per_image=0, dram_gb=2)
    numbers, structure = jax.tree.flatten(scenario)
    again = jax.tree.unflatten(structure, numbers)
    assert again == dataclasses.replace(scenario, use_grid=again.use_grid, fab_grid=again.fab_grid)
    assert all(isinstance(x, float) for x in numbers)
    assert len(numbers) == len(jax.tree.leaves(Scenario(dram_gb=2))) - 1  # the texts


@pytest.mark.parametrize(
    "other",
    [
        {"use_grid": "sweden"},
        {"use_grid": 250.0},
        {"fab_grid": "taiwan_2022"},
        {"lifetime_years": 5},
        {"clock_mhz": 500.0},
        {"inferences_per_s": 7},
        {"texts_per_image": 3},
        {"gated_leakage": 1},
        {"dram_system_gb": 0.3},
    ],
    ids=str,
)
def test_scenarios_of_other_numbers_are_one_program(other):
    estimate(*DESIGN)
    programs = _map._cache_size(), _sum._cache_size()
    before = estimate(*DESIGN)
    after = estimate(*DESIGN, Scenario(**other))
    assert (_map._cache_size(), _sum._cache_size()) == programs
    assert after.carbon_kgco2e != before.carbon_kgco2e


@pytest.fixture(scope="module")
def carbon_and_slopes():
    """(scenario) -> the carbon of DESIGN and its derivatives by the scenario's numbers."""

    def carbon(scenario):
        return clip_costs(*DESIGN, scenario).carbon_kgco2e

    return jax.jit(jax.value_and_grad(carbon))


def test_carbon_has_the_slopes_of_finite_differences_in_every_number(carbon_and_slopes):
    names = [key[0].name for key, _ in jax.tree_util.tree_leaves_with_path(with_all())]
    assert len(names) == 19
    for name in names:
        # Wider channels come in more packages, in steps whose mean slope is not a difference.
        scenario = with_all(**{"dram_package_g": 0.0} if name == "dram_channel_bits" else {})
        _, slopes = carbon_and_slopes(scenario)
        at = float(getattr(jax.tree.unflatten(*reversed(jax.tree.flatten(scenario))), name))
        if name == "glb_bytes_per_cycle":
            continue  # of its piecewise constant part float32 shows noise alone
        step = 0.02 * at
        high, low = (
            float(carbon_and_slopes(dataclasses.replace(scenario, **{name: at + d}))[0])
            for d in (step, -step)
        )
        slope = float(getattr(slopes, name))
        assert slope == pytest.approx((high - low) / (2 * step), rel=0.02, abs=2e-6 / at), name


def test_arrays_are_priced_as_their_elements(recwarn):
    architecture, _ = DESIGN
    chips = Accelerator(pe_x=np.array([32, 128])[:, None], channels=np.array([[1], [4]]))
    scenario = Scenario(
        lifetime_years=np.array([1, 3, 8]), inferences_per_s=np.array([1.0, 2.0, 100.0])
    )
    costs = estimate(architecture, chips, scenario)
    assert costs.carbon_kgco2e.shape == costs.breakdown["energy_j"]["dram"].shape == (2, 3)
    assert "busy" in str(recwarn.pop(OverloadWarning).message)  # the slow chip, 100 a second
    for (i, j), carbon in np.ndenumerate(costs.carbon_kgco2e):
        chip = Accelerator(pe_x=int(chips.pe_x[i, 0]), channels=int(chips.channels[i, 0]))
        years, rate = int(scenario.lifetime_years[j]), float(scenario.inferences_per_s[j])
        alone = estimate(architecture, chip, Scenario(lifetime_years=years, inferences_per_s=rate))
        assert carbon == pytest.approx(alone.carbon_kgco2e, rel=1e-5)
        assert costs.latency_s[i, j] == pytest.approx(alone.latency_s, rel=1e-5)


def test_a_family_is_priced_in_every_scenario():
    years = np.array([1, 10])
    costs = estimate(*DESIGN, Scenario(lifetime_years=years), sparsity=(0.5, 0.8))
    for i, number in enumerate(years):
        scenario = Scenario(lifetime_years=int(number))
        alone = family_costs(estimate_subnets(*DESIGN, scenario, (0.5, 0.8)))
        assert costs.carbon_kgco2e[i] == pytest.approx(alone.carbon_kgco2e, rel=1e-6)


@pytest.mark.parametrize(
    ("chip", "scenario", "message"),
    [
        ({"pe_x": np.array([32, -1])}, {}, "accelerator.pe_x: -1 is off the grid"),
        ({"pe_x": np.array([])}, {}, "an array has no element"),
        (
            {"pe_x": np.array([32, 64]), "pe_y": np.array([1, 2, 4])},
            {},
            "arrays of the shapes (2,), (3,) do not broadcast",
        ),
        ({"pe_x": np.array([32, 64.5])}, {}, "accelerator.pe_x: 64.5 is off the grid"),
        ({}, {"dram_gb": np.array([2, 0.001])}, "0.001 GB cannot hold 0.151 GB"),
        ({}, {"use_grid": np.array([100, 0.2])}, "0.2 gCO2e/kWh is not plausible"),
    ],
)
def test_a_design_of_many_that_cannot_be_is_named(chip, scenario, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        estimate(DESIGN[0], Accelerator(**chip), Scenario(**scenario))


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_under_a_transformation_the_function_to_use_is_named(transform):
    def carbon(years):
        return estimate(*DESIGN, Scenario(lifetime_years=years)).carbon_kgco2e

    with pytest.raises(ValueError, match="use clip_costs under them"):
        transform(carbon)(np.ones(2, np.float32) if transform is jax.vmap else 3.0)
