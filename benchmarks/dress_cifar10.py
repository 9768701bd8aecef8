"""DRESS against six other ways to several sparsities, on CIFAR-10: a ResNet, and a ViT CLIP.

    python benchmarks/dress_cifar10.py --data FOLDER --out runs/dress_cifar10
    python benchmarks/dress_cifar10.py --data FOLDER --out runs/full --full    # on a GPU

FOLDER holds CIFAR-10 in the hub's parquet schema. All start from one dense network a seed:

    dress        K nested row-sparse subnets trained together, one set of weights
    uniform      the same, each layer of the subnet's own sparsity instead of one global ranking
    alone        each subnet trained by itself, as many steps as DRESS
    alone/K      each subnet trained by itself, the steps of DRESS split among them
    unstructured each by itself, the largest weights of each tensor (jaxpruner's magnitude pruning)
    slimmable    nested widths of about equal products: in each step the whole, the narrowest and
                 two random widths, taught by the whole (Yu & Huang, ICCV 2019), from the dense
                 network and for as many steps as DRESS
    slim alone   the same from nothing, as published, for as many passes of a network as DRESS
                 and its dense start together
    gamma 0, 2   DRESS with other loss weights, proportional to (1 - sparsity)^gamma

Every subnet of every method ends with the same post-training of its own norms. A CLIP classifies
by its similarity to ten prompts and learns by cross-entropy over them; pruned are the blocks of
both towers. Prints Markdown and writes two figures. What is finished in --out is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from matplotlib.ticker import LogFormatter
from PIL import Image

from codesign.architecture import Architecture, Tower
from codesign.dress.masks import Masks, loss_weights, subnet_masks
from codesign.dress.rows import RowSpec, to_rows
from codesign.dress.trees import kernel_specs, named_leaves, pick
from codesign.models import CLIP
from codesign.models.resnet import ResNet, ResNetConfig, layer_macs
from codesign.models.subnets import norm_parameters, subnet_specs
from codesign.runs import read_json, write_json
from codesign.train.data import SourceConfig, open_source
from codesign.train.data.tokenizer import train_tokenizer
from codesign.train.dress.classifier import (
    ClassifierTrainer,
    PostState,
    State,
    Variables,
    decayed_kernels,
    dense_step,
    evaluate,
    joint_step,
    make_optimizer,
    norm_names,
    post_step,
    split_classifier,
)
from codesign.train.optim import warmup_cosine
from codesign.workload.blocks import Operators
from codesign.workload.clip import Clip
from machine import here

Array = jax.Array
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SLIM_BETWEEN = 4  # widths besides those that are compared
METHODS = (
    "dress", "uniform", "alone", "alone/K", "unstructured", "slimmable", "slim alone", "gamma 0",
    "gamma 2",
)  # fmt: skip
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
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
            return channels if channels in (config.channels, config.classes) else max(
                1, round(share * channels)
            )

        leaves = named_leaves(params)
        return {
            name: (*leaves[name].shape[:-2], *map(open_of, leaves[name].shape[-2:]))
            for name in macs
        }

    return Subject(
        f"ResNet-{config.depth}", make, specs,
        {name: macs[name] // sizes[name] for name in macs},
        sum(macs[name] for name in kernels), slim, "sgd", 0.1, 0.05, 1e-2, 5e-4,
    )  # fmt: skip


def clip(scale: Scale) -> Subject:
    """A CLIP with a ViT of 4 layers."""
    names = open_names()
    prompts = [f"a photo of a {name}." for name in names]
    tokenizer = train_tokenizer(prompts)
    ids = tokenizer.encode(prompts, 12)
    architecture = Architecture(
        vision=Tower(6, 192, 3, 768) if scale is FULL else Tower(4, 64, 2, 256),
        text=Tower(2, 64, 2, 128), patch=4, image=scale.image, context=12, projection=64,
        head_dim=64 if scale is FULL else 32, vocab=tokenizer.vocab_size,
    )  # fmt: skip
    if scale is FULL:
        architecture = dataclasses.replace(architecture, text=Tower(2, 128, 2, 256))

    def make(seed: int) -> PromptClassifier:
        return PromptClassifier(CLIP(architecture, rngs=nnx.Rngs(seed)), ids)

    model = nnx.eval_shape(lambda: CLIP(architecture, rngs=nnx.Rngs(0)))
    specs = {f"clip.{name}": spec for name, spec in subnet_specs(model).items()}
    tokens = architecture.vision_tokens
    # Of one image: the prompts' embeddings are computed once for all images.
    image = Operators(
        tuple(g for g in Clip(architecture).operators().gemms if g.name.startswith("vision.")), ()
    )
    uses = {name: tokens if ".vision." in name else 0 for name in specs}
    leaves = named_leaves(nnx.state(model, nnx.Param))
    prunable = sum(
        uses[name] * math.prod(leaves[name.removeprefix("clip.")].shape) for name in specs
    )

    def slim(share: float) -> dict[str, tuple[int, ...]]:
        """Channels of each head, and hidden units; the residual stream stays, as its norms do."""
        shapes = {}
        for tower in ("vision", "text"):
            for kernel, axis in (("query", 3), ("key", 3), ("value", 3), ("query_bias", 2),
                                 ("key_bias", 2), ("out", 2), ("fc1", 2), ("fc2", 1)):  # fmt: skip
                shape = list(leaves[f"{tower}.blocks.{kernel}"].shape)
                shape[axis] = max(1, round(share * shape[axis]))
                shapes[f"clip.{tower}.blocks.{kernel}"] = tuple(shape)
        return shapes

    return Subject(
        "ViT CLIP", make, specs, uses, int(image.macs) - prunable, slim, "adamw", 1e-3, 5e-4,
        1e-3, 0.05,
    )  # fmt: skip


def open_names() -> tuple[str, ...]:
    """Names of the classes of CIFAR-10."""
    from codesign.train.data.captions import CIFAR10_NAMES

    return tuple(CIFAR10_NAMES)


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
            yield images[chosen], labels[chosen]


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
        self.classifier, self.like = split_classifier(model, MEAN, STD, shift=2, flip=True)
        if subject.name.startswith("ResNet"):
            norms = norm_names(model)
        else:
            norms = tuple(f"clip.{name}" for name in norm_parameters(model.clip))
        scale, specs = bench.scale, subject.specs
        global_masks = functools.partial(subnet_masks, specs=specs, sparsities=SPARSITIES)
        uniform_masks = functools.partial(global_masks, budget="uniform")
        tensor_masks = functools.partial(unstructured_masks, specs=specs, sparsities=SPARSITIES)

        def trainer(
            masks_of: Callable[[Any], Masks], lr: float, steps: int, subnets: int = 4,
            in_place: float = 0.0,
        ) -> ClassifierTrainer:
            post = warmup_cosine(subject.post_lr, 0, scale.post_steps, 0.0)
            return ClassifierTrainer(
                self.classifier, optimizer_of(subject, model, lr, steps), masks_of, subnets,
                norms, optax.adam(post), in_place=in_place,
            )  # fmt: skip

        joint = subject.joint_lr, scale.joint_steps
        self.dense = trainer(global_masks, subject.lr, scale.dense_steps)
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
        state, key = self.dense.begin(self.started(seed)), jax.random.key(seed)
        for images, labels in self.bench.batches(seed, self.bench.scale.dense_steps):
            state, _ = dense_step(state, images, labels, key, self.dense)
        accuracy = float(evaluate(state, [-1], *self.bench.test, self.classifier)[0])
        stats = jax.tree.map(lambda x: x[-1], state.stats)
        return Variables(state.params, stats, state.rest), accuracy

    def jointly(
        self, start: Variables, seed: int, trainer: ClassifierTrainer, steps: int,
        members: list[int], weights: Array,
    ) -> State:
        """After training some subnets together from a dense network."""
        state, key = trainer.begin(start), jax.random.key(seed)
        numbers = jnp.asarray(members, jnp.int32)
        for images, labels in self.bench.batches(seed + 1000, steps):
            state, _ = joint_step(state, images, labels, numbers, weights, key, trainer)
        return state

    def finished(
        self, seed: int, trainer: ClassifierTrainer, post: PostState
    ) -> tuple[PostState, list[float]]:
        """After every subnet's own norms have been trained, and the accuracies."""
        key = jax.random.key(seed)
        for images, labels in self.bench.batches(seed + 2000, self.bench.scale.post_steps):
            post, _ = post_step(post, images, labels, key, trainer)
        found = evaluate(post, range(trainer.subnets), *self.bench.test, self.classifier)
        return post, list(map(float, found))

    def together(
        self, start: Variables, seed: int, trainer: ClassifierTrainer, gamma: float = 1.0
    ) -> Any:
        """DRESS, or one of its variants."""
        steps, weights = self.bench.scale.joint_steps, loss_weights(SPARSITIES, gamma)
        state = self.jointly(start, seed, trainer, steps, list(range(4)), weights)
        return self.results(
            [self.finished(seed, trainer, trainer.begin_post(state))], "panels", shared=True
        )

    def alone(
        self, start: Variables, seed: int, trainer: ClassifierTrainer, steps: int, kind: str
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

    def sandwiched(
        self, start: Variables, seed: int, trainer: ClassifierTrainer, steps: int
    ) -> Any:
        """The slimmable network."""
        subject, key = self.subject, jax.random.key(seed)
        state = trainer.begin(start)
        rng, last = np.random.default_rng(seed), len(self.widths) - 1
        for images, labels in self.bench.batches(seed, steps):
            middle = rng.choice(last, 2, replace=False)
            members = jnp.asarray([-1, last, *middle], jnp.int32)
            state, _ = joint_step(state, images, labels, members, jnp.full(4, 0.25), key, trainer)
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


def study(trainers: Trainers, seed: int, out: Path, methods: list[str]) -> None:
    """All methods of one network and seed; each is written when it is done."""
    name, steps = trainers.subject.name, trainers.bench.scale.joint_steps
    folder = out / f"{name.replace(' ', '_')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    todo = [m for m in methods if not (folder / f"{m.replace('/', '_')}.json").is_file()]
    if not todo:
        return
    start, dense = trainers.trained(seed)
    say(f"{name} seed {seed}: dense {100 * dense:.1f} %")
    t = trainers
    run = {
        "dress": lambda: t.together(start, seed, t.dress),
        "uniform": lambda: t.together(start, seed, t.uniform),
        "gamma 0": lambda: t.together(start, seed, t.dress, gamma=0.0),
        "gamma 2": lambda: t.together(start, seed, t.dress, gamma=2.0),
        "alone": lambda: t.alone(start, seed, t.dress, steps, "panels"),
        "alone/K": lambda: t.alone(start, seed, t.alone_k, steps // 4, "panels"),
        "unstructured": lambda: t.alone(start, seed, t.unstructured, steps, "csr"),
        "slimmable": lambda: t.sandwiched(start, seed, t.slimmable, steps),
        "slim alone": lambda: t.sandwiched(t.started(seed), seed, t.slim_alone, t.slim_steps),
    }
    for method in todo:
        found = run[method]() | {"dense": dense}
        write_json(folder / f"{method.replace('/', '_')}.json", found)
        say(f"{name} seed {seed}: {method} {np.round(found['accuracy'], 3)}")


def say(text: str) -> None:
    """A line of progress."""
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


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


def gathered(out: Path, name: str, seeds: range) -> dict[str, dict[str, np.ndarray]]:
    """Of every finished method, arrays [seeds, K] of its results."""
    found = {}
    for method in METHODS:
        files = [out / f"{name.replace(' ', '_')}-{s}" / f"{method.replace('/', '_')}.json"
                 for s in seeds]  # fmt: skip
        rows = [read_json(file) for file in files if file.is_file()]
        if rows:
            found[method] = {
                key: np.array([row[key] for row in rows])
                for key in ("accuracy", "macs", "bytes", "family_bytes", "dense")
            }
    return found


def table(name: str, found: Mapping[str, Mapping[str, np.ndarray]], scale: Scale) -> None:
    """Markdown: accuracy at every sparsity, products and bytes."""
    dense = next(iter(found.values()))["dense"]
    seeds = max(len(row["dense"]) for row in found.values())
    print(f"\n{name}, dense {100 * dense.mean():.1f} %; {seeds} seeds, mean and deviation\n")
    heads = [f"{100 * s:.0f} %" for s in SPARSITIES]
    print(f"| method | {' | '.join(heads)} | MMACs | kB of the family |")
    print(f"|---|{'---:|' * (len(heads) + 2)}")
    for method, row in found.items():
        mean = 100 * row["accuracy"].mean(0)
        spread = 100 * row["accuracy"].std(0, ddof=1) if len(row["accuracy"]) > 1 else 0 * mean
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True)]
        macs = " / ".join(f"{x / 1e6:.2f}" for x in row["macs"].mean(0))
        print(
            f"| {method} | {' | '.join(cells)} | {macs} | {row['family_bytes'].mean() / 1e3:.0f} |"
        )


