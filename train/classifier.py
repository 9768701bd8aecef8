"""Image classifiers: their task, and what their subnets get right.

Axes: B images, N all of them, S side in pixels, C channels.

A network is any NNX module that makes logits of normalised images, with BatchNorm or without.
BatchNorm trains on the statistics of the batch, as each subnet finds them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from codesign.dress.trees import named_leaves
from codesign.errors import UserError
from codesign.train.data import augment
from codesign.train.network import normalised
from codesign.train.sharding import used
from codesign.train.subnets import JointState, PostState, subnet_of
from codesign.train.task import Metrics

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
        return normalised(images, self.mean, self.std)

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


class Prepared(NamedTuple):
    """A batch as the network takes it: normalised f32 images [B,S,S,C], labels int [B]."""

    images: Array
    labels: Array


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierTask:
    """Cross-entropy of an image classifier; see `task.Task`.

    Batches have uint8 `images` and `labels`; outputs are logits; `params` and `stats` are those of
    `Variables`, `fixed` is its `rest`.

    Attributes:
      classifier: the network.
      label_smoothing: share of a label's weight that is spread over all classes.
      mesh: the devices that params may be split over; None: one.
    """

    classifier: Classifier
    label_smoothing: float = 0.0
    mesh: Mesh | None = None
    # XLA's CPU compiler has no fast gradient of a convolution inside a loop.
    unrolled_on_cpu: bool = True

    def network(self, params: nnx.State) -> nnx.State:
        """The params themselves."""
        return params

    def with_network(self, params: nnx.State, network: nnx.State) -> nnx.State:
        """The network's."""
        return network

    def prepare(self, batch: Any, key: Array) -> Prepared:
        """Shifted, mirrored and normalised."""
        return Prepared(self.classifier.varied(batch.images, key), batch.labels)

    def teacher_outputs(self, fixed: nnx.State, batch: Prepared) -> None:
        """None: classifiers have no teacher."""

    def first(self, params: nnx.State, fixed: Any, batch: Prepared, step: Array) -> nnx.State:
        """The same params."""
        return params

    def forward(
        self,
        params: nnx.State,
        stats: nnx.State,
        fixed: nnx.State,
        batch: Prepared,
        gates: Any = None,
    ) -> tuple[Array, nnx.State]:
        """Logits [B,classes], and the statistics of this batch."""
        if gates is not None:
            raise ValueError("a classifier has no gates")
        with used(params, self.mesh) as params:
            return self.classifier.train(Variables(params, stats, fixed), batch.images)

    def loss(
        self, params: nnx.State, outputs: Array, teacher: None, batch: Prepared
    ) -> tuple[Array, Metrics]:
        """Cross-entropy."""
        loss = cross_entropy(outputs, batch.labels, self.label_smoothing)
        return loss, {"loss": loss}

    def divergence(self, outputs: Array, densest: Array) -> Array:
        """KL from the densest subnet's classes."""
        return divergence(densest, outputs)

    def constrain(self, params: nnx.State) -> nnx.State:
        """The same params: none is bounded."""
        return params

    def metrics(self, params: nnx.State) -> Metrics:
        """No metrics of its own."""
        return {}


def split_classifier(
    model: nnx.Module,
    mean: Iterable[float],
    std: Iterable[float],
    *,
    shift: int = 0,
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


def decayed_kernels(params: nnx.State) -> Any:
    """True for the leaves called "kernel", which alone weight decay shrinks in a Flax model."""
    names = [name.split(".")[-1] == "kernel" for name in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), names)


def make_optimizer(
    kind: Literal["sgd", "adamw"], rate: optax.Schedule | float, weight_decay: float, decays: Any
) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum of 0.9, or AdamW.

    Args:
      kind: which.
      rate: learning rate, see `warmup_cosine`.
      weight_decay: with SGD as a term of the gradient, decoupled with AdamW.
      decays: tree of bools, which parameters it is for.
    """
    if kind == "adamw":
        return optax.adamw(rate, weight_decay=weight_decay, mask=decays)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decays),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Mean over the batch; `smoothing` is the share of the target spread over all classes."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def divergence(teacher: Array, logits: Array) -> Array:
    """KL(teacher || student) of logits [...,B,classes], mean over the batch, [...]."""
    losses = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits), jax.nn.log_softmax(teacher)
    )
    return jnp.mean(losses, axis=-1)


@functools.partial(jax.jit, static_argnames="task")
def count_right(
    state: JointState | PostState,
    fixed: nnx.State,
    numbers: Array,
    images: Array,
    labels: Array,
    task: ClassifierTask,
) -> Array:
    """How many images of a batch each subnet gets right, int32 [M]; a label below 0 never is."""
    normalised = task.classifier.normalised(images)

    def of_subnet(k: Array) -> Array:
        params, stats = subnet_of(state, k, task)
        variables = Variables(params, stats, fixed)
        logits = task.classifier.infer(variables, normalised)
        return jnp.sum(jnp.argmax(logits, axis=-1) == labels)

    return jax.lax.map(of_subnet, numbers)


def evaluate(
    state: JointState | PostState,
    fixed: nnx.State,
    numbers: Iterable[int],
    images: np.ndarray,
    labels: np.ndarray,
    task: ClassifierTask,
    batch_size: int = 500,
) -> np.ndarray:
    """Share of images that each subnet gets right, float [M].

    Args:
      state: the network and its subnets.
      fixed: `Variables.rest`.
      numbers: numbers of subnets; -1, of a `JointState` only, is the dense network.
      images: uint8 [N,S,S,C].
      labels: int [N].
      task: of the network.
      batch_size: images at a time; the last batch is filled up, so that one program serves all.
    """
    chosen = jnp.asarray(list(numbers), jnp.int32)
    right = np.zeros(len(chosen), np.int64)
    for start in range(0, len(images), batch_size):
        part, own = images[start : start + batch_size], labels[start : start + batch_size]
        missing = batch_size - len(part)
        part = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
        own = np.pad(own, (0, missing), constant_values=-1)
        right += np.asarray(count_right(state, fixed, chosen, part, own, task))
    return right / len(images)
