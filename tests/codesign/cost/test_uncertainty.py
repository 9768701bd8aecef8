"""Intervals of costs from the components' ranges, and what they do to a choice."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower
from codesign.cli import main
from codesign.cost.components import sampled
from codesign.cost.technology import area_breakdown_mm2
from codesign.cost.uncertainty import QUANTITIES, intervals, share_near_best, uncertain_costs
from codesign.costing import PHYSICAL, default_scenario
from codesign.scenario import Scenario
from codesign.search.hardware import robustness, search_hardware
from codesign.search.objectives import Limits
from codesign.space import AcceleratorChoices
from codesign.workload import VectorOp, gather
from codesign.workload.operators import Gemm

pytestmark = pytest.mark.usefixtures("quick_compilation")

WORK = gather([Gemm("g", 64, 96, 80, 3)], [VectorOp("add", "add", 4096, operands=2)])
SUBNETS = Scenario(subnet_shares=(0.3, 0.7))
CHIPS = Accelerator(
    *np.array([[1, 16, 4, 16, 32, 0.125, 2], [4, 64, 16, 64, 64, 1, 2]], np.float32).T
)


@pytest.fixture(scope="module")
def costs():
    return uncertain_costs([WORK, WORK], [0.3, 0.7], CHIPS, SUBNETS, samples=64, contents=0.0)


def test_areas_are_those_of_each_set(costs):
    drawn = sampled(PHYSICAL, 64)
    for i in (0, 63):
        components = jax.tree.map(lambda x, i=i: x[i], drawn)
        areas = sum(area_breakdown_mm2(CHIPS, Scenario(), components).values())
        np.testing.assert_allclose(costs.area_mm2[i], areas, rtol=1e-5)
    assert costs.energy_j.shape == (64, 2) and np.ptp(costs.energy_j[:, 0]) > 0


def test_intervals_hold_most_of_the_sets(costs):
    one = jax.tree.map(lambda x: x[:, 0], costs)
    found = intervals(one)
    assert tuple(found) == QUANTITIES
    for name, (low, high) in found.items():
        values = np.asarray(getattr(one, name))
        inside = np.mean((values >= low) & (values <= high))
        assert inside >= 0.85, name
        if name in ("area_mm2", "energy_j"):  # a latency may be that of one mapping
            assert inside == pytest.approx(0.9, abs=0.05)
    assert found["area_mm2"][1] > 1.3 * found["area_mm2"][0]


def test_a_family_is_the_mean_of_its_subnets(costs):
    """Of two that are not alike, and by share."""
    half = gather([Gemm("g", 32, 96, 80, 3)], [VectorOp("add", "add", 4096, operands=2)])
    apart = [
        uncertain_costs([WORK, half], shares, CHIPS, SUBNETS, samples=64, contents=0.0)
        for shares in ((1.0, 0.0), (0.0, 1.0), (0.3, 0.7))
    ]
    np.testing.assert_allclose(apart[0].energy_j, costs.energy_j, rtol=1e-5)
    assert (apart[1].energy_j < apart[0].energy_j).all()
    mean = 0.3 * apart[0].energy_j + 0.7 * apart[1].energy_j
    np.testing.assert_allclose(apart[2].energy_j, mean, rtol=1e-5)
    np.testing.assert_allclose(apart[2].latency_s, apart[0].latency_s, rtol=1e-5)


def test_share_near_best_by_hand():
    values = [[1.0, 1.01], [2.0, 1.0], [1.0, 3.0], [1.0, 1.03]]
    assert share_near_best(values, 0) == 0.75
    assert share_near_best(values, 1) == 0.5
    assert share_near_best(values, 1, tolerance=0.05) == 0.75


def test_a_search_says_how_far_its_choice_hangs_on_components():
    choices = AcceleratorChoices((1,), (16, 32), (4, 8), (16, 32), (32,), (0.125, 0.25), (2,))
    subnets = [WORK, WORK]
    found = search_hardware(
        subnets, choices, SUBNETS, Limits(), ("carbon", "area", "tops"), contents=0.0
    )
    robust = robustness(subnets, found, SUBNETS, samples=16, contents=0.0)
    assert set(robust) == {"carbon", "area", "tops"}
    # The smallest chip is the smallest whatever its parts measure; peak is no component's.
    assert robust["area"] == 1 and robust["tops"] == 1
    assert 0 <= robust["carbon"] <= 1
    with pytest.raises(ValueError, match="has no ranges"):
        robustness(subnets, found, default_scenario("catransformers"), samples=2, contents=0.0)


@pytest.mark.slow
def test_the_command_prints_intervals(tmp_path, capsys):
    tower = Tower(1, 16, 2, 16)
    clip = Architecture(tower, tower, patch=8, image=16, context=8, projection=8, head_dim=8)
    design = {
        "architecture": dataclasses.asdict(clip),
        "accelerator": dataclasses.asdict(Accelerator(1, 16, 4, 16, 32, 0.125)),
    }
    path = tmp_path / "design.json"
    path.write_text(json.dumps(design))
    assert main(["cost", str(path), "--uncertainty", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["uncertainty"].pop("sets") == 8 and set(found["uncertainty"]) == set(QUANTITIES)
    for name, (low, high) in found["uncertainty"].items():
        assert 0 < low <= high
        assert low < 4 * found["costs"][name] and high > found["costs"][name] / 4
    for message, more in (
        ("expected 2 to 100,000 sets", ["--uncertainty", "1"]),
        ("expected 2 to 100,000 sets", ["--uncertainty", "1000000000"]),
        ("catransformers costing has no ranges", ["--uncertainty", "--costing", "catransformers"]),
    ):
        assert main(["cost", str(path), *more]) != 0
        assert message in capsys.readouterr().err
