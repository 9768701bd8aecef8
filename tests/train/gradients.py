"""Gradients of every shipped configuration's steps, as the product compiles them.

    python gradients.py CONFIG [--FIELD VALUE ...]

runs in a process of its own, with the compiler's default settings. For every phase, the step
that trains is run once with an optimizer that keeps the gradient it is given. Held against it
are the loss in float64, compiled with little optimisation, and its central differences along
random directions. One JSON object is printed a phase: relative errors of the loss (forward
program and gradient's program) and of the derivative, as a share of the gradient's norm.

Networks, batch sizes and phases are the configuration's, with the fields given; pictures and
captions are random where the data would have to be downloaded, and a configuration in bfloat16 is
run in float32 with a batch of 8 at most.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.architecture import Architecture
from codesign.compiler import plain_options
from codesign.dress.masks import apply, loss_weights, subnet_masks
from codesign.dress.trees import kernel_specs, pick, replace_leaves
from codesign.models import CLIP
from codesign.models.formats import ImageSettings
from codesign.models.resnet import ResNet
from codesign.models.subnets import norm_parameters, subnet_specs
from codesign.overrides import load_config
from codesign.train import classifier as classifier_module
from codesign.train import placement, step, subnets
from codesign.train.classifier import (
    ClassifierTask,
    Variables,
    norm_names,
    split_classifier,
)
from codesign.train.clip import ClipTask, Fixed, Weights
from codesign.train.config import SearchConfig
from codesign.train.data import AugmentConfig, ImageTextBatch, Source
from codesign.train.data.named import OpenedData, open_named
from codesign.train.dress.classifier_config import ClassifierDressConfig
from codesign.train.dress.config import DressConfig
from codesign.train.finetune.config import LossConfig
from codesign.train.network import Network
from codesign.train.step import Trainer
from codesign.train.subnets import SubnetTrainer

# Small, since a ReLU network has kinks all along the way; float64 leaves nine digits of it.
STEP = 1e-7


class Case(NamedTuple):
    """One phase.

    Attributes:
      name: of the phase.
      run: runs the step that trains; the loss it reports or None, and the gradient its
        optimizer gets.
      loss: of variables [groups], in the dtype asked for.
      variables: groups of arrays.
      teaches: whether the others learn from the first member, which then stays as it is: what
        it teaches is not differentiated, but differences would see it.
    """

    name: str
    run: Callable[[], tuple[float | None, tuple[Any, ...]]]
    loss: Callable[[Any], Callable[..., jax.Array]]
    variables: tuple[Any, ...]
    teaches: bool = False


def recorder() -> optax.GradientTransformation:
    """Moves nothing; its state is the gradient it was given last."""
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)  # noqa: E731
    return optax.GradientTransformation(zeros, lambda g, state, p=None: (zeros(g), g))


def random_batch(architecture: Architecture, size: int) -> ImageTextBatch:
    a, rng = architecture, np.random.default_rng(0)
    return ImageTextBatch(
        jnp.asarray(rng.integers(0, 256, (size, a.image, a.image, a.channels)), jnp.uint8),
        jnp.asarray(rng.integers(0, a.vocab, (size, a.context)), jnp.int32),
        jnp.full(size, -1, jnp.int32),
    )


def finetuning(config: Any, masked: DressConfig | None = None) -> Iterator[Case]:
    """The dense step of a fine-tuning; with `masked`, the two other stages of DRESS as well."""
    a = dataclasses.replace(config.untrained, vocab=min(config.untrained.vocab, 49408))
    size = min(config.optim.batch_size, 8) if config.bfloat16 else config.optim.batch_size
    batch, settings = (
        random_batch(a, size),
        ImageSettings(size=a.image, mean=(0.5,) * a.channels, std=(0.25,) * a.channels),
    )
    model = CLIP(a, rngs=nnx.Rngs(0))
    _, params, rest = nnx.split(model, nnx.Param, ...)

    fixed, key = Fixed(rest), jax.random.key(0)

    def task(dtype: Any) -> ClipTask:
        graph = nnx.graphdef(nnx.eval_shape(lambda: CLIP(a, rngs=nnx.Rngs(0), dtype=dtype)))
        return ClipTask(
            Network(graph, settings),
            LossConfig(),
            placement.make_mesh(),
            micro_batches=config.optim.micro_batches,
        )

    rate = optax.constant_schedule(1e-3)
    plain, weights = task(jnp.float32), Weights(params, jnp.zeros(()))

    def loss_of(dtype: Any, weights: Weights) -> jax.Array:
        return step.total_loss(weights, (), fixed, None, batch, task(dtype))[0]

    def dense() -> tuple[float, tuple[Any, ...]]:
        trainer = Trainer(plain, recorder(), rate)
        state, metrics = step.train_step(
            trainer.init(_copied(weights)), _copied(fixed), batch, key, trainer
        )
        return float(metrics["loss"]), (state.opt_state,)

    yield Case(
        "dense",
        dense,
        lambda dtype: lambda w: loss_of(dtype, w),
        (weights,),
    )
    if masked is None:
        return
    own = masked.subnets
    specs = subnet_specs(model, own.include, own.exclude)
    count = len(own.sparsities)
    norms = norm_parameters(model)
    subnet_trainer = SubnetTrainer(
        plain,
        recorder(),
        lambda p: subnet_masks(p, specs, own.sparsities, budget=own.budget, floor=own.floor),
        count,
        tuple(norms),
        recorder(),
        in_place=own.in_place,
        vmapped=own.vmapped,
    )
    masks = subnet_trainer.masks(weights)
    also_dense = (-1,) if own.train_dense else ()
    members = np.asarray([*also_dense, *range(count)], np.int32)
    shares = np.asarray(loss_weights((*(0.0 for _ in also_dense), *own.sparsities), own.gamma))

    def of_member(dtype: Any, weights: Weights, k: int) -> jax.Array:
        return loss_of(dtype, weights._replace(clip=apply(weights.clip, masks, k)))

    def joint() -> tuple[float, tuple[Any, ...]]:
        state, metrics = subnets.joint_step(
            subnet_trainer.begin(_copied(weights)),
            fixed,
            batch,
            jnp.asarray(members),
            jnp.asarray(shares),
            key,
            subnet_trainer,
        )
        return float(metrics["loss"]), (state.opt_state,)

    yield Case(
        "joint",
        joint,
        lambda dtype: (
            lambda w: sum(
                share * of_member(dtype, w, int(k))
                for share, k in zip(shares, members, strict=True)
            )
        ),
        (weights,),
    )

    def post() -> tuple[float, tuple[Any, ...]]:
        state = subnet_trainer.begin_post(subnet_trainer.begin(_copied(weights)))
        state, metrics = subnets.post_step(state, fixed, batch, key, subnet_trainer)
        return float(metrics["loss"]) * count, (state.opt_state,)

    def post_loss(dtype: Any) -> Callable[..., jax.Array]:
        def loss(norms: dict[str, jax.Array]) -> jax.Array:
            return sum(
                of_member(
                    dtype,
                    weights._replace(
                        clip=replace_leaves(params, {name: x[k] for name, x in norms.items()})
                    ),
                    k,
                )
                for k in range(count)
            )

        return loss

    yield Case("post", post, post_loss, (_repeated(norms, count),))


def classifiers(config: ClassifierDressConfig) -> Iterator[Case]:
    """The three stages of a classifier's DRESS."""
    network, own, size = config.network, config.subnets, config.optim.batch_size
    count, rng = len(own.sparsities), np.random.default_rng(0)
    side = config.pictures.size
    images = jnp.asarray(rng.integers(0, 256, (size, side, side, network.channels)), jnp.uint8)
    labels = jnp.asarray(rng.integers(0, network.classes, size), jnp.int32)

    def split(dtype: Any) -> Any:
        model = ResNet(network, rngs=nnx.Rngs(0), dtype=dtype)
        return split_classifier(model, config.pictures.mean, config.pictures.std), model

    (classifier, variables), model = split(jnp.float32)
    specs = kernel_specs(variables.params, own.include, own.exclude)
    task = ClassifierTask(classifier, config.loss.label_smoothing)
    trainer = SubnetTrainer(
        task,
        recorder(),
        lambda params: subnet_masks(
            params, specs, own.sparsities, budget=own.budget, floor=own.floor
        ),
        count,
        norm_names(model),
        recorder() if own.post_lr else None,
        in_place=own.in_place,
        vmapped=own.vmapped,
    )
    key, (params, stats, rest) = jax.random.key(0), variables
    state = trainer.begin(params, stats)
    batch = ImageTextBatch(images, None, labels)
    members = np.asarray([-1, *range(count)] if own.train_dense else range(count), np.int32)
    dense = (0.0,) if own.train_dense else ()
    shares = np.asarray(loss_weights((*dense, *own.sparsities), own.gamma))

    def of_member(dtype: Any, params: Any, k: int, norms: Any = None) -> jax.Array:
        wide = split(dtype)[0][0]
        found, stats = subnets.subnet_of(state._replace(params=params), k, task)
        if norms is not None:
            found = replace_leaves(found, norms)
        logits, _ = wide.train(Variables(found, stats, rest), wide.normalised(images))
        return classifier_module.cross_entropy(logits, labels, task.label_smoothing)

    def ran(after: Any, metrics: Any) -> tuple[float, tuple[Any, ...]]:
        return float(metrics["loss"]), (after.opt_state,)

    alone = Trainer(task, recorder(), optax.constant_schedule(1e-3))
    yield Case(
        "dense",
        lambda: ran(
            *step.train_step(alone.init(_copied(params), _copied(stats)), rest, batch, key, alone)
        ),
        lambda dtype: lambda p: of_member(dtype, p, -1),
        (params,),
    )
    yield Case(
        "joint",
        lambda: ran(
            *subnets.joint_step(
                _copied(state), rest, batch, jnp.asarray(members), jnp.asarray(shares), key, trainer
            )
        ),
        lambda dtype: (
            lambda p: sum(
                share * of_member(dtype, p, int(k))
                for share, k in zip(shares, members, strict=True)
            )
        ),
        (params,),
    )
    if trainer.post_optimizer is None:
        return

    def post() -> tuple[float, tuple[Any, ...]]:
        begun = trainer.begin_post(_copied(state))
        after, metrics = subnets.post_step(begun, rest, batch, key, trainer)
        return float(metrics["loss"]) * count, (after.opt_state,)

    yield Case(
        "post",
        post,
        lambda dtype: (
            lambda norms: sum(
                of_member(dtype, params, k, {name: x[k] for name, x in norms.items()})
                for k in range(count)
            )
        ),
        (_repeated(pick(params, trainer.norms), count),),
    )


