"""The ways to several sparsities, on the images of CIFAR-10."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image

from codesign.dress.masks import Masks, loss_weights, subnet_masks
from codesign.dress.rows import RowSpec, to_rows
from codesign.dress.trees import pick
from codesign.models.subnets import norm_parameters
from codesign.train.classifier import (
    ClassifierTask,
    Variables,
    decayed_kernels,
    evaluate,
    make_optimizer,
    norm_names,
    split_classifier,
)
from codesign.train.data import ImageTextBatch, SourceConfig, open_source
from codesign.train.optim import warmup_cosine
from codesign.train.step import Trainer, train_step
from codesign.train.subnets import JointState, PostState, SubnetTrainer, joint_step, post_step
from dress_study.subjects import Scale, Subject, bytes_of, macs_of, slim_macs, width_of_macs

Array = jax.Array
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SLIM_BETWEEN = 4  # widths besides those that are compared
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def unstructured_masks(
    params: Any, specs: Mapping[str, RowSpec], sparsities: tuple[float, ...]
) -> Masks:
    """The largest weights of every layer's kernel, wherever they are."""
    levels, counts = {}, {}
    for name, kernel in pick(params, specs).items():
        rows = jnp.abs(to_rows(kernel, specs[name]))
        flat = jnp.sort(rows.reshape(rows.shape[0], -1), axis=1)
        along = [1] * kernel.ndim
        for axis in specs[name].stacked:
            along[axis] = kernel.shape[axis]
        least = [flat[:, round(s * flat.shape[1])].reshape(along) for s in sparsities]
        levels[name] = sum((jnp.abs(kernel) >= x).astype(jnp.uint8) for x in least)
        # Not equal from row to row.
        counts[name] = jnp.zeros((len(sparsities), rows.shape[0]), jnp.int32)
    return Masks(levels, counts)


def slim_masks(params: Any, widths: list[dict[str, tuple[int, ...]]]) -> Masks:
    """Nested widths as masks: of every array, how many widths open each of its entries."""
    levels = {}
    for name, array in pick(params, widths[0]).items():
        opened = np.zeros(array.shape, np.uint8)
        for width in widths:
            opened[tuple(map(slice, width[name]))] += 1
        levels[name] = jnp.asarray(opened)
    return Masks(levels, {name: jnp.zeros((len(widths), 1), jnp.int32) for name in levels})


@dataclasses.dataclass(frozen=True)
class Bench:
    """Data and settings of the whole run.

    Attributes:
      scale: how much.
      train: images uint8 [N,S,S,3] and labels [N].
      test: likewise.
    """

    scale: Scale
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    def batches(self, seed: int, steps: int) -> Any:
        """Random batches of the training images."""
        rng = np.random.default_rng(seed)
        images, labels = self.train
        for _ in range(steps):
            chosen = rng.integers(len(labels), size=self.scale.batch)
            yield ImageTextBatch(images[chosen], None, labels[chosen])


def decoded(image: bytes | np.ndarray) -> np.ndarray:
    """uint8 [S,S,3]."""
    if isinstance(image, bytes):
        return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    return image


def load(path: str, scale: Scale) -> Bench:
    """The images of both splits, at the scale's size."""
    parts = []
    for split, count in (("train", scale.train), ("test", scale.test)):
        source = open_source(SourceConfig(path=path, split=split))
        images = np.stack([decoded(source.image(i)) for i in range(count)])
        side = images.shape[1] // scale.image
        if side > 1:
            shape = (count, scale.image, side, scale.image, side, 3)
            images = np.round(images.reshape(shape).mean((2, 4))).astype(np.uint8)
        parts.append((images, np.asarray(source.labels[:count], np.int32)))
    return Bench(scale, *parts)


