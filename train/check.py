"""Whether a compiled step computes what it should: held against its loss, compiled plainly.

A compiler that fuses operations may fuse them wrongly. jaxlib 0.10.2 did so on CPUs (see
codesign/compiler.py): the loss inside the gradient's program was not the loss, training
followed wrong gradients, and its curves looked like any others. So before the first step of a
phase its loss alone, at the same weights and on the same batch, is compiled with the least
optimisation XLA offers, together with its derivative along the weights themselves: dL(t w)/dt at
t = 1, by forward-mode differentiation. The step has to report the same loss, and the same
derivative as the product of its gradient with the weights. Both ways differentiate exactly, so they
differ by rounding alone. Neither a backward pass nor an optimizer is compiled twice, and the
direction needs no memory and leaves the masks of subnets as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.compiler import described, plain_options
from codesign.errors import RunError

# float32 sums in another order differ by 1e-8 to 1e-6 of a loss; the least that the faulty
# fusions were seen to do is 2e-4.
LOSS_TOLERANCE = 5e-5
# Of the derivative's and the loss's size together: sums in another order come to 1e-6, the faulty
# fusions to 4e-3 and more. What is between leaves room for rectifiers, whose inputs near zero are
# rounded to either side.
DERIVATIVE_TOLERANCE = 1e-3
# bfloat16 has eight bits, and fusions keep more of them than single operations do. GPUs and TPUs
# multiply float32 with as few.
ROUGH_TOLERANCE = 0.05
LOSS, DERIVATIVE = "loss", "grad_dot_params"

Metrics = Mapping[str, Any]
# Of a step's arguments: the variables it differentiates at, and their loss: a scalar, and an
# auxiliary value (metrics with the "loss" as the step reports it, or a tuple that begins so).
Objective = Callable[..., tuple[Any, Callable[[Any], tuple[jax.Array, Any]]]]


def due(asked: bool | None) -> bool:
    """Whether a run is checked: as asked; where nothing was asked, on CPUs."""
    return jax.default_backend() == "cpu" if asked is None else asked


def plain_metrics(objective: Objective, *args: Any) -> dict[str, jax.Array]:
    """Loss and derivative along the weights, by a program with little optimisation.

    Args:
      objective: of the step; pure.
      args: of both; none of their buffers is given up.

    Returns:
      "loss", as the step reports it, and "grad_dot_params", a scalar.
    """

    def along_weights(*args: Any) -> dict[str, jax.Array]:
        variables, loss = objective(*args)
        _, derivative, aux = jax.jvp(loss, (variables,), (variables,), has_aux=True)
        metrics = aux[0] if isinstance(aux, tuple) else aux
        return {LOSS: metrics[LOSS], DERIVATIVE: derivative}

    return jax.jit(along_weights, compiler_options=plain_options())(*args)


def compare(phase: str, plain: Metrics, compiled: Metrics, dtype: Any = jnp.float32) -> bool:
    """Holds the metrics of the step that trains against those of `plain_metrics`.

    Args:
      phase: its name, for the message.
      plain: of `plain_metrics`.
      compiled: of the step; a step without gradient has no derivative.
      dtype: of the network's activations.

    Returns:
      Whether there was anything to compare: False where the plain ones are not finite.

    Raises:
      RunError: they disagree; the line names what to do.
    """
    right, came = (np.asarray(metrics[LOSS], np.float64) for metrics in (plain, compiled))
    if not (np.isfinite(right).all() and np.isfinite(plain.get(DERIVATIVE, 0.0))):
        return False  # the step is rolled back
    rough = dtype == jnp.bfloat16 or jax.default_backend() != "cpu"
    error = float(np.max(np.abs(came - right) / np.maximum(np.abs(right), 1e-3)))
    _stop_beyond(ROUGH_TOLERANCE if rough else LOSS_TOLERANCE, error, phase, "loss")
    if DERIVATIVE in compiled:
        slope = float(plain[DERIVATIVE])
        off = abs(float(np.sum(np.asarray(compiled[DERIVATIVE], np.float64))) - slope)
        error = off / (abs(slope) + max(float(np.sum(np.abs(right))), 1e-3))
        tolerance = ROUGH_TOLERANCE if rough else DERIVATIVE_TOLERANCE
        _stop_beyond(tolerance, error, phase, "gradient")
    return True


def _stop_beyond(tolerance: float, error: float, phase: str, what: str) -> None:
    """RunError where an error is beyond the tolerance, or NaN."""
    if not error <= tolerance:
        raise RunError(
            f"the {phase} step is compiled wrongly: its {what} is off by {error:.1e} "
            f"({described()}); install another jaxlib, or train all the same with --no-check"
        )
