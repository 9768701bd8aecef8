"""Where arrays live: the one place that knows about devices.

A mesh of one axis, "data": batches are split over it, parameters and design variables
are on every device. Losses over the whole batch stay whole-batch losses, since the
compiler inserts the collectives; so a step computes the same on one device and on many.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh() -> Mesh:
    """All devices of all processes, along the data axis."""
    return jax.make_mesh((jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,))


def described(mesh: Mesh) -> dict[str, Any]:
    """Number and kind of the devices, {"count": 8, "kind": "TPU v5e"}."""
    return {"count": mesh.size, "kind": mesh.devices.flat[0].device_kind}


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Split along `axis` over the data axis of the mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))


def check_batch(mesh: Mesh, batch_size: int) -> None:
    """Raises ValueError where a batch cannot be split evenly over the devices."""
    if batch_size % mesh.shape[DATA]:
        raise ValueError(
            f"optim.batch_size is {batch_size}: it must be a multiple of the "
            f"{mesh.shape[DATA]} devices"
        )


def put(tree: Any, sharding: NamedSharding) -> Any:
    """The tree's arrays on devices as `sharding` says."""
    return jax.device_put(tree, sharding)
