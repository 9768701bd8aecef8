"""Which steps are rolled back, and how many in a row are too many."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.runs import rolled_back_steps
from codesign.train.rollback import (
    MOST_IN_A_ROW,
    Streak,
    all_finite,
    finite_numbers,
    taken_if,
)


def test_a_value_that_is_not_finite_is_told_for_its_candidate_alone():
    losses, norms = jnp.array([1.0, jnp.nan, 3.0, 4.0]), jnp.array([1.0, 2.0, jnp.inf, 0.0])
    np.testing.assert_array_equal(all_finite(losses, norms), [True, False, False, True])
    assert not all_finite(jnp.array(1.0), jnp.array(-jnp.inf))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_each_candidate_keeps_its_own_state(backend, monkeypatch):
    """By a branch and by a select alike."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    old = {"w": jnp.zeros((3, 2)), "count": jnp.zeros(3, int)}
    new = {"w": jnp.full((3, 2), jnp.nan).at[1].set(5.0), "count": jnp.ones(3, int)}
    kept = taken_if(jnp.array([False, True, False]), lambda: new, old)
    np.testing.assert_array_equal(kept["w"], [[0, 0], [5, 5], [0, 0]])
    np.testing.assert_array_equal(kept["count"], [0, 1, 0])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_network_alone_is_kept_whole(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    old, new = {"w": jnp.zeros((3, 2))}, {"w": jnp.ones((3, 2))}
    for finite, value in ((True, 1), (False, 0)):
        np.testing.assert_array_equal(taken_if(jnp.array(finite), lambda: new, old)["w"], value)


@pytest.mark.parametrize("candidates", [0, 3])
def test_many_in_a_row_are_too_many_and_others_are_not(candidates):
    def metric(bad):
        return [False, bad, False][:candidates] if candidates else bad

    streak, step = Streak(), 0
    for _ in range(3):
        for _ in range(MOST_IN_A_ROW - 1):
            streak.saw(step, metric(True))
            step += 1
        streak.saw(step, metric(False))
        step += 1
    assert streak.too_long is None and streak.count == 3 * (MOST_IN_A_ROW - 1)
    for _ in range(MOST_IN_A_ROW + 5):
        streak.saw(step, metric(True))
        step += 1
    assert f"not finite at step {step - 6}," in streak.too_long


def test_candidates_that_take_turns_are_no_streak():
    streak = Streak()
    for step in range(4 * MOST_IN_A_ROW):
        streak.saw(step, [step % 2 == 0, step % 2 == 1])
    assert streak.too_long is None and streak.count == 4 * MOST_IN_A_ROW


def test_metrics_become_what_json_holds():
    row = {
        "step": 3,
        "loss": [1.0, math.nan],
        "parts": {"a": -math.inf},
        "rolled_back": [False, True],
    }
    assert finite_numbers(row) == row | {"loss": [1.0, None], "parts": {"a": None}}
    assert rolled_back_steps([row, {"step": 4, "loss": 1.0}]) == 1
