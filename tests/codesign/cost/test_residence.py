"""Weights that stay in the global buffer: traffic by count, every way to a price the same."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign import Accelerator, Scenario, estimate
from codesign.configs.quickstart import config as quickstart
from codesign.cost import build_table, clip_costs
from codesign.cost.capacity import contents_bytes
from codesign.cost.chips import accelerator_grid, grid_costs
from codesign.cost.costing import PHYSICAL
from codesign.cost.demand import dense_demand
from codesign.cost.discrete import Job, priced
from codesign.cost.estimate import estimate_subnets
from codesign.cost.family import build_family_table
from codesign.cost.least import least_costs
from codesign.cost.model import run_workload
from codesign.cost.residence import fitting_share, with_resident_weights, worthwhile_share
from codesign.cost.technology import technology
from codesign.cost.world import World
from codesign.search import sweep as sweep_module
from codesign.search.objectives import Limits, objective
from codesign.search.sweep import sweep
from codesign.space import AcceleratorChoices, TowerChoices
from codesign.workload.blocks import Block, block_operators
from codesign.workload.clip import CLIP_FAMILY

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Often enough for memory that stays awake to pay.
BUSY = Scenario(inferences_per_s=400.0, resident_weights=True)
STREAMED = dataclasses.replace(BUSY, resident_weights=False)
SPACE = dataclasses.replace(
    quickstart.design_space(image=8, channels=1, context=16, vocab=200),
    vision=TowerChoices((1, 2, 4), (32, 48, 64), (1, 2), (64, 160)),
    text=TowerChoices((1, 3), (32, 40), (1, 2), (64,)),
    accelerator=AcceleratorChoices((1, 2), (8, 16), (2, 8), (8, 16), (32,), (1 / 16, 1 / 8, 1 / 2)),
)
TOTALS = ("latency_s", "energy_j", "area_mm2", "operational_kgco2e", "embodied_kgco2e")


def contents(architecture, scenario=BUSY):
    return float(contents_bytes(CLIP_FAMILY.memory(architecture, scenario), scenario))


def test_half_of_the_buffer_keeps_a_network_and_never_more():
    sizes = np.linspace(0.01, 3, 300)
    share = np.asarray(fitting_share(sizes, 1.0))
    assert (share[sizes <= 0.5] == 1).all() and (share[sizes >= 1] == 0).all()
    assert float(fitting_share(0.75, 1.0)) == pytest.approx(0.5)
    assert (share * sizes <= 0.5 + 1e-6).all()
    assert (np.diff(share) <= 0).all()


def test_weights_stay_as_far_as_that_saves():
    np.testing.assert_allclose(
        worthwhile_share(np.float32(100.0), np.float32([200, 100, 95, 90, 20, np.inf])),
        [0, 0, 0.5, 1, 1, 0],
        atol=1e-5,
    )
    # Where the network runs in neither way, or with the whole buffer alone.
    assert float(worthwhile_share(jnp.inf, jnp.inf)) == 0
    assert float(jax.grad(worthwhile_share)(jnp.inf, jnp.inf)) == 0


TOKENS, WIDTH, HEAD, HIDDEN = 64, 8, 8, 16


@pytest.mark.parametrize("cached", [False, True])
def test_what_crosses_the_dram_is_all_but_the_weights(cached):
    """The keys and values of a cache are no weights."""
    block = Block(WIDTH, 1, HEAD, HIDDEN)
    work = block_operators(block, tokens=TOKENS, cached=cached).workload
    weights = 4 * WIDTH * HEAD + 2 * WIDTH * HIDDEN
    chip = Accelerator(1, 8, 4, 16, 32, 1, 2)  # no mapping fetches anything twice
    chip = jax.tree.map(jnp.float32, chip)
    run = jax.jit(run_workload)(work, chip, technology(chip, BUSY))
    word_pj = technology(chip, BUSY).read_pj["dram"]
    streamed, kept = (float(x.energy_pj["dram"] / word_pj) for x in (run, run.resident))
    assert streamed == pytest.approx(weights + 5 * cached * TOKENS * WIDTH, rel=1e-3)
    assert kept == pytest.approx(5 * cached * TOKENS * WIDTH, rel=1e-3, abs=len(work.gemm_names))


def test_only_weights_are_taken_for_weights():
    model = dense_demand(SPACE.largest(), BUSY).workloads[0]
    kept = with_resident_weights(model)
    changed = {
        name
        for name, before, after in zip(
            model.gemm_names, model.live.second, kept.live.second, strict=True
        )
        if before != after
    }
    block = ("qkv", "out", "ffn_up", "ffn_down")
    assert changed == {
        "vision.patches",
        *(f"{tower}.{part}" for tower in ("vision", "text") for part in (*block, "projection")),
    }
    for before, after in zip(model.live[::2], kept.live[::2], strict=True):
        np.testing.assert_array_equal(before, after)


CHIP = Accelerator(1, 16, 8, 16, 32, 0.5)


def test_what_stays_awake_is_paid_for():
    """All of a network in half of the buffer: leakage of its banks, by the memory's own figures."""
    network = SPACE.largest()
    assert contents(network) < CHIP.glb_mib * 2**20 / 2
    costs, streamed = (estimate(network, CHIP, s) for s in (BUSY, STREAMED))
    glb = PHYSICAL.sram(BUSY, 1024.0 * CHIP.glb_mib, 64.0, World.of(BUSY).parts)
    idle_s = 1 / BUSY.inferences_per_s - costs.latency_s
    awake_w = (1 - BUSY.gated_leakage) * float(glb.leakage_w)
    awake_w *= contents(network) / (CHIP.glb_mib * 2**20)
    parts = costs.breakdown["energy_j"]
    assert parts["retention"] == pytest.approx(awake_w * idle_s, rel=1e-4)
    assert costs.energy_j == pytest.approx(sum(parts.values()), rel=1e-5)
    assert costs.energy_j < streamed.energy_j and costs.latency_s <= streamed.latency_s
    assert parts["dram"] < 0.5 * streamed.breakdown["energy_j"]["dram"]
    # Memory that is never switched off costs nothing more.
    on = dataclasses.replace(BUSY, gated_leakage=1.0)
    assert estimate(network, CHIP, on).breakdown["energy_j"]["retention"] == 0
    assert "retention" not in streamed.breakdown["energy_j"]


