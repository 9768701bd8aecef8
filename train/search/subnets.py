"""Subnets within the joint search: relaxed sparsities as soft masks on gated weights.

Axes: K subnets, S levels, the sparsities that any subnet may have.

A weight's mask under a relaxed sparsity is the interpolation of its 0/1 masks at the two
levels around it: linear between levels, exact at them, and with a gradient that says what the
weights between the two levels are worth. Masks rank the weights of open units alone, so that
at a discrete architecture they are the uniform masks of the network that is cut out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.dress.budgets import uniform_count
from codesign.dress.masks import counted_masks
from codesign.dress.rows import RowSpec
from codesign.dress.trees import pick, replace_leaves
from codesign.models import Gates
from codesign.models.gates import TowerGates
from codesign.workload.kernels import BlockKernel

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class RelaxedSubnets:
    """What subnets are made of; hashed by identity, static under jit.

    Attributes:
      specs: rows of the kernels that are pruned, by name.
      levels: the S sparsities, increasing.
      weights: of the K subnets in the loss, 1 in all.
    """

    specs: dict[str, RowSpec]
    levels: tuple[float, ...]
    weights: tuple[float, ...]

    def masks(self, params: nnx.State, gates: Gates) -> dict[str, Array]:
        """How many levels keep each weight, uint8 by name; weights of closed units none.

        Under 0/1 gates level s keeps of every row what `subnet_masks` with a uniform budget
        keeps in the sliced network.
        """
        kernels = pick(params, self.specs)
        counts, gated = {}, {}
        for name in self.specs:
            gate = _open_inputs(name, gates)
            gated[name] = jnp.where(gate > 0, kernels[name] * gate, 0)
            inputs = self.specs[name].inputs
            row = jnp.sum(
                jnp.broadcast_to(gate > 0, _row_shape(kernels[name], inputs)),
                axis=inputs,
                dtype=jnp.int32,
            ).reshape(-1)  # fmt: skip, [L]
            counts[name] = uniform_count(row[None], jnp.asarray(self.levels)[:, None])
        return counted_masks(gated, self.specs, counts).levels

    def networks(
        self, params: nnx.State, masks: dict[str, Array], weights: Array, sparse: Array
    ) -> nnx.State:
        """The parameters of K relaxed subnets, with a leading axis [K].

        Args:
          params: of one network.
          masks: of it.
          weights: interpolation weights of every subnet over the levels, [K, S].
          sparse: 0 where all weights are kept, whatever the masks; scalar.
        """
        # A weight that ell levels keep has the sum of the weights of these levels.
        kept = jnp.pad(jnp.cumsum(weights, axis=1), ((0, 0), (1, 0)))  # [K, S + 1]
        kept = jnp.where(sparse > 0, kept, 1.0)

        def of_subnet(kept: Array) -> nnx.State:
            kernels = pick(params, self.specs)
            return replace_leaves(
                params, {name: kernels[name] * kept[masks[name]] for name in self.specs}
            )

        every: nnx.State = jax.vmap(of_subnet)(kept)
        return every


def _open_inputs(name: str, gates: Gates) -> Array:
    """Gates of what a kernel of a CLIP's blocks reads, broadcastable to it."""
    tower, kernel = BlockKernel.named(name)
    of: TowerGates | None = getattr(gates, tower)
    if of is None:
        return jnp.ones((1,))
    shapes: dict[str, Any] = {
        "out": lambda: of.heads[:, :, None, None],  # [L,H,K,D]
        "fc1": lambda: of.channels[None, :, None],  # [L,D,F]
        "fc2": lambda: of.ffn[:, :, None],  # [L,F,D]
    }
    return shapes.get(kernel, lambda: of.channels[None, :, None, None])()  # [L,D,H,K]


def _row_shape(kernel: Array, inputs: tuple[int, ...]) -> tuple[int, ...]:
    """The kernel's shape with one row: layers and inputs alone."""
    return tuple(
        size if axis == 0 or axis in inputs else 1 for axis, size in enumerate(kernel.shape)
    )