def optimizer_of(subject: Subject, model: nnx.Module, lr: float, steps: int) -> Any:
    """Of the dense and joint steps."""
    params = nnx.state(model, nnx.Param)
    if subject.name.startswith("ResNet"):
        decays = decayed_kernels(params)
    else:
        decays = jax.tree.map(lambda x: x.ndim >= 2, params)
    rate = warmup_cosine(lr, min(100, steps // 5), steps, 0.0)
    return make_optimizer(subject.optimizer, rate, subject.weight_decay, decays)


class Trainers:
    """The trainers of one network: one a method, for all seeds and sparsities.

    Which of the K subnets take part in a step is an array, so a subnet is trained alone by the
    program that has the masks of all.
    """

    def __init__(self, bench: Bench, subject: Subject) -> None:
        self.bench, self.subject = bench, subject
        model = subject.make(0)
        classifier, self.like = split_classifier(model, MEAN, STD, shift=2, flip=True)
        self.task, self.rest = ClassifierTask(classifier), self.like.rest
        if subject.name.startswith("ResNet"):
            norms = norm_names(model)
        else:
            norms = tuple(f"clip.{name}" for name in norm_parameters(model.clip))
        scale, specs = bench.scale, subject.specs
        global_masks = functools.partial(subnet_masks, specs=specs, sparsities=SPARSITIES)
        uniform_masks = functools.partial(global_masks, budget="uniform")
        tensor_masks = functools.partial(unstructured_masks, specs=specs, sparsities=SPARSITIES)

        def trainer(
            masks_of: Callable[[Any], Masks],
            lr: float,
            steps: int,
            subnets: int = 4,
            in_place: float = 0.0,
        ) -> SubnetTrainer:
            post = warmup_cosine(subject.post_lr, 0, scale.post_steps, 0.0)
            return SubnetTrainer(
                self.task,
                optimizer_of(subject, model, lr, steps),
                masks_of,
                subnets,
                norms,
                optax.adam(post),
                in_place=in_place,
            )

        joint = subject.joint_lr, scale.joint_steps
        dense = optimizer_of(subject, model, subject.lr, scale.dense_steps)
        self.dense = Trainer(self.task, dense, lambda step: 0.0)
        self.dress = trainer(global_masks, *joint)
        self.uniform = trainer(uniform_masks, *joint)
        self.alone_k = trainer(global_masks, subject.joint_lr, scale.joint_steps // 4)
        self.unstructured = trainer(tensor_masks, *joint)
        self.post_alone = trainer(global_masks, *joint, subnets=1)
        self.widths, self.compared = self._widths()
        slim = slim_masks(self.like.params, self.widths)
        self.slim_steps = (scale.dense_steps + len(SPARSITIES) * scale.joint_steps) // 4
        self.slimmable, self.slim_alone = (
            trainer(lambda _: slim, lr, steps, len(self.widths), in_place=1.0)
            for lr, steps in (joint, (subject.lr, self.slim_steps))
        )

    def _widths(self) -> tuple[list[dict[str, tuple[int, ...]]], list[int]]:
        """Nested widths, the widest first, and which of them have the products of subnets."""
        subject = self.subject
        pruned = sum(
            leaf.size * subject.uses[name]
            for name, leaf in pick(self.like.params, subject.specs).items()
        )
        targets = [subject.fixed_macs + (1 - s) * pruned for s in SPARSITIES]
        compared = [width_of_macs(subject, macs) for macs in targets]
        between = np.geomspace(targets[0], targets[-1], SLIM_BETWEEN + 2)[1:-1]
        every = compared + [width_of_macs(subject, macs) for macs in between]
        widths = sorted(every, key=lambda width: -slim_macs(subject, width))
        return widths, [widths.index(width) for width in compared]

    def started(self, seed: int) -> Variables:
        """The untrained network of a seed."""
        return split_classifier(self.subject.make(seed), MEAN, STD)[1]

    def trained(self, seed: int) -> tuple[Variables, float]:
        """The dense network of a seed, and its accuracy."""
        params, stats, rest = self.started(seed)
        state, key = self.dense.init(params, stats), jax.random.key(seed)
        for batch in self.bench.batches(seed, self.bench.scale.dense_steps):
            state, _ = train_step(state, rest, batch, key, self.dense)
        begun = self.dress.begin(state.params, state.stats)
        accuracy = float(evaluate(begun, rest, [-1], *self.bench.test, self.task)[0])
        return Variables(state.params, state.stats, rest), accuracy

    def _begun(self, start: Variables, trainer: SubnetTrainer) -> JointState:
        """Of copies: steps take their buffers over."""
        return trainer.begin(*jax.tree.map(jnp.copy, (start.params, start.stats)))

    def jointly(
        self,
        start: Variables,
        seed: int,
        trainer: SubnetTrainer,
        steps: int,
        members: list[int],
        weights: Array,
    ) -> JointState:
        """After training some subnets together from a dense network."""
        state, key = self._begun(start, trainer), jax.random.key(seed)
        numbers = jnp.asarray(members, jnp.int32)
        for batch in self.bench.batches(seed + 1000, steps):
            state, _ = joint_step(state, self.rest, batch, numbers, weights, key, trainer)
        return state

    def finished(
        self, seed: int, trainer: SubnetTrainer, post: PostState
    ) -> tuple[PostState, list[float]]:
        """After every subnet's own norms have been trained, and the accuracies."""
        key = jax.random.key(seed)
        for batch in self.bench.batches(seed + 2000, self.bench.scale.post_steps):
            post, _ = post_step(post, self.rest, batch, key, trainer)
        numbers = range(trainer.subnets)
        found = evaluate(post, self.rest, numbers, *self.bench.test, self.task)
        return post, list(map(float, found))

    def together(
        self, start: Variables, seed: int, trainer: SubnetTrainer, gamma: float = 1.0
    ) -> Any:
        """DRESS, or one of its variants."""
        steps, weights = self.bench.scale.joint_steps, loss_weights(SPARSITIES, gamma)
        state = self.jointly(start, seed, trainer, steps, list(range(4)), weights)
        return self.results(
            [self.finished(seed, trainer, trainer.begin_post(state))], "panels", shared=True
        )

    def alone(
        self, start: Variables, seed: int, trainer: SubnetTrainer, steps: int, kind: str
    ) -> Any:
        """Every subnet by itself."""
        parts = []
        for k in range(len(SPARSITIES)):
            state = self.jointly(start, seed, trainer, steps, [k], jnp.ones(1))
            masks = trainer.begin_post(state).masks  # of the final weights
            own = Masks(
                {name: (levels > k).astype(jnp.uint8) for name, levels in masks.levels.items()},
                {name: counts[k : k + 1] for name, counts in masks.counts.items()},
            )
            stats = jax.tree.map(lambda x, k=k: x[k][None].repeat(2, 0), state.stats)
            post = self.post_alone.begin_post(state._replace(stats=stats))._replace(masks=own)
            parts.append(self.finished(seed, self.post_alone, post))
        return self.results(parts, kind, shared=False)

    def sandwiched(self, start: Variables, seed: int, trainer: SubnetTrainer, steps: int) -> Any:
        """The slimmable network."""
        subject, key = self.subject, jax.random.key(seed)
        state = self._begun(start, trainer)
        rng, last = np.random.default_rng(seed), len(self.widths) - 1
        for batch in self.bench.batches(seed, steps):
            middle = rng.choice(last, 2, replace=False)
            members = jnp.asarray([-1, last, *middle], jnp.int32)
            shares = jnp.full(4, 0.25)
            state, _ = joint_step(state, self.rest, batch, members, shares, key, trainer)
        _, accuracy = self.finished(seed, trainer, trainer.begin_post(state))
        widths = [self.widths[number] for number in self.compared]
        kept = [{name: math.prod(shape) for name, shape in width.items()} for width in widths]
        params = self.like.params
        return {
            "accuracy": [accuracy[number] for number in self.compared],
            "macs": [slim_macs(subject, width) for width in widths],
            "bytes": [bytes_of(subject, params, own, "dense") for own in kept],
            "family_bytes": bytes_of(subject, params, {}, "dense"),
        }

    def results(
        self, parts: list[tuple[PostState, list[float]]], kind: str, shared: bool
    ) -> dict[str, Any]:
        """Of one state with K subnets, or of K states with one each."""
        found: dict[str, Any] = {"accuracy": [], "macs": [], "bytes": []}
        for post, accuracies in parts:
            for k, accuracy in enumerate(accuracies):
                kept = kept_weights(post.masks, k)
                found["accuracy"].append(accuracy)
                found["macs"].append(macs_of(self.subject, kept))
                found["bytes"].append(bytes_of(self.subject, post.params, kept, kind))
        found["family_bytes"] = found["bytes"][0] if shared else sum(found["bytes"])
        return found


def kept_weights(masks: Masks, k: int) -> dict[str, int]:
    """Weights that subnet k keeps of every pruned kernel."""
    return {name: int(np.sum(np.asarray(masks.levels[name]) > k)) for name in masks.levels}
