"""Whether a device computes what the CPU does: against float64, slices and CPU masks."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from accelerator_tasks.measuring import (
    Result,
    Scale,
)

from codesign.architecture import Architecture, Tower

REFERENCE = Path(__file__).parents[1] / "accelerator_reference.json"


# Of the reference: small, with heads of 64 channels and odd numbers of tokens as ViT-B/16 has.
CHECKED = Architecture(
    vision=Tower(layers=2, width=96, heads=2, ffn=192),
    text=Tower(layers=2, width=64, heads=2, ffn=128),
    image=32,
    patch=8,
    channels=3,
    head_dim=64,
    projection=48,
    vocab=64,
    context=13,
    activation="gelu",
)


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
    summed = {
        "query": (1,),
        "key": (1,),
        "value": (1,),
        "out": (1, 2),
        "fc1": (1,),
        "fc2": (1,),
        "patch_kernel": (0, 1, 2),
        "projection": (0,),
    }

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
        tower: Tower(
            **{
                name: tuple(sorted({getattr(wanted.towers[tower], name), size}))
                for name, size in vars(sizes).items()
            }
        )
        for tower, sizes in CHECKED.towers.items()
    }
    ranks = [getattr(model, tower).blocks.layer_rank[...] for tower in CHECKED.towers]
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
    return {
        "check": "masks against the CPU's",
        "differing": differing,
        "weights": weights,
        "passed": passed,
    }
