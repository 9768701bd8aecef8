"""Steps of a search that are not finite: of the supernet, at all sizes, and of each candidate."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.configs.quickstart import config as quickstart
from codesign.train.config import TargetConfig
from codesign.train.feed import Draw
from codesign.train.search.elastic import elastic_chunk, make_pool
from codesign.train.search.population import population_chunk, warmup_chunk
from codesign.train.search.setup import start_elastic, start_population, start_warmup
from codesign.train.step import Chunk
from simulators.tiny_search import SPACE

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(
    quickstart,
    space=SPACE,
    targets=TargetConfig(designs=1, low=0.8, high=0.8),
    optim=dataclasses.replace(quickstart.optim, batch_size=16, warmup_steps=0),
)
POISON = 40
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def setup(prepared):
    """Of pictures among which one is NaN."""
    setup = prepared(CONFIG)
    data = setup.constants.data
    images = data.images.astype(jnp.float32).at[POISON].set(jnp.nan)
    constants = setup.constants._replace(data=data._replace(images=images))
    return dataclasses.replace(setup, constants=constants)


def chunk(steps, *batches):
    """Batches that begin at these pictures; only the second of three has the poison in it."""
    images = np.stack([np.arange(first, first + 16) for first in batches])
    return Chunk(Draw(images, np.zeros_like(images)), np.int32(steps))


THREE = chunk(3, 0, POISON - 3, 100)
FIRST, LAST = chunk(1, 0, 0, 0), chunk(1, 100, 0, 0)


def programs(setup):
    """By phase: (state, chunk) -> the next state and metrics, the state before, and whether a step
    that is rolled back counts."""
    trainer, constants = setup.trainer, setup.constants
    pool = make_pool(setup.tables.dense, "carbon", 0, 64)
    return {
        "warmup": (
            lambda s, c: warmup_chunk(s, c, KEY, constants, trainer),
            start_warmup(setup),
            False,
        ),
        "elastic": (
            lambda s, c: elastic_chunk(s, pool, c, KEY, constants, trainer),
            start_elastic(setup, setup.params, 0),
            True,
        ),
        "population": (
            lambda s, c: population_chunk(s, setup.goals, c, KEY, constants, trainer),
            start_population(setup, setup.params, 0),
            True,
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["warmup", "elastic", "population"])
def test_a_poisoned_batch_changes_nothing(phase, setup):
    take, start, counts = programs(setup)[phase]
    after, metrics = take(jax.tree.map(jnp.copy, start), THREE)
    bad = np.asarray(metrics["rolled_back"]).reshape(3, -1)
    np.testing.assert_array_equal(bad.all(axis=1), [False, True, False])
    np.testing.assert_array_equal(bad.any(axis=1), [False, True, False])
    assert not np.isfinite(metrics["loss"][1]).any() and np.isfinite(metrics["loss"][0]).all()
    without, _ = take(jax.tree.map(jnp.copy, start), FIRST)
    without, _ = take(without._replace(step=without.step + counts), LAST)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_candidate_beyond_range_stays_as_it_is_and_the_others_go_on(setup):
    take, start, _ = programs(setup)["population"]
    last = len(start.z) - 1
    params = jax.tree.map(
        lambda x: np.concatenate([x[:last], np.full_like(x[last:], 1e30)]),
        jax.device_get(start.params),
    )
    ill = start._replace(params=params)
    after, metrics = take(jax.tree.map(jnp.copy, ill), FIRST)
    healthy, _ = take(jax.tree.map(jnp.copy, start), FIRST)
    after, ill, healthy = jax.device_get((after, ill, healthy))
    bad = np.asarray(metrics["rolled_back"])[0]
    assert bad[last] and not bad[:last].any()
    for field in ("params", "opt_state", "z", "z_state", "multipliers"):
        parts = (jax.tree.leaves(getattr(state, field)) for state in (after, ill, healthy))
        for now, before, other in zip(*parts, strict=True):
            np.testing.assert_array_equal(now[last], before[last])
            np.testing.assert_array_equal(now[:last], other[:last])
