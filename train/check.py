"""Whether a compiled step computes what it should: two compilations of it held against each other.

A compiler that fuses operations may fuse them wrongly. jaxlib 0.10.2 did so on CPUs (see
codesign/compiler.py): the loss inside the gradient's program was not the loss, training
followed wrong gradients, and its curves looked like any others. So before the first step of a
phase the same step, on the same batch, is compiled once more with the least optimisation XLA
offers. The loss and the gradient's norm of both programs must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.compiler import described, plain_options
from codesign.errors import RunError

# float32 sums in another order differ by 1e-6 to 1e-5; wrong fusions are off by 1e-3 to 1.
TOLERANCE = 3e-4
# bfloat16 has eight bits, and fusions keep more of them than single operations do.
BFLOAT16_TOLERANCE = 0.05
COMPARED = ("loss", "grad_norm")

Metrics = Mapping[str, Any]
Step = Callable[..., tuple[Any, Metrics]]


def due(asked: bool | None) -> bool:
    """Whether a run is checked: as asked; where nothing was asked, on CPUs."""
    return jax.default_backend() == "cpu" if asked is None else asked


def plain_metrics(step: Step, *args: Any) -> dict[str, jax.Array]:
    """The loss and the gradient's norm of one step, by a program with little optimisation.

    Args:
      step: returns the next state and metrics, "loss" among them; pure.
      args: of the step; none of their buffers is given up.

    Returns:
      Those of the two that the step reports. The optimizer's update is not computed.
    """

    def plain_step(*args: Any) -> dict[str, jax.Array]:
        found = step(*args)[1]
        return {name: found[name] for name in COMPARED if name in found}

    return jax.jit(plain_step, compiler_options=plain_options())(*args)


def compare(phase: str, plain: Metrics, compiled: Metrics, dtype: Any = jnp.float32) -> None:
    """Holds the metrics of the step that trains against those of `plain_metrics`.

    Args:
      phase: its name, for the message.
      plain: of `plain_metrics`.
      compiled: of the same step as it trains.
      dtype: of the network's activations.

    Raises:
      RunError: they disagree; the line names what to do.
    """
    tolerance = BFLOAT16_TOLERANCE if dtype == jnp.bfloat16 else TOLERANCE
    for name in plain:
        right = np.asarray(plain[name], np.float64)
        came = np.asarray(compiled[name], np.float64)
        if not np.isfinite(right).all():
            return  # a loss that is not finite is reported as such by the loop
        error = float(np.max(np.abs(came - right) / np.maximum(np.abs(right), 1e-3)))
        if not error <= tolerance:
            raise RunError(
                f"the {phase} step is compiled wrongly: its {name} is off by {error:.1e} "
                f"({described()}); install another jaxlib, or train all the same with --no-check"
            )
