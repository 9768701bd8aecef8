"""Which arrays are split over devices, and how: one rule for parameters and all that mirrors them.

On a mesh (data, fsdp) every array of a state is split into as many parts as the axis fsdp has
devices, along one of its own axes, or is whole on every device. Optimizers' moments, moving
averages, gradients and teachers are trees of the same `nnx.Variable`s as the parameters, whose
metadata `axes` says what their axes are, so the rule finds the same axis in all of them; masks of
subnets are in the shape of their kernels. The compiler gathers a layer's weights where the layer
is computed, and adds its gradient up where it is kept: fully sharded data parallelism
(Rajbhandari et al., ZeRO, SC 2020, stage 3; Zhao et al., PyTorch FSDP, VLDB 2023).

The axis letters are those of `codesign.models.transformer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codesign.models.layout import FSDP, whole

Tree = TypeVar("Tree")
# Layers are scanned, and rows of tables looked up, one at a time: each has to be one's own.
WHOLE_AXES = "LTV"
# Of arrays that name no axes: what has fewer is a vector a layer, a design or a multiplier.
_LEAST_AXES = 3


def split_axis(shape: Sequence[int], parts: int, axes: str | None = None) -> int | None:
    """The axis along which an array is split in equal parts.

    That is the longest of those which the parts divide, the last of equally long ones. Vectors,
    and stacks of vectors, stay whole: all of them together are a thousandth of a network, and
    each would cost a collective operation of its own.

    Args:
      shape: of the array.
      parts: how many.
      axes: a letter for each of its last axes; those before, such as candidates of a search, and
        the letters of `WHOLE_AXES` are not split. None: any axis may be.

    Returns:
      Its number, or None where the array stays whole.

    Raises:
      ValueError: more letters than axes.
    """
    if axes is None:
        letters, is_matrix = "O" * len(shape), len(shape) >= _LEAST_AXES
    else:
        if len(axes) > len(shape):
            raise ValueError(f"axes {axes!r} of an array of shape {tuple(shape)}")
        letters = "L" * (len(shape) - len(axes)) + axes
        # Heads and their channels are the one axis of a bias.
        is_matrix = len(axes.replace("L", "").replace("HK", "J")) >= 2
    if parts == 1 or not is_matrix:
        return None
    fitting = [
        (size, i)
        for i, (size, letter) in enumerate(zip(shape, letters, strict=True))
        if letter not in WHOLE_AXES and size and size % parts == 0
    ]
    return max(fitting)[1] if fitting else None


def shardings(tree: Tree, mesh: Mesh) -> Tree:
    """A `NamedSharding` in place of every array of a tree; see `split_axis`.

    Args:
      tree: arrays, or what has their shapes; some may be in `nnx.Variable`s.
      mesh: with an axis "fsdp"; without one everything is whole.
    """
    parts = mesh.shape.get(FSDP, 1)

    def of(node: Any) -> Any:
        axes = getattr(node, "axes", None) if isinstance(node, nnx.Variable) else None

        def of_array(x: Any) -> NamedSharding:
            axis = split_axis(np.shape(x), parts, axes)
            spec = () if axis is None else (*[None] * axis, FSDP)
            return NamedSharding(mesh, PartitionSpec(*spec))

        return jax.tree.map(of_array, node)

    found: Tree = jax.tree.map(of, tree, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return found


def split(tree: Tree, mesh: Mesh | None) -> Tree:
    """The arrays of a traced tree, held to their `shardings`.

    Where nothing is split, on a mesh without parts or on none, the compiler needs no telling.
    """
    if mesh is None or not is_split(mesh):
        return tree
    kept: Tree = jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))
    return kept


def is_split(mesh: Mesh | None) -> bool:
    """Whether anything is split on a mesh."""
    return mesh is not None and mesh.shape.get(FSDP, 1) > 1


@contextlib.contextmanager
def used(network: Tree, mesh: Mesh | None, scanned: str = "") -> Iterator[Tree]:
    """A traced network's arrays as they are used on a mesh: each put together on every device.

    Args:
      network: split arrays.
      mesh: the devices, or None.
      scanned: name of those whose layers the network itself puts together, one at a time
        (`codesign.models.layout`).
    """
    if mesh is None or not is_split(mesh):
        yield network
        return

    def placed(path: tuple[Any, ...], x: Any) -> Any:
        return x if any(getattr(key, "key", None) == scanned for key in path) else whole(x)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield jax.tree_util.tree_map_with_path(placed, network)


def vdot(a: Any, b: Any, mesh: Mesh | None) -> jax.Array:
    """`optax.tree.vdot`, without its putting split arrays together to lay them out in a row."""
    if not is_split(mesh):
        found: jax.Array = optax.tree.vdot(a, b)
        return found
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)), jnp.zeros(()))
