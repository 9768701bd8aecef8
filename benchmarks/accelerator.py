"""What one accelerator does: correctness first, then speed, in a few minutes and one file.

    PYTHONPATH=. python benchmarks/accelerator.py --out benchmarks/results/h100.json
    PYTHONPATH=. python benchmarks/accelerator.py --tiny         # everything, on a CPU, in a minute
    PYTHONPATH=. python benchmarks/accelerator.py --only step    # tasks whose names begin so
    PYTHONPATH=. python benchmarks/accelerator.py --write-reference

It runs from a bare checkout where there is nothing but JAX, Flax, Optax, Chex and Orbax, and no
network; PyTorch and transformers take part where they are. Every result is printed and written to
the file at once, so that a cut-off loses little. Each task has a process of its own, so that its
peak of memory is its own and a crash ends that task alone. A task that the time left (--budget-s)
is too short for is skipped, and the file says so.

Times are medians over steps of wall-clock time until the result is there, with the quartiles.
Everything is compiled before. Peak memory is the allocator's, of the task's process.

Model-FLOPs utilisation (MFU) is batch x FLOPs of a pair / time / the chip's dense bf16 peak. FLOPs
are counted, not measured: 2 a MAC over all matrix products of both towers, those of attention in
full, causal or not; the backward pass counts twice the forward. Nothing is counted for norms,
softmax, the loss, the optimizer, or for what is computed a second time to save memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from codesign.architecture import Architecture, Tower, clip_vit_b16
from machine import bf16_peak_flops, cpu_name

REFERENCE = Path(__file__).with_name("accelerator_reference.json")
RESULTS = Path(__file__).with_name("results")
MARK = "RESULT "
Result = dict[str, Any]
LEARNING_RATE, WEIGHT_DECAY, BETAS = 1e-5, 0.1, (0.9, 0.98)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
      architecture: of the CLIP that is timed.
      batches: pairs of a step.
      search_batch: of the elastic and the joint step, and of DRESS.
      repeats: steps that are timed, where patience lasts.
      patience_s: time a measurement may take.
      designs: priced at once.
      products: tokens x inputs x outputs of the row-sparse products.
      dtype: of the CLIP that is timed.
    """

    architecture: Architecture
    batches: tuple[int, ...]
    search_batch: int
    repeats: int
    patience_s: float
    designs: int
    products: tuple[tuple[int, int, int], ...]
    dtype: str = "bfloat16"

    def space(self) -> Any:
        """The design space whose table is built: the README's for ViT-B/16, else a small one."""
        from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices

        if self.architecture == clip_vit_b16():
            from cost_model import SPACE

            return SPACE
        a = self.architecture

        def halved(dimensions: Any) -> dict[str, tuple[Any, ...]]:
            return {name: (size / 2 if size % 2 else size // 2, size) for name, size in dimensions}

        chip = {f.name: (f.default[0],) for f in dataclasses.fields(AcceleratorChoices)}
        return DesignSpace(
            base=a,
            vision=TowerChoices(**halved(vars(a.vision).items())),
            text=TowerChoices(**halved(vars(a.text).items())),
            accelerator=AcceleratorChoices(**chip),
        )


FULL = Scale(
    clip_vit_b16(), (256, 1024, 4096), 256, 20, 12.0, 2**17,
    ((50_432, 768, 3072), (50_432, 3072, 768)),
)  # fmt: skip
TINY = Scale(
    Architecture(
        vision=Tower(layers=2, width=32, heads=2, ffn=64),
        text=Tower(layers=2, width=32, heads=2, ffn=64),
        image=16, patch=8, channels=3, head_dim=16, projection=32, vocab=64, context=8,
        activation="gelu",
    ),
    (8, 16), 8, 3, 2.0, 32, ((64, 32, 64),),
)  # fmt: skip
# Of the reference: small, with heads of 64 channels and odd numbers of tokens as ViT-B/16 has.
CHECKED = Architecture(
    vision=Tower(layers=2, width=96, heads=2, ffn=192),
    text=Tower(layers=2, width=64, heads=2, ffn=128),
    image=32, patch=8, channels=3, head_dim=64, projection=48, vocab=64, context=13,
    activation="gelu",
)  # fmt: skip


# ---- measuring -------------------------------------------------------------------------------


def timed(call: Callable[[], Any], scale: Scale) -> Result:
    """Seconds of a call whose result is waited for, once its program is compiled."""
    import jax

    for _ in range(2):  # a step's own result, which is its next argument, may be placed otherwise
        jax.block_until_ready(call())
    taken: list[float] = []
    while len(taken) < scale.repeats and (len(taken) < 3 or sum(taken) < scale.patience_s):
        before = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - before)
    return spread(taken)


def spread(taken: list[float]) -> Result:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(taken, n=4, method="inclusive")
    return {"seconds": middle, "quartiles_s": [low, high], "steps": len(taken)}


def peak_bytes() -> int | None:
    """The most device memory that this process has held; None where the platform does not say."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")


def pair_flops(architecture: Architecture) -> float:
    """FLOPs of training on one image-text pair; see the head of this file for what counts."""
    from codesign.workload import clip_workload

    return 3 * 2 * float(clip_workload(architecture).macs)


def rate(batch: int, seconds: float, architecture: Architecture, chip: str, passes: int = 1) -> Any:
    """Pairs a second and, where the chip's peak is known, MFU."""
    pairs_per_s = batch * passes / seconds
    peak = bf16_peak_flops(chip)
    flops_per_s = pairs_per_s * pair_flops(architecture)
    return {
        "images_per_s": pairs_per_s,
        "model_tflops_per_s": flops_per_s / 1e12,
        "mfu": None if peak is None else flops_per_s / peak,
    }


def chip_name() -> str:
    import jax

    return str(jax.devices()[0].device_kind)


# ---- correctness -----------------------------------------------------------------------------


def checked_clip(dtype: Any) -> Any:
    """The CLIP of the reference, its weights from a seed of NumPy's, alike on every machine."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from codesign.models import CLIP

    model = CLIP(CHECKED, rngs=nnx.Rngs(0), dtype=dtype)
    rng = np.random.default_rng(0)
    wide = dtype == jnp.float64

    # Axes that a kernel sums over; other parameters are vectors and tables.
    summed = {"query": (1,), "key": (1,), "value": (1,), "out": (1, 2), "fc1": (1,), "fc2": (1,),
              "patch_kernel": (0, 1, 2), "projection": (0,)}  # fmt: skip

    def drawn(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        names = [getattr(key, "key", None) for key in path]
        axes = next((summed[name] for name in names if name in summed), ())
        std = math.prod(leaf.shape[axis] for axis in axes) ** -0.5 if axes else 0.1
        scales = any("scale" in str(name) for name in names)
        offset = 0.0 if not scales else 1.0 if leaf.ndim else 2.0  # of LayerNorms, of the logits
        values = (offset + std * rng.normal(size=leaf.shape)).astype(np.float32)
        return jnp.asarray(values, jnp.float64 if wide else jnp.float32)

    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, jax.tree_util.tree_map_with_path(drawn, params), rest


def checked_batch() -> tuple[np.ndarray, np.ndarray]:
    """Images f32 and ids of the reference."""
    rng = np.random.default_rng(1)
    a = CHECKED
    images = rng.normal(size=(8, a.image, a.image, a.channels)).astype(np.float32)
    return images, rng.integers(1, a.vocab, size=(8, a.context))


def embeddings_and_gradient(dtype: Any) -> tuple[Any, Any, Any, Any]:
    """Embeddings, the loss alone, the loss within its gradient's program, and the gradient."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from codesign.models.clip import ClipOutput

    graphdef, params, rest = checked_clip(dtype)
    images, ids = checked_batch()
    images = jnp.asarray(images, jnp.float64 if dtype == jnp.float64 else jnp.float32)

    def embed(params: Any) -> ClipOutput:
        return nnx.merge(graphdef, params, rest)(images, jnp.asarray(ids))[0]

    def loss(params: Any) -> jax.Array:
        # `train.losses` computes in f32: for a reference in f64 the formula stands here once more.
        out = embed(params)
        logits = out.logit_scale * jnp.matmul(
            out.image_embedding, out.text_embedding.T, precision=jax.lax.Precision.HIGHEST
        )
        pairs = jnp.diagonal(jax.nn.log_softmax(logits, 0) + jax.nn.log_softmax(logits, 1))
        return -0.5 * jnp.mean(pairs)

    out = jax.jit(embed)(params)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return out, jax.jit(loss)(params), value, gradient


def projections(gradient: Any) -> dict[str, list[float]]:
    """Of each parameter's gradient the norm, and the products with three random unit vectors.

    A relative error e of the gradient shows as one of about e in each product, whatever its place,
    and the file stays small.
    """
    import jax

    rng = np.random.default_rng(2)
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        flat = np.asarray(leaf, np.float64).ravel()
        directions = rng.normal(size=(3, flat.size))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        # sqrt(size): a product with a unit vector holds that share of the norm.
        told = np.sqrt(flat.size) * (directions @ flat)
        found[jax.tree_util.keystr(path)] = [float(np.linalg.norm(flat)), *map(float, told)]
    return found


def write_reference() -> None:
    """Embeddings and gradients in float64 on the CPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        out, loss, _, gradient = embeddings_and_gradient(jnp.float64)
        if out.image_embedding.dtype != jnp.float64:
            raise RuntimeError("the reference is not computed in float64")
        text = {
            "what": "benchmarks/accelerator.py --write-reference",
            "image_embedding": np.round(np.asarray(out.image_embedding), 9).tolist(),
            "text_embedding": np.round(np.asarray(out.text_embedding), 9).tolist(),
            "loss": float(loss),
            "gradient": {k: [round(x, 9) for x in v] for k, v in projections(gradient).items()},
        }
    REFERENCE.write_text(json.dumps(text) + "\n")


def correctness(scale: Scale) -> Iterator[Result]:
    """The accelerator's numbers against those of float64, of slices and of the CPU."""
    import jax
    import jax.numpy as jnp

    reference = json.loads(REFERENCE.read_text())
    for dtype, allowed in ((jnp.float32, 1e-4), (jnp.bfloat16, 5e-2)):
        # By default GPUs multiply float32 in 19 bits.
        with jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default"):
            out, alone, value, gradient = embeddings_and_gradient(dtype)
        embedding_error = max(
            float(np.abs(np.asarray(getattr(out, name), np.float64) - reference[name]).max())
            for name in ("image_embedding", "text_embedding")
        )
        told = projections(gradient)
        right = reference["gradient"]
        if told.keys() != right.keys():
            raise RuntimeError("accelerator_reference.json is of other parameters; write it anew")
        # Of all parameters together: that of one whose gradient vanishes would say nothing.
        a, b = (np.array([x[k][1:] for k in right]) for x in (told, right))
        gradient_error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        name = jnp.dtype(dtype).name
        yield {
            "check": f"{name} against float64",
            "embedding_error": embedding_error,
            "gradient_error": gradient_error,
            "loss_error": abs(float(alone) - reference["loss"]),
            "value_in_gradient_error": abs(float(value) - float(alone)),
            "passed": max(embedding_error, gradient_error, abs(float(value) - float(alone)))
            < allowed,
        }
    yield gates_equal_slices()
    yield masks_equal_the_cpus()


def gates_equal_slices() -> Result:
    """A gated supernet against the network cut out of it."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from codesign.models import gates_for, slice_to

    graphdef, params, rest = checked_clip(jnp.float32)
    model = nnx.merge(graphdef, params, rest)
    wanted = dataclasses.replace(
        CHECKED,
        vision=Tower(layers=1, width=64, heads=1, ffn=128),
        text=Tower(layers=2, width=48, heads=1, ffn=64),
    )
    choices = {
        tower: Tower(**{
            name: tuple(sorted({getattr(getattr(wanted, tower), name), size}))
            for name, size in vars(getattr(CHECKED, tower)).items()
        })
        for tower in ("vision", "text")
    }  # fmt: skip
    ranks = [getattr(model, tower).blocks.layer_rank[...] for tower in ("vision", "text")]
    gates = gates_for(wanted, dataclasses.replace(CHECKED, **choices), *ranks)
    images, ids = map(jnp.asarray, checked_batch())
    run = jax.jit(lambda model, gates: model(images, ids, gates)[0])
    with jax.default_matmul_precision("highest"):
        gated, cut = run(model, gates), run(slice_to(model, wanted), None)
    error = max(
        float(jnp.abs(getattr(gated, name) - getattr(cut, name)).max())
        for name in ("image_embedding", "text_embedding")
    )
    return {"check": "gates against slices", "embedding_error": error, "passed": error < 1e-4}


def masks_equal_the_cpus() -> Result:
    """DRESS masks made here and on the CPU of the same machine."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from codesign.dress.masks import subnet_masks
    from codesign.models.subnets import subnet_specs

    graphdef, params, rest = checked_clip(jnp.float32)
    specs = subnet_specs(nnx.merge(graphdef, params, rest))
    masks_of = jax.jit(lambda params: subnet_masks(params, specs, (0.5, 0.8, 0.9, 0.95)))
    here = masks_of(params)
    cpu = jax.local_devices(backend="cpu")[0]
    there = masks_of(jax.device_put(params, cpu))
    pairs = [(here.levels[name], there.levels[name]) for name in specs]
    differing = sum(int((np.asarray(a) != np.asarray(b)).sum()) for a, b in pairs)
    weights = sum(a.size for a, _ in pairs)
    # Sums of another order may move the budget between layers by single weights.
    passed = differing <= 1e-3 * weights
    return {"check": "masks against the CPU's", "differing": differing, "weights": weights,
            "passed": passed}  # fmt: skip


# ---- training steps --------------------------------------------------------------------------


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
    """The gradient of a gated supernet, and the joint step with costs, against plain ones."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from codesign.cost.table import build_table
    from codesign.models import CLIP
    from codesign.scenario import Scenario
    from codesign.search.lagrangian import AugmentedLagrangian
    from codesign.search.objectives import Limits
    from codesign.train import family as search
    from codesign.train import placement

    a, batch = scale.architecture, scale.search_batch

    space = scale.space()
    tables = search.Tables(build_table(space, Scenario()))
    model = CLIP(a, rngs=nnx.Rngs(0), dtype=scale.dtype)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    trainer = search.Trainer(
        graphdef=graphdef, largest=a, optimizer=optax.adamw(LEARNING_RATE, *BETAS),
        design_optimizer=optax.adam(1e-2), lagrangian=AugmentedLagrangian(10.0, 0.1),
        mode="carbon", limits=Limits(), cost_weight=0.1, distillation=0.0, shift=0, flip=False,
        mesh=placement.make_mesh(),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    data = search.Dataset(
        jnp.asarray(rng.normal(size=(batch, a.image, a.image, a.channels)), jnp.float32),
        jnp.arange(batch, dtype=jnp.int32),
        jnp.asarray(rng.integers(1, a.vocab, size=(batch, 1, a.context)), jnp.int32),
    )
    draw = search.Draw(
        jnp.arange(batch, dtype=jnp.int32)[None], jnp.zeros((1, batch), jnp.int32)
    )
    members = search.Members(*(jnp.asarray([x], jnp.float32) for x in (1.0, 1.0, 0.0, 0.0)))
    z = jnp.full((1, len(space.steps)), 0.7, jnp.float32)

    # Gates alone: the same gradient of one network, gated and not.
    drawn = search.Batch(data.images, data.caption_ids[:, 0], data.labels)
    gates = search.member_gates(z[0], rest, space)
    gradient = jax.jit(
        jax.value_and_grad(lambda p, gates: search.plain_loss(trainer, p, rest, gates, drawn))
    )
    found = {}
    for name, these in (("plain gradient", None), ("gated gradient", gates)):
        found[name] = timed(functools.partial(gradient, params, these), scale)
        yield {"step": name, "batch": batch, **found[name],
               "times_plain": found[name]["seconds"] / found["plain gradient"]["seconds"],
               "peak_bytes": peak_bytes(),
           }  # fmt: skip

    # Whole steps of the search: weights, design, multipliers, costs.
    for name, gated in (("plain step", False), ("joint step", True)):
        first = jax.tree.map(lambda x: jnp.copy(x)[None], params)
        state = trainer.init(first, jnp.copy(z), 0)

        def run(gated: bool = gated) -> Any:
            nonlocal state
            state, metrics = search.train_chunk(
                state, members, draw, data, jax.random.key(0), rest, tables, trainer, gated
            )
            return metrics

        found[name] = timed(run, scale)
        del state
        yield {"step": name, "batch": batch, **found[name],
               "times_plain": found[name]["seconds"] / found["plain step"]["seconds"],
               **rate(batch, found[name]["seconds"], a, chip_name()),
               "peak_bytes": peak_bytes(),
           }  # fmt: skip


# ---- cost model and sparse products ----------------------------------------------------------


def cost_table(scale: Scale) -> Iterator[Result]:
    """Designs priced a second from the exact table, and what the gradient adds between designs."""
    import jax
    import jax.numpy as jnp
    from cost_model import SCENARIO, objective

    from codesign.cost.table import build_table

    space = scale.space()
    before = time.perf_counter()
    table = jax.block_until_ready(build_table(space, SCENARIO))
    build_s = time.perf_counter() - before
    rng = np.random.default_rng(0)
    networks = max(1, scale.designs // 64)
    indices = jnp.asarray(rng.integers(0, space.steps + 1, size=(networks, len(space.steps))))
    price = jax.jit(jax.vmap(table.on_every_accelerator))
    priced, designs = timed(functools.partial(price, indices), scale), networks * space.accelerators
    yield {"what": "from the table", "designs": designs, "build_s": build_s, **priced,
           "designs_per_s": designs / priced["seconds"], "peak_bytes": peak_bytes(),
           }  # fmt: skip
    z = jnp.asarray(rng.uniform(size=(scale.designs, len(space.steps))), jnp.float32)
    yield with_gradient("relaxed, from the table", lambda z: objective(table.relaxed(z)), z, scale)


def cost_direct(scale: Scale) -> Iterator[Result]:
    """The same without a table: each design's operators are all mapped anew."""
    import jax
    import jax.numpy as jnp
    from cost_model import SCENARIO, SPACE, objective, random_indices

    from codesign.cost import clip_costs

    rng = np.random.default_rng(0)
    z = jnp.asarray(SPACE.encode(random_indices(rng, scale.designs)), jnp.float32)

    def scalar(z: jax.Array) -> jax.Array:
        return objective(clip_costs(*SPACE.relax(z), SCENARIO))

    priced = timed(functools.partial(jax.jit(jax.vmap(scalar)), z), scale)
    yield {"what": "mapped anew", "designs": scale.designs, **priced,
           "designs_per_s": scale.designs / priced["seconds"], "peak_bytes": peak_bytes(),
           }  # fmt: skip
    if scale is FULL:  # CPUs take minutes to compile it
        relaxed = jnp.asarray(rng.uniform(size=z.shape), jnp.float32)
        yield with_gradient("relaxed, mapped anew", scalar, relaxed, scale)


def with_gradient(what: str, scalar: Callable[[Any], Any], z: Any, scale: Scale) -> Result:
    """Time of values with gradients at z [B,d], and over that of values alone."""
    import jax
    import jax.numpy as jnp

    value = jax.jit(jax.vmap(scalar))
    both = jax.jit(jax.vmap(jax.value_and_grad(scalar)))
    if not bool(jnp.isfinite(both(z)[1]).all()):
        raise RuntimeError("a gradient is not finite")
    alone, taken = (timed(functools.partial(f, z), scale) for f in (value, both))
    return {"what": what, "designs": len(z), **taken, "designs_per_s": len(z) / taken["seconds"],
            "times_value": taken["seconds"] / alone["seconds"], "peak_bytes": peak_bytes(),
           }  # fmt: skip


def sparse(scale: Scale) -> Iterator[Result]:
    """The row-sparse product against the dense one of the same dtype."""
    import jax
    import jax.numpy as jnp

    from codesign.dress.kernel.panels import panels
    from codesign.dress.kernel.product import row_sparse_matmul

    rng = np.random.default_rng(0)
    product = jax.jit(row_sparse_matmul)
    for dtype in ("float32", "bfloat16"):
        for tokens, inputs, rows in scale.products:
            x = jnp.asarray(rng.normal(size=(tokens, inputs)), dtype)
            full = jnp.asarray(rng.normal(size=(inputs, rows)), dtype)
            shape = f"{tokens} x {inputs} x {rows}"
            dense = timed(functools.partial(jax.jit(jnp.matmul), x, full), scale)
            yield {"product": shape, "dtype": dtype, "sparsity": 0.0, **dense}
            for sparsity in (0.8, 0.9, 0.95):
                kept = max(1, round(inputs * (1 - sparsity)))
                columns = np.argsort(rng.random((rows, inputs), np.float32), axis=1)[:, :kept]
                columns.sort(axis=1)
                values = rng.normal(size=columns.shape).astype(np.float32)
                packed = panels(values, columns.astype(np.int32), inputs)
                taken = timed(functools.partial(product, x, packed, jnp.int32(kept)), scale)
                yield {"product": shape, "dtype": dtype, "sparsity": sparsity, **taken,
                       "times_dense": taken["seconds"] / dense["seconds"]}  # fmt: skip


# ---- PyTorch ---------------------------------------------------------------------------------


def torch_step(scale: Scale, batch: int) -> Iterator[Result]:
    """transformers.CLIPModel: fused attention, torch.compile, autocast to bf16, fused AdamW."""
    try:
        import torch
        from transformers import CLIPConfig, CLIPModel
    except ImportError as error:
        yield {"skipped": str(error)}
        return
    if not torch.cuda.is_available() and scale is FULL:
        yield {"skipped": f"torch {torch.__version__} sees no GPU"}
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = scale.architecture
    sides = {"attn_implementation": "sdpa"}
    config = CLIPConfig(
        text_config={
            "hidden_size": a.text.width, "intermediate_size": a.text.ffn,
            "num_hidden_layers": a.text.layers, "num_attention_heads": a.text.heads,
            "vocab_size": a.vocab, "max_position_embeddings": a.context,
            "projection_dim": a.projection, "eos_token_id": a.vocab - 1, **sides,
        },
        vision_config={
            "hidden_size": a.vision.width, "intermediate_size": a.vision.ffn,
            "num_hidden_layers": a.vision.layers, "num_attention_heads": a.vision.heads,
            "image_size": a.image, "patch_size": a.patch, "projection_dim": a.projection, **sides,
        },
        projection_dim=a.projection, **sides,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model: Any = CLIPModel(config).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    rng = np.random.default_rng(0)
    pixels = torch.tensor(rng.normal(size=(batch, a.channels, a.image, a.image)).astype("f4"))
    ids = rng.integers(1, a.vocab - 1, size=(batch, a.context))
    ids[:, -1] = a.vocab - 1
    inputs = {"pixel_values": pixels.to(device), "input_ids": torch.tensor(ids).to(device)}
    # A compiler for the CPU may be missing, and is not what is measured.
    forward = torch.compile(model) if device == "cuda" else model

    def run() -> float:
        with torch.autocast(device, torch.bfloat16):
            loss = forward(**inputs, return_loss=True).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    before = time.perf_counter()
    try:
        for _ in range(2):
            run()
        compile_s = time.perf_counter() - before
        taken: list[float] = []
        while len(taken) < scale.repeats and (len(taken) < 3 or sum(taken) < scale.patience_s):
            before = time.perf_counter()
            run()
            taken.append(time.perf_counter() - before)
    except torch.cuda.OutOfMemoryError:
        yield {"batch": batch, "failed": "out of memory"}
        return
    result = spread(taken)
    chip = torch.cuda.get_device_name() if device == "cuda" else device
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    yield {
        "batch": batch, "torch": torch.__version__, "compiled": device == "cuda", **result,
        **rate(batch, result["seconds"], a, chip), "peak_bytes": peak, "compile_s": compile_s,
    }  # fmt: skip


# ---- running them ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
    """A measurement.

    Attributes:
      run: yields results.
      least_s: it is not begun in less time.
    """

    run: Callable[[Scale], Iterator[Result]]
    least_s: float


def tasks(scale: Scale) -> dict[str, Task]:
    """All measurements, the cheapest and most telling first."""
    small, *larger = scale.batches
    steps = {
        f"step {batch}": Task(functools.partial(step, batch=batch), 60) for batch in scale.batches
    }
    torches = {
        f"torch {batch}": Task(functools.partial(torch_step, batch=batch), 60)
        for batch in scale.batches[:2]
    }
    first = [f"step {batch}" for batch in (small, *larger[:1])]
    return {
        "correctness": Task(correctness, 20),
        **{name: steps[name] for name in first},
        **torches,
        "cost table": Task(cost_table, 30),
        "elastic": Task(elastic, 60),
        "dress": Task(dress, 60),
        "sparse": Task(sparse, 30),
        "cost direct": Task(cost_direct, 45),
        **steps,
    }


def about() -> Result:
    """Device, versions and date."""
    import jax

    device = jax.devices()[0]
    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "platform": device.platform,
        "device": device.device_kind,
        "runtime": device.client.platform_version.split("\n")[0],
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "bf16_peak_tflops": (bf16_peak_flops(device.device_kind) or 0) / 1e12 or None,
        "host": cpu_name(),
        "python": platform.python_version(),
        **versions,
    }


class Record:
    """The file of results, whole after every one of them.

    Args:
      path: of the file.
      options: of the run, to be written with it.
    """

    def __init__(self, path: Path, options: Result) -> None:
        self.path = path
        self.content: Result = {"options": options, "about": {}, "results": []}

    def add(self, task: str, result: Result) -> None:
        """Prints a result and writes the file."""
        if task == "about":
            self.content["about"] = result
        else:
            self.content["results"].append({"task": task, **result})
        print(f"{task}: {json.dumps(result)}", flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(self.path.name + ".partial")
        aside.write_text(json.dumps(self.content, indent=1) + "\n")
        aside.replace(self.path)


def run_here(name: str, task: Callable[[], Iterator[Result]], add: Callable[..., None]) -> None:
    """Runs a task in this process; a failure is a result."""
    try:
        for result in task():
            add(name, result)
    except Exception as error:  # whatever it is, the other tasks go on
        first = str(error).strip().splitlines() or [""]
        add(name, {"failed": f"{type(error).__name__}: {first[0][:300]}"})


def run_apart(name: str, limit_s: float, arguments: list[str], add: Callable[..., None]) -> None:
    """Runs a task in a process of its own, which is ended when its time is over."""
    command = [sys.executable, __file__, "--child", name, *arguments]
    began = time.monotonic()
    with subprocess.Popen(
        ["timeout", "-k", "5", f"{limit_s:.0f}", *command], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(MARK):
                add(name, json.loads(line.removeprefix(MARK)))
            else:
                print(line, end="", flush=True)
    if child.returncode in (124, 137):
        add(name, {"failed": f"cut off after {time.monotonic() - began:.0f} s"})
    elif child.returncode:
        add(name, {"failed": f"exit code {child.returncode}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/DEVICE-DATE.json")
    parser.add_argument("--budget-s", type=float, default=470.0, help="for everything")
    parser.add_argument("--tiny", action="store_true", help="small networks, in one process")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="tasks whose names begin so")
    parser.add_argument("--write-reference", action="store_true", help="on the CPU, in float64")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write_reference:
        write_reference()
        return
    scale = TINY if args.tiny else FULL
    known: dict[str, Callable[[], Iterator[Result]]] = {
        "about": lambda: iter([about()]),
        **{name: functools.partial(task.run, scale) for name, task in tasks(scale).items()},
    }
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    if args.child:
        run_here(
            args.child, known[args.child],
            lambda _, result: print(MARK + json.dumps(result), flush=True),
        )  # fmt: skip
        return
    began = time.monotonic()
    path = args.out or RESULTS / f"{'tiny-' if args.tiny else ''}{datetime.date.today()}.json"
    record = Record(path, {"tiny": args.tiny, "budget_s": args.budget_s})
    for name, task in known.items():
        if args.only and name != "about" and not any(name.startswith(x) for x in args.only):
            continue
        left_s = args.budget_s - (time.monotonic() - began)
        least_s = 0.0 if args.tiny or name == "about" else tasks(scale)[name].least_s
        if left_s < max(least_s, 1.0):
            record.add(name, {"skipped": f"{left_s:.0f} s left, it needs {least_s:.0f}"})
        elif args.tiny:
            run_here(name, task, record.add)
        else:
            run_apart(name, left_s, [], record.add)
    results = record.content["results"]
    failed = [r for r in results if r.get("passed") is False or (args.tiny and "failed" in r)]
    print(f"{path}: {len(results)} results, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    if failed:
        raise SystemExit(f"{len(failed)} results are failures")


if __name__ == "__main__":
    main()