def searches(config: SearchConfig) -> Iterator[Case]:
    """Warm-up, elastic phase, joint phase and tuning of a search."""
    from rich.console import Console

    from codesign.train.feed import Draw
    from codesign.train.progress import Display
    from codesign.train.search import elastic
    from codesign.train.search import population as populations
    from codesign.train.search import setup as setups

    with (
        Display(Console(stderr=True)) as display,
        mock.patch.object(
            setups,
            "open_named",
            lambda data: _cifar_like() if data.name != "digits" else open_named(data),
        ),
    ):
        setup = setups.prepare(config, display)
    size, rng = config.optim.batch_size, np.random.default_rng(0)
    (fixed, data, tables), key = setup.constants, jax.random.key(0)
    draw = Draw(
        jnp.asarray(rng.integers(0, len(data.labels), (1, size)), jnp.int32),
        jnp.asarray(rng.integers(0, data.caption_ids.shape[1], (1, size)), jnp.int32),
    )
    chunk = step.Chunk(draw, jnp.int32(1))
    plain = dataclasses.replace(
        setup.trainer,
        optimizer=recorder(),
        design_optimizer=recorder(),
        warmup=dataclasses.replace(setup.trainer.warmup, optimizer=recorder()),
        elastic=recorder(),
    )
    batch = plain.batch(jax.tree.map(lambda x: x[0], draw), data, jax.random.fold_in(key, 0))

    def task_of(dtype: Any) -> ClipTask:
        largest = setup.space.largest()
        graph = nnx.graphdef(nnx.eval_shape(lambda: CLIP(largest, rngs=nnx.Rngs(0), dtype=dtype)))
        network = dataclasses.replace(plain.task.student, graphdef=graph)
        return dataclasses.replace(plain.task, student=network)

    def warmup() -> Any:
        after, metrics = populations.warmup_chunk(
            plain.warmup.init(_copied(setup.params)), chunk, key, setup.constants, plain
        )
        return float(metrics["loss"][0]), (after.opt_state,)

    yield Case(
        "warmup",
        warmup,
        lambda dtype: (
            lambda params: step.total_loss(params, (), fixed, None, batch, task_of(dtype))[0]
        ),
        (setup.params,),
    )
    # Without what the whole network teaches: it is not differentiated, which differences would see.
    sandwich = dataclasses.replace(plain, distillation=0.0)
    pool = elastic.make_pool(tables.dense, config.targets.mode, config.seed)
    supernet = plain.warmup.init(setup.params)

    def stretched() -> Any:
        after, _ = elastic.elastic_chunk(
            _copied(supernet), pool, chunk, key, setup.constants, sandwich
        )
        # The loss it reports is that of the whole network alone.
        return None, (after.opt_state,)

    drawn = jax.tree.map(lambda x: x[0], draw)
    whole, sizes = elastic.drawn_for(supernet.step, pool, drawn, key, setup.constants, sandwich)

    def of_all_sizes(dtype: Any) -> Callable[..., jax.Array]:
        trainer = dataclasses.replace(sandwich, task=task_of(dtype))
        return lambda params: elastic.elastic_loss(
            params, sizes, fixed, whole, trainer, setup.space
        )[0]

    yield Case("elastic", stretched, of_all_sizes, (setup.params,))
    off = rng.uniform(0.2, 0.8, setup.start.shape) * (np.asarray(setup.space.steps) > 0)
    on = np.asarray(setup.space.encode(setup.start))
    settled = setup.goals._replace(searched=jnp.zeros_like(setup.goals.searched))
    begun = setups.start_population(setup, setup.params, 0)
    for name, designs, goals in (("joint", off, setup.goals), ("tune", on, settled)):
        population = plain.init(begun.params, jnp.asarray(designs, jnp.float32), 0)
        masks = jax.vmap(lambda p, z: populations.masks_at(p, z, fixed, setup.space, plain))(
            population.params, population.z
        )

        def run(population: Any = population, goals: Any = goals) -> Any:
            after, _ = populations.population_chunk(
                _copied(population), goals, chunk, key, setup.constants, plain
            )
            # The loss it reports leaves out what the other terms add.
            return None, (after.opt_state, after.z_state)

        def loss(
            dtype: Any,
            start: Any = population,
            goals: Any = goals,
            masks: Any = masks,
        ) -> Callable[..., jax.Array]:
            trainer = dataclasses.replace(plain, task=task_of(dtype))
            zeros = jnp.zeros_like(start.multipliers)

            def total(params: Any, z: Any = start.z) -> jax.Array:
                return populations.population_loss(
                    params, z, zeros, goals, batch, fixed, tables, trainer, masks
                )[0]

            return total

        # Designs at rest lie on choices, where their slopes have two sides.
        moved = (population.params, population.z) if name == "joint" else (population.params,)
        yield Case(name, run, loss, moved, teaches=True)


