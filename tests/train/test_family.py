"""One step of the family: gradients of designs, independence of members, designs at rest."""

from __future__ import annotations

import dataclasses
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from codesign.configs.quickstart import config as quickstart
from codesign.space import AcceleratorChoices, TowerChoices
from codesign.train.config import SpaceConfig, TargetConfig
from codesign.train.family import Batch, family_loss, train_step
from codesign.train.progress import Display
from codesign.train.setup import prepare, start_family

pytestmark = pytest.mark.usefixtures("quick_compilation")

TOWER = TowerChoices(layers=(1, 2), width=(8, 16), heads=(1, 2), ffn=(16, 32))
CHIP = AcceleratorChoices((1,), (4, 8), (2, 4), (4, 8), (8,), (1 / 64, 1 / 32))
CONFIG = dataclasses.replace(
    quickstart,
    space=SpaceConfig(vision=TOWER, text=TOWER, accelerator=CHIP),
    targets=TargetConfig(designs=2, low=0.75, high=0.9),
    optim=dataclasses.replace(quickstart.optim, batch_size=16, stiffness=1.0),
)
SUPERNET, LAST = 0, 3


@pytest.fixture(scope="module")
def setup():
    with Display(Console(file=io.StringIO())) as display:
        return prepare(CONFIG, display)


@pytest.fixture(scope="module")
def rest(setup):
    return nnx.split(setup.model, nnx.Param, ...)[2]


@pytest.fixture(scope="module")
def batch(setup):
    labels = setup.dataset.labels[:16]
    return Batch(setup.dataset.images[:16], setup.dataset.caption_ids[labels, 0], labels)


@pytest.fixture(scope="module")
def family(setup):
    """Members of different weights, with designs between choices and pressed constraints."""
    family = start_family(setup, nnx.split(setup.model, nnx.Param, ...)[1], 0)
    rng = np.random.default_rng(0)

    def shaken(x):
        return x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype)

    z = jnp.asarray(rng.uniform(0.3, 0.7, size=family.z.shape), jnp.float32)
    return family._replace(
        params=jax.tree.map(shaken, family.params),
        z=z.at[SUPERNET].set(family.z[SUPERNET]),
        multipliers=jnp.full_like(family.multipliers, 0.5),
    )


@pytest.fixture(scope="module")
def graded(setup, rest, batch):
    """(params, z, multipliers) -> ((loss, metrics), gradients by params and z)."""

    @jax.jit
    def graded(params, z, multipliers):
        return jax.value_and_grad(family_loss, (0, 1), has_aux=True)(
            params, z, multipliers, setup.members, batch, rest, setup.table, setup.trainer, True
        )

    return graded


@pytest.mark.parametrize(
    "name", ["vision.layers", "vision.ffn", "text.width", "accelerator.pe_x", "accelerator.glb_mib"]
)
def test_gradient_of_a_design_is_the_finite_difference(name, setup, family, graded):
    coordinate, h = setup.space.names.index(name), 0.01
    at = family.z.at[LAST, coordinate]
    (_, _), (_, slope) = graded(family.params, family.z, family.multipliers)
    high, low = (
        float(graded(family.params, at.add(by), family.multipliers)[0][0]) for by in (h, -h)
    )
    got = float(slope[LAST, coordinate])
    assert abs(got) > 5e-3, "a slope that rounding cannot fake"
    assert got == pytest.approx((high - low) / (2 * h), rel=0.02, abs=1e-3)


def test_members_are_independent(family, graded):
    """Another design and other weights of the last member change no other's gradient."""
    _, before = graded(family.params, family.z, family.multipliers)
    params = jax.tree.map(lambda x: x.at[LAST].multiply(1.1), family.params)
    _, after = graded(params, family.z.at[LAST].add(0.1), family.multipliers.at[LAST].set(2.0))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(b[:LAST], a[:LAST], rtol=1e-5, atol=1e-6)
    assert not np.allclose(after[1][LAST], before[1][LAST], rtol=0.01)


def test_the_open_supernet_loses_what_the_ungated_one_does(setup, family, rest, batch, graded):
    (_, gated), _ = graded(family.params, family.z, family.multipliers)
    alone = jax.tree.map(lambda x: x[:1], family.params)
    members = type(setup.members)(*(x[:1] for x in setup.members))
    total, ungated = family_loss(
        alone, family.z[:1], family.multipliers[:1], members, batch, rest, setup.table,
        setup.trainer, False,
    )
    assert set(ungated) == {"loss"} and float(total) == float(ungated["loss"][0])
    assert float(gated["loss"][SUPERNET]) == pytest.approx(float(total), rel=1e-5)
    assert float(gated["distillation_loss"][SUPERNET]) == 0


def test_a_step_moves_searched_designs_only_and_clamps_the_logit_scale(
    setup, family, rest, batch
):
    # Supernet, half and the first target rest; the last is searched.
    members = setup.members._replace(searched=jnp.array([0.0, 0.0, 0.0, 1.0]))

    def hot(path, x):
        return x * 0 + 10 if "logit_scale" in jax.tree_util.keystr(path) else x

    # Past the linear warm-up's first step, whose rate is zero.
    params = jax.tree_util.tree_map_with_path(hot, family.params)
    step = jax.jit(
        lambda f: train_step(f, members, batch, rest, setup.table, setup.trainer, True)[0]
    )
    after = step(step(family._replace(params=params)))
    np.testing.assert_array_equal(after.z[:LAST], family.z[:LAST])
    assert not np.any(after.z[LAST, :8] == family.z[LAST, :8])
    assert np.all(after.z >= 0) and np.all(after.z <= 1) and int(after.step) == 2
    scales = [
        x for path, x in jax.tree_util.tree_leaves_with_path(after.params)
        if "logit_scale" in jax.tree_util.keystr(path)
    ]  # fmt: skip
    assert len(scales) == 1 and np.all(scales[0] <= math.log(100) * (1 + 1e-6))
    moved = [
        bool(np.any(a != b))
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(params), strict=True)
    ]
    assert all(moved), "weights are trained whether or not the design is searched"
