"""The two networks of the study, and what their subnets and narrower versions cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import TOWERS, Architecture, Tower
from codesign.dress.rows import RowSpec
from codesign.dress.trees import kernel_specs, named_leaves
from codesign.models import CLIP
from codesign.models.resnet import ResNet, ResNetConfig, layer_macs
from codesign.models.subnets import subnet_specs
from codesign.train.data.captions import CIFAR10_NAMES
from codesign.train.data.tokenizer import train_tokenizer
from codesign.workload.blocks import Operators
from codesign.workload.clip import ClipNetwork

Array = jax.Array
VALUE_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything: the same for every method.

    Attributes:
      image: side of an image, pixels; 16 are means of 2 x 2.
      batch: images a step.
      train, test: images of each split.
      dense_steps, joint_steps, post_steps: of the stages.
    """

    image: int
    batch: int
    train: int
    test: int
    dense_steps: int
    joint_steps: int
    post_steps: int


SMALL = Scale(16, 64, 20_000, 5_000, 800, 400, 60)
FULL = Scale(32, 128, 50_000, 10_000, 15_600, 7_800, 390)


class PromptClassifier(nnx.Module):
    """A CLIP as a classifier: logits are an image's similarities to a prompt of every class."""

    def __init__(self, clip: CLIP, ids: np.ndarray) -> None:
        self.clip = clip
        self.ids = nnx.Variable(jnp.asarray(ids))

    def __call__(self, images: Array) -> Array:
        """Normalised images [B,S,S,C] -> logits [B,classes]."""
        image, _ = self.clip.encode_image(images)
        text, _ = self.clip.encode_text(self.ids[...])
        return jnp.exp(self.clip.logit_scale[...]) * image @ text.T


@dataclasses.dataclass(frozen=True)
class Subject:
    """One of the two networks.

    Attributes:
      name: "ResNet-8" or "ViT CLIP".
      make: seed -> the module.
      specs: rows of what is pruned.
      uses: products of one image a weight of each kernel, 0 of the text tower's.
      fixed_macs: products of one image elsewhere.
      slim: share of the width -> the share that is open of each axis of each array, by name.
      optimizer, lr, joint_lr, post_lr, weight_decay: of the training.
    """

    name: str
    make: Callable[[int], nnx.Module]
    specs: dict[str, RowSpec]
    uses: dict[str, int]
    fixed_macs: int
    slim: Callable[[float], dict[str, tuple[int, ...]]]
    optimizer: Any
    lr: float
    joint_lr: float
    post_lr: float
    weight_decay: float


