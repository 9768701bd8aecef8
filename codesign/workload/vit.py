"""Operators and parameters of a vision transformer (Dosovitskiy et al., ICLR 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from codesign.architecture import Tower
from codesign.constraints import Count
from codesign.scenario import Scenario
from codesign.workload.blocks import (
    Block,
    Operators,
    block_matrices,
    block_operators,
    block_parameters,
    join,
    norm_parameters,
    prefixed,
)
from codesign.workload.families import ModelFamily
from codesign.workload.memory import Memory, activation_words, largest
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
        tokens = self.patches + 1
        layers = block_operators(self.block, tokens=tokens, layers=self.layers)
        before, after = self._around()
        return prefixed("vision", join(before, layers, after))

    def outside(self) -> Operators:
        """The same without the blocks."""
        return prefixed("vision", join(*self._around()))

    def _around(self) -> tuple[Operators, Operators]:
        """Operators before the blocks and after them."""
        d, tokens = self.block.width, self.patches + 1
        before = Operators(
            (Gemm("patches", self.patches, self.channels * self.patch**2, d),),
            (VectorOp("positions", "add", tokens * d, operands=2),),
        )
        after = Operators((), (VectorOp("ln_post", "layernorm", tokens * d),))
        return before, join(after, self._head())

    def memory(self) -> Memory:
        """Contents of the DRAM while one image runs."""
        before = self.channels * self.image**2 + self.patches * self.block.width
        alive = largest(before, activation_words(self.block, tokens=self.patches + 1))
        kernels = self.layers * block_matrices(self.block)
        return Memory(self.parameters(), activations=alive, prunable=kernels)

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ElasticVit:
    """A vision transformer as a point of a design space; the tower's dimensions are leaves.

    Attributes:
      vision: its tower.
      patch: side of a patch, pixels.
      image: side of the image, pixels.
      channels: colour channels.
      head_dim: channels per attention head, whatever the width.
      classes: outputs of the classifier.
      activation: "gelu" or "quick_gelu".
    """

    vision: Tower
    patch: Count = dataclasses.field(default=16, metadata={"static": True})
    image: Count = dataclasses.field(default=224, metadata={"static": True})
    channels: Count = dataclasses.field(default=3, metadata={"static": True})
    head_dim: Count = dataclasses.field(default=64, metadata={"static": True})
    classes: Count = dataclasses.field(default=1000, metadata={"static": True})
    activation: str = dataclasses.field(default="gelu", metadata={"static": True})

    def network(self, density: Any = 1) -> Vit:
        """The network of these dimensions, a share of whose blocks' weights is kept."""
        t = self.vision
        block = Block(
            t.width, t.heads, self.head_dim, t.ffn, activation=self.activation, density=density
        )
        return Vit(block, t.layers, self.patch, self.image, self.channels, self.classes)


@dataclasses.dataclass(frozen=True)
class VitModelFamily(ModelFamily):
    """Vision transformers of an elastic tower; see `ModelFamily`."""

    towers: tuple[str, ...] = ("vision",)

    def block(self, base: ElasticVit, name: str, tower: Tower, density: Any = 1) -> Operators:
        """Operators of one block."""
        vit = self.architecture(base, {name: tower}).network(density)
        return prefixed(name, block_operators(vit.block, tokens=vit.patches + 1))

    def outside(self, base: ElasticVit, name: str, width: Any) -> Operators:
        """Operators outside the blocks, the classifier included."""
        return self.architecture(base, {name: Tower(1, width, 1, 1)}).network().outside()

    def memory(self, architecture: ElasticVit, scenario: Scenario) -> Memory:
        """Contents of the DRAM while one image runs."""
        return architecture.network().memory()

    def runs(self, name: str, scenario: Scenario) -> float:
        """Its tower runs once an inference."""
        return 1


VIT_FAMILY = VitModelFamily()
