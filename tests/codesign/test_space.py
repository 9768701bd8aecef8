"""DesignSpace: interpolation weights, round trips between indices and z, bad choices."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower, clip_vit_b16
from codesign.cost.chips import accelerator_grid, grid_costs
from codesign.cost.family import build_family_table
from codesign.cost.table import build_table
from codesign.scenario import Scenario
from codesign.search.front import unmet
from codesign.search.grid import best_accelerator
from codesign.search.objectives import Limits
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices, interpolation_weights
from codesign.workload.blocks import Block
from codesign.workload.vit import VIT_FAMILY, ElasticVit, Vit

CHOICES = (1, 2, 3, 7)  # numbers of choices the weights are tried with
SPACE = DesignSpace(
    base=clip_vit_b16(),
    vision=TowerChoices((6, 9, 12), (384, 768), (6, 8, 12), (1536, 3072)),
    text=TowerChoices((12,), (256, 384, 512), (4, 8), (1024, 2048)),
)

interpolate = jax.jit(interpolation_weights, static_argnums=1)
slopes = jax.jit(jax.jacfwd(interpolation_weights), static_argnums=1)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, width=32), st.sampled_from(CHOICES))
def test_weights_are_a_convex_combination_of_neighbours(z, choices):
    weights = np.asarray(interpolate(z, choices))
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert weights.min() > -1e-5
    used = np.flatnonzero(weights > 1e-5)
    assert used.max() - used.min() <= 1
    assert weights @ np.arange(choices) == pytest.approx(z * (choices - 1), abs=2e-5)


@pytest.mark.parametrize("choices", [1, 2, 3, 4, 6, 7, 14, 22, 50])
def test_weights_at_a_choice_are_exactly_that_choice(choices):
    """z as DesignSpace.encode makes it; i / 13 * 13 is not always i in float32."""
    z = jnp.asarray(np.arange(choices) / max(choices - 1, 1), jnp.float32)
    weights = jax.vmap(lambda z: interpolation_weights(z, choices))(z)
    np.testing.assert_array_equal(weights, np.eye(choices))


@pytest.mark.parametrize("choices", [2, 3, 14])
def test_slope_at_a_choice_is_the_mean_of_both_sides(choices):
    values = np.random.default_rng(0).normal(size=choices)
    step = (choices - 1) * np.diff(values)
    for i in range(choices):
        slope = values @ np.asarray(slopes(jnp.float32(i / (choices - 1)), choices))
        assert slope == pytest.approx(step[max(i - 1, 0) : i + 1].mean(), rel=1e-4, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1, width=32), st.sampled_from((2, 3, 7)))
def test_slope_between_choices_is_the_finite_difference(z, choices):
    index = z * (choices - 1)
    lower = int(index)
    if not 0.02 < index - lower < 0.98:
        return
    step = 0.01 / (choices - 1)
    above, below = (np.asarray(interpolate(np.float32(z + s), choices)) for s in (step, -step))
    np.testing.assert_allclose(
        slopes(np.float32(z), choices), (above - below) / (2 * step), atol=1e-2
    )


indices = st.tuples(*(st.integers(0, int(n)) for n in SPACE.steps))


@settings(max_examples=60, deadline=None)
@given(indices)
def test_discrete_designs_survive_encode_relax_and_round(index):
    z = jnp.asarray(SPACE.encode(index), jnp.float32)
    assert tuple(np.asarray(SPACE.round(z))) == index
    architecture, accelerator = relax(z)
    assert as_floats(architecture) == as_floats(SPACE.architecture_at(index))
    assert as_floats(accelerator) == as_floats(SPACE.accelerator_at(index))
    assert tuple(SPACE.nearest(SPACE.architecture_at(index))) == index[:8]


relax = jax.jit(SPACE.relax)


def as_floats(tree):
    return [float(x) for x in jax.tree.leaves(tree)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=15, max_size=15))
def test_relaxed_values_lie_between_the_neighbouring_choices(z):
    values = as_floats(relax(jnp.asarray(z, jnp.float32)))
    for value, dimension, x in zip(values, SPACE.dimensions, z, strict=True):
        last = len(dimension.choices) - 1
        lower, upper = int(np.floor(x * last)), int(np.ceil(x * last))
        assert dimension.choices[lower] - 1e-3 * abs(value) <= value
        assert value <= dimension.choices[upper] + 1e-3 * abs(value)


def test_round_keeps_batches_and_stays_inside():
    z = jnp.stack([jnp.full(15, -0.3), jnp.full(15, 0.5), jnp.full(15, 1.7)])
    rounded = np.asarray(SPACE.round(z))
    assert rounded.shape == (3, 15)
    np.testing.assert_array_equal(rounded[0], 0)
    np.testing.assert_array_equal(rounded[2], SPACE.steps)


def test_axes_and_sizes():
    assert SPACE.names[:5] == (
        "vision.layers",
        "vision.width",
        "vision.heads",
        "vision.ffn",
        "text.layers",
    )
    fields = dataclasses.fields(Accelerator)
    assert SPACE.names[8:] == tuple(f"accelerator.{f.name}" for f in fields)
    assert SPACE.architecture_size == 8
    assert SPACE.architectures == 3 * 2 * 3 * 2 * 1 * 3 * 2 * 2
    assert SPACE.accelerators == 3240
    largest = SPACE.largest()
    assert largest.vision == Tower(12, 768, 12, 3072)
    assert largest.text == Tower(12, 512, 8, 2048)
    assert isinstance(largest.vision.layers, int)


@pytest.mark.parametrize("choices", [(), (0, 1), (-1, 2), (2, 2), (3, 1)])
def test_bad_choices_name_the_dimension(choices):
    towers = TowerChoices((1,), (8,), (1,), (8,))
    with pytest.raises(ValueError, match=r"space\.text\.width.*positive and increasing"):
        DesignSpace(
            Architecture(Tower(1, 8, 1, 8), Tower(1, 8, 1, 8)),
            towers,
            dataclasses.replace(towers, width=choices),
        )
    with pytest.raises(ValueError, match=r"space\.accelerator\.cores"):
        DesignSpace(clip_vit_b16(), towers, towers, AcceleratorChoices(cores=choices))


# ---- parts, and another family -------------------------------------------------------------


def test_parts_have_the_axes_of_their_names():
    space = dataclasses.replace(SPACE, sparsity=((0.0, 0.25), (0.5,)))
    for name in ("vision", "text", "sparsity", "accelerator"):
        own = space.part(list(space.names), name)
        assert own == [axis for axis in space.names if axis.startswith(f"{name}.")]
    z = np.arange(2.0 * len(space.names)).reshape(2, -1)
    np.testing.assert_array_equal(space.part(z, "text"), z[:, 4:8])
    np.testing.assert_array_equal(
        space.part(z, "network"),
        np.concatenate([space.part(z, "architecture"), space.part(z, "sparsity")], axis=1),
    )
    whole = space.steps
    assert space.accelerator_at(whole) == space.accelerator_at(space.part(whole, "accelerator"))
    assert space.architecture_at(whole) == space.architecture_at(space.part(whole, "architecture"))


VIT = DesignSpace(
    base=ElasticVit(Tower(1, 1, 1, 1), patch=8, image=32, head_dim=16, classes=10),
    vision=TowerChoices((1, 2), (32, 64), (1, 2), (64, 128)),
    accelerator=AcceleratorChoices((1, 2), (16,), (4,), (16, 32), (64,), (1 / 16,)),
    family=VIT_FAMILY,
)


@pytest.mark.slow
def test_a_vision_transformer_is_designed_by_its_family_alone():
    """Space, relaxation and table, held against each network priced by itself."""
    assert VIT.architecture_size == 4 and VIT.architectures == 16 and VIT.accelerators == 4
    assert VIT.nearest(VIT.largest()).tolist() == [1, 1, 1, 1]
    table = build_table(VIT, Scenario())
    chips = accelerator_grid(VIT.accelerator)
    for index in ([0, 0, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0]):
        found = table.on_every_accelerator(np.array(index))
        vit = VIT.architecture_at(index)
        network = Vit(
            Block(vit.vision.width, vit.vision.heads, 16, vit.vision.ffn),
            vit.vision.layers,
            patch=8,
            image=32,
            classes=10,
        )
        alone = grid_costs(network.operators().workload, chips, Scenario(), contents=0.0)
        np.testing.assert_allclose(found.latency_s, alone.latency_s, rtol=1e-5)
        np.testing.assert_allclose(found.energy_j, alone.energy_j, rtol=1e-5)
        relaxed = table.relaxed(jnp.asarray(VIT.encode([*index, 1, 0, 0, 1, 0, 0, 0]), jnp.float32))
        assert float(relaxed.energy_j) == pytest.approx(float(alone.energy_j[3]), rel=1e-5)
    best = best_accelerator(table, np.array([1, 1, 1, 1]), "edp", Limits())
    every = table.on_every_accelerator(np.array([1, 1, 1, 1]))
    assert int(best.accelerator) == int(np.argmin(every.energy_j * every.latency_s))
    assert "for vision layers 1, width 32" in unmet(table, Limits(latency_s=1e-12))
    with pytest.raises(ValueError, match="choices of vision are needed"):
        dataclasses.replace(VIT, text=VIT.vision)


@pytest.mark.slow
def test_subnets_of_a_vision_transformer_are_priced_by_its_family_alone():
    """A family's one subnet of a sparsity is the network of that density."""
    families = build_family_table(dataclasses.replace(VIT, sparsity=((0.5,),)), Scenario())
    assert families.scenario.index_bits == 7  # a row of 128 hidden units
    found = families.on_every_accelerator(np.array([1, 0, 1, 1, 0]))
    network = VIT.architecture_at([1, 0, 1, 1]).network(0.5)
    chips = accelerator_grid(VIT.accelerator)
    work = network.operators().workload
    alone = grid_costs(work, chips, families.scenario, contents=0.0)
    np.testing.assert_allclose(found.latency_s, alone.latency_s, rtol=1e-5)
