"""Operators and parameters of a vision transformer (Dosovitskiy et al., ICLR 2021)."""

from __future__ import annotations

import dataclasses

from codesign.workload.blocks import (
    Block,
    Operators,
    block_operators,
    block_parameters,
    join,
    norm_parameters,
    prefixed,
)
from codesign.workload.memory import Memory, activation_words
from codesign.workload.operators import Gemm, VectorOp


@dataclasses.dataclass(frozen=True)
class Vit:
    """A vision transformer: one square image in, one class token's result out.

    Attributes:
      block: dimensions of a block.
      layers: number of blocks.
      patch: side of a patch, pixels.
      image: side of the image, pixels; what is left of the last patch is not seen.
      channels: colour channels.
      classes: outputs of the classifier; None: a pooler, width -> `pooled`, instead.
      pooled: outputs of the pooler; None: the block's width.
    """

    block: Block
    layers: int
    patch: int
    image: int = 224
    channels: int = 3
    classes: int | None = 1000
    pooled: int | None = None

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image // self.patch) ** 2

    def operators(self) -> Operators:
        """Operators of one image."""
        d, tokens = self.block.width, self.patches + 1
        layers = block_operators(self.block, tokens=tokens, layers=self.layers)
        before = Operators(
            (Gemm("patches", self.patches, self.channels * self.patch**2, d),),
            (VectorOp("positions", "add", tokens * d, operands=2),),
        )
        after = Operators((), (VectorOp("ln_post", "layernorm", tokens * d),))
        return prefixed("vision", join(before, layers, after, self._head()))

    def memory(self) -> Memory:
        """Contents of the DRAM while one image runs."""
        before = self.channels * self.image**2 + self.patches * self.block.width
        alive = max(before, activation_words(self.block, tokens=self.patches + 1))
        return Memory(self.parameters(), activations=alive)

    def _head(self) -> Operators:
        d = self.block.width
        if self.classes is not None:
            return Operators((Gemm("classifier", 1, d, self.classes),), ())
        pooled = self.pooled or d
        return Operators((Gemm("pooler", 1, d, pooled),), (VectorOp("pooler", "tanh", pooled),))

    def parameters(self) -> int:
        """Every trained number."""
        d = self.block.width
        head = (self.pooled or d) if self.classes is None else self.classes
        patches = self.channels * self.patch**2 + 1
        return (
            d * (patches + 1 + self.patches + 1)  # convolution, class token, positions
            + self.layers * block_parameters(self.block)
            + norm_parameters("layernorm", d)
            + (d + 1) * head
        )
