"""CostTable: equal to clip_costs at every design, continuous and differentiable between."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower
from codesign.cost import build_table, clip_costs
from codesign.cost import chips as chips_module
from codesign.cost.chips import accelerator_grid, in_float32, run_grid
from codesign.cost.discrete import Job, priced
from codesign.cost.execution import Execution
from codesign.cost.mapper import gemm_run
from codesign.cost.mapping import is_crowded
from codesign.cost.technology import technology
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices
from codesign.workload import Gemm, VectorOp, gather
from simulators.products import in_full

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCENARIO = Scenario(use_grid="taiwan", fab_grid=500.0)
SPACE = DesignSpace(
    base=Architecture(
        vision=Tower(1, 8, 1, 8),
        text=Tower(1, 8, 1, 8),
        patch=4,
        image=16,
        context=9,
        projection=12,
        head_dim=8,
    ),
    vision=TowerChoices((1, 2, 4), (16, 24, 32, 40), (1, 2, 3), (32, 64)),
    text=TowerChoices((1, 3), (16, 20), (1, 2), (24, 32, 64)),
    accelerator=AcceleratorChoices((1, 2), (8, 16), (2, 8), (8, 16), (32,), (0.0625, 0.25)),
)
TOTALS = ("latency_s", "energy_j", "area_mm2", "tops", "operational_kgco2e", "embodied_kgco2e")


@pytest.fixture(scope="module")
def table():
    return build_table(SPACE, SCENARIO)


@pytest.fixture(scope="module")
def relaxed(table):
    """z [B, d] -> {total: [B]}."""
    return batched(lambda z: totals(table.relaxed(z)), 64)


@pytest.fixture(scope="module")
def slopes(table):
    """z [B, d] -> {total: [B, d]}."""
    return batched(jax.jacrev(lambda z: totals(table.relaxed(z))), 4)


@pytest.fixture(scope="module")
def direct():
    """z [B, d] -> {total: [B]} by clip_costs."""
    return batched(lambda z: totals(clip_costs(*SPACE.relax(z), SCENARIO)), 64)


def batched(function, size):
    """jit(vmap(function)) called with batches of one size, so that it compiles once."""
    compiled = jax.jit(jax.vmap(function))

    def call(z):
        padded = np.pad(z, ((0, -len(z) % size), (0, 0)), mode="edge")
        parts = [compiled(part) for part in np.split(padded, len(padded) // size)]
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(z)], *parts)

    return call


def totals(costs):
    return {name: getattr(costs, name) for name in TOTALS}


def random_indices(designs, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, SPACE.steps + 1, size=(designs, len(SPACE.steps)))


def encode(indices):
    return jnp.asarray(SPACE.encode(indices), jnp.float32)


def assert_equal(got, expected, rtol=1e-5):
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], rtol=rtol, err_msg=name)


def test_relaxed_equals_clip_costs_at_discrete_designs(relaxed, direct):
    z = encode(random_indices(64))
    assert_equal(relaxed(z), direct(z))


def test_every_accelerator_is_the_right_one(table, relaxed):
    """Flat index a of on_every_accelerator is the design that accelerator_indices(a) names."""
    index = random_indices(1)[0]
    every = totals(table.on_every_accelerator(index))
    chips = np.asarray(table.accelerator_indices(jnp.arange(SPACE.accelerators)))
    assert chips.shape == (32, 7)
    designs = np.concatenate([np.tile(index[:8], (32, 1)), chips], axis=1)
    assert_equal(every, relaxed(encode(designs)))


def test_every_accelerator_jit_equals_no_jit(table):
    index = jnp.asarray(random_indices(3, seed=1))
    batched = jax.jit(jax.vmap(table.on_every_accelerator))(index)
    for i in range(3):
        alone = table.on_every_accelerator(index[i])
        assert_equal(totals(alone), {k: v[i] for k, v in totals(batched).items()}, rtol=1e-6)


def test_relaxed_jit_equals_no_jit_and_vmap_equals_loop(table, relaxed):
    z = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 15)), jnp.float32)
    together = relaxed(z)
    for i in range(3):
        alone = totals(table.relaxed(z[i]))
        assert_equal(alone, {k: v[i] for k, v in together.items()})


def test_relaxed_is_the_multilinear_interpolation(table, relaxed):
    """Mean of the exact costs over designs with every dimension rounded at random."""
    rng = np.random.default_rng(1)
    z = rng.uniform(size=15)
    lower = np.floor(z * SPACE.steps).astype(int)
    share = z * SPACE.steps - lower
    corners = np.array(np.meshgrid(*[[0, 1]] * 15, indexing="ij")).reshape(15, -1).T
    used = corners[(corners <= (share > 0)).all(axis=1)]  # a dimension of one choice has one
    weight = np.prod(np.where(used, share, 1 - share), axis=1)
    assert weight.sum() == pytest.approx(1)
    designs = np.minimum(lower + used, SPACE.steps)
    at_corners = relaxed(encode(designs))
    here = relaxed(jnp.asarray(z[None], jnp.float32))
    for name in TOTALS:
        expected = np.float64(at_corners[name]) @ weight
        assert float(here[name][0]) == pytest.approx(expected, rel=1e-4), name


def test_continuous_across_choices(relaxed):
    """A step of 1e-4 of a choice on either side moves the cost by no more than its share."""
    z = np.asarray(encode(random_indices(16, seed=2)))
    here = relaxed(jnp.asarray(z))
    for sign in (-1, 1):
        near = relaxed(jnp.asarray(np.clip(z + sign * 1e-4, 0, 1), jnp.float32))
        for name in TOTALS:
            np.testing.assert_allclose(near[name], here[name], rtol=5e-3, err_msg=name)


def test_gradients_between_choices_are_finite_differences(relaxed, slopes):
    """Each axis is linear between two choices, so a step inside a cell is exact."""
    rng = np.random.default_rng(3)
    cell = rng.integers(0, np.maximum(SPACE.steps, 1), size=(4, 15))
    z = (cell + rng.uniform(0.3, 0.7, size=cell.shape)) / np.maximum(SPACE.steps, 1)
    gradient = slopes(jnp.asarray(z, jnp.float32))
    step = 0.25 / np.maximum(SPACE.steps, 1)
    for axis in range(15):
        move = np.eye(15)[axis] * step
        above, below = (relaxed(jnp.asarray(z + s * move, jnp.float32)) for s in (1, -1))
        for name in TOTALS:
            slope = (np.float64(above[name]) - below[name]) / (2 * step[axis])
            scale = np.abs(above[name]).max()
            np.testing.assert_allclose(
                gradient[name][:, axis], slope, rtol=1e-3, atol=2e-5 * scale, err_msg=name
            )


def test_gradient_at_a_design_is_the_difference_of_its_neighbours(relaxed, slopes):
    index = np.array([1, 2, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0])
    gradient = slopes(encode(index[None]))
    for axis in range(15):
        ends = [
            np.clip(index + sign * np.eye(15, dtype=int)[axis], 0, SPACE.steps) for sign in (1, -1)
        ]
        costs = relaxed(encode(np.array(ends)))
        apart = (ends[0] - ends[1])[axis]
        for name in TOTALS:
            slope = 0.0
            if apart:
                difference = float(costs[name][0]) - float(costs[name][1])
                slope = difference / apart * SPACE.steps[axis]
            scale = float(np.abs(costs[name]).max())
            assert float(gradient[name][0, axis]) == pytest.approx(
                slope, rel=1e-3, abs=2e-5 * scale
            ), (name, axis)


def test_gradients_are_finite_at_every_corner(slopes):
    for z in (jnp.zeros((1, 15)), jnp.ones((1, 15)), encode(random_indices(1, seed=4))):
        assert all(np.isfinite(x).all() for x in slopes(z).values())


def test_grid_maps_each_gemm_once_and_gives_it_to_whoever_has_it(monkeypatch):
    """Two workloads that share a GEMM, summed here, with costs that name GEMM and chip."""
    mapped = []

    def map_gemms(gemms, chips, techs, crowded):
        mapped.append(np.asarray(gemms)[:, :3])
        cores, pe_x, pe_y = (x[..., None] for x in (chips.cores, chips.pe_x, chips.pe_y))
        cycles = gemms[:, :3] @ jnp.array([1.0, 20.0, 300.0]) * pe_x + cores
        return Execution({"gemm": cycles}, {"gemm": 7 * cycles + pe_y})

    monkeypatch.setattr(chips_module, "_map_gemms", map_gemms)
    chips = jax.tree.map(jnp.asarray, accelerator_grid(SPACE.accelerator))
    add = VectorOp("v", "add", 0.0)
    first = gather([Gemm("a", 9, 16, 24, 2), Gemm("b", 5, 8, 8)], [add])
    second = gather([Gemm("b", 5, 8, 8, 3)], [add])
    batch = lambda w: jax.tree.map(lambda x: x[None], w)  # noqa: E731
    scenario = dataclasses.replace(SCENARIO, operator_start_cycles=0.0)
    got = run_grid([batch(first), batch(second)], chips, scenario)
    # Its own two, and the 1 x 1 x 1 that pads the shorter workload.
    assert len(mapped) == 1
    np.testing.assert_array_equal(mapped[0], [[1, 1, 1], [5, 8, 8], [9, 16, 24]])

    static_pj = jax.vmap(lambda chip: technology(chip, scenario).static_pj)(chips)
    a, b = (s * chips.pe_x + chips.cores for s in (9 + 20 * 16 + 300 * 24, 5 + 20 * 8 + 300 * 8))
    for run, (times_a, times_b) in zip(got, ((2, 1), (0, 3)), strict=True):
        cycles = times_a * a + times_b * b
        dynamic_pj = times_a * (7 * a + chips.pe_y) + times_b * (7 * b + chips.pe_y)
        np.testing.assert_allclose(run.cycles[0], cycles, rtol=1e-6)
        np.testing.assert_allclose(run.dynamic_pj[0], dynamic_pj + static_pj * cycles, rtol=1e-6)


def test_crowded_chips_have_mappings_of_their_own():
    """In a grid of both kinds, and one by one: as where every chip is asked which it is."""
    choices = AcceleratorChoices((1, 4), (32, 128), (16, 64), (16,), (64,), (1 / 32, 2), (2,))
    chips = in_float32(accelerator_grid(choices))
    scenario = dataclasses.replace(SCENARIO, operator_start_cycles=0.0)
    dims = np.float32(2 ** np.random.default_rng(0).uniform(3, 11, (24, 3)).round())
    works = [gather([Gemm("g", *d)], [VectorOp("v", "add", 0.0)]).through_dram for d in dims]
    batch = jax.tree.map(lambda *x: np.stack(x), *works)
    (found,) = run_grid([batch], chips, scenario)

    def edp(crowded):
        def one(dims, chip):
            tech = technology(chip, scenario)
            run = gemm_run(*dims, chip, tech, crowded=crowded)
            return run.cycles * (run.dynamic_pj + tech.static_pj * run.cycles)

        return jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))(dims, chips)

    asked, without = edp(None), edp(False)
    np.testing.assert_allclose(found.cycles * found.dynamic_pj, asked, rtol=3e-4)
    crowded = np.asarray(is_crowded(chips))
    assert crowded.any() and (np.asarray(without) > 1.01 * np.asarray(asked))[:, crowded].any()
    at = np.unravel_index(np.argmax(without / asked), without.shape)
    chip = jax.tree.map(lambda x: x[at[1]], chips)
    (one,) = priced([Job(works[at[0]], chip, scenario, 1e5)])
    alone = gemm_run(*dims[at[0]], chip, technology(chip, scenario))
    assert one.gemms[0][0] * scenario.clock_hz == pytest.approx(float(alone.cycles), rel=3e-4)


def test_grid_is_every_combination_in_order():
    grid = accelerator_grid(SPACE.accelerator)
    assert grid.cores.shape == (32,)
    first, last = (jax.tree.map(lambda x, i=i: float(x[i]), grid) for i in (0, -1))
    assert first == Accelerator(1, 8, 2, 8, 32, 0.0625)
    assert last == Accelerator(2, 16, 8, 16, 32, 0.25)
    assert len(set(zip(*jax.tree.leaves(grid), strict=True))) == 32


def test_accelerator_too_small_for_an_operator_is_named():
    cramped = dataclasses.replace(SPACE.accelerator, l2_kib=(0.003, 16))
    with pytest.raises(ValueError, match=r"16 of 32 accelerators.*l2_kib=0\.003.*raise l2_kib"):
        build_table(dataclasses.replace(SPACE, accelerator=cramped), SCENARIO)


def test_accelerators_price_in_full_float32(table):
    """Their matrix units would round weights and sizes to bfloat16 or TF32."""
    z = jnp.full(len(SPACE.steps), 0.4)
    assert in_full(lambda z: SPACE.relax(z)[1].glb_mib, z)
    assert in_full(jax.grad(lambda z: table.relaxed(z).carbon_kgco2e), z)
    assert not in_full(lambda x: x @ x, jnp.ones((2, 2)))
