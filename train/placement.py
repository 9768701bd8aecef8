"""Where arrays live: the one place that knows about devices.

A mesh of two axes, "data" and "fsdp": batches are split over both, parameters and what
mirrors them over "fsdp" by the rule of `sharding.py`, and all else is on every device. Losses
over the whole batch stay whole-batch losses, since the compiler inserts the collectives; so a
step computes the same on one device and on many.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from codesign.errors import UserError
from codesign.models.layout import FSDP
from codesign.runs import RunFolder
from codesign.train.sharding import shardings

Tree = TypeVar("Tree")
DATA = "data"
# After which a process that is not heard of is dead; JAX waits 100 s.
_SILENCE_S = 30


def make_mesh(fsdp: int = 1) -> Mesh:
    """All devices of all processes, `fsdp` of them next to each other along the axis "fsdp".

    Raises:
      UserError: a number that does not divide them.
    """
    devices = jax.device_count()
    if devices % fsdp:
        counted = f"{devices} device" + "s" * (devices > 1)
        raise UserError(f"--fsdp {fsdp} does not divide the {counted} of this run")
    shape = (devices // fsdp, fsdp)
    return jax.make_mesh(shape, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def described(mesh: Mesh) -> dict[str, Any]:
    """Number and kind of the devices, {"count": 8, "kind": "TPU v5e"}."""
    return {"count": mesh.size, "kind": mesh.devices.flat[0].device_kind}


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Split along `axis` over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def mesh_for(batch_size: int, micro_batches: int = 1, fsdp: int = 1) -> Mesh:
    """All devices, for batches in so many parts and parameters in `fsdp` ones.

    Raises:
      UserError: parts that cannot be split evenly over the devices.
    """
    mesh = make_mesh(fsdp)
    if batch_size // micro_batches % mesh.size:
        divided = ", divided by optim.micro_batches" if micro_batches > 1 else ""
        raise UserError(
            f"optim.batch_size is {batch_size}: it must be a multiple of the {mesh.size} "
            f"devices{divided}"
        )
    return mesh


def put(tree: Any, sharding: NamedSharding) -> Any:
    """The tree's arrays on devices as `sharding` says."""
    return jax.device_put(tree, sharding)


def put_split(tree: Tree, mesh: Mesh) -> Tree:
    """The tree's arrays on the devices, split by the rule of `sharding.py`."""
    placed: Tree = jax.device_put(tree, shardings(tree, mesh))
    return placed


def whole(tree: Tree) -> Tree:
    """The same arrays, those that are split put together again on each of their devices."""

    def together(x: jax.Array) -> jax.Array:
        sharding = x.sharding
        if sharding.is_fully_replicated or not isinstance(sharding, NamedSharding):
            return x
        return jax.device_put(x, NamedSharding(sharding.mesh, PartitionSpec()))

    gathered: Tree = jax.tree.map(together, tree)
    return gathered


def local(tree: Tree) -> Tree:
    """Whole arrays on this process's first device; one after another is put together there."""
    mine: Tree = jax.tree.map(lambda x: whole(x).addressable_data(0), tree)
    return mine


def join_processes() -> None:
    """Makes this process one of several that compute together; before anything else of JAX.

    Clusters that JAX knows (SLURM, Open MPI, TPU pods, Kubernetes) need nothing; elsewhere
    JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID tell.

    Raises:
      UserError: the others cannot be found.
    """
    told: dict[str, Any] = {
        name: int(os.environ[variable])
        for name, variable in (
            ("num_processes", "JAX_NUM_PROCESSES"),
            ("process_id", "JAX_PROCESS_ID"),
        )
        if os.environ.get(variable, "").isdigit()
    }
    try:
        jax.distributed.initialize(**told, heartbeat_timeout_seconds=_SILENCE_S)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--distributed: the other processes cannot be found ({reason}); set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def shared_folder(
    path: Path,
    config_json: Mapping[str, Any],
    *,
    resume: bool,
    name: str,
    kind: str,
    command: Sequence[str] | None = None,
) -> RunFolder:
    """The run folder of all processes: the first opens it, the others follow.

    Raises:
      UserError: see `RunFolder.create`.
    """
    create = functools.partial(
        RunFolder.create, path, config_json, resume=resume, name=name, kind=kind, command=command
    )
    if jax.process_count() == 1:
        return create()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    resumed = False
    if jax.process_index() == 0:
        resumed = create().resumed
    return RunFolder(path, resumed=bool(broadcast_one_to_all(resumed)))
