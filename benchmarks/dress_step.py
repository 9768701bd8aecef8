"""Steps of DRESS against plain training steps: time, memory, and what new masks cost.

    python benchmarks/dress_step.py [--rounds 9] [--batch 128] [--only clip resnet vit-b16]

One run times, of a small CLIP (that of configs/cifar10_clip.py) and of a ResNet-8 on images of
32 x 32, a dense step and a joint step of K = 4 subnets: its members one after another, as is the
default, and vmapped. Steps alternate; seconds are medians. Memory is what the compiled program
needs besides its arguments and results; of CLIP ViT-B/16 that alone is asked for, and nothing
run. New masks are timed apart. Prints Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.architecture import Architecture, clip_vit_b16
from codesign.configs.cifar10_clip import config as small
from codesign.dress.masks import Masks, subnet_masks
from codesign.dress.trees import kernel_specs
from codesign.models import CLIP
from codesign.models.formats import ImageSettings
from codesign.models.resnet import ResNet, ResNetConfig
from codesign.models.subnets import subnet_specs
from codesign.train import placement
from codesign.train.classifier import ClassifierTask, split_classifier
from codesign.train.clip import ClipTask, Fixed, Weights, make_optimizer
from codesign.train.data import ImageTextBatch
from codesign.train.dress.config import DressConfig, SubnetsConfig
from codesign.train.network import Network
from codesign.train.step import Trainer, train_step
from codesign.train.subnets import SubnetTrainer, joint_step
from machine import here

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
K = len(SPARSITIES)
PATIENCE_S = 60.0  # a step that took longer in all is not timed again
DENSE, SCANNED, VMAPPED = "dense", "joint", "joint, vmapped"
KINDS = (DENSE, SCANNED, VMAPPED)
PASSES = {DENSE: 1, SCANNED: K, VMAPPED: K}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network and its steps.

    Attributes:
      name: for the tables.
      batch: examples a step.
      begin: kind of step -> the state before it and its further arguments.
      step: kind of step -> the jitted function and its static argument.
      weights: state of a joint step -> what masks are made from.
      masks_of: makes them.
      refresh_steps: steps between new masks, by default.
    """

    name: str
    batch: int
    begin: Callable[[str], tuple[Any, tuple[Any, ...]]]
    step: Callable[[str], tuple[Any, Any]]
    weights: Callable[[Any], Any]
    masks_of: Callable[[Any], Masks]
    refresh_steps: int = SubnetsConfig().refresh_steps

    def compiled(self, kind: str) -> Any:
        """A step as a program."""
        state, arguments = jax.eval_shape(lambda: self.begin(kind))
        function, constants = self.step(kind)
        return function.lower(state, *arguments, constants).compile()


def clip_subject(
    name: str,
    architecture: Architecture,
    batch: int,
    *,
    dtype: Any = jnp.float32,
    micro_batches: int = 1,
) -> Subject:
    """Image-caption pairs and AdamW.

    Args:
      name: for the tables.
      architecture: of the CLIP.
      batch: pairs a step.
      dtype: of activations.
      micro_batches: parts that the batch goes through the towers in.
    """
    config = DressConfig(
        train=small.train, optim=small.optim, subnets=SubnetsConfig(sparsities=SPARSITIES)
    )

    def new() -> CLIP:
        return CLIP(architecture, rngs=nnx.Rngs(0), dtype=dtype)

    def states() -> tuple[nnx.State, ...]:
        return nnx.split(new(), nnx.Param, ...)[1:]

    shapes = nnx.eval_shape(new)
    optim = config.optim
    optimizer, rate = make_optimizer(
        config, nnx.state(shapes, nnx.Param), 1000, optim.lr, optim.warmup_steps
    )
    network = Network(nnx.graphdef(shapes), ImageSettings(size=architecture.image))
    task = ClipTask(network, config.loss, placement.make_mesh(), micro_batches=micro_batches)
    trainer, specs = Trainer(task, optimizer, rate), subnet_specs(shapes)
    trainers = _subnet_trainers(task, optimizer, lambda p: subnet_masks(p, specs, SPARSITIES))

    def begin(kind: str) -> tuple[Any, tuple[Any, ...]]:
        params, rest = jax.jit(states)()
        rng, side = np.random.default_rng(0), architecture.image
        data = ImageTextBatch(
            jnp.asarray(rng.integers(0, 256, (batch, side, side, 3), np.uint8)),
            jnp.asarray(rng.integers(0, architecture.vocab, (batch, architecture.context))),
            jnp.full(batch, -1, jnp.int32),
        )
        weights, key = Weights(params, jnp.zeros((), jnp.float32)), jax.random.key(0)
        if kind == DENSE:
            return trainer.init(weights), (Fixed(rest), data, key)
        return trainers[kind].begin(weights), (Fixed(rest), data, *_members(), key)

    return Subject(
        name,
        batch,
        begin,
        lambda kind: (train_step, trainer) if kind == DENSE else (joint_step, trainers[kind]),
        lambda state: state.params,
        trainers[SCANNED].masks,
    )


def _members() -> tuple[jax.Array, jax.Array]:
    """All subnets, of equal weight."""
    return jnp.arange(K), jnp.full(K, 1 / K)


def _subnet_trainers(task: Any, optimizer: Any, masks_of: Any) -> dict[str, SubnetTrainer]:
    return {
        kind: SubnetTrainer(task, optimizer, masks_of, K, vmapped=kind == VMAPPED)
        for kind in (SCANNED, VMAPPED)
    }


