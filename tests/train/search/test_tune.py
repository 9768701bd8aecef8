"""Tuning: networks cut out together, trained and put back, against the population at rest."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.configs.quickstart import config as quickstart
from codesign.train import placement
from codesign.train.ahead import Ahead
from codesign.train.config import TargetConfig
from codesign.train.feed import Draw
from codesign.train.search import tune
from codesign.train.search.population import population_chunk
from codesign.train.search.setup import start_population
from codesign.train.step import Chunk
from simulators.tiny_search import SPACE, TOWER

pytestmark = pytest.mark.usefixtures("quick_compilation")

DEEPER = dataclasses.replace(TOWER, layers=(1, 2, 3))
CONFIG = dataclasses.replace(
    quickstart,
    space=dataclasses.replace(SPACE, vision=DEEPER, text=DEEPER),
    targets=TargetConfig(designs=2, low=0.8, high=0.9),
    optim=dataclasses.replace(quickstart.optim, batch_size=16, warmup_steps=0),
)
FAMILIES = dataclasses.replace(
    CONFIG,
    space=dataclasses.replace(CONFIG.space, sparsity=((0.25, 0.5), (0.75,))),
    scenario=dataclasses.replace(CONFIG.scenario, index_bits=8),
    targets=TargetConfig(designs=1, low=0.9, high=0.9, dense_designs=1),
)
KEY = jax.random.key(0)
# Choices of the towers: the whole, the smaller one of each, and two more.
NETWORKS = np.array(
    [[2, 1, 1, 1] * 2, [1, 0, 0, 0] * 2, [2, 0, 1, 1, 2, 1, 0, 1], [1, 0, 1, 1, 1, 0, 1, 0]]
)


# The second frame is smaller than the supernet in all dimensions. The order is not its own inverse.
LOTS = [[0, 2], [3, 1]]


def chunk(steps):
    images = np.arange(2 * 16).reshape(2, 16)
    return Chunk(Draw(images, images % 3), np.int32(steps))


@pytest.fixture(
    scope="module",
    params=[CONFIG, pytest.param(FAMILIES, marks=pytest.mark.slow)],
    ids=["dense", "families"],
)
def setup(request, prepared):
    """With momentum in place of Adam, which makes steps of rounding where gradients are zero."""
    setup = prepared(request.param)
    trainer = dataclasses.replace(setup.trainer, optimizer=optax.sgd(0.1, momentum=0.9))
    return dataclasses.replace(setup, trainer=trainer)


@pytest.fixture(scope="module")
def population(setup):
    """Networks of the same weights."""
    designs = np.zeros((4, len(setup.space.steps)), int)
    designs[:, : setup.space.architecture_size] = NETWORKS
    state = start_population(setup, setup.params, 0, designs)
    return placement.put_split(state, setup.trainer.mesh)


@pytest.fixture(scope="module")
def constants(setup):
    """Layers are not in the order of their importance."""
    rest = jax.tree.map(lambda x: x, setup.constants.fixed.rest)
    for tower, rank in (("vision", [1, 2, 0]), ("text", [2, 0, 1])):
        variable = rest[tower]["blocks"]["layer_rank"]
        rest[tower]["blocks"]["layer_rank"] = variable.replace(jnp.asarray(rank, jnp.int32))
    return setup.constants._replace(fixed=setup.constants.fixed._replace(rest=rest))


def copied(tree):
    return jax.tree.map(jnp.copy, tree)


def in_frames(setup, lots):
    return tuple(tune.frame(setup, lot, NETWORKS[lot].max(axis=0)) for lot in lots)


@pytest.mark.slow
def test_frames_train_what_gates_in_the_whole_supernet_do(
    setup, population, constants, caplog, request
):
    frames = in_frames(setup, LOTS)
    goals = setup.goals._replace(searched=jnp.zeros_like(setup.goals.searched))
    own, gated = copied(population), copied(population)
    tune.tune_chunk.clear_cache()
    jax.config.update("jax_log_compiles", True)
    request.addfinalizer(lambda: jax.config.update("jax_log_compiles", False))
    ahead = Ahead()
    programs = tune.tune_programs(own, setup.goals, chunk(2), KEY, constants, frames)
    ahead.begin("tune", lambda: programs)
    ahead.end()
    ahead.close()
    assert caplog.text.count("Compiling jit(tune_chunk)") == len(programs) == len(frames)
    for steps in (2, 1):  # the second time with momentum
        own, metrics = tune.tune_population(own, setup.goals, chunk(steps), KEY, constants, frames)
        gated, wanted = population_chunk(gated, goals, chunk(steps), KEY, constants, setup.trainer)
        for name in set(wanted) - {"excess", "indices"}:
            np.testing.assert_allclose(
                metrics[name][:steps], wanted[name][:steps], rtol=2e-4, atol=2e-5, err_msg=name
            )
    assert int(own.step) == int(gated.step) == 3
    assert caplog.text.count("Compiling jit(tune_chunk)") == len(frames), "none is compiled again"
    # The weights and their momentum.
    for a, b in zip(jax.tree.leaves(own[:2]), jax.tree.leaves(gated[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_is_cut_off_stays_to_the_bit(setup, population, constants):
    after, _ = tune.tune_population(
        copied(population), setup.goals, chunk(2), KEY, constants, in_frames(setup, LOTS)
    )
    (before, now) = (
        np.asarray(state.params.clip["vision"]["blocks"]["fc1"][...])
        for state in (population, after)
    )
    moved = now != before
    # [N, L, D, F]: the layers of ranks 0 and 1 are the last and the first, of eight channels.
    assert moved[3][[0, 2], :8].any(axis=(1, 2)).all() and moved[0].any(axis=(1, 2)).all()
    assert not moved[3][1].any() and not moved[3][:, 8:].any()


@pytest.mark.slow
def test_the_objective_of_the_check_is_that_of_the_steps(setup, population, constants):
    frames = in_frames(setup, LOTS)
    drawn = jax.tree.map(lambda x: x[0], chunk(1).data)
    params, loss = tune.tune_objective(population, setup.goals, drawn, KEY, constants, frames)
    (_, plain), slope = jax.jit(lambda p: (loss(p), jax.jvp(loss, (p,), (p,), has_aux=True)[1]))(
        params
    )
    _, metrics = tune.tune_population(
        copied(population), setup.goals, chunk(1), KEY, constants, frames
    )
    np.testing.assert_allclose(plain["loss"], metrics["loss"][0], rtol=1e-5)
    np.testing.assert_allclose(slope, metrics["grad_dot_params"][0].sum(), rtol=1e-3, atol=1e-4)


def test_frames_of_a_population_hold_their_networks_and_the_supernet_is_first(
    setup, population, monkeypatch
):
    for price, number in ((0.0, 4), (1e30, 1)):
        monkeypatch.setitem(tune.COMPILATION_MACS, jax.default_backend(), price)
        frames = tune.frames_of(setup, population.z)
        assert len(frames) == number and frames[0].candidates[0] == 0
        assert sorted(itertools.chain(*(f.candidates for f in frames))) == [0, 1, 2, 3]
        for f in frames:
            held = f.space.nearest(f.architecture)
            assert (NETWORKS[list(f.candidates)] <= held).all()
            assert (NETWORKS[list(f.candidates)].max(axis=0) == held).all()


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=7).map(lambda x: sorted(x, reverse=True)),
    st.integers(0, 60),
)
def test_the_runs_of_least_work_are_those_of_all_ways_to_cut(sizes, price):
    def work(run):
        return price + len(run) * max(run)

    got = tune.least_work(sizes, work)
    assert list(itertools.chain(*got)) == sizes
    ways = [
        [sizes[a:b] for a, b in itertools.pairwise([0, *cuts, len(sizes)])]
        for n in range(len(sizes))
        for cuts in itertools.combinations(range(1, len(sizes)), n)
    ]
    assert sum(map(work, got)) == min(sum(map(work, way)) for way in ways)
