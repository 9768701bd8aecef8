"""Dialect: how a published CLIP computes, beyond the dimensions of its Architecture.

The default dialect is that of the joint search's own networks. Checkpoints differ from it
in few ways, and all of them fit the one elastic `CLIP`:

- heads of a width of their own in each tower (OpenCLIP's ViT-H: 80 channels in the image
  tower, 64 in the text tower), an activation and a LayerNorm epsilon per tower;
- the pooled text position: that of the largest id, or the first of one given id;
- layers that differ (TinyCLIP's automatic pruning: heads and FFN units per layer, down to
  no attention at all). Layers are stacked to the largest layer, and a unit that a layer
  lacks is zero in every weight that touches it. That is the same function exactly, as a
  head adds its value through `out` and a hidden unit adds gelu(0) = 0 through `fc2`; it
  keeps one `lax.scan` and one compilation; and it stays true in training, as the gradient
  of every such weight is zero too. `Present` records which units a layer really has, moves
  with them through `reorder` and `slice_to`, and lets an export drop the padding again.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from flax import nnx

from codesign.architecture import TOWERS, Architecture, Tower
from codesign.bounds import Ge, Gt, Le, doc
from codesign.decode import decode

LAYER_NORM_EPSILON = 1e-5  # of every released CLIP; Flax's default is 1e-6

# What files may say of a network: larger than any real one, and small enough that to describe it
# takes neither time nor memory.
Size = Annotated[int, Ge(1), Le(10**6), doc("a positive whole number of a million at most")]
Layers = Annotated[int, Ge(1), Le(10**4), doc("a positive whole number of ten thousand at most")]
TokenId = Annotated[int, Ge(0), Le(2**31 - 1), doc("the id of a token, a whole number from 0")]
MOST_EPSILON = 0.1
Epsilon = Annotated[float, Gt(0), Le(MOST_EPSILON)]
Activation = Literal["gelu", "quick_gelu"]


class Present(nnx.Variable):
    """bool [L,H] or [L,F]: the heads or FFN units a layer really has; the rest are zeros."""


@dataclasses.dataclass(frozen=True)
class TowerDialect:
    """One tower's part of a `Dialect`.

    Attributes:
      head_dim: channels of a head; None: the architecture's.
      activation: "gelu" or "quick_gelu"; None: the architecture's.
      epsilon: added to the variance by every LayerNorm.
      ragged: some layer lacks heads or FFN units of another; the tower's blocks then hold
        `present_heads` and `present_ffn`, both `Present`.
    """

    head_dim: Size | None = None
    activation: Activation | None = None
    epsilon: Epsilon = LAYER_NORM_EPSILON
    ragged: bool = False


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a CLIP computes, beyond the dimensions of its Architecture.

    Attributes:
      vision: of the image tower.
      text: of the text tower.
      end_of_text: the text is pooled at the first position of this id, or at position 0 where
        it is missing; None: at the (first) largest id, as OpenAI and OpenCLIP do.
    """

    vision: TowerDialect = TowerDialect()
    text: TowerDialect = TowerDialect()
    end_of_text: TokenId | None = None


@dataclasses.dataclass(frozen=True)
class _TowerFields:
    """A `Tower` in a file, where its dimensions are numbers."""

    layers: Layers
    width: Size
    heads: Size
    ffn: Size


@dataclasses.dataclass(frozen=True)
class _ArchitectureFields:
    """An `Architecture` in a file."""

    vision: _TowerFields
    text: _TowerFields
    patch: Size
    image: Size
    channels: Size
    context: Size
    projection: Size
    head_dim: Size
    vocab: Size
    activation: Activation


def from_fields(
    architecture: Any, dialect: Any, where: str, at: str = ""
) -> tuple[Architecture, Dialect]:
    """What `dataclasses.asdict` made fields of, after a way through JSON.

    Args:
      architecture: fields of an Architecture.
      dialect: fields of a Dialect.
      where: the file they are from, for messages.
      at: the dotted path of the architecture there.

    Raises:
      UserError: one line that names the field that is missing, unknown or out of range.
    """
    fields = dataclasses.asdict(decode(_ArchitectureFields, architecture, where, at=at, exact=True))
    towers = {name: Tower(**fields[name]) for name in TOWERS}
    own = decode(Dialect, dialect, where, at="dialect", exact=True)
    return Architecture(**{**fields, **towers}), own
