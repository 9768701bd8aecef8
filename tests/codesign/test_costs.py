"""Costs of whole designs: vector unit, area, breakdowns, an independent sum."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower
from codesign.cost import estimate
from codesign.cost.estimate import _check_fits
from codesign.cost.mapper import gemm_costs
from codesign.cost.model import clip_costs
from codesign.cost.technology import area_breakdown_mm2, technology, tops
from codesign.cost.vector_unit import vector_costs
from codesign.costing import costing_of
from codesign.scenario import Scenario
from codesign.workload import VectorOp, clip_workload, gather
from codesign.workload.operators import Gemm

SMALL = Architecture(
    vision=Tower(3, 24, 3, 40), text=Tower(2, 16, 2, 48), patch=4, image=16, context=9,
    projection=12, head_dim=8,
)
CHIP = Accelerator(2, 16, 4, 16, 32, 0.125)

@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_grid": "californa"}, r"unknown location 'californa'; did you mean 'california'\?"),
        ({"use_grid": "atlantis"}, r"unknown location 'atlantis'; choose from california"),
        ({"fab_grid": "taiwan_2021"}, r"location 'taiwan_2021'; did you mean 'taiwan_2022'"),
        ({"dram_technology": "core"}, r"unknown technology 'core'; choose from .*lpddr3_20nm"),
        ({"node_nm": 90}, r"node_nm: no component data for 90 nm; there are for 45, 40, 32"),
        ({"precision_bits": 12}, r"precision_bits: there is no 12; choose 4, 8 or 16"),
    ],
)
def test_unknown_names_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        clip_costs(SMALL, CHIP, Scenario(**changes))
    with pytest.raises(ValueError, match=f"^scenario.{next(iter(changes))}: "):
        estimate(SMALL, CHIP, Scenario(**changes))


# --- area and peak throughput --------------------------------------------------------------


def test_area_by_hand():
    """PE: MAC + 256 flip-flops; column: 32 more; lane: MAC + 96. SRAM: near CACTI's area."""
    chip = jax.tree.map(float, Accelerator(2, 64, 16, 256, 64, 4))
    mac, bit = 247.281, 2.19113
    area = area_breakdown_mm2(chip, Scenario())
    pes = 2 * 64 * 16 * (mac + 256 * bit) + 2 * 64 * 32 * bit
    assert float(area["pe"]) == pytest.approx(pes * 1e-6, rel=1e-5)
    assert float(area["vector"]) == pytest.approx(2 * 64 * (mac + 96 * bit) * 1e-6, rel=1e-5)
    assert float(area["l2"]) == pytest.approx(2 * 0.248147, rel=0.06)
    assert float(area["glb"]) == pytest.approx(3.40742, rel=0.06)


def test_tops_by_hand():
    assert float(tops(Accelerator(4, 256, 16), Scenario())) == pytest.approx(20.48)


# --- vector unit ---------------------------------------------------------------------------


def test_vector_unit_by_hand():
    """1,000 elements on 2 x 16 lanes: 32 rounds; add, softmax (compute) and a gather (DRAM)."""
    chip = jax.tree.map(jnp.float32, CHIP)
    tech = technology(chip, Scenario())
    workload = gather(
        [Gemm("g", 1, 1, 1)],
        [VectorOp("add", "add", 100_000, operands=2), VectorOp("softmax", "softmax", 1000),
         VectorOp("gather", "embedding", 1280)],
    )
    costs = vector_costs(workload, chip, tech)
    # 3,125 rounds of one cycle against 200,000 bytes read at min(128, 512, 2 x 32) a cycle.
    np.testing.assert_allclose(costs.cycles, [3125, 32 * 10, 1280 / 64], rtol=1e-6)
    lane = 0.339299 + 0.0445569 + 2 * 0.0594091
    np.testing.assert_allclose(costs.energy_pj["vector"], [1e5 * lane, 1e4 * lane, 0], rtol=1e-5)
    moved = np.array([3e5, 2e3, 2560])
    np.testing.assert_allclose(costs.energy_pj["dram"], 64 * moved, rtol=1e-6)
    for got, read, write in ((costs.energy_pj["l2"], tech.read_pj["l2"], tech.write_pj["l2"]),
                             (costs.energy_pj["glb"], tech.read_pj["glb"], tech.write_pj["glb"])):
        np.testing.assert_allclose(got, moved * (read + write), rtol=1e-5)


# --- whole designs -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def costs():
    return estimate(SMALL, CHIP)


