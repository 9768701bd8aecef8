"""Slicing: cut the discrete network of an architecture out of a supernet.

A slice keeps the most important layers by rank, in their original order, and the leading heads,
FFN units and channels, which `importance.reorder` has sorted beforehand. It computes exactly
what the supernet computes under the 0/1 gates of that architecture.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import ELASTIC, TOWERS, Architecture, Tower
from codesign.models.transformer import ELASTIC_AXES

Tree = TypeVar("Tree")
# Of each tower, the indices of the layers that stay, increasing.
Kept = dict[str, jax.Array]


def sliced(state: nnx.State, architecture: Architecture) -> nnx.State:
    """The state of the sub-network, from that of a CLIP in which it fits; shares no array."""
    if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(state)):
        # NumPy cuts without a compilation for every size.
        state = jax.device_get(state)
    return jax.tree.map(jnp.array, cut(state, kept_layers(state, architecture), architecture))


def kept_layers(rest: nnx.State, architecture: Architecture) -> Kept:
    """Indices of the layers that a sub-network keeps, by tower, in their original order.

    Args:
      rest: of the state of a CLIP, at least the ranks of its layers.
      architecture: of the sub-network, which fits.
    """

    def of(tower: str) -> Any:
        rank: Any = rest[tower]["blocks"]["layer_rank"][...]
        numpy = np if isinstance(rank, np.ndarray) else jnp
        return numpy.sort(numpy.argsort(rank)[: getattr(architecture, tower).layers])

    return {tower: of(tower) for tower in TOWERS}


def cut(tree: Tree, kept: Kept, architecture: Architecture) -> Tree:
    """A tree of a CLIP's variables, such as its state or an optimizer's, cut to a sub-network.

    Ranks need no renumbering: those of the kept layers are 0..n-1 already. What is in no variable,
    or in that of no tower, stays.

    Args:
      tree: with `nnx.Variable`s whose metadata `axes` names their axes.
      kept: of `kept_layers`.
      architecture: of the sub-network.
    """

    def of(path: tuple[Any, ...], node: Any) -> Any:
        where = _places(path, node, kept, architecture)
        return node if where is None else node.replace(node[...][where])

    found: Tree = jax.tree_util.tree_map_with_path(of, tree, is_leaf=_is_variable)
    return found


def put_back(tree: Tree, part: Tree, kept: Kept, architecture: Architecture) -> Tree:
    """The tree with the values of a sub-network's where `cut` took them from.

    Args:
      tree: of the whole network.
      part: of the sub-network; what `cut` leaves is taken from it too.
      kept, architecture: as for `cut`.
    """

    def of(path: tuple[Any, ...], node: Any, own: Any) -> Any:
        where = _places(path, node, kept, architecture)
        return own if where is None else node.replace(node[...].at[where].set(own[...]))

    found: Tree = jax.tree_util.tree_map_with_path(of, tree, part, is_leaf=_is_variable)
    return found


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _places(
    path: tuple[Any, ...], node: Any, kept: Kept, architecture: Architecture
) -> tuple[Any, ...] | None:
    """Index of the sub-network's values in one array; None where it is in no tower."""
    tower = next((key.key for key in path if getattr(key, "key", None) in kept), None)
    if tower is None or not _is_variable(node):
        return None
    own = getattr(architecture, tower)
    of_letter: dict[str, Any] = {
        letter: kept[tower] if letter == "L" else slice(getattr(own, name))
        for letter, name in ELASTIC_AXES.items()
    }
    return tuple(of_letter.get(letter, slice(None)) for letter in node.axes)


def check_fits(large: Architecture, small: Architecture) -> None:
    """Raises ValueError, naming the dimension, unless `small` can be cut out of `large`."""
    for field in dataclasses.fields(Architecture):
        ours, theirs = getattr(large, field.name), getattr(small, field.name)
        if isinstance(ours, Tower):
            _check_tower_fits(field.name, ours, theirs)
        elif ours != theirs:
            raise ValueError(
                f"cannot slice to {field.name} = {theirs!r}: the model has {ours!r}, and this "
                "dimension is not elastic"
            )


def _check_tower_fits(tower: str, large: Tower, small: Tower) -> None:
    for name in ELASTIC:
        available, wanted = getattr(large, name), getattr(small, name)
        if wanted > available:
            raise ValueError(
                f"cannot slice to {tower}.{name} = {wanted}: the model has only {available}"
            )
