"""Architecture: the discrete dimensions of a CLIP, as a pytree.

The elastic dimensions (layers, width, heads, ffn of both towers) are leaves, so
that the same object holds Python integers, traced scalars or a batch of relaxed
designs; everything else is static structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from codesign.constraints import Count, Dimension

TOWERS = ("vision", "text")
ELASTIC = ("layers", "width", "heads", "ffn")
# The exact GELU, by the error function, and its approximation by a sigmoid.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
# Columns that tables have of a CLIP's towers: "vision_layers" to "text_ffn".
TOWER_COLUMNS = tuple(f"{tower}_{field}" for tower in TOWERS for field in ELASTIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tower:
    """Elastic dimensions of one transformer tower.

    Attributes:
      layers: number of transformer blocks.
      width: residual channels D.
      heads: attention heads H; the qkv width is `heads * head_dim`, not `width`.
      ffn: hidden units F of the MLP.

    Each is an int in a discrete design, a float scalar in a relaxed one, or an
    array [...] of either in a batch.
    """

    layers: Dimension
    width: Dimension
    heads: Dimension
    ffn: Dimension


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Architecture:
    """A CLIP: two towers and what they share.

    Attributes:
      vision: image tower.
      text: text tower.
      patch: side of a square image patch, pixels.
      image: side of the square input image, pixels; a multiple of `patch`.
      channels: colour channels of the input image.
      context: text length in tokens.
      projection: width E of the joint embedding.
      head_dim: channels per attention head, the same in both towers.
      vocab: size of the token table.
      activation: "gelu" (exact, erf) or "quick_gelu" (x * sigmoid(1.702 x)).
    """

    vision: Tower
    text: Tower
    patch: Count = dataclasses.field(default=16, metadata={"static": True})
    image: Count = dataclasses.field(default=224, metadata={"static": True})
    channels: Count = dataclasses.field(default=3, metadata={"static": True})
    context: Count = dataclasses.field(default=77, metadata={"static": True})
    projection: Count = dataclasses.field(default=512, metadata={"static": True})
    head_dim: Count = dataclasses.field(default=64, metadata={"static": True})
    vocab: Count = dataclasses.field(default=49408, metadata={"static": True})
    activation: str = dataclasses.field(default="gelu", metadata={"static": True})

    @property
    def towers(self) -> dict[str, Tower]:
        """The towers by name, the image tower first."""
        return {name: getattr(self, name) for name in TOWERS}

    @property
    def patches(self) -> int:
        """Patches per image, (image / patch)^2."""
        return (self.image // self.patch) ** 2

    @property
    def vision_tokens(self) -> int:
        """Tokens of the image tower: the patches and the class token."""
        return self.patches + 1


def read_towers(row: Mapping[str, str]) -> dict[str, Any]:
    """The towers of a table's row by name, out of its TOWER_COLUMNS."""
    return {tower: Tower(*(int(row[f"{tower}_{field}"]) for field in ELASTIC)) for tower in TOWERS}


def check_discrete(architecture: Architecture) -> None:
    """Raises ValueError, naming the field, unless a CLIP of `architecture` can be built."""
    for tower, sizes in architecture.towers.items():
        for name, size in vars(sizes).items():
            if type(size) is not int or size < 1:
                raise ValueError(
                    f"{tower}.{name} is {size!r}; a model needs a positive Python int "
                    "(round a relaxed architecture first)"
                )
    if architecture.image % architecture.patch:
        raise ValueError(
            f"image {architecture.image} is not a multiple of patch {architecture.patch}"
        )
    if architecture.activation not in ACTIVATIONS:
        raise ValueError(
            f"activation is {architecture.activation!r}, expected one of {sorted(ACTIVATIONS)}"
        )


def clip_vit_b16() -> Architecture:
    """CLIP ViT-B/16 (Radford et al., ICML 2021, table 20), exact GELU as in DataComp's."""
    return Architecture(
        vision=Tower(layers=12, width=768, heads=12, ffn=3072),
        text=Tower(layers=12, width=512, heads=8, ffn=2048),
    )
