"""Importance: score the units of a supernet and put the most important first.

Prefix gates and slices keep the leading units, so a trained dense CLIP is first reordered
by importance: channels once for a whole tower, heads and FFN units in each layer. Layers
stay where they are and get a rank.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.architecture import TOWERS
from codesign.models.calibration import Calibration, Loss, info_nce
from codesign.models.clip import CLIP
from codesign.models.gates import Gates, TowerGates, full_gates
from codesign.models.removal import loss_increase
from codesign.models.transformer import LayerRank
from codesign.userfile import is_member, load_member

Method = Literal["taylor", "loss", "magnitude"]
METHODS: tuple[Method, ...] = get_args(Method)
# Of the model, and of batches where there are some: scores in the shape of the gates.
Criterion: TypeAlias = Callable[[CLIP, "Calibration | None"], Gates]


def score_units(
    model: CLIP,
    batches: Calibration | None = None,
    method: Method | str | Criterion = "taylor",
    *,
    loss: Loss = info_nce,
    groups: int = 16,
) -> Gates:
    """Scores of every layer, head, FFN unit and channel of both towers.

    Args:
      model: left as it is.
      batches: the calibration set, stacked, each leaf [N,...]; magnitude needs none.
      method: "taylor", one pass forth and back (see `taylor_importance`); "loss", the measured
        rise of the loss, a pass forth a unit or group (see `removal.loss_increase`), which
        Taylor's scores put into groups; "magnitude", no data (see `magnitude_importance`).
        Where layers are to go, prefer "loss": taking a layer out is no small step, and Taylor
        ranks layers hardly better than chance (`benchmarks/pruning.py`). A function of the model
        and the batches, or "FILE.py:NAME" of one, takes their place.
      loss: of a batch's embeddings; the same function object is compiled once.
      groups: of "loss", how many a layer's FFN units, and a tower's channels, are cut into.

    Returns:
      Scores in the shape of the gates; larger is more important. They rank the units of one
      dimension of one tower (heads and FFN units: of one layer) and are not to be compared
      beyond that.

    Raises:
      ValueError: an unknown method, no batches, or a loss that is not finite on them.
      UserError: a file that cannot be run.
    """
    if is_member(method):
        method = load_member(str(method), "criterion")
    if callable(method):
        return _own_scores(model, batches, method)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if method == "magnitude":
        return magnitude_importance(model)
    if batches is None:
        raise ValueError(f"method {method} needs batches of a calibration set; magnitude does not")
    graphdef, state = nnx.split(model)
    of_gates = jax.tree_util.Partial(_gated_loss, graphdef, state, jax.tree_util.Partial(loss))
    scores = taylor_importance(of_gates, full_gates(model.architecture), batches)
    if method == "loss":
        scores = loss_increase(model, batches, scores, loss, groups)
    if not all(bool(jnp.isfinite(values).all()) for values in jax.tree.leaves(scores)):
        raise ValueError(
            "the loss is not finite on the calibration batches; are images normalised, ids "
            "within the vocabulary and the weights finite?"
        )
    return scores


def _own_scores(model: CLIP, batches: Calibration | None, criterion: Criterion) -> Gates:
    scores, name = criterion(model, batches), getattr(criterion, "__name__", "the criterion")
    if not isinstance(scores, Gates):
        raise ValueError(f"{name} gives a {type(scores).__name__}; it must give codesign's Gates")
    if not all(bool(jnp.isfinite(values).all()) for values in jax.tree.leaves(scores)):
        raise ValueError(f"{name} gives scores that are not finite")
    return scores


def _gated_loss(
    graphdef: Any, state: nnx.State, loss: Any, gates: Gates, batch: Calibration
) -> jax.Array:
    model: CLIP = nnx.merge(graphdef, state)
    return loss(model(batch.images, batch.ids, gates)[0], batch)


def taylor_importance(
    loss_of_gates: Callable[[Gates, Any], jax.Array], gates: Gates, batches: Any
) -> Gates:
    """First-order Taylor scores: the mean over batches of (g dL/dg)^2.

    With the gates at 1 that estimates the squared change of the loss when a unit is removed
    (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, eq. 8).

    Args:
      loss_of_gates: (gates, batch) -> scalar loss. Weights it closes over become constants of
        the compiled program; for a large model hand them over as arguments instead,
        `jax.tree_util.Partial(loss, params)` with loss(params, gates, batch).
      gates: where to expand, `full_gates(architecture)`.
      batches: pytree of stacked batches, each leaf [N, ...].

    Returns:
      Scores in the shape of the gates.
    """
    if not isinstance(loss_of_gates, jax.tree_util.Partial):
        loss_of_gates = jax.tree_util.Partial(loss_of_gates)
    return _mean_squared_taylor(loss_of_gates, gates, batches)


@jax.jit
def _mean_squared_taylor(loss_of_gates: Any, gates: Gates, batches: Any) -> Gates:
    def add(total: Gates, batch: Any) -> tuple[Gates, None]:
        grads = jax.grad(loss_of_gates)(gates, batch)
        return jax.tree.map(lambda t, g, d: t + jnp.square(g * d), total, gates, grads), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, gates), batches)
    count = jax.tree.leaves(batches)[0].shape[0]
    return jax.tree.map(lambda t: t / count, total)


def magnitude_importance(model: CLIP) -> Gates:
    """Scores without data: the sum of squares of all weights that touch a unit."""
    state = nnx.state(model, nnx.Param)
    return Gates(**{tower: _tower_magnitude(state[tower]) for tower in TOWERS})


@jax.jit
def _tower_magnitude(state: nnx.State) -> TowerGates:
    parameters = [variable for _, variable in nnx.to_flat_state(state)]

    def squares(kept: str) -> jax.Array:
        touching = [p for p in parameters if set(kept) <= set(p.axes)]
        return sum(
            (jnp.einsum(f"{p.axes}->{kept}", jnp.square(p[...])) for p in touching),
            start=jnp.zeros(()),
        )

    return TowerGates(
        layers=squares("L"), heads=squares("LH"), ffn=squares("LF"), channels=squares("D")
    )


def reorder(model: CLIP, scores: Gates) -> CLIP:
    """The same function with the most important units first and the layers ranked.

    Args:
      model: left as it is. A unit that a layer lacks (see `dialect.py`) comes last, whatever
        its score.
      scores: of both towers; larger is more important, ties keep their order.

    Raises:
      ValueError: scores that lack a tower, hold NaN or are of another architecture.
    """
    graphdef, state = nnx.split(model)
    orders = {tower: _orders(model, getattr(scores, tower), tower) for tower in TOWERS}
    return nnx.merge(graphdef, _permuted_state(state, orders))


@jax.jit
def _permuted_state(state: nnx.State, orders: dict[str, TowerGates]) -> nnx.State:
    flat = [
        (path, variable.replace(_permute(path, variable, orders)))
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(flat)


def _orders(model: CLIP, scores: TowerGates | None, tower: str) -> TowerGates:
    """Unit indices from most to least important, in the shape of the scores."""
    if scores is None:
        raise ValueError(f"scores.{tower} is missing")
    expected = getattr(jax.eval_shape(lambda: full_gates(model.architecture)), tower)
    for name, values in vars(scores).items():
        shape = getattr(expected, name).shape
        if jnp.shape(values) != shape:
            raise ValueError(
                f"scores.{tower}.{name} has shape {jnp.shape(values)}, the model needs {shape}"
            )
        if bool(jnp.isnan(values).any()):
            raise ValueError(f"scores.{tower}.{name} holds NaN; was the loss finite?")
    blocks = getattr(model, tower).blocks
    if blocks.ragged:
        scores = dataclasses.replace(
            scores,
            heads=jnp.where(blocks.present_heads[...], scores.heads, -jnp.inf),
            ffn=jnp.where(blocks.present_ffn[...], scores.ffn, -jnp.inf),
        )
    return jax.tree.map(lambda s: jnp.argsort(-s, axis=-1, stable=True), scores)


def _permute(
    path: tuple[Any, ...], variable: nnx.Variable, orders: dict[str, TowerGates]
) -> jax.Array:
    """One array with its channels, heads and FFN units in order; for LayerRank the new ranks."""
    values, axes = variable[...], variable.axes
    if path[0] not in orders:
        return jnp.copy(values)  # jit would hand it through, shared with the model
    order = orders[path[0]]
    if isinstance(variable, LayerRank):
        return jnp.argsort(order.layers).astype(values.dtype)
    if "D" in axes:
        values = jnp.take(values, order.channels, axis=axes.index("D"))
    for letter, per_layer in (("H", order.heads), ("F", order.ffn)):
        if letter in axes:  # always beside L, the first axis
            take = functools.partial(jnp.take, axis=axes.index(letter) - 1)
            values = jax.vmap(take)(values, per_layer)
    return values
