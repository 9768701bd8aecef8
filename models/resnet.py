"""ResNet for small images (He et al., CVPR 2016, section 4.2) in Flax NNX, and what it costs.

A 3x3 stem, three stages of n blocks of two 3x3 convolutions with w, 2w and 4w channels, the mean
over all positions, a linear head: 6n + 2 layers. Shortcuts have no parameters: where a stage
begins, every other position is taken and zeros fill the new channels (the paper's option A).

Axes: B images, S side in pixels, C channels. Images are NHWC and already normalised. Parameters
and the statistics of BatchNorm are f32; `dtype` is that of activations and products.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.bounds import Ge, Le
from codesign.constraints import LARGEST_COUNT, Count, first_problem

STAGES = 3
# Both sides alike also where a stride of 2 halves an even side, as in PyTorch.
_PADDING = ((1, 1), (1, 1))


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Dimensions of a ResNet.

    Attributes:
      depth: layers with weights, 6n + 2: 8, 14, 20, 32, 44, 56, 110.
      width: channels of the first stage; each further stage doubles them.
      classes: logits.
      channels: colours of an image.
    """

    depth: Count = 8
    width: Count = 16
    classes: Annotated[int, Ge(2), Le(LARGEST_COUNT)] = 10
    channels: Count = 3

    def __post_init__(self) -> None:
        if (problem := first_problem(self)) is not None:
            raise ValueError(problem)
        if self.depth < 8 or (self.depth - 2) % (2 * STAGES):
            raise ValueError(f"depth is {self.depth}: it must be 6n + 2, such as 8, 14 or 20")

    @property
    def blocks(self) -> tuple[tuple[int, int, int], ...]:
        """Channels in, channels out and stride of every block, in order."""
        shapes, before = [], self.width
        for stage in range(STAGES):
            for block in range((self.depth - 2) // (2 * STAGES)):
                after = self.width * 2**stage
                shapes.append((before, after, 2 if stage and not block else 1))
                before = after
        return tuple(shapes)


class Block(nnx.Module):
    """relu(x' + norm2(conv2(relu(norm1(conv1(x)))))), x' the shortcut."""

    def __init__(
        self, before: int, after: int, stride: int, *, rngs: nnx.Rngs, dtype: Any = jnp.float32
    ) -> None:
        self.conv1 = _conv(before, after, stride, rngs, dtype)
        self.norm1 = _norm(after, rngs, dtype)
        self.conv2 = _conv(after, after, 1, rngs, dtype)
        self.norm2 = _norm(after, rngs, dtype)
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,S,S,C] -> [B,S/stride,S/stride,C']."""
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = x[:, :: self.stride, :: self.stride]
        new = y.shape[-1] - x.shape[-1]
        return jax.nn.relu(jnp.pad(shortcut, ((0, 0),) * 3 + ((0, new),)) + y)


class ResNet(nnx.Module):
    """The network.

    BatchNorm uses the statistics of the batch after `train()` and running ones after `eval()`,
    as everywhere in NNX; a new network trains.

    Args:
      config: its dimensions.
      rngs: for the weights: normal, of variance 2 / inputs (He et al., ICCV 2015); the head's
        of 1 / inputs.
      dtype: of activations and products.
    """

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        self.config = nnx.static(config)
        self.stem = _conv(config.channels, config.width, 1, rngs, dtype)
        self.norm = _norm(config.width, rngs, dtype)
        self.blocks = nnx.List([Block(*shape, rngs=rngs, dtype=dtype) for shape in config.blocks])
        self.head = nnx.Linear(config.blocks[-1][1], config.classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalised images [B,S,S,C] -> f32 logits [B,classes]."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)


def layer_macs(config: ResNetConfig, image: int) -> dict[str, int]:
    """Multiply-accumulates of one image in every layer, by the name of its kernel.

    A position of a convolution's border counts as any other, zeros it multiplies included, as
    is usual. Norms, additions and the mean are no products and not counted.

    Args:
      config: of the network.
      image: side S of an image, pixels.
    """
    uses = _uses(config, image)
    return {name: size * uses[name] for name, size in _kernel_sizes(config).items()}


def subnet_macs(config: ResNetConfig, image: int, kept: Mapping[str, int]) -> int:
    """Multiply-accumulates of one image where zeros are skipped.

    Args:
      config: of the network.
      image: side S of an image, pixels.
      kept: weights that are not zero, by the kernel's name; kernels left out are whole.

    Raises:
      ValueError: a kernel that is not the network's, or with more weights than it has.
    """
    uses, sizes = _uses(config, image), _kernel_sizes(config)
    for name, count in kept.items():
        if not 0 <= count <= sizes.get(name, -1):
            most = sizes.get(name, "none")
            raise ValueError(f"{name} cannot keep {count} weights: it has {most}")
    return sum(kept.get(name, size) * uses[name] for name, size in sizes.items())


def _kernel_sizes(config: ResNetConfig) -> dict[str, int]:
    """Weights of every kernel."""
    model = nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {
        ".".join(map(str, path)): math.prod(variable.shape)
        for path, variable in flat
        if path[-1] == "kernel"
    }


def _uses(config: ResNetConfig, image: int) -> dict[str, int]:
    """How often an image uses each weight of a kernel: once a position of the layer's output."""
    uses = {"stem.kernel": image**2, "head.kernel": 1}
    for number, (_, _, stride) in enumerate(config.blocks):
        image = -(-image // stride)
        for name in ("conv1", "conv2"):
            uses[f"blocks.{number}.{name}.kernel"] = image**2
    return uses


def _conv(before: int, after: int, stride: int, rngs: nnx.Rngs, dtype: Any) -> nnx.Conv:
    return nnx.Conv(
        before,
        after,
        (3, 3),
        stride,
        padding=_PADDING,
        use_bias=False,
        dtype=dtype,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def _norm(channels: int, rngs: nnx.Rngs, dtype: Any) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)
