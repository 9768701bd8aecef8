"""Sweeps of large grids: bounds that hold for every mapping, and the answers of a full search.

As the product compiles: with fewer optimisations a fused multiply-add that made bounds no numbers,
and the answers wrong, went unseen.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from codesign import Accelerator
from codesign.cost.capacity import contents_bytes
from codesign.cost.chips import accelerator_grid, grid_costs, in_float32
from codesign.cost.costing import CATRANSFORMERS, PHYSICAL
from codesign.cost.demand import Demand
from codesign.cost.least import covers, gemm_least, least_costs
from codesign.cost.mapper import gemm_run
from codesign.cost.technology import technology
from codesign.scenario import Scenario
from codesign.search import sweep as module
from codesign.search.hardware import search_hardware
from codesign.search.objectives import Limits, feasible, objective
from codesign.search.sweep import sweep
from codesign.space import WIDE_GRID, AcceleratorChoices
from codesign.workload import Gemm, VectorOp, clip_workload, gather, load_model
from codesign.workload.operators import Live

# Two kinds of chips, crowded ones among them.
GRID = AcceleratorChoices(
    (1, 4), (8, 32, 128), (4, 16, 64), (4, 32), (16, 64), (1 / 32, 1 / 4, 2), (1, 4)
)
MODEL = load_model("tinyclip-8m-16")
HELD = float(contents_bytes(MODEL.memory, Scenario()))
SCENARIOS = (
    Scenario(),
    # Waiting for the next inference takes more energy than working.
    Scenario(
        hand_over=False,
        dram_technology="ddr4",
        dram_gb=16.0,
        inferences_per_s=0.5,
        gated_leakage=1.0,
        index_bits=12,
        precision_bits=4,
        texts_per_image=0.0,
    ),
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 32)


def work(density=1.0, scenario=SCENARIOS[0]):
    return clip_workload(MODEL.architecture, PHYSICAL, density, scenario.texts_per_image)


def demand(scenario=SCENARIOS[0], densities=(1.0,), shares=(1.0,)):
    works = [work(density, scenario) for density in densities]
    return Demand(works, shares, HELD, scenario)


@pytest.mark.slow  # every product of it is held to its bound below
@pytest.mark.parametrize("scenario", SCENARIOS, ids=["default", "odd"])
def test_no_accelerator_costs_less_than_its_bounds(scenario):
    chips = accelerator_grid(GRID)
    density = 0.3 if scenario.index_bits else 1.0
    low = least_costs(work(density, scenario), chips, scenario, HELD)
    costs = grid_costs(work(density, scenario), chips, scenario, HELD)
    for name in ("latency_s", "energy_j", "operational_kgco2e", "embodied_kgco2e"):
        found, bound = (np.asarray(getattr(c, name)) for c in (costs, low))
        assert (bound <= found * (1 + 1e-5)).all(), name
    # They would be of no use far below.
    assert np.median(np.asarray(costs.latency_s) / low.latency_s) < 1.1
    assert np.median(np.asarray(costs.energy_j) / low.energy_j) < 1.2


@jax.jit
def bounds_and_costs(work, chips, scenario):
    """Of every product on every accelerator."""

    def on(chip):
        tech = technology(chip, scenario)
        run = jax.vmap(gemm_run, in_axes=(0, 0, 0, None, None, 0, 0))
        found = run(work.m, work.k, work.n, chip, tech, work.density, work.live)
        return gemm_least(work, chip, tech), found

    return jax.vmap(on)(chips)


@pytest.mark.parametrize(
    ("bits", "index_bits"), [(8, 0), pytest.param(4, 12, marks=pytest.mark.slow)]
)
def test_no_product_costs_less_than_its_bounds(bits, index_bits):
    """Of any size, wherever its operands wait, on any accelerator that a design file may hold."""
    rng = np.random.default_rng(bits)
    products, number = 96, 128
    powers = (0, 4), (0, 10), (0, 10), (0, 12), (0, 9), (-6, 6), (0, 4)
    chips = in_float32(
        Accelerator(*(2.0 ** rng.integers(low, high + 1, number) for low, high in powers))
    )
    m, k, n = (np.floor(2 ** rng.uniform(0, 13, products)).astype(np.float32) for _ in range(3))
    m[:16], k[16:24], n[24:32] = 1, 1, rng.integers(1, 4, 8)
    # Infinite: an operand that waits in DRAM.
    live = Live(
        *(
            np.where(rng.random(products) < 0.3, np.inf, size * 2 ** rng.uniform(0, 3, products))
            for size in (m * k, k * n, m * n)
        )
    )
    density = rng.uniform(0.02, 1, products) if index_bits else None
    scenario = Scenario(precision_bits=bits, index_bits=index_bits)
    gemms = [Gemm(f"{i}", *size) for i, size in enumerate(zip(m, k, n, strict=True))]
    work = dataclasses.replace(
        gather(gemms, [VectorOp("v", "add", 9.0)], PHYSICAL), live=live, density=density
    )

    low, found = bounds_and_costs(work, chips, scenario)
    fits = np.isfinite(np.asarray(found.cycles))
    assert fits.mean() > 0.9
    for name in ("cycles", "dynamic_pj"):
        ratio = (np.asarray(getattr(found, name)) / np.asarray(getattr(low, name)))[fits]
        assert ratio.min() > 1 - 1e-5, name
        assert np.median(ratio) < 1.05, name  # far below they would be of no use


LIMITS = {
    "none": Limits(),
    "several": Limits(latency_s=0.05, area_mm2=4.0, tops=2.0),
    "tight": Limits(latency_s=0.006),
    "own": Limits(edp_js=1e-3),
}


SOUGHT = [objective(x) for x in ("carbon", "latency", "energy", "carbon^0.5*latency^0.5")]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(((1.0,), (1.0,)), id="1"),
        pytest.param(((1.0, 0.4), (0.3, 0.7)), id="2", marks=pytest.mark.slow),
    ],
)
def everything(request):
    """One network or a family of two, and the whole grid priced for it, whatever the limits."""
    scenario = Scenario() if len(request.param[0]) == 1 else Scenario(index_bits=12)
    of = demand(scenario, *request.param)
    return of, sweep(of, accelerator_grid(GRID), Limits(), SOUGHT).priced


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_the_answers_are_those_of_pricing_everything(limits, everything):
    of, every = everything
    every = every._replace(feasible=np.asarray(feasible(every.costs, limits)) & every.keeps_up)
    chips, sought = accelerator_grid(GRID), SOUGHT
    index, some = sweep(of, chips, limits, sought, ranks=3, whole=0)
    assert index.tolist() == sorted(set(index.tolist()))
    assert len(index) < len(chips.cores) / 2
    np.testing.assert_array_equal(every.feasible[index], some.feasible)
    for each in sought:
        values, all_values = (np.sort(each(p.costs)[p.feasible])[:3] for p in (some, every))
        np.testing.assert_array_equal(values, all_values)
    points, all_points = (
        module._front_of(module._points(jax.tree.map(lambda x, p=p: x[p.feasible], p.costs)))
        for p in (some, every)
    )
    np.testing.assert_array_equal(points, all_points)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyclip-8m-16", "clip-vit-b-16"])
def test_the_answers_on_the_shipped_grid_are_those_of_pricing_everything(name):
    """One whose activations all wait in the buffers there are, and one of which few do."""
    grid, model = accelerator_grid(WIDE_GRID), load_model(name)
    of = Demand(
        [clip_workload(model.architecture, PHYSICAL, 1.0, 1.0)],
        (1.0,),
        float(contents_bytes(model.memory, Scenario())),
        Scenario(),
    )
    some = np.sort(np.random.default_rng(0).choice(len(grid.cores), 12_000, replace=False))
    chips = jax.tree.map(lambda x: x[some], grid)
    _, every = sweep(of, chips, Limits(), SOUGHT, whole=len(some))
    fastest = every.costs.latency_s[every.keeps_up].min()
    for limits in (Limits(), Limits(latency_s=2.5 * fastest), Limits(area_mm2=3.0)):
        all_feasible = np.asarray(feasible(every.costs, limits)) & every.keeps_up
        _, found = sweep(of, chips, limits, SOUGHT, whole=0)
        assert len(found.feasible) < len(some) / 2
        for each in SOUGHT:
            assert each(found.costs)[found.feasible].min() == each(every.costs)[all_feasible].min()


def test_bounds_that_are_no_numbers_bound_nothing(everything, monkeypatch):
    of, every = everything
    rng = np.random.default_rng(0)

    def least(*args):
        return jax.tree.map(
            lambda x: np.where(rng.random(np.shape(x)) < 0.3, np.nan, x), least_costs(*args)
        )

    monkeypatch.setattr(module, "least_costs", least)
    limits = LIMITS["tight"]
    every = every._replace(feasible=np.asarray(feasible(every.costs, limits)) & every.keeps_up)
    _, some = sweep(of, accelerator_grid(GRID), limits, SOUGHT, ranks=3, whole=0)
    for each in SOUGHT:
        values, all_values = (np.sort(each(p.costs)[p.feasible])[:3] for p in (some, every))
        np.testing.assert_array_equal(values, all_values)


def test_of_a_grid_that_nothing_suits_no_more_is_mapped_than_beside_the_bounds():
    chips = accelerator_grid(GRID)
    index, priced = sweep(demand(), chips, Limits(latency_s=1e-9), [objective("carbon")], whole=0)
    assert index.size <= module._CHUNK < len(chips.cores)
    assert priced.feasible.shape == index.shape and not priced.feasible.any()


def test_what_has_no_bounds_is_priced_whole(monkeypatch):
    """A function of a user's own may fall with a cost; the reference's mapper has other rules."""
    chips = accelerator_grid(dataclasses.replace(GRID, pe_x=(8,), pe_y=(4,)))
    number = len(chips.cores)

    def least_used(costs):
        return -costs.energy_j

    monkeypatch.setattr(module, "_priced", lambda demand, chips, limits, price: price)
    index, price = sweep(demand(), chips, Limits(), [objective(least_used)], whole=0)
    assert len(index) == number and price is grid_costs
    assert covers(PHYSICAL) and not covers(CATRANSFORMERS)


@pytest.mark.slow
def test_limits_that_nothing_meets_are_told_of_as_on_a_small_grid(monkeypatch):
    choices = dataclasses.replace(GRID, cores=(1,), l2_kib=(4,))
    messages = []
    for whole in (10_000, 0):
        monkeypatch.setattr(module, "_WHOLE", whole)
        of = []
        for limits in (Limits(area_mm2=0.1), Limits(area_mm2=1.6, latency_s=0.01)):
            with pytest.raises(ValueError, match="no accelerator of the grid meets") as caught:
                search_hardware(work(), choices, Scenario(), limits, contents=HELD)
            of.append(str(caught.value))
        with pytest.raises(ValueError, match="keeps up with") as caught:
            search_hardware(
                work(), choices, Scenario(inferences_per_s=1e4), Limits(), contents=HELD
            )
        messages.append([*of, str(caught.value)])
    assert messages[0] == messages[1]
    assert "together" in messages[0][1]
