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
import importlib
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
from codesign.train.data import ImageTextBatch
from codesign.train.data.captioned import CaptionedImages, Split
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
    batch, settings = random_batch(a, size), ImageSettings(size=a.image, mean=(0.5,) * a.channels,
                                                           std=(0.25,) * a.channels)
    model = CLIP(a, rngs=nnx.Rngs(0))
    _, params, rest = nnx.split(model, nnx.Param, ...)

    fixed, key = Fixed(rest), jax.random.key(0)

    def task(dtype: Any) -> ClipTask:
        graph = nnx.graphdef(nnx.eval_shape(lambda: CLIP(a, rngs=nnx.Rngs(0), dtype=dtype)))
        return ClipTask(
            Network(graph, settings), LossConfig(), placement.make_mesh(),
            micro_batches=config.optim.micro_batches,
        )  # fmt: skip

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
        "dense", dense, lambda dtype: lambda w: loss_of(dtype, w), (weights,),
    )  # fmt: skip
    if masked is None:
        return
    own = masked.subnets
    specs = subnet_specs(model, own.include, own.exclude)
    count = len(own.sparsities)
    norms = norm_parameters(model)
    subnet_trainer = SubnetTrainer(
        plain, recorder(), lambda p: subnet_masks(
            p, specs, own.sparsities, budget=own.budget, floor=own.floor
        ), count, tuple(norms), recorder(), in_place=own.in_place, vmapped=own.vmapped,
    )  # fmt: skip
    masks = subnet_trainer.masks(weights)
    also_dense = (-1,) if own.dense_member else ()
    members = np.asarray([*also_dense, *range(count)], np.int32)
    shares = np.asarray(loss_weights((*(0.0 for _ in also_dense), *own.sparsities), own.gamma))

    def of_member(dtype: Any, weights: Weights, k: int) -> jax.Array:
        return loss_of(dtype, weights._replace(clip=apply(weights.clip, masks, k)))

    def joint() -> tuple[float, tuple[Any, ...]]:
        state, metrics = subnets.joint_step(
            subnet_trainer.begin(_copied(weights)), fixed, batch, jnp.asarray(members),
            jnp.asarray(shares), key, subnet_trainer,
        )
        return float(metrics["loss"]), (state.opt_state,)

    yield Case(
        "joint", joint,
        lambda dtype: lambda w: sum(
            share * of_member(dtype, w, int(k))
            for share, k in zip(shares, members, strict=True)
        ), (weights,),
    )  # fmt: skip

    def post() -> tuple[float, tuple[Any, ...]]:
        state = subnet_trainer.begin_post(subnet_trainer.begin(_copied(weights)))
        state, metrics = subnets.post_step(state, fixed, batch, key, subnet_trainer)
        return float(metrics["loss"]) * count, (state.opt_state,)

    def post_loss(dtype: Any) -> Callable[..., jax.Array]:
        def loss(norms: dict[str, jax.Array]) -> jax.Array:
            return sum(
                of_member(dtype, weights._replace(clip=replace_leaves(
                    params, {name: x[k] for name, x in norms.items()})), k)
                for k in range(count)
            )  # fmt: skip

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
        task, recorder(), lambda params: subnet_masks(
            params, specs, own.sparsities, budget=own.budget, floor=own.floor
        ), count, norm_names(model), recorder() if own.post_lr else None,
        in_place=own.in_place, vmapped=own.vmapped,
    )  # fmt: skip
    key, (params, stats, rest) = jax.random.key(0), variables
    state = trainer.begin(params, stats)
    batch = ImageTextBatch(images, None, labels)
    members = np.asarray([-1, *range(count)] if own.dense_member else range(count), np.int32)
    dense = (0.0,) if own.dense_member else ()
    shares = np.asarray(loss_weights((*dense, *own.sparsities), own.gamma))

    def of_member(dtype: Any, params: Any, k: int, norms: Any = None) -> jax.Array:
        wide = split(dtype)[0][0]
        found, stats = subnets.member_of(state._replace(params=params), k, task)
        if norms is not None:
            found = replace_leaves(found, norms)
        logits, _ = wide.train(Variables(found, stats, rest), wide.normalised(images))
        return classifier_module.cross_entropy(logits, labels, task.label_smoothing)

    def ran(after: Any, metrics: Any) -> tuple[float, tuple[Any, ...]]:
        return float(metrics["loss"]), (after.opt_state,)

    alone = Trainer(task, recorder(), optax.constant_schedule(1e-3))
    yield Case(
        "dense", lambda: ran(*step.train_step(
            alone.init(_copied(params), _copied(stats)), rest, batch, key, alone
        )),
        lambda dtype: lambda p: of_member(dtype, p, -1), (params,),
    )  # fmt: skip
    yield Case(
        "joint", lambda: ran(*subnets.joint_step(
            _copied(state), rest, batch, jnp.asarray(members), jnp.asarray(shares), key, trainer
        )),
        lambda dtype: lambda p: sum(
            share * of_member(dtype, p, int(k))
            for share, k in zip(shares, members, strict=True)
        ), (params,),
    )  # fmt: skip
    if trainer.post_optimizer is None:
        return

    def post() -> tuple[float, tuple[Any, ...]]:
        begun = trainer.begin_post(_copied(state))
        after, metrics = subnets.post_step(begun, rest, batch, key, trainer)
        return float(metrics["loss"]) * count, (after.opt_state,)

    yield Case(
        "post", post,
        lambda dtype: lambda norms: sum(
            of_member(dtype, params, k, {name: x[k] for name, x in norms.items()})
            for k in range(count)
        ), (_repeated(pick(params, trainer.norms), count),),
    )  # fmt: skip


