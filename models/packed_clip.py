"""A CLIP that runs any subnet of a packed family on the weights as they are stored.

    clip = load_family("family.safetensors").at(1)
    encode = jax.jit(lambda clip, images: clip.encode_image(images)[0])
    encode(clip, images)
    encode(clip.at(2), images)

All subnets share one set of arrays and one compiled program: to switch is to pass another
number. The kernels of the blocks run as row-sparse products, in time by the weights they keep
(see `codesign.dress.kernel`); the rest of the network is `CLIP` itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from codesign.architecture import TOWERS, Architecture
from codesign.dress.kernel.panels import DenseRows, Panels, dense_rows, row_weights
from codesign.dress.kernel.product import row_sparse_matmul
from codesign.dress.packed import PackedFamily, PackedKernel
from codesign.dress.rows import RowSpec, from_rows
from codesign.dress.subnet_numbers import check_subnet
from codesign.models.clip import CLIP, ClipOutput, Intermediates
from codesign.models.dialect import Dialect
from codesign.models.formats.assemble import abstract_clip, assemble
from codesign.models.gates import TowerGates
from codesign.models.transformer import Affine, block, dense_affine

Rows = Panels | DenseRows
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class PackedBlocks:
    """The blocks of one tower, in place of a `Transformer`.

    Attributes:
      weights: what is not pruned, [L,...] by name.
      kernels: the rows of each layer of the pruned kernels, by name.
      counts: int32 [L] by name: weights of a row that count.
      activation: of the MLPs.
      epsilon: of the LayerNorms.
    """

    weights: Mapping[str, jax.Array]
    kernels: Mapping[str, tuple[Rows, ...]]
    counts: Mapping[str, jax.Array]
    activation: str
    epsilon: float

    def __call__(
        self, x: jax.Array, gates: TowerGates | None = None, *, causal: bool = False
    ) -> jax.Array:
        """Residual stream [B,T,D] -> [B,T,D].

        No scan: rows of another layer are of another length.

        Raises:
          ValueError: gates, which a packed CLIP has not.
        """
        if gates is not None:
            raise ValueError("a packed CLIP has no gates; ClipFamily.clip gives one that has")
        batch, tokens, width = x.shape
        layers, heads, _ = self.weights["query_bias"].shape
        rows = x.reshape(batch * tokens, width)
        for layer in range(layers):
            weights = {name: values[layer] for name, values in self.weights.items()}
            rows = block(
                rows,
                weights,
                self._affine(weights, layer),
                heads=heads,
                tokens=tokens,
                causal=causal,
                activation=self.activation,
                epsilon=self.epsilon,
            )
        return rows.reshape(batch, tokens, width)

    def _affine(self, weights: Mapping[str, jax.Array], layer: int) -> Affine:
        dense = dense_affine(weights)

        def affine(name: str, x: jax.Array, activation: str | None = None) -> jax.Array:
            if name not in self.kernels:
                return dense(name, x, activation)
            return row_sparse_matmul(
                x,
                self.kernels[name][layer],
                self.counts[name][layer],
                bias=weights[f"{name}_bias"].reshape(-1),
                activation=activation,
            )

        return affine


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrunedParameter:
    """A pruned kernel outside the blocks: patches or projection. It is small, and kept dense.

    Attributes:
      rows: of the densest subnet.
      spec: the kernel's axes.
      shape: of the kernel.
    """

    rows: DenseRows
    spec: RowSpec = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def at(self, n: jax.Array) -> jax.Array:
        """The kernel with the first n weights of each row."""
        return from_rows(self.rows.first(n)[None], self.spec, self.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedClip:
    """One subnet of a CLIP, on the arrays of all K. float32; made by `packed_clip`.

    Attributes:
      shared: what all subnets share, by the names of `CLIP`'s variables.
      own: what each has for itself, [K,...] by name.
      kernels: the rows of each layer of the blocks' pruned kernels, by name.
      others: the pruned kernels outside the blocks, by name.
      counts: int32 [K,L] of all pruned kernels: weights of a row that count.
      subnet: int32 [], which one.
      shell: the CLIP in shapes, without its blocks.
    """

    shared: dict[str, jax.Array]
    own: dict[str, jax.Array]
    kernels: dict[str, tuple[Rows, ...]]
    others: dict[str, PrunedParameter]
    counts: dict[str, jax.Array]
    subnet: jax.Array
    shell: CLIP = dataclasses.field(metadata={"static": True})

    def at(self, k: int | jax.Array) -> PackedClip:
        """Subnet k on the same arrays; 0 is the densest, and k may be traced.

        Raises:
          ValueError: there is no such subnet; not told of a traced one, which is clipped.
        """
        check_subnet(k, next(iter(self.counts.values())).shape[0])
        return dataclasses.replace(self, subnet=jnp.asarray(k, jnp.int32))

    def encode_image(self, images: jax.Array) -> tuple[jax.Array, Intermediates]:
        """As `CLIP.encode_image`."""
        return self._clip().encode_image(images)

    def encode_text(self, ids: jax.Array) -> tuple[jax.Array, Intermediates]:
        """As `CLIP.encode_text`."""
        return self._clip().encode_text(ids)

    def __call__(
        self, images: jax.Array, ids: jax.Array
    ) -> tuple[ClipOutput, dict[str, Intermediates]]:
        """As `CLIP.__call__`."""
        return self._clip()(images, ids)

    def _clip(self) -> CLIP:
        """The CLIP of this subnet, with packed blocks."""

        def chosen(values: jax.Array) -> jax.Array:
            return jnp.take(values, self.subnet, axis=0, mode="clip")

        counts = {name: chosen(values) for name, values in self.counts.items()}
        values = self.shared | {name: chosen(stacked) for name, stacked in self.own.items()}
        values |= {name: other.at(counts[name][0]) for name, other in self.others.items()}
        clip = assemble(self.shell, {tuple(name.split(".")): v for name, v in values.items()})
        for tower in TOWERS:
            module = getattr(clip, tower)
            module.blocks = self._blocks(tower, values, counts)
        return clip

    def _blocks(
        self, tower: str, values: Mapping[str, jax.Array], counts: Mapping[str, jax.Array]
    ) -> PackedBlocks:
        architecture, dialect = self.shell.architecture, getattr(self.shell.dialect, tower)
        weights = _below(f"{tower}.blocks.", values)
        if dialect.ragged:
            attends = jnp.any(weights["present_heads"], axis=1, keepdims=True)
            weights["out_bias"] = weights["out_bias"] * attends
        return PackedBlocks(
            weights,
            _below(f"{tower}.blocks.", self.kernels),
            _below(f"{tower}.blocks.", counts),
            dialect.activation or architecture.activation,
            dialect.epsilon,
        )


def packed_clip(packed: PackedFamily, architecture: Architecture, dialect: Dialect) -> PackedClip:
    """The densest subnet of a family, its arrays loaded for all.

    Args:
      packed: a family of CLIPs.
      architecture: of every subnet.
      dialect: likewise.
    """
    shell = abstract_clip(architecture, dialect, dtype=jnp.float32, remat=False)
    for tower in TOWERS:
        getattr(shell, tower).blocks = None
    blocks = {name: kernel for name, kernel in packed.kernels.items() if ".blocks." in name}
    others = packed.kernels.keys() - blocks.keys()
    with jax.ensure_compile_time_eval():  # arrays, also where a function is being traced
        return PackedClip(
            shared={name: _float32(values) for name, values in packed.dense.items()},
            own={
                name: jnp.stack([_float32(own[name]) for own in packed.own])
                for name in packed.own[0]
            },
            kernels={name: _rows(kernel) for name, kernel in blocks.items()},
            others={name: _dense(packed.kernels[name]) for name in others},
            counts={name: jnp.asarray(k.counts, jnp.int32) for name, k in packed.kernels.items()},
            subnet=jnp.int32(0),
            shell=shell,
        )


def _float32(values: np.ndarray) -> jax.Array:
    """Any float as float32, as `CLIP` has its parameters; the rest as it is."""
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    return jnp.asarray(values, jnp.float32 if floating else None)


def _rows(kernel: PackedKernel) -> tuple[Rows, ...]:
    _, _, inputs = kernel.spec.sizes(kernel.shape)
    return tuple(
        row_weights(values, columns, inputs)
        for values, columns in zip(kernel.values, kernel.columns, strict=True)
    )


def _dense(kernel: PackedKernel) -> PrunedParameter:
    _, _, inputs = kernel.spec.sizes(kernel.shape)
    values = kernel.values[0].astype(np.float32)
    return PrunedParameter(dense_rows(values, kernel.columns[0], inputs), kernel.spec, kernel.shape)


def _below(prefix: str, values: Mapping[str, Value]) -> dict[str, Value]:
    return {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
