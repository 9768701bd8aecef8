"""Surrogates: cycles and dynamic energy of one GEMM on one accelerator.

All have one shape, `surrogate(m, k, n, accelerator, tech) -> Prediction` of scalars, and
are pytrees: jit them, differentiate them in every argument, vmap them for batches.

    Analytic              the best mapping of codesign.cost.mapper's lattice
    Ensemble, learned     lower bound x exp(network)
    Ensemble, corrected   analytic x exp(network)

A network ends in a layer that starts at zero, so an ensemble that has learned nothing is
its base; the mean of the members predicts, and their spread says how far to trust it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
from codesign.cost.mapper import gemm_costs
from codesign.cost.technology import Technology
from codesign.surrogate.features import analytic_features, features

Array = jax.Array
Kind = Literal["learned", "corrected"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Prediction(NamedTuple):
    """What a GEMM costs; scalars or arrays [...].

    Attributes:
      cycles: clock cycles.
      energy_pj: dynamic energy, without leakage, pJ.
    """

    cycles: Any
    energy_pj: Any


Surrogate = Callable[[Any, Any, Any, Accelerator, Technology], Prediction]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Analytic:
    """The analytic model as a surrogate; it has nothing to fit."""

    def __call__(
        self, m: Any, k: Any, n: Any, accelerator: Accelerator, tech: Technology
    ) -> Prediction:
        """Cost of the GEMM [m, k] x [k, n]; infinite cycles where no mapping fits."""
        costs = gemm_costs(m, k, n, accelerator, tech)
        return Prediction(costs.cycles, costs.dynamic_pj)


class Network(nnx.Module):
    """Features [F] to two numbers, zero before any training."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        sizes = (inputs, *hidden)
        # A matrix unit's bfloat16 would be an error of the surrogate.
        linear = functools.partial(nnx.Linear, precision=jax.lax.Precision.HIGHEST)
        self.hidden = nnx.List(
            [linear(a, b, rngs=rngs) for a, b in zip(sizes[:-1], hidden, strict=True)]
        )
        zeros = nnx.initializers.zeros_init()
        self.last = linear(sizes[-1], 2, kernel_init=zeros, bias_init=zeros, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Outputs [..., 2] of features [..., F]."""
        for layer in self.hidden:
            x = jax.nn.silu(layer(x))
        return self.last(x)


@functools.cache
def graphdef(inputs: int, hidden: tuple[int, ...]) -> nnx.GraphDef:
    """Structure of a network, without its weights."""
    return nnx.graphdef(nnx.eval_shape(lambda: Network(inputs, hidden, rngs=nnx.Rngs(0))))


def init_params(key: Array, inputs: int, hidden: tuple[int, ...]) -> nnx.State:
    """Weights of one new network."""
    return nnx.state(Network(inputs, hidden, rngs=nnx.Rngs(key)))


def forward(params: nnx.State, x: Array, hidden: tuple[int, ...]) -> Array:
    """Outputs [..., 2] of one network's weights for normalised features [..., F]."""
    return nnx.merge(graphdef(x.shape[-1], hidden), params)(x)


class Inputs(NamedTuple):
    """What an ensemble works with; scalars, or arrays [...] in a batch.

    Attributes:
      features: [F].
      log_base: logarithms of the base's cycles and energy (pJ), [2].
      fits: whether some mapping fits; features and base are finite where none does.
    """

    features: Array
    log_base: Array
    fits: Array


def inputs(
    kind: Kind, m: Any, k: Any, n: Any, accelerator: Accelerator, tech: Technology
) -> Inputs:
    """Features and base of the GEMM [m, k] x [k, n]; scalars, vmap for batches."""
    costs = None if kind == "learned" else gemm_costs(m, k, n, accelerator, tech)
    return inputs_given(costs, m, k, n, accelerator, tech)


def inputs_given(
    costs: Execution | None, m: Any, k: Any, n: Any, accelerator: Accelerator, tech: Technology
) -> Inputs:
    """The same with the analytic model's costs, which "learned" ensembles do without."""
    point = jax.tree.map(lambda x: jnp.asarray(x, float), (m, k, n, accelerator, tech))
    x, low = features(*point)
    if costs is None:
        return Inputs(x, jnp.log(jnp.stack([low.cycles, low.energy_pj])), jnp.asarray(True))
    fits = jnp.isfinite(costs.cycles)
    finite = jnp.where(fits, costs.cycles, low.cycles)
    costs = Execution({"gemm": finite}, costs.energy_pj)
    log_base = jnp.log(jnp.stack([costs.cycles, costs.dynamic_pj]))
    return Inputs(jnp.concatenate([x, analytic_features(costs, low)]), log_base, fits)


def base(seen: Inputs) -> Prediction:
    """What an ensemble of no corrections predicts from inputs [...]."""
    return _prediction(seen.log_base, seen.fits)


def _prediction(log: Array, fits: Array) -> Prediction:
    """Costs of their logarithms [..., 2]."""
    cycles, energy_pj = jnp.exp(log[..., 0]), jnp.exp(log[..., 1])
    return Prediction(jnp.where(fits, cycles, jnp.inf), energy_pj)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ensemble:
    """E networks on a base: "learned" on the lower bounds, "corrected" on the analytic model.

    Attributes:
      params: weights of the networks, leaves [E, ...].
      mean, scale: features are (x - mean) * scale, [F]; a scale of 0 mutes a feature that
        the training samples say nothing about.
      unit: logarithms of truth over base that the networks' ones stand for, [2].
      kind: "learned" or "corrected".
      hidden: sizes of the networks' hidden layers.
    """

    params: nnx.State
    mean: Array
    scale: Array
    unit: Array
    kind: Kind = dataclasses.field(metadata={"static": True})
    hidden: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def corrections(self, x: Array) -> Array:
        """What each member adds to the base's logarithms, [E, ..., 2], for features [..., F]."""
        normal = (x - self.mean) * self.scale
        return self.unit * jax.vmap(lambda p: forward(p, normal, self.hidden))(self.params)

    def __call__(
        self, m: Any, k: Any, n: Any, accelerator: Accelerator, tech: Technology
    ) -> Prediction:
        """Geometric mean of the members; infinite cycles where no mapping fits."""
        return self.at(inputs(self.kind, m, k, n, accelerator, tech))

    def at(self, seen: Inputs) -> Prediction:
        """The same from inputs, [...]."""
        added = jnp.mean(self.corrections(seen.features), axis=0)
        return _prediction(seen.log_base + added, seen.fits)

    def spread(
        self, m: Any, k: Any, n: Any, accelerator: Accelerator, tech: Technology
    ) -> Prediction:
        """Standard deviation of the members' logarithms, of cycles and of energy."""
        return self.spread_at(inputs(self.kind, m, k, n, accelerator, tech))

    def spread_at(self, seen: Inputs) -> Prediction:
        """The same from inputs, [...]."""
        deviation = jnp.std(self.corrections(seen.features), axis=0)
        return Prediction(deviation[..., 0], deviation[..., 1])
