"""The check of a run's first step: programs that agree pass, one that is off stops the run."""

import jax
import jax.numpy as jnp
import pytest

from codesign.errors import RunError
from codesign.train.check import compare, due, plain_metrics

DERIVATIVE = "grad_dot_params"


def objective(state, batch):
    """Of a least-squares fit."""

    def loss(weights):
        value = jnp.mean(jnp.square(batch @ weights - 1.0))
        return value, {"loss": value}

    return state, loss


def step(state, batch):
    """One step of the fit."""
    weights, loss = objective(state, batch)
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
    return state - 0.1 * gradient, {"loss": value, DERIVATIVE: gradient @ weights}


STATE, BATCH = jnp.linspace(-1.0, 1.0, 8), jax.random.normal(jax.random.key(0), (32, 8))


def test_a_step_agrees_with_its_loss_and_keeps_its_buffers():
    plain = plain_metrics(objective, STATE, BATCH)
    assert not STATE.is_deleted()
    compare("joint", plain, jax.jit(step, donate_argnums=0)(jnp.copy(STATE), BATCH)[1])


def test_the_derivative_is_that_of_the_loss_along_the_weights():
    plain = plain_metrics(objective, STATE, BATCH)
    loss = objective(STATE, BATCH)[1]
    difference = (loss(1.01 * STATE)[0] - loss(0.99 * STATE)[0]) / 0.02
    assert float(plain[DERIVATIVE]) == pytest.approx(float(difference), rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "said"), [("loss", r"loss is off by 2\.0e-04"), (DERIVATIVE, "gradient is off by")]
)
def test_what_is_off_stops_the_run_in_one_line(wrong, said):
    plain = plain_metrics(objective, STATE, BATCH)
    by = {"loss": 1.0002, DERIVATIVE: 1.01}[wrong]
    off = {**plain, wrong: plain[wrong] * by}
    with pytest.raises(RunError, match=rf"the joint step .*{said}.* \(jaxlib") as error:
        compare("joint", plain, off)
    assert "--no-check" in str(error.value) and "\n" not in str(error.value)
    compare("joint", plain, off, jnp.bfloat16)  # whose rounding alone does as much


def test_a_gradient_that_is_off_in_rows_past_some_element_is_seen():
    """As the faulty fusions were: the loss right, a few rows of the backward pass wrong."""

    @jax.custom_vjp
    def centred(x):
        return x - jnp.mean(x, axis=-1, keepdims=True)

    def backward(_, g):
        right = g - jnp.mean(g, axis=-1, keepdims=True)
        return (right.at[30:].add(0.2 * g[30:]),)  # two rows of 32

    centred.defvjp(lambda x: (centred(x), None), backward)

    def wrong(state, batch):
        def loss(weights):
            value = jnp.mean(jnp.square(centred(batch * weights) @ weights - 1.0))
            return value, {"loss": value}

        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(state)
        return {"loss": value, DERIVATIVE: gradient @ state}

    def right(state, batch):
        def loss(weights):
            x = batch * weights
            x = x - jnp.mean(x, axis=-1, keepdims=True)
            value = jnp.mean(jnp.square(x @ weights - 1.0))
            return value, {"loss": value}

        return state, loss

    with pytest.raises(RunError, match="gradient is off"):
        compare("joint", plain_metrics(right, STATE, BATCH), jax.jit(wrong)(STATE, BATCH))


def test_one_of_many_members_is_enough_and_nan_is_an_error():
    plain = {"loss": jnp.array([1.0, 2.0])}
    for wrong in ([1.0, 2.01], [1.0, jnp.nan]):
        with pytest.raises(RunError, match="compiled wrongly"):
            compare("joint", plain, {"loss": jnp.array(wrong)})


@pytest.mark.parametrize("plain", [{"loss": jnp.nan}, {"loss": 1.0, DERIVATIVE: jnp.inf}])
def test_a_step_that_is_not_finite_is_left_to_the_loop(plain):
    assert not compare("joint", plain, {"loss": 1.0, DERIVATIVE: jnp.nan})
    assert compare("joint", {"loss": 1.0, DERIVATIVE: 2.0}, {"loss": 1.0, DERIVATIVE: 2.0})


def test_steps_without_a_gradient_are_compared_by_their_loss():
    loss = step(STATE, BATCH)[1]["loss"]
    compare("norms", plain_metrics(objective, STATE, BATCH), {"loss": loss})


def test_runs_on_cpus_are_checked_unless_told_otherwise():
    assert due(None) is (jax.default_backend() == "cpu")
    assert due(True) and not due(False)