def resnet(scale: Scale) -> Subject:
    """A ResNet-8 of width 16; at full scale a ResNet-20."""
    config = ResNetConfig(depth=20 if scale is FULL else 8)

    def make(seed: int) -> ResNet:
        return ResNet(config, rngs=nnx.Rngs(seed))

    params = nnx.state(nnx.eval_shape(lambda: make(0)), nnx.Param)
    specs = kernel_specs(params, include=("blocks.*",))
    macs = layer_macs(config, scale.image)
    sizes = {name: math.prod(leaf.shape) for name, leaf in named_leaves(params).items()}
    kernels = [name for name in macs if name not in specs]

    def slim(share: float) -> dict[str, tuple[int, ...]]:
        def open_of(channels: int) -> int:
            return (
                channels
                if channels in (config.channels, config.classes)
                else max(1, round(share * channels))
            )

        leaves = named_leaves(params)
        return {
            name: (*leaves[name].shape[:-2], *map(open_of, leaves[name].shape[-2:]))
            for name in macs
        }

    return Subject(
        f"ResNet-{config.depth}",
        make,
        specs,
        {name: macs[name] // sizes[name] for name in macs},
        sum(macs[name] for name in kernels),
        slim,
        "sgd",
        0.1,
        0.05,
        1e-2,
        5e-4,
    )


def clip(scale: Scale) -> Subject:
    """A CLIP with a ViT of 4 layers."""
    prompts = [f"a photo of a {name}." for name in CIFAR10_NAMES]
    tokenizer = train_tokenizer(prompts)
    ids = tokenizer.encode(prompts, 12)
    architecture = Architecture(
        vision=Tower(6, 192, 3, 768) if scale is FULL else Tower(4, 64, 2, 256),
        text=Tower(2, 64, 2, 128),
        patch=4,
        image=scale.image,
        context=12,
        projection=64,
        head_dim=64 if scale is FULL else 32,
        vocab=tokenizer.vocab_size,
    )
    if scale is FULL:
        architecture = dataclasses.replace(architecture, text=Tower(2, 128, 2, 256))

    def make(seed: int) -> PromptClassifier:
        return PromptClassifier(CLIP(architecture, rngs=nnx.Rngs(seed)), ids)

    model = nnx.eval_shape(lambda: CLIP(architecture, rngs=nnx.Rngs(0)))
    specs = {f"clip.{name}": spec for name, spec in subnet_specs(model).items()}
    tokens = architecture.vision_tokens
    # Of one image: the prompts' embeddings are computed once for all images.
    image = Operators(
        tuple(
            g for g in ClipNetwork(architecture).operators().gemms if g.name.startswith("vision.")
        ),
        (),
    )
    uses = {name: tokens if ".vision." in name else 0 for name in specs}
    leaves = named_leaves(nnx.state(model, nnx.Param))
    prunable = sum(
        uses[name] * math.prod(leaves[name.removeprefix("clip.")].shape) for name in specs
    )

    def slim(share: float) -> dict[str, tuple[int, ...]]:
        """Channels of each head, and hidden units; the residual stream stays, as its norms do."""
        shapes = {}
        for tower in TOWERS:
            for kernel, axis in (
                ("query", 3),
                ("key", 3),
                ("value", 3),
                ("query_bias", 2),
                ("key_bias", 2),
                ("out", 2),
                ("fc1", 2),
                ("fc2", 1),
            ):
                shape = list(leaves[f"{tower}.blocks.{kernel}"].shape)
                shape[axis] = max(1, round(share * shape[axis]))
                shapes[f"clip.{tower}.blocks.{kernel}"] = tuple(shape)
        return shapes

    return Subject(
        "ViT CLIP",
        make,
        specs,
        uses,
        int(image.macs) - prunable,
        slim,
        "adamw",
        1e-3,
        5e-4,
        1e-3,
        0.05,
    )


def macs_of(subject: Subject, kept: Mapping[str, int]) -> float:
    """Products of one image, where zeros are skipped."""
    return subject.fixed_macs + sum(kept[name] * subject.uses[name] for name in subject.specs)


def slim_macs(subject: Subject, width: Mapping[str, tuple[int, ...]]) -> float:
    """Products of one image of a narrower network."""
    inside = [name for name in width if name in subject.specs]
    outside = [name for name in width if name in subject.uses and name not in subject.specs]
    fixed = subject.fixed_macs if not outside else 0.0
    return fixed + sum(math.prod(width[name]) * subject.uses[name] for name in inside + outside)


def width_of_macs(subject: Subject, macs: float) -> dict[str, tuple[int, ...]]:
    """The widest network of at most so many products, or the narrowest there is."""
    shares = np.linspace(1, 0, 400)
    for share in shares:
        if slim_macs(subject, subject.slim(share)) <= macs * 1.001:
            return subject.slim(share)
    return subject.slim(0.0)


def bytes_of(subject: Subject, params: Any, kept: Mapping[str, int], kind: str) -> int:
    """Bytes of one subnet stored alone, float32: panels, CSR or dense."""
    leaves = named_leaves(params)
    total = sum(leaf.size * VALUE_BYTES for n, leaf in leaves.items() if n not in kept)
    for name, count in kept.items():
        if kind == "dense":
            total += count * VALUE_BYTES
            continue
        layers, rows, length = subject.specs[name].sizes(leaves[name].shape)
        total += count * (VALUE_BYTES + np.dtype(np.min_scalar_type(length - 1)).itemsize)
        total += 4 * layers * (rows + 1) if kind == "csr" else 4 * layers
    return int(total)
