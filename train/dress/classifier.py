"""Any image classifier as compiled functions see it.

Axes: B images, N all of them, S side in pixels, C channels.

A network is any NNX module that makes logits of normalised images, with BatchNorm or without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.errors import UserError
from codesign.train.data import augment

Array = jax.Array

_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.RMSNorm, nnx.InstanceNorm)


class Variables(NamedTuple):
    """The arrays of a network, by what becomes of them.

    Attributes:
      params: trained.
      stats: BatchNorm's statistics; may be empty.
      rest: neither.
    """

    params: nnx.State
    stats: nnx.State
    rest: nnx.State


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A network as compiled functions see it; hashed by identity, static under jit.

    Attributes:
      training: its graph, where BatchNorm uses and hands out the statistics of the batch.
      inference: its graph, where BatchNorm uses those it is given.
      mean: of every channel, of pixels in [0, 1].
      std: likewise.
      shift: largest random shift of training images along each side, pixels.
      flip: whether to mirror training images with probability 1/2.
    """

    training: Any
    inference: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int = 0
    flip: bool = False

    def normalised(self, images: Array) -> Array:
        """uint8 [B,S,S,C] -> f32 [B,S,S,C]."""
        mean, std = (jnp.asarray(x, jnp.float32) for x in (self.mean, self.std))
        return (images.astype(jnp.float32) / 255 - mean) / std

    def varied(self, images: Array, key: Array) -> Array:
        """uint8 [B,S,S,C] -> f32 [B,S,S,C]: each at random shifted and mirrored, normalised."""
        if self.shift or self.flip:
            images = augment(key, images, self.shift, self.flip)
        return self.normalised(images)

    def train(self, variables: Variables, images: Array) -> tuple[Array, nnx.State]:
        """Normalised images -> logits [B,classes], and the statistics of this batch."""
        # Variables of their own, as those of an outer trace may not be written to.
        model = nnx.merge(self.training, *jax.tree.map(lambda x: x, variables))
        logits = model(images)
        return logits, nnx.state(model, nnx.BatchStat)

    def infer(self, variables: Variables, images: Array) -> Array:
        """Normalised images -> logits [B,classes]."""
        logits: Array = nnx.merge(self.inference, *variables)(images)
        return logits

    def model(self, variables: Variables) -> Any:
        """The network of these arrays, for inference."""
        return nnx.merge(self.inference, *variables)


def split_classifier(
    model: nnx.Module, mean: Iterable[float], std: Iterable[float], *, shift: int = 0,
    flip: bool = False,
) -> tuple[Classifier, Variables]:
    """A network apart: what is static, and its arrays. The model stays as it is.

    Args:
      model: normalised images [B,S,S,C] -> logits [B,classes].
      mean: see `Classifier`, as the others.
      std: must be above 0.
      shift: at least 0.
      flip: whether a mirrored image keeps its class.

    Raises:
      ValueError: a deviation or a shift out of range.
    """
    mean, std = tuple(mean), tuple(std)
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(f"mean {mean} and std {std}: one of each a channel, std above 0")
    if shift < 0:
        raise ValueError(f"shift is {shift}: it must be at least 0 pixels")
    copy = nnx.clone(model)
    copy.eval()
    inference = nnx.graphdef(copy)
    # Without memory of its own, BatchNorm's new state is what it saw.
    copy.set_attributes(nnx.BatchNorm, momentum=0.0, raise_if_not_found=False)
    copy.train()
    split: Any = nnx.split(copy, nnx.Param, nnx.BatchStat, ...)
    training, *states = split
    return Classifier(training, inference, mean, std, shift, flip), Variables(*states)


def norm_names(model: nnx.Module) -> tuple[str, ...]:
    """The scales and biases of Flax's norms by name: what a subnet may have for itself."""
    found = [
        ".".join(map(str, (*path, kind)))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, _NORMS)
        for kind in ("scale", "bias")
        if getattr(module, kind, None) is not None
    ]
    return tuple(sorted(found))


def check_images(images: np.ndarray, labels: np.ndarray, channels: int, classes: int) -> None:
    """Refuses images and labels that a network cannot be trained on.

    Raises:
      UserError: images of another kind, or a label that is no class.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise UserError(
            f"images are {images.dtype} of shape {images.shape}: expected uint8 [N,S,S,C]"
        )
    if images.shape[3] != channels:
        raise UserError(
            f"images have {images.shape[3]} channels, the network reads {channels}: change one"
        )
    if len(labels) != len(images):
        raise UserError(f"there are {len(images)} images and {len(labels)} labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        odd = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"label {odd} is outside the network's {classes} classes")