def figures(every: Mapping[str, Any], out: Path) -> None:
    """Accuracy against products, and against stored bytes."""
    labels = ("macs", "products of an image, thousands", 1e3), ("bytes", "one subnet, kB", 1e3)
    for quantity, label, unit in labels:
        figure, axes = plt.subplots(1, len(every), figsize=(5.2 * len(every), 4.4), squeeze=False)
        for axis, (name, found) in zip(axes[0], every.items(), strict=True):
            for method, row in found.items():
                if method.startswith("gamma"):
                    continue
                accuracy = 100 * row["accuracy"]
                spread = accuracy.std(0, ddof=1) if len(accuracy) > 1 else None
                axis.errorbar(
                    row[quantity].mean(0) / unit, accuracy.mean(0), spread, marker="o",
                    markersize=4, capsize=2, label=method,
                )  # fmt: skip
            axis.axhline(
                100 * next(iter(found.values()))["dense"].mean(), color="0.5", linestyle=":",
                label="dense",
            )  # fmt: skip
            axis.set_xscale("log")
            for level in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
                level(LogFormatter(minor_thresholds=(10, 0.5)))
            axis.set_title(name)
            axis.set_xlabel(label)
            axis.set_ylabel("test accuracy, %")
            axis.grid(alpha=0.3)
        named = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
        figure.legend(named.values(), named, loc="lower center", ncols=len(named), fontsize=8)
        figure.tight_layout(rect=(0, 0.06, 1, 1))
        path = out / f"dress_{quantity}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10 in parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="all images, full training")
    parser.add_argument("--networks", nargs="+", default=["resnet", "clip"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--only-report", action="store_true", help="of what is finished")
    args = parser.parse_args()
    scale = FULL if args.full else SMALL
    subjects = [{"resnet": resnet, "clip": clip}[name](scale) for name in args.networks]
    if not args.only_report:
        bench = load(args.data, scale)
        every_trainer = [Trainers(bench, subject) for subject in subjects]
        for seed in range(args.seeds):
            for trainers in every_trainer:
                study(trainers, seed, args.out, args.methods)
    every = {s.name: gathered(args.out, s.name, range(args.seeds)) for s in subjects}
    every = {name: found for name, found in every.items() if found}
    device = jax.devices()[0]
    print(
        f"\n{here()}, {device.device_kind}, jax {jax.__version__}; {scale}"
    )
    for name, found in every.items():
        table(name, found, scale)
    figures(every, args.out)


if __name__ == "__main__":
    main()
