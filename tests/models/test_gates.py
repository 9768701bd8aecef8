from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.architecture import Architecture, Tower
from codesign.models.gates import full_gates, gates_for, ramp, tower_gates

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHOICES = (2, 3, 6)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, [1, 1, 0, 0, 0, 0]),
        (2.25, [1, 1, 0.25, 0, 0, 0]),
        (3, [1, 1, 1, 0, 0, 0]),
        (4.5, [1, 1, 1, 0.5, 0.5, 0.5]),
        (6, [1, 1, 1, 1, 1, 1]),
        (1, [1, 1, 0, 0, 0, 0]),
        (9, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_ramp_values(count: float, expected: list[float]) -> None:
    np.testing.assert_array_equal(ramp(count, CHOICES), np.float32(expected))


@pytest.mark.parametrize(
    ("count", "slope"),
    [
        (2.0, [0, 0, 1, 0, 0, 0]),  # first choice: one-sided, inwards
        (2.5, [0, 0, 1, 0, 0, 0]),
        (3.0, [0, 0, 1 / 2, 1 / 6, 1 / 6, 1 / 6]),  # mean of both sides
        (4.0, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3]),
        (6.0, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3]),  # last choice: one-sided, inwards
        (1.0, [0, 0, 0, 0, 0, 0]),
        (7.0, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_ramp_derivative(count: float, slope: list[float]) -> None:
    np.testing.assert_allclose(jax.jacobian(ramp)(count, CHOICES), slope, rtol=1e-6)
    reverse = jax.jacrev(jax.jit(ramp, static_argnums=1))(count, CHOICES)
    np.testing.assert_allclose(reverse, slope, rtol=1e-6)


@pytest.mark.parametrize("count", [2.0, 2.5, 3.0, 3.7, 5.9, 6.0])
def test_the_open_units_sum_to_the_count(count: float) -> None:
    """And so does the derivative: a count is as effective at a choice as between two."""
    assert float(ramp(count, CHOICES).sum()) == pytest.approx(count)
    assert float(jax.grad(lambda c: ramp(c, CHOICES).sum())(count)) == pytest.approx(1.0)


@settings(max_examples=30, deadline=None, database=None)
@given(
    st.sets(st.integers(1, 40), min_size=1, max_size=5),
    st.lists(st.floats(0, 45, width=32), min_size=4, max_size=4),
)
def test_ramp_is_monotone_and_exact_at_choices(chosen: set[int], counts: list[float]) -> None:
    choices = tuple(sorted(chosen))
    gates = np.stack([ramp(count, choices) for count in sorted(counts)])
    assert (np.diff(gates, axis=0) >= 0).all()  # in the count
    assert (np.diff(gates, axis=1) <= 0).all()  # a prefix
    for choice in choices:
        np.testing.assert_array_equal(ramp(choice, choices), np.arange(choices[-1]) < choice)


@pytest.mark.parametrize("count", [2.3, 2.8, 3.2, 5.0])
def test_ramp_gradient_against_finite_differences(count: float) -> None:
    step = 1e-2
    finite = (ramp(count + step, CHOICES) - ramp(count - step, CHOICES)) / (2 * step)
    np.testing.assert_allclose(jax.jacobian(ramp)(count, CHOICES), finite, atol=1e-4)


def test_a_single_choice_is_always_open() -> None:
    np.testing.assert_array_equal(ramp(1.7, (3,)), np.ones(3))
    assert float(jax.grad(lambda c: ramp(c, (3,)).sum())(3.0)) == 0.0


@pytest.mark.parametrize("choices", [(), (0, 2), (3, 2), (2, 2), (2, 2.5), ("2",)])
def test_bad_choices_are_named(choices: tuple) -> None:
    with pytest.raises(ValueError, match="choices must be"):
        ramp(2, choices)


TOWER_CHOICES = Tower(layers=(1, 3), width=(4, 6), heads=(1, 2), ffn=(2, 5))


def test_tower_gates_follow_the_layer_rank() -> None:
    gates = tower_gates(Tower(2.0, 5.0, 1.5, 2), TOWER_CHOICES, jnp.array([2, 0, 1]))
    np.testing.assert_array_equal(gates.layers, [0.5, 1, 0.5])  # rank 0 is always open
    np.testing.assert_array_equal(gates.channels, [1, 1, 1, 1, 0.5, 0.5])
    np.testing.assert_array_equal(gates.heads, [[1, 0.5]] * 3)
    np.testing.assert_array_equal(gates.ffn, [[1, 1, 0, 0, 0]] * 3)


def test_gates_of_the_largest_architecture_are_the_full_gates() -> None:
    largest = Architecture(vision=Tower(3, 6, 2, 5), text=Tower(3, 6, 2, 5))
    choices = Architecture(vision=TOWER_CHOICES, text=TOWER_CHOICES)
    gates = gates_for(largest, choices, jnp.arange(3), jnp.arange(3))
    jax.tree.map(np.testing.assert_array_equal, gates, full_gates(largest))


def test_wrong_layer_rank_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer_rank has shape \(2,\).*ends at 3"):
        tower_gates(Tower(2, 5, 1, 2), TOWER_CHOICES, jnp.arange(2))
