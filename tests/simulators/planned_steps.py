"""Steps of training as programs, by their `StepPlan`: traced, or compiled for 64 devices.

As a program it prints what compiled ones tell of themselves, a line of JSON; nothing is run.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from codesign.architecture import Architecture, Tower
from codesign.models import CLIP
from codesign.models.formats import ImageSettings
from codesign.train import placement
from codesign.train import step as steps
from codesign.train.clip import ClipTask, Fixed, Weights, chunks_of, make_optimizer
from codesign.train.data import ImageTextBatch, SourceConfig
from codesign.train.finetune.config import FinetuneConfig, LossConfig
from codesign.train.network import Network
from codesign.train.sharding import shardings
from codesign.train.step_cost import StepPlan

# Wide enough that products are most of the work, as they are in a real one.
NETWORK = Architecture(
    vision=Tower(layers=1, width=128, heads=4, ffn=512),
    text=Tower(layers=1, width=96, heads=3, ffn=384),
    patch=8,
    image=32,
    channels=3,
    context=16,
    projection=64,
    head_dim=32,
    vocab=512,
)
# A program counts a loop's body once, so that one layer is what it can count; memory is of all.
DEEPER = dataclasses.replace(
    NETWORK,
    vision=dataclasses.replace(NETWORK.vision, layers=4),
    text=dataclasses.replace(NETWORK.text, layers=3),
)


def plan(architecture: Architecture = NETWORK, batch: int = 256, **more: Any) -> StepPlan:
    return StepPlan(architecture, batch, bfloat16=False, fused_attention=False, **more)


PLANS = {
    "one": plan(),
    "data": plan(data=8),
    "fsdp": plan(data=2, fsdp=4, ema=True),
    "many": plan(data=8, fsdp=8),
    "deeper": plan(DEEPER, data=2, fsdp=4),
    "parts": plan(DEEPER, data=2, fsdp=4, micro_batches=2),
    "remat": plan(DEEPER, data=8, remat=True),
    "chunks": plan(DEEPER, batch=1024, data=8, logits_chunk=64),
}


def task_of(plan: StepPlan, mesh: Mesh) -> tuple[ClipTask, Any, Any]:
    """The task, and shapes of its params and of all else."""

    def new() -> CLIP:
        return CLIP(plan.architecture, rngs=nnx.Rngs(0), remat=plan.remat)

    graphdef, params, rest = nnx.split(nnx.eval_shape(new), nnx.Param, ...)
    task = ClipTask(
        Network(graphdef, ImageSettings(size=plan.architecture.image)),
        LossConfig(),
        mesh,
        micro_batches=plan.micro_batches,
        chunks=chunks_of(plan.logits_chunk, mesh),
    )
    return task, params, rest


def batch_of(plan: StepPlan) -> ImageTextBatch:
    a, size = plan.architecture, plan.batch
    return ImageTextBatch(
        jax.ShapeDtypeStruct((size, a.image, a.image, a.channels), jnp.uint8),
        jax.ShapeDtypeStruct((size, a.context), jnp.int32),
        jax.ShapeDtypeStruct((size,), jnp.int32),
    )


def mesh_of(plan: StepPlan) -> Mesh:
    devices = np.asarray(jax.devices()[: plan.devices]).reshape(plan.data, plan.fsdp)
    return Mesh(devices, ("data", "fsdp"))


def product_flops(plan: StepPlan) -> float:
    """Of a gradient's matrix products, as they are traced; on one device."""
    task, params, rest = task_of(plan, mesh_of(plan))

    def gradient(weights: Weights, batch: ImageTextBatch) -> Any:
        def loss(weights: Weights) -> Any:
            return steps.total_loss(weights, (), Fixed(rest), None, batch, task)

        return jax.value_and_grad(loss, has_aux=True)(weights)

    bias = jax.ShapeDtypeStruct((), jnp.float32)
    return _products(jax.make_jaxpr(gradient)(Weights(params, bias), batch_of(plan)).jaxpr)


def _products(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[i] for i in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner_jaxpr in jax.extend.core.jaxprs_in_params(equation.params):
            total += times * _products(inner_jaxpr)
    return total


def compiled(plan: StepPlan) -> Any:
    """The program of a step."""
    mesh = mesh_of(plan)
    task, params, rest = task_of(plan, mesh)
    config = FinetuneConfig(train=SourceConfig(path="unused"))
    optimizer, rate = make_optimizer(config, params, 10, 1e-3, 1)
    trainer = steps.Trainer(task, optimizer, rate, 0.9 if plan.ema else 0.0, mesh)

    def laid_out(tree: Any, places: Any) -> Any:
        def one(x: Any, place: Any) -> Any:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

        return jax.tree.map(one, tree, places)

    bias = jax.ShapeDtypeStruct((), jnp.float32)
    state = jax.eval_shape(trainer.init, Weights(params, bias))
    batch = batch_of(plan)
    return steps.train_step.lower(
        laid_out(state, shardings(state, mesh)),
        laid_out(Fixed(rest), shardings(Fixed(rest), mesh)),
        laid_out(batch, jax.tree.map(lambda _: placement.batched(mesh), batch)),
        jax.eval_shape(lambda: jax.random.key(0)),
        trainer,
    ).compile()


def told(plan: StepPlan) -> dict[str, float]:
    """What a program tells of itself; results of collectives in bytes, those in loops once."""
    program = compiled(plan)
    memory = program.memory_analysis()
    found = {
        "flops": program.cost_analysis()["flops"],
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "batch": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch_of(plan))),
        "all-reduce": 0,
        "all-gather": 0,
    }
    sizes = {"f32": 4, "s32": 4, "pred": 1, "u8": 1}
    for line in program.as_text().splitlines():
        if of := re.search(r" = (.*) (all-reduce|all-gather)(-start)?\(", line):
            for kind, shape in re.findall(r"(f32|s32|pred|u8)\[([0-9,]*)\]", of[1]):
                number = math.prod(int(n) for n in shape.split(",") if n)
                found[of[2]] += sizes[kind] * number
    return found


if __name__ == "__main__":
    print("RESULT", json.dumps({name: told(plan) for name, plan in PLANS.items()}))