def _cifar_like() -> OpenedData:
    """Random pictures of CIFAR-10's shapes, with captions."""
    rng, names = np.random.default_rng(0), tuple(f"class {i}" for i in range(10))

    def source(n: int) -> Source:
        pixels = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
        return Source(
            "random",
            np.arange(n, dtype=np.int32) % 10,
            lambda i: (),
            lambda i: pixels[i],
            str,
            names,
            ("a photo of a {}.", "a blurry photo of a {}."),
        )

    settings = ImageSettings(32, (0.5,) * 3, (0.25,) * 3)
    varied = AugmentConfig(crop_scale=(1.0, 1.0), flip=True, shift=4)
    return OpenedData(*map(source, (600, 20, 20)), settings, varied)


def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _repeated(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), tree)


def errors(case: Case) -> dict[str, float]:
    """Of the values and the derivatives of one phase."""
    value, gradients = case.run()
    forward = float(jax.jit(case.loss(jnp.float32))(*case.variables))
    in_gradient, again = jax.jit(
        jax.value_and_grad(case.loss(jnp.float32), tuple(range(len(case.variables))))
    )(*case.variables)
    values = [forward, float(in_gradient)] + ([] if value is None else [value])
    slopes: dict[str, float] = {}
    with jax.enable_x64(), mock.patch.object(jnp, "float32", jnp.float64):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), case.variables)
        # What does not vary is a constant here, and folding it takes minutes.
        options = plain_options() | {"xla_disable_hlo_passes": "constant_folding"}
        loss = jax.jit(case.loss(jnp.float64), compiler_options=options)
        truth = float(loss(*wide))
        for group in range(len(wide)):
            direction = _direction(case, group)

            def at(step: float, group: int = group, direction: Any = direction) -> float:
                moved = jax.tree.map(lambda x, d: x + step * d, wide[group], direction)
                return float(loss(*wide[:group], moved, *wide[group + 1 :]))

            difference = (at(STEP) - at(-STEP)) / (2 * STEP)
            for name, gradient in (("step", gradients[group]), ("gradient", again[group])):
                norm = _dot(gradient, gradient) ** 0.5
                error = abs(_dot(gradient, direction) - difference) / max(norm, 1e-12)
                slopes[f"{name}_{group}"] = error if norm else abs(difference)
    scale = abs(truth)
    return {
        "loss": truth,
        "value_error": max(abs(v - truth) for v in values) / scale,
        **{f"slope_error_{name}": error for name, error in slopes.items()},
    }


def _direction(case: Case, group: int) -> Any:
    """Entries of +1 and -1; 0 for a member that teaches."""
    rng = np.random.default_rng(group)
    signs = jax.tree.map(lambda x: rng.choice((-1.0, 1.0), x.shape), case.variables[group])
    if case.teaches:
        signs = jax.tree.map(lambda x: np.concatenate([0 * x[:1], x[1:]]), signs)
    return signs


def _dot(a: Any, b: Any) -> float:
    wide = lambda tree: [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]  # noqa: E731
    return float(sum(np.vdot(x, y) for x, y in zip(wide(a), wide(b), strict=True)))


def cases(config: Any) -> Iterator[Case]:
    """The phases of a configuration."""
    if isinstance(config, SearchConfig):
        yield from searches(config)
    elif isinstance(config, ClassifierDressConfig):
        yield from classifiers(config)
    else:
        yield from finetuning(config, config if isinstance(config, DressConfig) else None)


def main(name: str, *overrides: str) -> None:
    config = load_config(name, overrides)
    for case in cases(config):
        print(json.dumps({"phase": case.name} | errors(case)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
