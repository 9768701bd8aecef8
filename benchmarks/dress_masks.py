"""Masks of K subnets of CLIP ViT-B/16: ours, NumPy's partition, and unstructured top-k.

    python benchmarks/dress_masks.py [--rounds 3] [--share 1]

Ours is warm and jitted, and ranks the budgets of all layers besides. NumPy is given the budgets
and partitions every row once a subnet. Unstructured top-k is what jaxpruner computes: an argsort
of each layer's whole kernel, once a subnet. The forms that a sort of rows could take in XLA are
timed on one kernel. Methods alternate; wall and processor seconds are medians. --share takes
the first layers only, for a quick look.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import Tower, clip_vit_b16
from codesign.dress.masks import Masks, densities, subnet_masks
from codesign.dress.rows import RowSpec, to_rows
from codesign.dress.trees import pick
from codesign.models.clip import CLIP
from codesign.models.subnets import subnet_specs
from machine import here

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
PATIENCE_S = 60.0  # a method that took longer is not timed again


def kernels_of(share: float) -> tuple[dict[str, jax.Array], dict[str, RowSpec]]:
    """Normal kernels of ViT-B/16, each of a scale of its own, so that budgets differ."""

    def cut(tower: Tower) -> Tower:
        return dataclasses.replace(tower, layers=max(1, round(share * tower.layers)))

    whole = clip_vit_b16()
    architecture = dataclasses.replace(whole, vision=cut(whole.vision), text=cut(whole.text))
    clip = nnx.eval_shape(lambda: CLIP(architecture, rngs=nnx.Rngs(0)))
    specs = subnet_specs(clip)
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.uniform(0.5, 1.5) * rng.standard_normal(k.shape, np.float32))
        for name, k in pick(nnx.state(clip, nnx.Param), specs).items()
    }, specs


def numpy_masks(
    kernels: Mapping[str, np.ndarray], specs: Mapping[str, RowSpec], counts: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """bool [K,L,R,N] by a partition of each row for each subnet."""
    masks = {}
    for name, spec in specs.items():
        magnitudes = -np.abs(to_rows(kernels[name], spec))
        subnets, layers = counts[name].shape
        masks[name] = np.zeros((subnets, *magnitudes.shape), bool)
        for k, layer in np.ndindex(subnets, layers):
            n = int(counts[name][k, layer])
            kept = np.argpartition(magnitudes[layer], n - 1, axis=1)[:, :n]
            np.put_along_axis(masks[name][k, layer], kept, True, axis=1)
    return masks


def unstructured_masks(
    kernels: dict[str, jax.Array], sparsities: jax.Array
) -> dict[str, jax.Array]:
    """bool [K,L,...]: the largest weights of each layer's kernel, wherever they are."""

    def of_layer(kernel: jax.Array, sparsity: jax.Array) -> jax.Array:
        scores = jnp.abs(kernel).ravel()
        kept = jnp.round(scores.size * (1 - sparsity)).astype(jnp.int32)
        last = jnp.argsort(-scores)[kept - 1]
        above = scores > scores[last]
        equal = (scores == scores[last]) & (jnp.arange(scores.size) <= last)
        return (above | equal).reshape(kernel.shape)

    def of_kernel(kernel: jax.Array) -> jax.Array:
        def of_subnet(sparsity: jax.Array) -> jax.Array:
            return jax.lax.map(lambda layer: of_layer(layer, sparsity), kernel)

        return jax.lax.map(of_subnet, sparsities)

    return {name: of_kernel(kernel) for name, kernel in kernels.items()}


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - wall, time.process_time() - processor


def compare(methods: Mapping[str, Callable[[], Any]], rounds: int) -> None:
    """Prints a table of the methods' medians; the first row is the measure."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, call in methods.items():
            if sum(wall for wall, _ in seconds[name]) < PATIENCE_S:
                seconds[name].append(timed(call))
                time.sleep(0.1)  # thread pools spin for a while
    print("| | wall s | processor s | wall, times the first |\n|---|---:|---:|---:|")
    walls = {name: statistics.median(w for w, _ in taken) for name, taken in seconds.items()}
    first = next(iter(walls.values()))
    for name, taken in seconds.items():
        processor = statistics.median(p for _, p in taken)
        print(f"| {name} | {walls[name]:.3g} | {processor:.3g} | {walls[name] / first:.2f} |")


def compare_forms(rounds: int) -> None:
    """What a sort of rows costs in XLA, on one layer's fc2 of ViT-B/16."""
    rows = jnp.asarray(np.random.default_rng(1).standard_normal((768, 3072), np.float32))

    def ranks(rows: jax.Array) -> jax.Array:
        order = jnp.argsort(-jnp.abs(rows), axis=1)
        place = jnp.broadcast_to(jnp.arange(rows.shape[1]), rows.shape)
        return jnp.put_along_axis(jnp.zeros_like(order), order, place, axis=1, inplace=False)

    def bits(rows: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(jnp.abs(rows), jnp.int32)

    forms: dict[str, Callable[[jax.Array], jax.Array]] = {
        "sort of the bits as integers (ours)": lambda x: jax.lax.sort(bits(x), is_stable=False),
        "sort of floats": lambda x: jax.lax.sort(jnp.abs(x), is_stable=False),
        "argsort": lambda x: jnp.argsort(-jnp.abs(x), axis=1),
        "argsort and scatter: ranks": ranks,
    }
    calls = {name: jax.jit(form).lower(rows).compile() for name, form in forms.items()}
    print("\nForms of the sort, 768 rows of 3072:")
    compare({name: lambda call=call: call(rows) for name, call in calls.items()}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the layers")
    args = parser.parse_args()
    print(f"{here()}, jax {jax.__version__}, {jax.default_backend()}, numpy {np.__version__}")
    kernels, specs = kernels_of(args.share)
    sparsities = jnp.asarray(SPARSITIES)
    refresh = jax.jit(lambda params, s: subnet_masks(params, specs, s))
    before = time.perf_counter()
    ours = refresh.lower(kernels, sparsities).compile()
    seconds = time.perf_counter() - before
    masks: Masks = ours(kernels, sparsities)
    total = sum(kernel.size for kernel in kernels.values())
    temporary = ours.memory_analysis().temp_size_in_bytes / total
    print(
        f"{total / 1e6:.1f} million weights, K = {len(SPARSITIES)}, densities "
        f"{', '.join(f'{d:.4f}' for d in densities(masks))}; compiled in {seconds:.1f} s, "
        f"{temporary:.1f} bytes a weight of temporary memory"
    )

    plain = {name: np.asarray(kernel) for name, kernel in kernels.items()}
    counts = {name: np.asarray(values) for name, values in masks.counts.items()}
    top_k = jax.jit(unstructured_masks).lower(kernels, sparsities).compile()
    different = sum(
        int((kept.sum(axis=0) != to_rows(np.asarray(masks.levels[name]), specs[name])).sum())
        for name, kept in numpy_masks(plain, specs, counts).items()
    )
    print(f"weights whose masks differ from NumPy's: {different} (ties, which it breaks anyhow)\n")
    compare(
        {
            "ours, budgets included": lambda: ours(kernels, sparsities),
            "NumPy, a partition a subnet": lambda: numpy_masks(plain, specs, counts),
            "unstructured top-k, an argsort a subnet": lambda: top_k(kernels, sparsities),
        },
        args.rounds,
    )
    compare_forms(3 * args.rounds)


if __name__ == "__main__":
    main()
