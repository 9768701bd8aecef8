"""Costs of whole designs: vector unit, area, breakdowns, an independent sum."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower
from codesign.cost import estimate
from codesign.cost.capacity import OverloadWarning
from codesign.cost.estimate import _no_mapping
from codesign.cost.mapper import gemm_costs
from codesign.cost.model import clip_costs, workload_costs
from codesign.cost.technology import area_breakdown_mm2, technology, tops
from codesign.cost.vector_unit import vector_costs
from codesign.costing import costing_of
from codesign.scenario import Scenario
from codesign.workload import VectorOp, clip_workload, gather
from codesign.workload.operators import Gemm

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = Architecture(
    vision=Tower(3, 24, 3, 40),
    text=Tower(2, 16, 2, 48),
    patch=4,
    image=16,
    context=9,
    projection=12,
    head_dim=8,
)
CHIP = Accelerator(2, 16, 4, 16, 32, 0.125)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_grid": "californa"}, r"unknown location 'californa'; did you mean 'california'\?"),
        ({"use_grid": "atlantis"}, r"unknown location 'atlantis'; choose from california"),
        ({"fab_grid": "taiwan_2021"}, r"location 'taiwan_2021'; did you mean 'taiwan_2022'"),
        ({"dram_technology": "core"}, r"unknown technology 'core'; choose from lpddr4, .*ddr4"),
        ({"node_nm": 90}, r"node_nm: no component data for 90 nm; there are for 45, 40, 32"),
        ({"precision_bits": 12}, r"precision_bits: there is no 12; choose 4, 8 or 16"),
    ],
)
def test_unknown_names_are_named(changes, message):
    """By the formulas, and before them by whatever checks a whole design."""
    scenario, work = Scenario(**changes), clip_workload(SMALL, costing_of(Scenario()))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: workload_costs(work, CHIP, scenario, 0.0))
    for price in (clip_costs, estimate):
        with pytest.raises(ValueError, match=f"^scenario.{next(iter(changes))}: "):
            price(SMALL, CHIP, scenario)


# --- area and peak throughput --------------------------------------------------------------


def test_area_by_hand():
    """PE: MAC, 256 latches, 8 flip-flops; column: 32 more; lane: MAC + 96. SRAM: 2.5 x CACTI."""
    chip = jax.tree.map(float, Accelerator(2, 64, 16, 256, 64, 4))
    mac, latch, bit = 164.185, 0.505763, 1.39054
    area = area_breakdown_mm2(chip, Scenario())
    pes = 2 * 64 * 16 * (mac + 256 * latch + 8 * bit) + 2 * 64 * 32 * bit
    assert float(area["pe"]) == pytest.approx(pes * 1e-6, rel=1e-5)
    assert float(area["vector"]) == pytest.approx(2 * 64 * (mac + 96 * bit) * 1e-6, rel=1e-5)
    assert float(area["l2"]) == pytest.approx(2.49863 * 2 * 0.248147, rel=0.06)
    assert float(area["glb"]) == pytest.approx(2.49863 * 3.40742, rel=0.06)


def test_area_beside_arrays_and_memories_by_hand():
    """Control and pads once, a router for each core after the first; pads do not shrink."""
    for cores in (1, 2, 4):
        chip = jax.tree.map(float, Accelerator(cores, 64, 16, 256, 64, 4))
        area, at_16 = (area_breakdown_mm2(chip, Scenario(node_nm=nm)) for nm in (22, 16))
        assert float(area["control"]) == pytest.approx(0.158195)
        assert float(area["pads"]) == float(at_16["pads"]) == pytest.approx(0.187137)
        assert float(area["noc"]) == pytest.approx((cores - 1) * 0.0132453)
        assert float(at_16["control"] / area["control"]) == pytest.approx(0.19 / 0.251667, rel=1e-4)


def test_tops_by_hand():
    assert float(tops(Accelerator(4, 256, 16), Scenario())) == pytest.approx(20.48)


# --- vector unit ---------------------------------------------------------------------------


def test_vector_unit_by_hand():
    """1,000 elements on 2 x 16 lanes: 32 rounds; add, softmax (compute) and a gather (DRAM)."""
    chip = jax.tree.map(jnp.float32, CHIP)
    tech = technology(chip, Scenario())
    workload = gather(
        [Gemm("g", 1, 1, 1)],
        [
            VectorOp("add", "add", 100_000, operands=2),
            VectorOp("softmax", "softmax", 1000),
            VectorOp("gather", "embedding", 1280),
        ],
    )
    costs = vector_costs(workload, chip, tech)
    # 3,125 rounds of one cycle, 200,000 bytes read at min(512, 2 x 32) a cycle, 300,000 moved on
    # two channels of 16 pins at 3,200 MT/s, 56 % of it.
    rate = 2 * 2 * 3200e6 * 0.56 / 625e6
    np.testing.assert_allclose(costs.cycles, [3e5 / rate, 32 * 10, 2560 / rate], rtol=1e-6)
    lane = 0.148202 + 0.0195702 + 2 * 0.0260936
    np.testing.assert_allclose(costs.energy_pj["vector"], [1e5 * lane, 1e4 * lane, 0], rtol=1e-5)
    moved = np.array([3e5, 2e3, 2560])
    np.testing.assert_allclose(costs.energy_pj["dram"], 8 * (8 + 1.83) * moved, rtol=1e-6)
    for got, read, write in (
        (costs.energy_pj["l2"], tech.read_pj["l2"], tech.write_pj["l2"]),
        (costs.energy_pj["glb"], tech.read_pj["glb"], tech.write_pj["glb"]),
    ):
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
        "mac",
        "register",
        "l2",
        "glb",
        "dram",
        "vector",
        "leakage",
        "clock",
        "control",
        "idle",
        "dram_background",
        "dram_refresh",
        "dram_between",
    }
    assert set(costs.breakdown["latency_s"]) == {"gemm", "vector", "start"}
    assert set(costs.breakdown["area_mm2"]) == {
        "pe",
        "vector",
        "l2",
        "glb",
        "control",
        "noc",
        "pads",
        "dram_phy",
    }
    total = costs.operational_kgco2e + costs.embodied_kgco2e
    assert costs.carbon_kgco2e == pytest.approx(total)
    assert costs.tops == pytest.approx(2 * (2 * 16 * 4) * 625e6 / 1e12)


def test_costs_are_the_sum_of_operators():
    """Float64 sum over operators listed here, all operands in DRAM; carbon from its formula."""
    costs = estimate(SMALL, CHIP, Scenario(hand_over=False))
    chip = jax.tree.map(jnp.float32, CHIP)
    tech = technology(chip, Scenario())
    gemms, vectors, starts = [], [], 0
    for tokens, tower, causal in ((17, SMALL.vision, False), (9, SMALL.text, True)):
        d, h, f, layers = tower.width, tower.heads, tower.ffn, tower.layers
        q = 8 * h
        gemms += [
            (tokens, d, q, 3 * layers),
            (tokens, 8, tokens, h * layers),
            (tokens, tokens, 8, h * layers),
            (tokens, q, d, layers),
            (tokens, d, f, layers),
            (tokens, f, d, layers),
            (1, d, 12, 1),
        ]
        scores = h * tokens**2
        # elements, times, cycles an element, tensors read
        vectors += [
            (tokens * d, 2 * layers, 3, 1),
            (scores, layers, 10, 1),
            (tokens * f, layers, 14, 1),
            (tokens * d, layers, 1, 2),
            (tokens * d, 1, 1, 2),
            (12, 1, 3, 1),
        ]
        vectors += [(scores, layers, 1, 1)] if causal else []
        # Three projections, the heads' scores and values at once, three more and the last; two
        # norms, softmax, activation, residual and mask, positions and the last norm.
        starts += layers * (3 + 2 + 3 + 5 + causal) + 1 + 2
    gemms += [(16, 48, 24, 1), (1, 12, 1, 1)]
    starts += 2 + 4
    vectors += [(17 * 24, 1, 3, 1), (24, 1, 3, 1), (9 * 16, 1, 0, 1), (9 * 16, 1, 3, 1)]

    m, k, n, count = np.array(gemms, np.float64).T
    by_gemm = jax.jit(jax.vmap(gemm_costs, in_axes=(0, 0, 0, None, None)))(m, k, n, chip, tech)
    cycles = np.sum(np.float64(by_gemm.cycles) * count)
    energy_pj = np.sum(np.float64(by_gemm.dynamic_pj) * count)
    transfer_pj = 8 * (8 + 1.83) + float(
        tech.read_pj["l2"] + tech.write_pj["l2"] + tech.read_pj["glb"] + tech.write_pj["glb"]
    )
    for elements, times, per_element, operands in vectors:
        dram_bytes = elements * (operands + 1)
        cycles += times * max(
            np.ceil(elements / 32) * per_element,
            elements * max(operands, 1) / 64,
            dram_bytes / float(tech.words_per_cycle["dram"]),
        )
        energy_pj += (
            times * elements * (per_element * float(tech.lane_pj) + (operands + 1) * transfer_pj)
        )
    cycles += 2000 * starts
    # 0.25 GB, the least of two channels: refreshed at work, else in self-refresh, 24 h a day of
    # which 6 are of use, once a second; what the chip's gates leave of its leakage in those 6.
    seconds = cycles / 625e6
    dram_j = 0.25e-3 * (7.6 * seconds + 1.6 * (4 - seconds))
    idle_j = 0.05 * float(tech.leakage_pj) * 625e6 * 1e-12 * (1 - seconds)
    energy_j = 1e-12 * (energy_pj + cycles * float(tech.static_pj)) + dram_j + idle_j
    assert costs.latency_s == pytest.approx(cycles / 625e6, rel=1e-5)
    assert costs.energy_j == pytest.approx(energy_j, rel=1e-5)
    operational = energy_j * 23_652_000 / 3.6e6 * 0.224
    embodied = costs.area_mm2 * (1.077 * 642 + 688.28) / 0.875 * 1e-5
    embodied += 0.25 * 0.048 / 0.875 + 0.150  # one package
    assert costs.operational_kgco2e == pytest.approx(operational, rel=1e-5)
    assert costs.embodied_kgco2e == pytest.approx(embodied, rel=1e-5)


def test_what_waits_on_the_chip_saves_dram_energy_and_no_carbon_of_making(costs):
    crossing = estimate(SMALL, CHIP, Scenario(hand_over=False))
    energy, more = (c.breakdown["energy_j"] for c in (costs, crossing))
    assert energy["dram"] < 0.7 * more["dram"] and energy["vector"] == more["vector"]
    assert costs.latency_s < crossing.latency_s
    assert costs.embodied_kgco2e == crossing.embodied_kgco2e


def test_starting_operators_takes_their_number_of_cycles(costs):
    """Alone of latency; and static energy with it."""
    at_once = estimate(SMALL, CHIP, Scenario(operator_start_cycles=0.0))
    assert at_once.breakdown["latency_s"]["start"] == 0
    for unit in ("gemm", "vector"):
        assert at_once.breakdown["latency_s"][unit] == costs.breakdown["latency_s"][unit]
    twice = estimate(SMALL, CHIP, Scenario(operator_start_cycles=4000.0))
    step = costs.latency_s - at_once.latency_s
    assert twice.latency_s - costs.latency_s == pytest.approx(step, rel=1e-4)
    assert twice.breakdown["energy_j"]["dram"] == costs.breakdown["energy_j"]["dram"]
    assert twice.breakdown["energy_j"]["control"] > costs.breakdown["energy_j"]["control"]


def test_a_chip_that_waits_leaks_what_its_gates_leave(costs):
    """Rarer inferences wait longer each; a chip that cannot be switched off leaks it all."""

    def idle_j(**changes):
        return estimate(SMALL, CHIP, Scenario(**changes)).breakdown["energy_j"]["idle"]

    leaks_w = costs.breakdown["energy_j"]["leakage"] / costs.latency_s
    for per_s, share in ((1.0, 0.05), (0.1, 0.05), (10.0, 1.0), (10.0, 0.0)):
        by_hand = share * leaks_w * (1 / per_s - costs.latency_s)
        found = idle_j(inferences_per_s=per_s, gated_leakage=share)
        assert found == pytest.approx(by_hand, rel=1e-4)
    with pytest.warns(OverloadWarning):
        assert idle_j(inferences_per_s=2 / costs.latency_s) == 0


def test_impossible_design_is_an_error():
    """Below the bounds of `estimate`, within which everything is mapped."""
    chip, scenario = dataclasses.replace(CHIP, l2_kib=0.003), Scenario()
    work = clip_workload(SMALL, costing_of(scenario))
    assert jax.jit(workload_costs)(work, chip, scenario, 0.0).latency_s == np.inf
    told = str(_no_mapping(work, chip, scenario))
    assert re.search(r"fits no mapping on Accelerator.*raise l2_kib", told)


def test_grids_change_carbon_alone(costs):
    """The grids change carbon alone."""
    iceland = estimate(SMALL, CHIP, Scenario(use_grid="iceland", fab_grid="iceland"))
    assert iceland.energy_j == costs.energy_j
    assert iceland.operational_kgco2e == pytest.approx(costs.operational_kgco2e * 28 / 224)
    assert iceland.embodied_kgco2e < costs.embodied_kgco2e
