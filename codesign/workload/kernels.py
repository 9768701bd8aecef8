"""Kernels of transformer blocks by the names that models give them: "vision.blocks.fc1"."""

from __future__ import annotations

from typing import Any, NamedTuple

from codesign.architecture import TOWERS, Architecture, Tower

# The kernels of a product of a block.
OF_PRODUCT = {
    "qkv": ("query", "key", "value"),
    "out": ("out",),
    "ffn_up": ("fc1",),
    "ffn_down": ("fc2",),
}
_FFN = ("fc1", "fc2")


class BlockKernel(NamedTuple):
    """A kernel of all blocks of a tower."""

    tower: str
    kernel: str

    @classmethod
    def named(cls, name: str) -> BlockKernel:
        """The kernel of a full name."""
        tower, _, kernel = name.split(".")
        return cls(tower, kernel)

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.tower}.blocks.{self.kernel}"

    def tower_of(self, architecture: Architecture) -> Tower:
        """The tower it is in."""
        tower: Tower = getattr(architecture, self.tower)
        return tower

    def weights_per_layer(self, architecture: Architecture) -> Any:
        """Weights of it in one block."""
        tower = self.tower_of(architecture)
        inner = tower.ffn if self.kernel in _FFN else tower.heads * architecture.head_dim
        return tower.width * inner


def kernels_of(operator: str) -> list[BlockKernel]:
    """The kernels of an operator such as "vision.qkv"; none of one that multiplies no block's."""
    tower, product = operator.split(".")
    return [BlockKernel(tower, kernel) for kernel in OF_PRODUCT.get(product, ())]


def clip_kernels() -> list[BlockKernel]:
    """Every kernel of a CLIP's blocks."""
    kernels = [kernel for of_product in OF_PRODUCT.values() for kernel in of_product]
    return [BlockKernel(tower, kernel) for tower in TOWERS for kernel in kernels]