def searches(config: SearchConfig) -> Iterator[Case]:
    """Warm-up, joint phase and tuning of a search."""
    from rich.console import Console

    from codesign.train import family as families
    from codesign.train import setup as setups
    from codesign.train.progress import Display

    with Display(Console(stderr=True)) as display, mock.patch.object(
        setups, "load_data", lambda data: _cifar_like(data) if data.name != "digits" else
        importlib.import_module("codesign.train.data").load_data(data)
    ):
        setup = setups.prepare(config, display)
    _, params, rest = nnx.split(setup.model, nnx.Param, ...)
    size, rng = config.optim.batch_size, np.random.default_rng(0)
    data, key = setup.dataset, jax.random.key(0)
    draw = families.Draw(
        jnp.asarray(rng.integers(0, len(data.labels), (1, size)), jnp.int32),
        jnp.asarray(rng.integers(0, data.caption_ids.shape[1], (1, size)), jnp.int32),
    )
    alone = families.Members(*(x[:1] for x in setup.members))
    off = rng.uniform(0.2, 0.8, setup.start.shape) * (np.asarray(setup.space.steps) > 0)
    on = np.asarray(setup.space.encode(setup.start))
    settled = setup.members._replace(searched=jnp.zeros_like(setup.members.searched))
    phases = {
        "warmup": (setups.start_warmup(setup, params), alone, False),
        "joint": (setups.start_family(setup, params, 0)._replace(
            z=jnp.asarray(off, jnp.float32)), setup.members, True),
        "tune": (setups.start_family(setup, params, 0)._replace(
            z=jnp.asarray(on, jnp.float32)), settled, True),
    }  # fmt: skip
    plain = dataclasses.replace(
        setup.trainer, optimizer=recorder(), design_optimizer=recorder()
    )
    for name, (family, members, gated) in phases.items():
        batch = families.gather_batch(
            plain, data, draw.images[0], draw.templates[0], jax.random.fold_in(key, family.step)
        )
        masks: dict[str, Any] = {}
        if gated:
            masks = jax.vmap(
                lambda p, z: families.member_masks(p, z, rest, setup.space, plain)
            )(family.params, family.z)  # fmt: skip

        def run(family: Any = family, members: Any = members, gated: bool = gated) -> Any:
            begun = _copied(plain.init(family.params, family.z, 0))
            after, _ = families.train_chunk(
                begun, members, draw, data, key, rest, setup.tables, plain, gated
            )
            # The loss it reports leaves out what the other terms add.
            return None, (after.opt_state, after.z_state)

        def loss(
            dtype: Any, family: Any = family, members: Any = members, gated: bool = gated,
            batch: Any = batch, masks: Any = masks,
        ) -> Callable[..., jax.Array]:  # fmt: skip
            largest = setup.trainer.largest
            graph = nnx.graphdef(
                nnx.eval_shape(lambda: CLIP(largest, rngs=nnx.Rngs(0), dtype=dtype))
            )
            trainer = dataclasses.replace(plain, graphdef=graph)
            zeros = jnp.zeros_like(plain.init(family.params, family.z, 0).multipliers)

            def total(params: Any, z: Any = family.z) -> jax.Array:
                return families.family_loss(
                    params, z, zeros, members, batch, rest, setup.tables, trainer, gated, masks
                )[0]

            return total

        # Designs at rest lie on choices, where their slopes have two sides.
        moved = (family.params, family.z) if name == "joint" else (family.params,)
        yield Case(name, run, loss, moved, teaches=gated)


def _cifar_like(config: Any) -> CaptionedImages:
    """Random pictures and captions of CIFAR-10's shapes."""
    from codesign.train.data.tokenizer import train_tokenizer

    rng, names = np.random.default_rng(0), tuple(f"class {i}" for i in range(10))
    splits = [
        Split(rng.normal(size=(n, 32, 32, 3)).astype(np.float32), np.arange(n, dtype=np.int32) % 10)
        for n in (600, 20, 20)
    ]
    templates = ("a photo of a {}.", "a blurry photo of a {}.")
    tokenizer = train_tokenizer([t.format(n) for t in templates for n in names])
    ids = rng.integers(0, tokenizer.vocab_size, (10, len(templates), config.context))
    return CaptionedImages(
        *splits, names, templates, ids.astype(np.int32), tokenizer, (0.5,) * 3, (0.25,) * 3, 4, True
    )


def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _repeated(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), tree)


def errors(case: Case) -> dict[str, float]:
    """Of the values and the derivatives of one phase."""
    value, gradients = case.run()
    forward = float(jax.jit(case.loss(jnp.float32))(*case.variables))
    in_gradient, again = jax.jit(jax.value_and_grad(
        case.loss(jnp.float32), tuple(range(len(case.variables)))
    ))(*case.variables)  # fmt: skip
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
