"""Gates: an architecture, discrete or relaxed, as soft masks in [0, 1] on the supernet.

The units of a tower are kept in order of importance: heads, FFN units and channels as a
prefix of the (importance-ordered) weights, layers by their rank. A count between two
choices opens the block of units between them in part, so a choice is a 0/1 mask and the
way from one choice to the next is a straight line.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.architecture import Architecture, Tower


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TowerGates:
    """Soft masks of one tower, f32 in [0, 1]; vmap adds leading axes.

    Attributes:
      layers: [L], scales both residual branches of a layer; 0 makes it the identity.
      heads: [L,H], scales what a head hands to the output projection.
      ffn: [L,F], scales the hidden units after the activation.
      channels: [D], weighs the channels of every LayerNorm and scales its result.
    """

    layers: Any
    heads: Any
    ffn: Any
    channels: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gates:
    """Gates of both towers; a tower without gates (None) runs in full."""

    vision: TowerGates | None
    text: TowerGates | None


def _check_choices(choices: tuple[int, ...]) -> tuple[int, ...]:
    try:
        exact = tuple(operator.index(choice) for choice in choices)
    except TypeError:
        raise ValueError(f"choices must be a tuple of integers, got {choices!r}") from None
    if not exact or exact[0] < 1 or any(a >= b for a, b in itertools.pairwise(exact)):
        raise ValueError(f"choices must be positive and strictly increasing, got {choices!r}")
    return exact


def ramp(count: Any, choices: tuple[int, ...]) -> jax.Array:
    """Prefix gates [choices[-1]] of `count` units.

    Units up to choices[0] are open. For neighbouring choices a < b the units (a, b] share
    the gate clip((count - a) / (b - a), 0, 1): 0/1 at every choice, linear between, and
    their sum is `count` wherever choices[0] <= count <= choices[-1].

    The derivative at a choice, where the ramp has a kink, is the mean of the two one-sided
    derivatives (half of the block below, half of the block above); at the first and last
    choice it is the one-sided derivative inwards, so a search that sits on a choice always
    sees both ways off it. Outside the range it is zero.

    Args:
      count: scalar, may be traced.  choices: positive, strictly increasing integers.

    Raises:
      ValueError: choices that are empty, not positive integers or not increasing.
    """
    return _ramp(jnp.asarray(count, jnp.float32), _check_choices(choices))


def _blocks(choices: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The choices (a, b) around each unit above choices[0], both [choices[-1] - choices[0]]."""
    sizes = np.diff(choices)
    return np.repeat(choices[:-1], sizes), np.repeat(choices[1:], sizes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _ramp(count: jax.Array, choices: tuple[int, ...]) -> jax.Array:
    lower, upper = _blocks(choices)
    soft = jnp.clip((count - lower) / (upper - lower), 0.0, 1.0).astype(jnp.float32)
    return jnp.concatenate([jnp.ones(choices[0], jnp.float32), soft])


@_ramp.defjvp
def _ramp_jvp(
    choices: tuple[int, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Own rule: clip's differs between jnp.clip (1/2 at a tie) and lax.clamp (0)."""
    (count,), (tangent,) = primals, tangents
    lower, upper = _blocks(choices)
    inside = (lower < count) & (count < upper)
    at_end = (count == choices[0]) & (lower == choices[0])
    at_end |= (count == choices[-1]) & (upper == choices[-1])
    at_kink = (count == lower) | (count == upper)
    weight = jnp.where(inside | at_end, 1.0, jnp.where(at_kink, 0.5, 0.0))
    slope = jnp.concatenate([jnp.zeros(choices[0]), weight / (upper - lower)])
    return _ramp(count, choices), slope * tangent


def tower_gates(tower: Tower, choices: Tower, layer_rank: Any) -> TowerGates:
    """Gates of one tower.

    Args:
      tower: counts, ints or relaxed floats, may be traced.
      choices: a tuple of choices in each field; the last is the supernet's dimension.
      layer_rank: int [L], rank 0 = most important = kept longest.

    Raises:
      ValueError: bad choices, or a layer_rank of another length than choices.layers[-1].
    """
    layers = choices.layers[-1]
    if jnp.shape(layer_rank) != (layers,):
        raise ValueError(
            f"layer_rank has shape {jnp.shape(layer_rank)}, choices.layers ends at {layers}"
        )
    heads = ramp(tower.heads, choices.heads)
    ffn = ramp(tower.ffn, choices.ffn)
    return TowerGates(
        layers=ramp(tower.layers, choices.layers)[jnp.asarray(layer_rank)],
        heads=jnp.broadcast_to(heads, (layers, *heads.shape)),
        ffn=jnp.broadcast_to(ffn, (layers, *ffn.shape)),
        channels=ramp(tower.width, choices.width),
    )


def gates_for(
    architecture: Architecture, choices: Any, vision_layer_rank: Any, text_layer_rank: Any
) -> Gates:
    """Gates that make a supernet compute `architecture`.

    Args:
      architecture: discrete or relaxed; may be traced.
      choices: anything with a `vision` and a `text` Tower of tuples of choices, for example
        an Architecture of tuples.
      vision_layer_rank, text_layer_rank: int [L] of each tower, `model.vision.blocks.layer_rank`.
    """
    return Gates(
        vision=tower_gates(architecture.vision, choices.vision, vision_layer_rank),
        text=tower_gates(architecture.text, choices.text, text_layer_rank),
    )


def full_gates(architecture: Architecture) -> Gates:
    """All gates open: the supernet as it is."""

    def full(tower: Tower) -> TowerGates:
        return TowerGates(
            layers=jnp.ones(tower.layers),
            heads=jnp.ones((tower.layers, tower.heads)),
            ffn=jnp.ones((tower.layers, tower.ffn)),
            channels=jnp.ones(tower.width),
        )

    return Gates(vision=full(architecture.vision), text=full(architecture.text))