def test_breakdowns_add_up(costs):
    for name, parts in costs.breakdown.items():
        assert sum(parts.values()) == pytest.approx(getattr(costs, name), rel=1e-5)
        assert min(parts.values()) > 0
    assert set(costs.breakdown["energy_j"]) == {
        "mac", "register", "l2", "glb", "dram", "vector", "leakage", "clock", "dram_background"
    }
    total = costs.operational_kgco2e + costs.embodied_kgco2e
    assert costs.carbon_kgco2e == pytest.approx(total)
    assert costs.tops == pytest.approx(2 * (2 * 16 * 4) * 625e6 / 1e12)


def test_costs_are_the_sum_of_operators(costs):
    """Float64 sum over operators listed here, carbon from its formula."""
    chip = jax.tree.map(jnp.float32, CHIP)
    tech = technology(chip, Scenario())
    gemms, vectors = [], []
    for tokens, tower, causal in ((17, SMALL.vision, False), (9, SMALL.text, True)):
        d, h, f, layers = tower.width, tower.heads, tower.ffn, tower.layers
        q = 8 * h
        gemms += [(tokens, d, q, 3 * layers), (tokens, 8, tokens, h * layers),
                  (tokens, tokens, 8, h * layers), (tokens, q, d, layers),
                  (tokens, d, f, layers), (tokens, f, d, layers), (1, d, 12, 1)]
        scores = h * tokens**2
        # elements, times, cycles an element, tensors read
        vectors += [(tokens * d, 2 * layers, 3, 1), (scores, layers, 10, 1),
                    (tokens * f, layers, 14, 1), (tokens * d, layers, 1, 2),
                    (tokens * d, 1, 1, 2), (12, 1, 3, 1)]
        vectors += [(scores, layers, 1, 1)] if causal else []
    gemms += [(16, 48, 24, 1), (1, 12, 1, 1)]
    vectors += [(17 * 24, 1, 3, 1), (24, 1, 3, 1), (9 * 16, 1, 0, 1), (9 * 16, 1, 3, 1)]

    m, k, n, count = np.array(gemms, np.float64).T
    by_gemm = jax.jit(jax.vmap(gemm_costs, in_axes=(0, 0, 0, None, None)))(m, k, n, chip, tech)
    cycles = np.sum(np.float64(by_gemm.cycles) * count)
    energy_pj = np.sum(np.float64(by_gemm.dynamic_pj) * count)
    transfer_pj = 64 + float(
        tech.read_pj["l2"] + tech.write_pj["l2"] + tech.read_pj["glb"] + tech.write_pj["glb"]
    )
    for elements, times, per_element, operands in vectors:
        cycles += times * max(
            np.ceil(elements / 32) * per_element, elements * max(operands, 1) / 64
        )
        energy_pj += times * elements * (
            per_element * float(tech.lane_pj) + (operands + 1) * transfer_pj
        )
    energy_j = 1e-12 * (energy_pj + cycles * float(tech.static_pj))
    assert costs.latency_s == pytest.approx(cycles / 625e6, rel=1e-5)
    assert costs.energy_j == pytest.approx(energy_j, rel=1e-5)
    operational = energy_j * 23_652_000 / 3.6e6 * 0.224
    embodied = costs.area_mm2 * (1.077 * 642 + 688.28) / 0.875 * 1e-5 + 0.184 / 0.875
    assert costs.operational_kgco2e == pytest.approx(operational, rel=1e-5)
    assert costs.embodied_kgco2e == pytest.approx(embodied, rel=1e-5)


def test_impossible_design_is_an_error():
    """Below the bounds of `estimate`, within which everything is mapped."""
    chip, scenario = dataclasses.replace(CHIP, l2_kib=0.003), Scenario()
    work = clip_workload(SMALL, costing_of(scenario))
    with pytest.raises(ValueError, match=r"fits no mapping on Accelerator.*raise l2_kib"):
        _check_fits(clip_costs(SMALL, chip, scenario), work, chip, scenario)


def test_grids_change_carbon_alone(costs):
    """The grids change carbon alone."""
    iceland = estimate(SMALL, CHIP, Scenario(use_grid="iceland", fab_grid="iceland"))
    assert iceland.energy_j == costs.energy_j
    assert iceland.operational_kgco2e == pytest.approx(costs.operational_kgco2e * 28 / 224)
    assert iceland.embodied_kgco2e < costs.embodied_kgco2e