def resnet_subject(name: str, config: ResNetConfig, batch: int) -> Subject:
    """Labelled images of 32 x 32, shifted and mirrored, and SGD."""
    network, (params, stats, rest) = split_classifier(
        ResNet(config, rngs=nnx.Rngs(0)), (0.5,) * 3, (0.25,) * 3, shift=4, flip=True
    )
    specs, task = kernel_specs(params, ("blocks.*",)), ClassifierTask(network)
    optimizer = optax.sgd(0.1, momentum=0.9)
    trainer = Trainer(task, optimizer, optax.constant_schedule(0.1))
    trainers = _subnet_trainers(task, optimizer, lambda p: subnet_masks(p, specs, SPARSITIES))

    def begin(kind: str) -> tuple[Any, tuple[Any, ...]]:
        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.integers(0, 256, (batch, 32, 32, 3), np.uint8))
        data, key = ImageTextBatch(images, None, jnp.zeros(batch, jnp.int32)), jax.random.key(0)
        own = jax.tree.map(jnp.copy, (params, stats))
        if kind == DENSE:
            return trainer.init(*own), (rest, data, key)
        return trainers[kind].begin(*own), (rest, data, *_members(), key)

    return Subject(
        name,
        batch,
        begin,
        lambda kind: (train_step, trainer) if kind == DENSE else (joint_step, trainers[kind]),
        lambda state: state.params,
        trainers[SCANNED].masks,
    )


def time_steps(subject: Subject, programs: dict[str, Any], rounds: int) -> dict[str, float]:
    """Seconds of every kind of step, and of new masks under "masks": medians."""
    state, _ = subject.begin(SCANNED)
    weights = jax.tree.map(jnp.copy, subject.weights(state))
    masks = jax.jit(subject.masks_of).lower(weights).compile()
    places = {kind: subject.begin(kind) for kind in KINDS}

    def run(kind: str) -> None:
        if kind == "masks":
            jax.block_until_ready(masks(weights))
            return
        state, arguments = places[kind]
        state, metrics = programs[kind](state, *arguments)
        jax.block_until_ready(metrics)
        places[kind] = state, arguments

    seconds: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "masks")}
    for kind in seconds:
        run(kind)  # the first has new masks, and touches its memory for the first time
    for _ in range(rounds):
        for kind, taken in seconds.items():
            # Steps with new masks would be a tenth of all: the median leaves them out.
            if sum(taken) < PATIENCE_S:
                before = time.perf_counter()
                run(kind)
                taken.append(time.perf_counter() - before)
    return {kind: statistics.median(taken) for kind, taken in seconds.items()}


def rows_of(subject: Subject, rounds: int) -> tuple[list[str], str | None]:
    """Lines of the table of steps, and one of the table of masks; no rounds: memory alone."""
    programs = {kind: subject.compiled(kind) for kind in KINDS}
    memory = {k: p.memory_analysis().temp_size_in_bytes / 1e6 for k, p in programs.items()}
    seconds = time_steps(subject, programs, rounds) if rounds else {}
    lines, what = [], f"{subject.name}, batch {subject.batch}"
    for kind in KINDS:
        times = "| |"
        if seconds:
            each = {k: 1e3 * seconds[k] / subject.batch / PASSES[k] for k in (DENSE, kind)}
            times = f"{each[kind]:.3g} | {each[kind] / each[DENSE]:.2f} |"
        share = memory[kind] / memory[DENSE]
        lines.append(f"| {what} | {kind} | {times} {memory[kind]:.0f} | {share:.2f} |")
    if not seconds:
        return lines, None
    amortised = seconds["masks"] / subject.refresh_steps / seconds[SCANNED]
    masks_ms, joint_ms = 1e3 * seconds["masks"], 1e3 * seconds[SCANNED]
    return lines, (
        f"| {what} | {masks_ms:.3g} | {joint_ms:.4g} | {subject.refresh_steps} | {amortised:.2%} |"
    )


def main() -> None:
    known = {
        "clip": ("CLIP of cifar10_clip", clip_subject),
        "resnet": ("ResNet-8", resnet_subject),
        "vit-b16": ("CLIP ViT-B/16", clip_subject),
    }
    architectures = {
        "clip": dataclasses.replace(small.untrained, vocab=512),
        "resnet": ResNetConfig(depth=8, width=16),
        "vit-b16": clip_vit_b16(),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128, help="of the two that are timed")
    parser.add_argument("--only", nargs="+", choices=known, default=list(known))
    args = parser.parse_args()
    print(f"{here()}, jax {jax.__version__}, {jax.devices()[0].device_kind}, K = {K}\n")
    print(
        "| | step | ms an example and network | times dense | temporary MB | times dense |\n"
        "|---|---|---:|---:|---:|---:|",
        flush=True,
    )
    refreshes = []
    for key in args.only:
        name, make = known[key]
        timed = key != "vit-b16"
        subject = make(name, architectures[key], args.batch if timed else 32)
        lines, refresh = rows_of(subject, args.rounds if timed else 0)
        print("\n".join(lines), flush=True)
        refreshes += [] if refresh is None else [refresh]
    if refreshes:
        print(
            "\n| | new masks, ms | joint step, ms | every ... steps | of a joint step |\n"
            "|---|---:|---:|---:|---:|"
        )
        print("\n".join(refreshes))


if __name__ == "__main__":
    main()
