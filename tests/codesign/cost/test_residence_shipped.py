"""Weights that stay in the global buffer, at shipped sizes, as the product compiles it."""

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
from codesign.cost.chips import grid_costs
from codesign.cost.costing import costing_of
from codesign.workload import load_model

pytestmark = pytest.mark.slow

BUSY = Scenario(
    inferences_per_s=30.0, hours_per_day=24.0, texts_per_image=0.0, resident_weights=True
)


def test_a_published_model_has_one_price_by_every_way():
    """On a chip that holds all of it, one that holds some, and one that holds none."""
    model = load_model("tinyclip-8m-16").in_scenario(BUSY)
    work = model.operators.under(costing_of(BUSY))
    contents = float(contents_bytes(model.memory, BUSY))
    glb_mib = np.float32([32, 16, 4])
    assert 2 * contents < 32 * 2**20 and contents < 16 * 2**20 < 2 * contents
    each = [Accelerator(2, 64, 32, 32, 64, x.item(), 2) for x in glb_mib]
    chips = jax.tree.map(lambda *x: np.float32(x), *each)
    on_grid = grid_costs(work, chips, BUSY, contents)
    direct = jax.jit(clip_costs)
    for i, chip in enumerate(each):
        found = estimate(model.architecture, chip, BUSY)
        traced = direct(model.architecture, chip, BUSY)
        for name in ("latency_s", "energy_j", "carbon_kgco2e"):
            price = getattr(found, name)
            assert float(getattr(traced, name)) == pytest.approx(price, rel=2e-5), name
            there = np.broadcast_to(np.asarray(getattr(on_grid, name)), 3)[i]
            assert there == pytest.approx(price, rel=2e-5), name
    off = dataclasses.replace(BUSY, resident_weights=False)
    stay, streamed = ([estimate(model.architecture, chip, x) for chip in each] for x in (BUSY, off))
    saved = [1 - a.energy_j / b.energy_j for a, b in zip(stay, streamed, strict=True)]
    assert min(saved[:2]) > 0.02 and saved[2] == pytest.approx(0, abs=1e-6)
    all_of_it, some, none = (costs.breakdown["energy_j"]["dram"] for costs in stay)
    assert all_of_it < some < none


def test_slopes_of_the_quickstart_s_space_are_finite_differences():
    space = quickstart.design_space(image=8, channels=1, context=16, vocab=200)
    scenario = dataclasses.replace(quickstart.scenario, inferences_per_s=400.0)
    table = build_table(space, dataclasses.replace(scenario, resident_weights=True))
    streamed = build_table(space, scenario)
    of = jax.jit(lambda z: jnp.log(table.relaxed(z).energy_j))
    slope, rng = jax.jit(jax.grad(of)), np.random.default_rng(0)
    checked, saved = 0, []
    for _ in range(24):
        z = jnp.asarray(rng.uniform(0.02, 0.98, len(space.steps)), jnp.float32)
        saved.append(1 - float(jnp.exp(of(z)) / streamed.relaxed(z).energy_j))
        direction = rng.normal(size=len(z)).astype(np.float32)
        step = 2e-3
        ahead, behind, there = (float(of(z + s * step * direction)) for s in (1, -1, 0))
        one, other = (ahead - there) / step, (there - behind) / step
        # A fold within the step has two slopes.
        if abs(one - other) < 0.05 * max(abs(one), abs(other), 0.1):
            checked += 1
            found = float(np.asarray(slope(z)) @ direction)
            assert found == pytest.approx((one + other) / 2, rel=0.05, abs=5e-3)
    assert checked >= 12 and max(saved) > 0.02