@pytest.mark.parametrize(
    ("scenario", "chip"),
    [
        (BUSY, dataclasses.replace(CHIP, glb_mib=1 / 16)),  # the network does not fit
        # Memory awake for a second takes more than its weights' way from the DRAM.
        (dataclasses.replace(BUSY, inferences_per_s=0.02), CHIP),
    ],
)
def test_weights_that_had_better_come_from_dram_do(scenario, chip):
    network = SPACE.largest()
    assert contents(network) > 2**20 / 16
    costs = estimate(network, chip, scenario)
    streamed = estimate(network, chip, dataclasses.replace(scenario, resident_weights=False))
    assert costs.breakdown["energy_j"].pop("retention") == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), costs, streamed)


@pytest.mark.parametrize(
    "off", [{"hand_over": False}, {"costing": "catransformers"}, {"resident_weights": False}]
)
def test_without_hand_over_none_stay(off):
    assert not World.of(dataclasses.replace(BUSY, **off)).resident_weights
    assert World.of(BUSY).resident_weights


@pytest.fixture(scope="module")
def table():
    return build_table(SPACE, BUSY)


def some(number, seed=0):
    steps = np.asarray(SPACE.steps)
    return np.random.default_rng(seed).integers(0, steps + 1, size=(number, len(steps)))


def design(space, row):
    return space.architecture_at(row), space.accelerator_at(space.part(row, "accelerator"))


def totals(costs):
    return {name: getattr(costs, name) for name in TOTALS}


@pytest.fixture(scope="module")
def relaxed(table):
    return jax.jit(jax.vmap(lambda z: totals(table.relaxed(z))))


def test_a_table_has_the_price_of_every_discrete_design(table, relaxed):
    rows = some(64)
    z = jnp.asarray(SPACE.encode(rows), jnp.float32)
    direct = jax.jit(jax.vmap(lambda z: totals(clip_costs(*SPACE.relax(z), BUSY))))(z)
    streamed = jax.jit(jax.vmap(lambda z: totals(clip_costs(*SPACE.relax(z), STREAMED))))(z)
    ratio = np.asarray(direct["energy_j"] / streamed["energy_j"])
    # Some stay, some do not, some do in part.
    assert (ratio < 0.97).any() and (ratio == 1).any()
    for name in TOTALS:
        np.testing.assert_allclose(relaxed(z)[name], direct[name], rtol=2e-5, err_msg=name)
    for row in rows[:4]:
        on_chips = table.on_every_accelerator(row)
        flat = np.ravel_multi_index(
            SPACE.part(row, "accelerator"),
            [len(d.choices) for d in SPACE.part(SPACE.dimensions, "accelerator")],
        )
        found = estimate(*design(SPACE, row), BUSY)
        for name in TOTALS:
            there = np.asarray(getattr(on_chips, name))
            there = np.broadcast_to(there, table.accelerators)[flat]
            assert there == pytest.approx(getattr(found, name), rel=2e-5), name


