"""The check of a run's first step: programs that agree pass, one that is off stops the run."""

import jax
import jax.numpy as jnp
import pytest

from codesign.errors import RunError
from codesign.train.check import compare, due, plain_metrics


def step(state, batch):
    """One step of a least-squares fit."""

    def loss(weights):
        return jnp.mean(jnp.square(batch @ weights - 1.0))

    value, gradient = jax.value_and_grad(loss)(state)
    return state - 0.1 * gradient, {"loss": value, "grad_norm": jnp.linalg.norm(gradient)}


STATE, BATCH = jnp.linspace(-1.0, 1.0, 8), jax.random.normal(jax.random.key(0), (32, 8))


def test_a_step_agrees_with_itself_and_keeps_its_buffers():
    donating = jax.jit(step, donate_argnums=0)
    plain = plain_metrics(donating, STATE, BATCH)
    assert not STATE.is_deleted()
    compare("joint", plain, donating(jnp.copy(STATE), BATCH)[1])


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_metric_that_is_off_stops_the_run_in_one_line(name):
    plain = plain_metrics(step, STATE, BATCH)
    off = {**plain, name: plain[name] * 1.001}
    with pytest.raises(RunError, match=rf"joint step .*{name} is off by 1\.0e-03 \(jaxlib") as e:
        compare("joint", plain, off)
    assert "--no-check" in str(e.value) and "\n" not in str(e.value)
    compare("joint", plain, off, jnp.bfloat16)  # whose rounding alone does as much


def test_one_of_many_members_is_enough_and_nan_is_an_error():
    plain = {"loss": jnp.array([1.0, 2.0])}
    for wrong in ([1.0, 2.01], [1.0, jnp.nan]):
        with pytest.raises(RunError, match="compiled wrongly"):
            compare("joint", plain, {"loss": jnp.array(wrong)})


def test_a_loss_that_is_not_finite_is_left_to_the_loop():
    compare("joint", {"loss": jnp.nan}, {"loss": 1.0})


def test_steps_without_a_gradients_norm_are_compared_by_their_loss():
    plain = plain_metrics(lambda x: (x, {"loss": x.sum(), "other": x}), STATE)
    assert set(plain) == {"loss"}


def test_runs_on_cpus_are_checked_unless_told_otherwise():
    assert due(None) is (jax.default_backend() == "cpu")
    assert due(True) and not due(False)
