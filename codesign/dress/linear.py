"""Dense and convolutional layers of a packed family, switched between subnets at run time.

    linear = packed_linear(family.kernels["fc.kernel"], bias)
    y = linear.at(k)(x)

To switch copies nothing, and compiles nothing beyond the first time; k may be traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from codesign.dress.kernel.panels import DenseRows, Panels, row_weights
from codesign.dress.kernel.product import row_sparse_matmul
from codesign.dress.packed import PackedKernel
from codesign.dress.rows import flax_spec
from codesign.dress.subnet_numbers import check_subnet

Padding = str | tuple[tuple[int, int], tuple[int, int]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedLinear:
    """y = activation(x W^T + bias), with the weights of one of K nested subnets.

    Attributes:
      weights: W of the densest subnet, [R,N].
      counts: int32 [K], weights of each row that each subnet keeps.
      bias: [R], or None.
      subnet: int32 [], which one.
      activation: of `row_sparse_matmul`.
    """

    weights: Panels | DenseRows
    counts: jax.Array
    bias: jax.Array | None
    subnet: jax.Array
    activation: str | None = dataclasses.field(default=None, metadata={"static": True})

    def at(self, k: int | jax.Array) -> PackedLinear:
        """The same layer, with the same arrays, as subnet k; 0 is the densest.

        Raises:
          ValueError: there is no such subnet; not told of a traced one, which is clipped.
        """
        check_subnet(k, self.counts.shape[0])
        return dataclasses.replace(self, subnet=jnp.asarray(k, jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., N] -> [..., R]."""
        n = jnp.take(self.counts, self.subnet, mode="clip")
        return row_sparse_matmul(x, self.weights, n, bias=self.bias, activation=self.activation)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedConv:
    """A convolution as patches times rows.

    Attributes:
      linear: over the kh x kw x c_in inputs of a patch.
      size: kh and kw.
      strides: of the patches.
      padding: "SAME", "VALID", or zeros before and after the rows and the columns.
    """

    linear: PackedLinear
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    strides: tuple[int, int] = dataclasses.field(metadata={"static": True})
    padding: Padding = dataclasses.field(metadata={"static": True})

    def at(self, k: int | jax.Array) -> PackedConv:
        """The same layer as subnet k, see `PackedLinear.at`."""
        return dataclasses.replace(self, linear=self.linear.at(k))

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B,Y,X,c_in] -> [B,Y',X',c_out]."""
        return self.linear(patches(images, self.size, self.strides, self.padding))


def packed_linear(
    kernel: PackedKernel,
    bias: jax.Array | np.ndarray | None = None,
    *,
    layer: int = 0,
    activation: str | None = None,
) -> PackedLinear:
    """A layer of a packed kernel, as the densest subnet.

    Args:
      kernel: of any axes; x then has the kernel's inputs in one axis, y its outputs.
      bias: as many as the kernel has rows, or None.
      layer: of a kernel of several layers.
      activation: of `row_sparse_matmul`.

    Raises:
      ValueError: a bias of another size.
    """
    _, rows, inputs = kernel.spec.sizes(kernel.shape)
    if bias is not None and np.size(bias) != rows:
        raise ValueError(f"the bias has shape {np.shape(bias)}, the kernel {rows} rows")
    return PackedLinear(
        weights=row_weights(kernel.values[layer], kernel.columns[layer], inputs),
        counts=jnp.asarray(kernel.counts[:, layer], jnp.int32),
        bias=None if bias is None else jnp.asarray(bias).reshape(rows),
        subnet=jnp.int32(0),
        activation=activation,
    )


def packed_conv(
    kernel: PackedKernel,
    bias: jax.Array | np.ndarray | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    activation: str | None = None,
) -> PackedConv:
    """A convolution with a packed Flax kernel [kh,kw,c_in,c_out], as the densest subnet.

    Args:
      kernel: with rows of kh x kw x c_in.
      bias: [c_out], or None.
      strides: down and across.
      padding: see `PackedConv`.
      activation: of `row_sparse_matmul`.

    Raises:
      ValueError: a kernel of other axes, a padding of another name, a bias of another size.
    """
    if len(kernel.shape) != 4 or kernel.spec != flax_spec(kernel.shape):
        raise ValueError(
            f"a kernel of shape {kernel.shape} is no convolution's [kh, kw, c_in, c_out]"
        )
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}, expected SAME, VALID or pairs of zeros")
    down, across = strides
    return PackedConv(
        packed_linear(kernel, bias, activation=activation),
        (kernel.shape[0], kernel.shape[1]),
        (down, across),
        padding,
    )


def patches(
    images: jax.Array, size: tuple[int, int], strides: tuple[int, int], padding: Padding
) -> jax.Array:
    """Images [B,Y,X,C] -> patches [B,Y',X',kh x kw x C], the inputs of a convolution's rows."""
    batch, height, width, colours = images.shape
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads((height, width), size, strides, padding)
        padding = (pads[0], pads[1])
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    tall, wide = (
        (extent - kernel) // stride + 1
        for extent, kernel, stride in zip(padded.shape[1:3], size, strides, strict=True)
    )
    if size == strides:  # tiles, cut in one go
        tiles = padded[:, : tall * size[0], : wide * size[1]]
        tiles = tiles.reshape(batch, tall, size[0], wide, size[1], colours)
        return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, tall, wide, -1)
    shifted = [
        padded[
            :,
            i : i + (tall - 1) * strides[0] + 1 : strides[0],
            j : j + (wide - 1) * strides[1] + 1 : strides[1],
        ]
        for i in range(size[0])
        for j in range(size[1])
    ]
    return jnp.concatenate(shifted, axis=-1)
