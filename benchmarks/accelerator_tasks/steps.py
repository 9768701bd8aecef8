"""Training steps of the CLIP, of DRESS and of the search against plain ones."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from accelerator_tasks.measuring import (
    BETAS,
    LEARNING_RATE,
    Result,
    Scale,
    chip_name,
    peak_bytes,
    rate,
    timed,
)

from codesign.architecture import Architecture


def parts_of(architecture: Architecture, batch: int, bytes_limit: int | None) -> int:
    """Micro-batches that fit: activations of a part may take 0.65 of the memory.

    A block keeps 4 J + 2 D + F numbers of 2 bytes a token, see `codesign.models.remat`.
    """
    if bytes_limit is None:
        return 1
    a, pair = architecture, 0
    for tower, tokens in ((a.vision, a.vision_tokens), (a.text, a.context)):
        numbers = 4 * tower.heads * a.head_dim + 2 * tower.width + tower.ffn
        pair += 2 * numbers * tokens * tower.layers
    parts = 1
    while batch // parts * pair > 0.65 * bytes_limit and parts < batch:
        parts *= 2
    return parts


def step(scale: Scale, batch: int) -> Iterator[Result]:
    """The training step of fine-tuning, in bf16, with the micro-batches its memory needs."""
    import jax
    from dress_step import DENSE, clip_subject

    stats = jax.local_devices()[0].memory_stats() or {}
    parts = parts_of(scale.architecture, batch, stats.get("bytes_limit"))
    while True:
        subject = clip_subject(
            "CLIP", scale.architecture, batch, dtype=scale.dtype, micro_batches=parts
        )
        try:
            yield {"micro_batches": parts, **time_step(scale, subject, DENSE, 1)}
            return
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or parts >= batch:
                raise
            yield {"micro_batches": parts, "failed": "out of memory"}
            parts *= 2


def time_step(scale: Scale, subject: Any, kind: str, passes: int) -> Result:
    """A kind of step of `dress_step.Subject`: time, rate, memory."""
    before = time.perf_counter()
    program = subject.compiled(kind)
    compile_s = time.perf_counter() - before
    state, arguments = subject.begin(kind)
    metrics: Any = None

    def run() -> Any:
        nonlocal state, metrics
        state, metrics = program(state, *arguments)
        return metrics

    result = timed(run, scale)
    memory = program.memory_analysis()
    loss = float(np.asarray(metrics["loss"]))
    if not np.isfinite(loss):
        raise RuntimeError("the loss is not finite")
    return {
        "batch": subject.batch,
        **result,
        **rate(subject.batch, result["seconds"], scale.architecture, chip_name(), passes),
        "peak_bytes": peak_bytes(),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
        "compile_s": compile_s,
        "loss": loss,
    }


def dress(scale: Scale) -> Iterator[Result]:
    """Steps of K = 4 subnets, one after another and at once, against four dense steps."""
    from dress_step import DENSE, PASSES, SCANNED, VMAPPED, K, clip_subject

    subject = clip_subject("CLIP", scale.architecture, scale.search_batch, dtype=scale.dtype)
    dense_s = None
    for kind in (DENSE, SCANNED, VMAPPED):
        result = time_step(scale, subject, kind, PASSES[kind])
        dense_s = dense_s or result["seconds"]
        times = result["seconds"] / (PASSES[kind] * dense_s)
        yield {"step": kind, "K": K, "times_dense_steps": times, **result}


def elastic(scale: Scale) -> Iterator[Result]:
    """The gated gradient, the elastic supernet's step and the joint step, against plain ones."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from codesign.cost.table import build_table
    from codesign.models import CLIP
    from codesign.models.formats import ImageSettings
    from codesign.scenario import Scenario
    from codesign.search.lagrangian import AugmentedLagrangian
    from codesign.search.objectives import Limits
    from codesign.train import placement
    from codesign.train.clip import ClipTask, Fixed, Weights
    from codesign.train.data import AugmentConfig
    from codesign.train.feed import Draw, Resident, gathered
    from codesign.train.finetune.config import LossConfig
    from codesign.train.network import Network
    from codesign.train.search import population as search
    from codesign.train.search.elastic import elastic_chunk, make_pool
    from codesign.train.step import Chunk, Trainer

    a, batch = scale.architecture, scale.search_batch

    space = scale.space()
    model = CLIP(a, rngs=nnx.Rngs(0), dtype=scale.dtype)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    settings = ImageSettings(a.image, (0.5,) * a.channels, (0.25,) * a.channels)
    mesh = placement.make_mesh()
    task = ClipTask(Network(graphdef, settings), LossConfig(), mesh)
    weights, optimizer = Weights(params, None), optax.adamw(LEARNING_RATE, *BETAS)
    trainer = search.SearchTrainer(
        task=task,
        warmup=Trainer(task, optimizer, optax.constant_schedule(LEARNING_RATE)),
        elastic=optimizer,
        optimizer=optimizer,
        design_optimizer=optax.adam(1e-2),
        lagrangian=AugmentedLagrangian(10.0, 0.1),
        mode="carbon",
        limits=Limits(),
        cost_weight=0.1,
        distillation=0.0,
        augment=AugmentConfig(crop_scale=(1.0, 1.0)),
        mesh=mesh,
    )
    rng = np.random.default_rng(0)
    data = Resident(
        jnp.asarray(rng.integers(0, 256, (batch, a.image, a.image, a.channels)), jnp.uint8),
        jnp.arange(batch, dtype=jnp.int32),
        jnp.asarray(rng.integers(1, a.vocab, size=(batch, 1, a.context)), jnp.int32),
    )
    constants = search.Constants(
        Fixed(rest), data, search.CostTables(build_table(space, Scenario()))
    )
    draw = Draw(jnp.arange(batch, dtype=jnp.int32)[None], jnp.zeros((1, batch), jnp.int32))
    chunk = Chunk(draw, jnp.int32(1))
    goals = search.Goals(*(jnp.asarray([x], jnp.float32) for x in (1.0, 1.0, 0.0, 0.0)))
    z = jnp.full((1, len(space.steps)), 0.7, jnp.float32)

    # Gates alone: the same gradient of one network, gated and not.
    drawn = gathered(data, jax.tree.map(lambda x: x[0], draw))
    gates = search.gates_at(z[0], constants.fixed, space)
    gradient = jax.jit(
        jax.value_and_grad(
            lambda p, gates: search.gated_loss(task, p, constants.fixed, gates, drawn)
        )
    )
    found = {}
    for name, these in (("plain gradient", None), ("gated gradient", gates)):
        found[name] = timed(functools.partial(gradient, weights, these), scale)
        yield {
            "step": name,
            "batch": batch,
            **found[name],
            "times_plain": found[name]["seconds"] / found["plain gradient"]["seconds"],
            "peak_bytes": peak_bytes(),
        }

    # Whole steps of the search: the supernet, it at all sizes, and with design and costs.
    key = jax.random.key(0)
    pool = make_pool(constants.tables.dense, "carbon", seed=0)
    for name in ("plain step", "elastic step", "joint step"):
        copied = jax.tree.map(jnp.copy, weights)
        if name == "joint step":
            state: Any = trainer.init(jax.tree.map(lambda x: x[None], copied), jnp.copy(z), 0)
        else:
            state = trainer.warmup.init(copied)

        def run(name: str = name) -> Any:
            nonlocal state
            if name == "joint step":
                state, metrics = search.population_chunk(
                    state, goals, chunk, key, constants, trainer
                )
            elif name == "elastic step":
                state, metrics = elastic_chunk(state, pool, chunk, key, constants, trainer)
            else:
                state, metrics = search.warmup_chunk(state, chunk, key, constants, trainer)
            return metrics

        found[name] = timed(run, scale)
        del state
        yield {
            "step": name,
            "batch": batch,
            **found[name],
            "times_plain": found[name]["seconds"] / found["plain step"]["seconds"],
            **rate(batch, found[name]["seconds"], a, chip_name()),
            "peak_bytes": peak_bytes(),
        }