def test_slopes_are_finite_differences(table):
    """Between designs of which weights stay, do not, and do in part."""
    of = jax.jit(lambda z: jnp.log(table.relaxed(z).energy_j))
    slope = jax.jit(jax.grad(of))
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(12):
        z = jnp.asarray(rng.uniform(0.02, 0.98, len(SPACE.steps)), jnp.float32)
        found = np.asarray(slope(z))
        i = int(rng.integers(len(z)))
        step = np.zeros(len(z), np.float32)
        step[i] = 4e-3
        ahead, behind = (float(of(z + s * step)) for s in (1, -1))
        there = float(of(z))
        # A fold within the step has two slopes.
        one, other = (ahead - there) / 4e-3, (there - behind) / 4e-3
        if abs(one - other) < 0.02 * max(abs(one), abs(other), 0.05):
            assert found[i] == pytest.approx((one + other) / 2, rel=0.03, abs=2e-3)
            seen += 1
    assert seen >= 6


def test_operators_sum_to_the_network():
    network = SPACE.largest()
    work = dense_demand(network, BUSY).workloads[0]
    chips = CHIP, dataclasses.replace(CHIP, glb_mib=contents(network) / 0.75 / 2**20)
    for chip in chips:
        (found,) = priced([Job(work, chip, BUSY, contents(network))])
        seconds, joules = (np.sum(g) + np.sum(v) for g, v in zip(*found[1:], strict=True))
        assert seconds == pytest.approx(float(found.costs.latency_s), rel=1e-5)
        parts = dict(found.costs.breakdown["energy_j"])
        assert parts["retention"] > 0
        between = ("idle", "dram_refresh", "dram_between", "retention")
        alone = sum(parts.values()) - sum(parts[name] for name in between)
        assert joules == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.slow
def test_subnets_stay_where_the_densest_does():
    space = dataclasses.replace(SPACE, sparsity=((0.2, 0.5), (0.8,)))
    scenario = dataclasses.replace(BUSY, subnet_shares=(0.3, 0.7))
    table = build_family_table(space, scenario)
    row = np.array([*np.asarray(space.steps)])
    found = table.on_every_accelerator(row)
    subnets = estimate_subnets(*design(space, row), table.scenario, space.sparsity_at(row))
    energy_j = sum(s.share * s.costs.energy_j for s in subnets)
    there = np.asarray(found.energy_j)[-1]
    assert there == pytest.approx(energy_j, rel=2e-5)
    assert all(s.costs.breakdown["energy_j"]["retention"] > 0 for s in subnets)
    z = jnp.asarray(space.encode(row), jnp.float32)
    assert float(table.relaxed(z).energy_j) == pytest.approx(energy_j, rel=2e-5)


GRID = AcceleratorChoices((1, 4), (8, 32), (4, 16), (4, 32), (16, 64), (1 / 32, 1 / 8, 1 / 2), (1,))


@pytest.mark.slow
def test_a_sweep_finds_what_pricing_everything_does(monkeypatch):
    monkeypatch.setattr(sweep_module, "_CHUNK", 16)
    chips, demand = accelerator_grid(GRID), dense_demand(SPACE.largest(), BUSY)
    (work,), held = demand.workloads, demand.contents
    costs, low = (price(work, chips, BUSY, held) for price in (grid_costs, least_costs))
    streamed = grid_costs(work, chips, STREAMED, held)
    assert (np.asarray(costs.energy_j) < 0.97 * np.asarray(streamed.energy_j)).any()
    for name in TOTALS:
        found, bound = (np.asarray(getattr(c, name)) for c in (costs, low))
        assert (bound <= found * (1 + 1e-5)).all(), name
    for name in ("carbon", "latency", "energy"):
        of = objective(name)
        swept = sweep(demand, chips, Limits(), [of], whole=0)
        assert len(swept.places) < len(chips.cores)
        assert np.min(of(swept.priced.costs)) == pytest.approx(np.min(np.asarray(of(costs))))
