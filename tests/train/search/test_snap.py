"""The snap: what it compares, and that losses of chance give way to those of trained networks."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from codesign.configs.quickstart import config as quickstart
from codesign.errors import UserError
from codesign.runs import jsonable
from codesign.search.grid import best_accelerators, roundings, without_parts
from codesign.search.snap_file import Snaps
from codesign.train import placement
from codesign.train.config import TargetConfig
from codesign.train.search import snap as snapping
from codesign.train.search import tune
from codesign.train.search.setup import start_population
from codesign.train.search.snap import snap
from codesign.train.search.snap_training import losses_once_trained
from codesign.workload.clip import clip_workload
from simulators.tiny_search import SPACE

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(
    quickstart,
    space=SPACE,
    targets=TargetConfig(designs=2, low=0.85, high=0.92),
    schedule=dataclasses.replace(
        quickstart.schedule, chunk_steps=2, snap_steps=3, snap_images=24, snap_candidates=5
    ),
    optim=dataclasses.replace(quickstart.optim, batch_size=16, warmup_steps=0),
)
CHANCE = math.log(24)
SEARCHED = 2


@pytest.fixture(scope="module")
def setup(prepared):
    """With momentum in place of Adam, which makes steps of rounding where gradients are zero."""
    setup = prepared(CONFIG)
    trainer = dataclasses.replace(setup.trainer, optimizer=optax.sgd(0.3, momentum=0.9))
    return dataclasses.replace(setup, trainer=trainer)


@pytest.fixture(scope="module")
def population(setup):
    """Designs halfway between all choices; each candidate has weights of its own."""
    state = start_population(setup, setup.params, 0)
    own = 1 - 0.1 * jnp.arange(len(state.z))
    params = jax.tree.map(lambda x: x * own.reshape(-1, *[1] * (x.ndim - 1)), state.params)
    state = state._replace(params=params)
    z = np.array(state.z)
    z[SEARCHED:, : setup.space.network_size] = 0.5
    return placement.put_split(state._replace(z=jnp.asarray(z)), setup.trainer.mesh)


@pytest.fixture(scope="module")
def near(setup, population):
    """Networks that the snap compares for the first target."""
    space, dense = setup.space, setup.tables.dense
    position = space.part(np.asarray(space.indices(population.z[SEARCHED])), "network")
    target = float(setup.goals.targets[SEARCHED])
    found, _ = without_parts(space, *roundings(dense, position, target, "carbon", CONFIG.limits))
    assert len(found) > 5
    return found[:5]


def network_of(setup, state, candidate=SEARCHED):
    indices = np.asarray(setup.space.round(state.z[candidate]))
    return tuple(setup.space.part(indices, "network").tolist())


def of_losses(monkeypatch, rounded, relaxed):
    """Puts gated losses of roundings and of the relaxed design in the place of the true ones."""

    def losses(setup, params, fixed, around, sparse, batch):
        padded = np.full(len(around), rounded[-1])
        padded[: len(rounded)], padded[-1] = rounded, relaxed
        return padded

    monkeypatch.setattr(snapping, "_losses", losses)


def once_trained(setup, population, network):
    """Loss of a network in the last of three steps, trained alone beside the supernet in frames."""
    space, dense = setup.space, setup.tables.dense
    choice = best_accelerators(dense, network[None], "carbon", CONFIG.limits)
    chip = np.asarray(dense.accelerator_indices(jnp.asarray(choice.accelerator[0])))
    z = np.array(population.z)
    z[SEARCHED] = space.encode(np.concatenate([network, chip]))
    state = population._replace(z=jnp.asarray(z))
    state = jax.tree.map(lambda x: jnp.copy(x[jnp.array([0, SEARCHED])]) if x.ndim else x, state)
    goals = jax.tree.map(lambda x: x[jnp.array([0, SEARCHED])], setup.goals)
    whole = space.part(space.steps, "architecture")
    frames = (tune.frame(setup, [0], whole), tune.frame(setup, [1], network))
    key = jax.random.key(CONFIG.seed)
    for begin, steps in ((0, 2), (2, 1)):
        read = setup.feed.read(begin, steps, 2)
        state, metrics = tune.tune_population(state, goals, read, key, setup.constants, frames)
    return float(metrics["loss"][0, 1])


@pytest.mark.slow
def test_networks_are_trained_where_their_losses_are_of_chance(
    setup, population, near, monkeypatch
):
    # The first three have places beside the supernet; by the untrained losses it were the second.
    of_losses(monkeypatch, [CHANCE + 0.1, CHANCE - 0.1, CHANCE + 0.2], relaxed=CHANCE - 1)
    snapped, chosen = snap(setup, population, setup.constants.fixed)
    losses = [once_trained(setup, population, network) for network in near[:3]]
    assert max(losses) - min(losses) > 1e-3
    assert network_of(setup, snapped) == tuple(near[int(np.argmin(losses))].tolist())
    first = chosen.designs[0]
    assert (first.candidate, first.compared, first.trained) == (SEARCHED, 5, 3)
    macs = [clip_workload(setup.space.architecture_at(network)).macs for network in near[:3]]
    whole = clip_workload(setup.space.largest()).macs
    assert first.trained_share == pytest.approx(sum(map(float, macs)) / float(whole))
    tried = np.array(population.z)[np.full(3, SEARCHED)]
    tried[:, : setup.space.network_size] = near[:3] / setup.space.part(setup.space.steps, "network")
    # Written out again for the numbers themselves.
    ours = losses_once_trained(
        setup, population, setup.constants.fixed, SEARCHED, tried.astype(np.float32)
    )
    np.testing.assert_allclose(ours, losses, rtol=2e-4)


def test_the_population_stays_but_for_its_designs(setup, population, monkeypatch):
    of_losses(monkeypatch, [CHANCE + 0.1], relaxed=0.0)
    before = jax.tree.map(np.array, population)
    snapped, _ = snap(setup, population, setup.constants.fixed)
    for name in ("params", "opt_state", "z_state", "multipliers", "step"):
        for a, b in zip(
            *(jax.tree.leaves(getattr(s, name)) for s in (before, snapped)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(before.z[:SEARCHED], snapped.z[:SEARCHED])


@pytest.mark.parametrize("steps", [3, 0])
def test_networks_that_keep_what_was_learnt_are_compared_as_they_are(
    steps, setup, population, near, monkeypatch
):
    relaxed = CHANCE - 1
    # Without steps of training, losses of chance decide too.
    below = (relaxed + CHANCE) / 2 - 0.01 if steps else CHANCE + 1
    of_losses(monkeypatch, [below + 1, below + 0.1, below, below + 2], relaxed)
    schedule = dataclasses.replace(CONFIG.schedule, snap_steps=steps)
    setup = dataclasses.replace(setup, config=dataclasses.replace(CONFIG, schedule=schedule))
    snapped, chosen = snap(setup, population, setup.constants.fixed)
    assert network_of(setup, snapped) == tuple(near[2].tolist())
    assert [each.trained for each in chosen.designs] == [0, 0]
    assert chosen.designs[0].rounded_loss == pytest.approx(below)


@pytest.mark.parametrize("relaxed", [CHANCE - 1, math.nan])
def test_losses_that_are_not_finite_are_not_the_least(
    relaxed, setup, population, near, monkeypatch
):
    """And do not end the run where they are written."""
    of_losses(monkeypatch, [math.nan, math.inf, CHANCE - 1, math.nan, math.nan], relaxed)
    snapped, chosen = snap(setup, population, setup.constants.fixed)
    assert network_of(setup, snapped) == tuple(near[2].tolist())
    told = jsonable(chosen)["designs"][0]
    assert told["rounded_loss"] == pytest.approx(CHANCE - 1)
    assert told["relaxed_loss"] == (pytest.approx(relaxed) if relaxed == relaxed else None)
    assert told["trained"] == 0


def test_what_is_read_of_a_snap_is_checked(tmp_path):
    path = tmp_path / "snap.json"
    path.write_text(
        '{"designs": [{"candidate": 2, "compared": 5, "trained": 3, "trained_share": 0.5, '
        '"relaxed_loss": 1.5, "rounded_loss": 2}]}'
    )
    assert Snaps.read(path).designs[0].trained == 3
    path.write_text(path.read_text().replace("3,", '"3",'))
    with pytest.raises(UserError, match=r"designs\.0\.trained|designs\[0\]\.trained"):
        Snaps.read(path)
