"""The packed family of a ResNet: one file, nested subnets, each with its own BatchNorms.

pack_resnet(model, pictures, names, masks, specs, (0.5, 0.8), own).save("family.safetensors")
model = load_resnet_family("family.safetensors").at(1)  # the 80 % subnet, zeros in place
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.bounds import Ge, Le
from codesign.decode import decode
from codesign.dress.masks import Masks
from codesign.dress.packed import PackedFamily, described, load_packed, pack
from codesign.dress.rows import RowSpec
from codesign.dress.trees import named_leaves
from codesign.errors import UserError
from codesign.models.dialect import Size
from codesign.models.formats import ImageSettings
from codesign.models.resnet import ResNet, ResNetConfig
from codesign.models.subnets import NetworkFamily, check_parameters, family_file

MODEL = "resnet"


@dataclasses.dataclass(frozen=True)
class _Network:
    """A `ResNetConfig` in a file."""

    # The deepest that was published has 1202 layers.
    depth: Annotated[int, Ge(1), Le(2000)] = ResNetConfig.depth
    width: Size = ResNetConfig.width
    classes: Size = ResNetConfig.classes
    channels: Size = ResNetConfig.channels


@dataclasses.dataclass(frozen=True)
class _About:
    """What rebuilds the networks, as `pack_resnet` writes it."""

    network: _Network
    pictures: ImageSettings
    class_names: tuple[str, ...]


def pack_resnet(
    model: ResNet,
    pictures: ImageSettings,
    class_names: Sequence[str],
    masks: Masks,
    specs: Mapping[str, RowSpec],
    sparsities: Sequence[float],
    own: Sequence[Mapping[str, Any]],
    *,
    dtype: str = "float32",
) -> PackedFamily:
    """The packed family of a ResNet; `save` writes it.

    Args:
      model: with the weights of all subnets.
      pictures: how they become the network's input.
      class_names: indexed by label.
      masks: of the subnets.
      specs: of the pruned kernels, as the masks were made with.
      sparsities: of the subnets, as they were asked for.
      own: of each subnet, its BatchNorms' "scale", "bias", "mean" and "var" by name.
      dtype: "float32", "float16" or "bfloat16", of all weights but `own`.

    Raises:
      ValueError: arguments that do not fit each other, values that the dtype cannot hold.
    """
    about = {
        "network": dataclasses.asdict(model.config),
        "pictures": dataclasses.asdict(pictures),
        "class_names": list(class_names),
    }
    return pack(
        named_leaves(nnx.state(model)),
        masks.levels,
        specs,
        sparsities,
        own=own,
        dtype=dtype,
        model=MODEL,
        about=about,
    )


@dataclasses.dataclass(frozen=True)
class ResNetFamily(NetworkFamily):
    """A packed family as ResNets.

    Attributes:
      packed: the family's arrays.
      config: dimensions of every subnet.
      pictures: how they become the networks' input.
      class_names: indexed by label.
    """

    config: ResNetConfig
    pictures: ImageSettings
    class_names: tuple[str, ...]

    def at(self, k: int, *, dtype: Any = jnp.float32) -> ResNet:
        """Subnet k, zeros in place, for inference.

        Args:
          k: 0 is the densest subnet.
          dtype: compute dtype. Parameters are float32.

        Raises:
          ValueError: there is no such subnet.
        """
        abstract = _abstract(self.config, dtype)
        stored = self.packed.to_dense(k)
        graphdef, state = nnx.split(abstract)
        arrays = [jnp.asarray(stored[name], jnp.float32) for name in named_leaves(state)]
        model: ResNet = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), arrays))
        return model


def is_resnet_family(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the family of a ResNet, or a folder with one; reads only its header."""
    return (described(family_file(path)) or {}).get("model") == MODEL


def load_resnet_family(path: str | os.PathLike[str]) -> ResNetFamily:
    """Reads the family of a ResNet.

    Args:
      path: the file, or a folder with one called family.safetensors.

    Raises:
      UserError: no such file, one cut off or damaged, or a family of another model.
    """
    packed = load_packed(family_file(path), MODEL)
    where = f"{path} does not describe a ResNet of ours"
    about = decode(_About, packed.about, where, exact=True)
    try:
        config = ResNetConfig(**dataclasses.asdict(about.network))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if about.pictures.channels != config.channels:
        raise UserError(f"{where}: pictures of {about.pictures.channels} channels, not its own")
    wanted = named_leaves(nnx.state(_abstract(config, jnp.float32)))
    check_parameters(path, packed, wanted)
    return ResNetFamily(packed, config, about.pictures, about.class_names)


def _abstract(config: ResNetConfig, dtype: Any) -> ResNet:
    """The network with shapes for arrays, for inference."""
    model = nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0), dtype=dtype))
    model.eval()
    return model
