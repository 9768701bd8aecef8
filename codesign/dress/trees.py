"""Kernels in any Flax model's parameters: found by name, replaced by name.

A name is the leaf's path with dots, such as "Dense_0.kernel"; NNX states, their pure dicts,
Linen's nested dicts and flat dicts by name all have the same names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from codesign.dress.rows import RowSpec, chosen, flax_spec
from codesign.errors import did_you_mean

Tree = TypeVar("Tree")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf of a tree by its name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def pick(tree: Any, names: Iterable[str]) -> dict[str, Any]:
    """The leaves of these names.

    Raises:
      ValueError: a name that is not in the tree.
    """
    leaves = named_leaves(tree)
    for name in names:
        if name not in leaves:
            raise ValueError(f"no parameter is called '{name}'; {did_you_mean(name, leaves)}")
    return {name: leaves[name] for name in names}


def replace_leaves(tree: Tree, values: Mapping[str, Any]) -> Tree:
    """The same tree with other leaves under these names.

    Raises:
      ValueError: a name that is not in the tree.
    """
    pick(tree, values)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: values.get(_name(path), leaf), tree)


def kernel_specs(
    params: Any,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    specs: Mapping[str, RowSpec] | None = None,
) -> dict[str, RowSpec]:
    """The kernels to prune of a plain Flax model: its leaves called "kernel".

    Args:
      params: the model's parameters, arrays or their shapes.
      include: shell patterns of names, see `rows.chosen`.
      exclude: likewise; the first and last layer, say.
      specs: by name, of kernels that are neither Dense nor Conv, whatever they are called.

    Raises:
      ValueError: a pattern that matches nothing, nothing left, or a kernel of a rank that does
        not tell what its axes are.
    """
    specs = dict(specs or {})
    pick(params, specs)
    leaves = named_leaves(params)
    kernels = [name for name in leaves if name in specs or name.split(".")[-1] == "kernel"]
    found = {}
    for name in chosen(kernels, include, exclude):
        try:
            found[name] = specs.get(name) or flax_spec(leaves[name].shape)
            found[name].sizes(leaves[name].shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _name(path: tuple[Any, ...]) -> str:
    # An NNX variable's leaf is its attribute `value`; a dict's key "value" is a name.
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator=".")
