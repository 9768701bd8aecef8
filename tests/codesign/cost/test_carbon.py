"""Carbon: ACT's published model written out with its own numbers, yields, grids, lifetime.

The numbers of ACT are literal here, from github.com/facebookresearch/ACT (act/models),
so that neither our tables nor our arithmetic is held against itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from codesign.cost import carbon, tables
from codesign.costing import CATRANSFORMERS, default_scenario
from codesign.scenario import Scenario

pytestmark = pytest.mark.usefixtures("quick_compilation")

# nm: fab energy (kWh/cm2), gases at 95 % and at 99 % abatement (g/cm2); materials are 500
# g/cm2 at every node.
ACT_LOGIC = {
    28: (0.90, 175, 100),
    20: (1.20, 190, 110),
    14: (1.20, 200, 125),
    10: (1.475, 240, 150),
    8: (1.52, 240, 150),
    7: (2.15, 350, 200),
    5: (2.75, 430, 225),
    3: (3.25, 470, 275),
}
# g/kWh, 2022 and 2023 editions.
ACT_LOCATIONS = {
    "world": (301, 481),
    "india": (725, 713),
    "australia": (597, 549),
    "taiwan": (583, 642),
    "singapore": (495, 471),
    "usa": (380, 369),
    "europe": (295, 300),
    "brazil": (82, 98),
    "iceland": (28, 7.3),
    "japan": (485, 446),
    "korea": (430, 402),
}
ACT_SOURCES = {
    "coal": 820,
    "gas": 490,
    "biomass": 230,
    "solar": 41,
    "geothermal": 38,
    "hydropower": 24,
    "nuclear": 12,
    "wind": 11,
}
ACT_DRAM = {
    "ddr3_50nm": 600,
    "ddr3_40nm": 315,
    "ddr3_30nm": 230,
    "lpddr3_30nm": 201,
    "lpddr3_20nm": 184,
    "lpddr2_20nm": 159,
    "lpddr4": 48,
    "ddr4_10nm": 65,
}


def test_chips_on_the_whole_grid_of_act():
    """Every node x abatement x fab (both editions, and by source) x yield x area, to 0.1 %."""
    fabs = {name: both[1] for name, both in ACT_LOCATIONS.items()}
    fabs |= {f"{name}_2022": both[0] for name, both in ACT_LOCATIONS.items()}
    fabs |= ACT_SOURCES
    count = 0
    for nm, (kwh, gas95, gas99) in ACT_LOGIC.items():
        gases = {95: gas95, 97: (gas95 + gas99) / 2, 99: gas99}
        for (pct, gas), (fab, grid) in itertools.product(gases.items(), fabs.items()):
            for good, area_mm2 in itertools.product((1.0, 0.875, 0.5), (1.0, 31.99, 400.0)):
                grams = area_mm2 / 100 * (kwh * grid + gas + 500) / good
                scenario = Scenario(
                    node_nm=nm, fab_grid=fab, gas_abatement_pct=pct, logic_yield=good
                )
                got = carbon.chip_kgco2e(area_mm2, scenario)
                assert got == pytest.approx(grams / 1000, rel=1e-3), (nm, fab, pct, good)
                count += 1
    assert count == 8 * 3 * (11 + 11 + 8) * 3 * 3


@pytest.mark.parametrize(
    ("changes", "grams_per_cm2"),
    [
        # The 22 nm row is of ACT's 22nmScaling branch: 1.077 kWh, 188.28 and 110 g of gases.
        ({}, (1.077 * 642 + 188.28 + 500) / 0.875),
        ({"fab_grid": "taiwan_2022"}, (1.077 * 583 + 188.28 + 500) / 0.875),
        ({"fab_grid": 524.0}, (1.077 * 524 + 188.28 + 500) / 0.875),
        ({"gas_abatement_pct": 97}, (1.077 * 642 + (188.28 + 110) / 2 + 500) / 0.875),
        ({"fab_grid": 0.0, "logic_yield": 1.0}, 688.28),
        # 16 nm lies a third of the way from 14 to 20 nm; 45 nm takes the row of 28.
        ({"node_nm": 16, "logic_yield": 1.0}, 1.2 * 642 + (2 * 200 + 190) / 3 + 500),
        ({"node_nm": 45, "logic_yield": 1.0}, 0.9 * 642 + 175 + 500),
    ],
)
def test_nodes_between_and_grids_as_numbers(changes, grams_per_cm2):
    scenario = Scenario(**changes)
    assert carbon.chip_kgco2e(100.0, scenario) == pytest.approx(grams_per_cm2 / 1000, rel=1e-6)
    per_mm2 = carbon.chip_kgco2e(1.0, scenario)
    assert per_mm2 == pytest.approx(grams_per_cm2 / 1e5, rel=1e-6)


def test_published_figures_of_22_nm():
    """1,577, 1,504 and 1,432 g/cm2 for fabs at 642, 583 and 524 g/kWh."""
    for grid, grams in ((642, 1577), (583, 1504), (524, 1432)):
        assert carbon.chip_kgco2e(100.0, Scenario(fab_grid=grid)) == pytest.approx(
            grams / 1000, abs=0.0006
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node_nm": 90}, "node_nm: no fab data for 90 nm; there are for 3 to 45 nm"),
        ({"node_nm": 2}, "no fab data for 2 nm"),
        ({"fab_grid": "taiwain"}, r"unknown location 'taiwain'; did you mean 'taiwan'\?"),
    ],
)
def test_unknown_fabs_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        carbon.chip_kgco2e(1.0, Scenario(**changes))


# --- yield ---------------------------------------------------------------------------------


def test_murphys_yield_by_hand():
    """D = 0.1 per cm2 on 1 cm2: ((1 - e^-0.1) / 0.1)^2 = 0.9056; on 4 cm2, 0.6793."""
    scenario = Scenario(defects_per_cm2=0.1, logic_yield=0.5, fab_grid=0.0)
    assert float(carbon.chip_yield(100.0, scenario)) == pytest.approx(0.9056, abs=1e-4)
    assert float(carbon.chip_yield(400.0, scenario)) == pytest.approx(0.6793, abs=1e-4)
    exact = ((1 - math.exp(-0.4)) / 0.4) ** 2
    assert float(carbon.chip_kgco2e(400.0, scenario)) == pytest.approx(
        4 * 0.68828 / exact, rel=1e-5
    )


def test_murphys_yield_falls_and_is_differentiable():
    scenario = Scenario(defects_per_cm2=0.2)
    area = np.geomspace(1e-3, 2000, 50)
    good = np.asarray(carbon.chip_yield(area, scenario), np.float64)
    assert (good > 0).all() and (good <= 1).all() and (np.diff(good) <= 1e-6).all()
    assert good[0] == pytest.approx(1, abs=1e-3)
    slope = float(jax.grad(lambda a: carbon.chip_kgco2e(a, scenario))(100.0))
    rise = carbon.chip_kgco2e(101.0, scenario) - carbon.chip_kgco2e(99.0, scenario)
    assert slope == pytest.approx(float(rise) / 2, rel=1e-2)
    # Dearer than in proportion: a larger chip is also more often bad.
    assert slope > float(carbon.chip_kgco2e(100.0, scenario)) / 100


# --- DRAM of the reference's costing -------------------------------------------------------


@pytest.mark.parametrize("technology", ACT_DRAM)
def test_dram_by_technology(technology):
    scenario = dataclasses.replace(
        default_scenario("catransformers"), dram_technology=technology, dram_yield=0.8
    )
    made = CATRANSFORMERS.dram_devices(4.0, 2.0, 0.0, 0.0, scenario)
    assert made.kgco2e["dram"] == pytest.approx(4 * ACT_DRAM[technology] / 0.8 / 1000, rel=1e-6)


def test_dram_of_the_reference():
    """1 GB of LPDDR3 whatever it holds, in no package, that costs nothing to keep."""
    scenario = default_scenario("catransformers")
    capacity = CATRANSFORMERS.dram_capacity_gb(3e9, 8.0, scenario)
    made = CATRANSFORMERS.dram_devices(capacity, 8.0, 0.0, 0.01, scenario)
    assert capacity == 1 and sum(made.kgco2e.values()) == pytest.approx(0.2103, abs=5e-5)
    assert made.refresh_w == made.between_j == 0


# --- use -----------------------------------------------------------------------------------


def test_operational_carbon():
    """1 a second x 6 h x 365 days x 3 years of 0.05 J on California's 224 g/kWh."""
    assert Scenario().lifetime_inferences == 23_652_000
    by_hand = 0.05 * 23_652_000 / 3.6e6 * 224 / 1000
    assert carbon.operational_kgco2e(0.05, Scenario()) == pytest.approx(by_hand, rel=1e-6)
    abroad = Scenario(use_grid=100.0, inferences_per_s=2, hours_per_day=24, lifetime_years=1)
    by_hand = 0.05 * 2 * 86_400 * 365 / 3.6e6 * 100 / 1000
    assert carbon.operational_kgco2e(0.05, abroad) == pytest.approx(by_hand, rel=1e-6)


def test_every_grid_of_use_has_a_year_and_a_source():
    rows = tables.rows("use_grid")
    assert len(rows) >= 30 and len({row["location"] for row in rows}) == len(rows)
    for row in rows:
        assert 5 <= float(row["g_per_kwh"]) <= 900, row
        assert 2020 <= int(row["year"]) <= 2026, row
        assert len(row["source"]) > 10, row
    assert carbon.use_grid_g_per_kwh(Scenario(use_grid="california_2023")) == 262.67
    assert carbon.use_grid_g_per_kwh(Scenario(use_grid="france")) == 56
