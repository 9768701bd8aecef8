"""Where arrays lie while a network computes, on the mesh of devices that surrounds it, if any.

Weights that are split over devices (`codesign.train.sharding`) are put together where they are
used, a layer at a time, and activations are split along the batch. Left to itself, XLA may instead
exchange the activations of each product. A network on one device, or under no mesh, has nothing
to say.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
FSDP = "fsdp"


def whole(tree: Tree) -> Tree:
    """The arrays, each whole on every device."""
    return _laid_out(tree, PartitionSpec())


def by_batch(tree: Tree) -> Tree:
    """The arrays, split along their first axis over all devices."""
    return _laid_out(tree, PartitionSpec(jax.sharding.get_abstract_mesh().axis_names))


def _laid_out(tree: Any, spec: PartitionSpec) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape.get(FSDP, 1) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))
