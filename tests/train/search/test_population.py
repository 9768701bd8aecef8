"""One step of the population: gradients of designs, independent candidates, designs at rest."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from codesign.configs.quickstart import config as quickstart
from codesign.train import placement
from codesign.train.config import TargetConfig
from codesign.train.search.population import population_step
from codesign.train.search.setup import start_population
from codesign.train.step import total_loss as plain_loss
from simulators.tiny_search import SPACE

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(
    quickstart,
    space=SPACE,
    targets=TargetConfig(designs=2, low=0.75, high=0.9),
    optim=dataclasses.replace(quickstart.optim, batch_size=16, stiffness=1.0),
)
SUPERNET, LAST = 0, 3


# Its state is the last gradient: one compiled step then gives gradients and what follows from them.
recorder = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, *_: (grads, grads)
)


@pytest.fixture(scope="module")
def setup(prepared):
    setup = prepared(CONFIG)
    trainer = setup.trainer
    recording = {
        name: optax.chain(recorder, getattr(trainer, name))
        for name in ("optimizer", "design_optimizer")
    }
    return dataclasses.replace(setup, trainer=dataclasses.replace(trainer, **recording))


@pytest.fixture(scope="module")
def population(setup):
    """Candidates of different weights, with designs between choices and pressed constraints."""
    population = start_population(setup, setup.params, 0)
    rng = np.random.default_rng(0)

    def shaken(x):
        return np.asarray(x) + np.asarray(0.3 * rng.normal(size=x.shape), x.dtype)

    z = jnp.asarray(rng.uniform(0.3, 0.7, size=population.z.shape), jnp.float32)
    population = population._replace(
        params=jax.tree.map(shaken, population.params),
        z=z.at[SUPERNET].set(population.z[SUPERNET]),
        multipliers=jnp.full_like(population.multipliers, 0.5),
    )
    return put(setup, population)


def put(setup, tree):
    """Where a step leaves its results, so that it compiles once."""
    return placement.put(tree, placement.replicated(setup.trainer.mesh))


@pytest.fixture(scope="module")
def step(setup, batch):
    """(population, goals) -> the population after one step, and metrics."""
    fixed, _, tables = setup.constants
    return jax.jit(lambda p, goals: population_step(p, goals, batch, fixed, tables, setup.trainer))


def gradients(after):
    """Gradients by weights and by designs that the last step saw."""
    return jax.device_get((after.opt_state[0], after.z_state[0]))


def total_loss(setup, metrics, y):
    """The loss from its parts, in float64; multipliers y [N, c]."""
    optim, goals = setup.config.optim, setup.goals
    m = {name: np.asarray(x, float) for name, x in metrics.items()}
    y, stiffness = np.asarray(y, float), optim.stiffness
    pushed = np.maximum(0, y + stiffness * m["excess"])
    penalty = np.sum(pushed**2 - y**2, axis=-1) / (2 * stiffness)
    hardware = optim.cost_weight * np.log(m["carbon_kgco2e"]) + penalty
    taught = optim.distillation * goals.distilled * m["distillation_loss"]
    return float(np.sum(m["loss"] + taught + goals.searched * hardware))


@pytest.mark.parametrize(
    "name", ["vision.layers", "vision.ffn", "text.width", "accelerator.pe_x", "accelerator.glb_mib"]
)
def test_gradient_of_a_design_is_the_finite_difference(name, setup, population, step):
    coordinate, h = setup.space.names.index(name), 0.01
    at = population.z.at[LAST, coordinate]
    _, slope = gradients(step(population, setup.goals)[0])
    high, low = (
        total_loss(
            setup, step(population._replace(z=at.add(by)), setup.goals)[1], population.multipliers
        )
        for by in (h, -h)
    )
    got = float(slope[LAST, coordinate])
    assert abs(got) > 5e-3, "a slope that rounding cannot fake"
    assert got == pytest.approx((high - low) / (2 * h), rel=0.02, abs=1e-3)


def test_candidates_are_independent(setup, population, step):
    """Another design and other weights of the last candidate change no other's gradient."""

    def scaled(x):
        return np.concatenate([x[:LAST], x[LAST:] * np.float32(1.1)])

    other = population._replace(
        params=put(setup, jax.tree.map(scaled, jax.device_get(population.params))),
        z=population.z.at[LAST].add(0.1),
        multipliers=population.multipliers.at[LAST].set(2.0),
    )
    before, after = (gradients(step(f, setup.goals)[0]) for f in (population, other))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(b[:LAST], a[:LAST], rtol=1e-5, atol=1e-6)
    assert not np.allclose(after[1][LAST], before[1][LAST], rtol=0.01)


def test_the_open_supernet_loses_what_the_ungated_one_does(setup, population, batch, step):
    _, gated = step(population, setup.goals)
    alone = jax.tree.map(lambda x: x[SUPERNET], population.params)
    task, fixed = setup.trainer.task, setup.constants.fixed
    total, _ = jax.jit(lambda params: plain_loss(params, (), fixed, None, batch, task))(alone)
    assert float(gated["loss"][SUPERNET]) == pytest.approx(float(total), rel=1e-5)
    assert float(gated["distillation_loss"][SUPERNET]) == 0


@pytest.mark.slow  # a second step of the population
def test_micro_batches_change_no_gradient(setup, population, batch, step):
    task = dataclasses.replace(setup.trainer.task, micro_batches=4)
    parts = dataclasses.replace(setup, trainer=dataclasses.replace(setup.trainer, task=task))
    fixed, _, tables = setup.constants
    in_parts = jax.jit(
        lambda p, goals: population_step(p, goals, batch, fixed, tables, parts.trainer)
    )
    for one, four in zip(
        jax.tree.leaves(gradients(step(population, setup.goals)[0])),
        jax.tree.leaves(gradients(in_parts(population, setup.goals)[0])),
        strict=True,
    ):
        np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-6)


def test_a_step_moves_searched_designs_only_and_clamps_the_logit_scale(setup, population, step):
    # Supernet, half and the first target rest; the last is searched.
    goals = put(setup, setup.goals._replace(searched=jnp.array([0.0, 0.0, 0.0, 1.0])))

    def hot(path, x):
        return x * 0 + 10 if "logit_scale" in jax.tree_util.keystr(path) else x

    # Past the linear warm-up's first step, whose rate is zero.
    params = jax.tree_util.tree_map_with_path(hot, population.params)
    after, params = jax.device_get(
        (step(step(population._replace(params=params), goals)[0], goals)[0], params)
    )
    np.testing.assert_array_equal(after.z[:LAST], population.z[:LAST])
    assert not np.any(after.z[LAST, :8] == population.z[LAST, :8])
    assert np.all(after.z >= 0) and np.all(after.z <= 1) and int(after.step) == 2
    scales = [
        x
        for path, x in jax.tree_util.tree_leaves_with_path(after.params)
        if "logit_scale" in jax.tree_util.keystr(path)
    ]
    assert len(scales) == 1 and np.all(scales[0] <= math.log(100) * (1 + 1e-6))
    moved = [
        bool(np.any(a != b))
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(params), strict=True)
    ]
    assert all(moved), "weights are trained whether or not the design is searched"
