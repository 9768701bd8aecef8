"""Row-sparse products against dense ones on CPU: layers of CLIP ViT-B/16, and its image tower.

    python benchmarks/sparse_kernel.py [--rounds 15] [--threads N] [--only layers|tower]

Prints Markdown tables. Without --threads it runs itself with one thread and with all, pinned to
as many processors. Vehicles alternate with pauses between them, as thread pools spin for a while
after a call; each time is a median: of wall time, or for one thread of processor time, in which
being pre-empted does not count. Ratios are to the dense product of XLA in the same run. Sparse
rows are those of one nested family of 50, 80, 90 and 95 %, as they are stored. CSR is SciPy's,
on one thread, and gets x transposed free of charge.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import clip_vit_b16
from codesign.dress.kernel import native
from codesign.dress.kernel.panels import panels
from codesign.dress.kernel.product import row_sparse_matmul
from codesign.dress.masks import subnet_masks
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect
from codesign.models.formats.assemble import abstract_clip, assemble, variables
from codesign.models.subnets import ClipFamily, pack_clip, subnet_specs
from machine import here

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
TOWER_SPARSITIES = (0.8, 0.9, 0.95)
SHAPES = ((197, 768, 3072), (197, 3072, 768), (197, 768, 2304), (77, 512, 2048))
CHAIN = (12, 768, 3072)  # MLPs whose weights do not fit the caches
PAUSE_S = 0.03
TURN_S = 0.02  # a turn repeats a call for about so long

Calls = Mapping[str, Callable[[], Any]]


def nested_rows(
    rng: np.random.Generator, rows: int, inputs: int
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Values and columns [R,n1] in the order of a packed family, and n of each subnet."""
    counts = [round(inputs * (1 - sparsity)) for sparsity in SPARSITIES]
    columns = np.argsort(rng.random((rows, inputs), np.float32), axis=1)[:, : counts[0]]
    for first, end in zip([*counts[1:], 0], counts, strict=True):
        columns[:, first:end].sort(axis=1)
    values = rng.standard_normal(columns.shape, np.float32) / inputs**0.5
    return values, columns, counts


def dense(values: np.ndarray, columns: np.ndarray, inputs: int, n: int) -> np.ndarray:
    """W_n [R,N]."""
    weights = np.zeros((len(values), inputs), np.float32)
    np.put_along_axis(weights, columns[:, :n], values[:, :n], axis=1)
    return weights


def layer(rng: np.random.Generator, tokens: int, inputs: int, rows: int) -> Calls:
    """One product, its input at hand; all vehicles agree or this raises."""
    values, columns, counts = nested_rows(rng, rows, inputs)
    host = rng.standard_normal((tokens, inputs), np.float32)
    x, packed = jnp.asarray(host), panels(values, columns, inputs)
    ours = jax.jit(row_sparse_matmul).lower(x, packed, jnp.int32(0)).compile()
    transposed = np.ascontiguousarray(dense(values, columns, inputs, counts[0]).T)
    device = jnp.asarray(transposed)
    xla = jax.jit(jnp.matmul).lower(x, device).compile()
    calls: dict[str, Callable[[], Any]] = {
        "dense": lambda: xla(x, device),
        "NumPy": lambda: host @ transposed,
    }
    for sparsity, n in zip(SPARSITIES, counts, strict=True):
        count = jnp.int32(n)
        calls[f"{sparsity}"] = lambda count=count: ours(x, packed, count)
        weights = dense(values, columns, inputs, n)
        np.testing.assert_allclose(calls[f"{sparsity}"](), host @ weights.T, rtol=1e-3, atol=1e-4)
        if call := csr(weights, host):
            calls[f"CSR {sparsity}"] = call
    return calls


def csr(weights: np.ndarray, x: np.ndarray) -> Callable[[], Any] | None:
    """SciPy's product, where SciPy is there."""
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        return None
    matrix, transposed = csr_matrix(weights), np.ascontiguousarray(x.T)
    return lambda: matrix @ transposed


def chain(rng: np.random.Generator) -> Calls:
    """One token through many MLPs: every weight comes from memory."""
    depth, width, hidden = CHAIN
    x = jnp.asarray(rng.standard_normal((1, width), np.float32))
    sparse, full, counts = [], [], []
    for _ in range(depth):
        for inputs, rows in ((width, hidden), (hidden, width)):
            values, columns, n = nested_rows(rng, rows, inputs)
            sparse.append(panels(values, columns, inputs))
            full.append(jnp.asarray(dense(values, columns, inputs, n[0]).T))
            counts.append(n)

    def sparsely(x: jax.Array, weights: list[Any], ns: jax.Array) -> jax.Array:
        for i, rows in enumerate(weights):
            x = row_sparse_matmul(x, rows, ns[i])
        return x

    def densely(x: jax.Array, weights: list[jax.Array]) -> jax.Array:
        for kernel in weights:
            x = x @ kernel
        return x

    xla = jax.jit(densely).lower(x, full).compile()
    ours = jax.jit(sparsely).lower(x, sparse, jnp.zeros(len(sparse), jnp.int32)).compile()
    calls: dict[str, Callable[[], Any]] = {"dense": lambda: xla(x, full)}
    for k, sparsity in enumerate(SPARSITIES):
        ns = jnp.array([n[k] for n in counts], jnp.int32)
        calls[f"{sparsity}"] = lambda ns=ns: ours(x, sparse, ns)
    return calls


def random_clip() -> CLIP:
    """ViT-B/16 with a text tower of one layer, which nothing here runs."""
    whole = clip_vit_b16()
    text = dataclasses.replace(whole.text, layers=1)
    abstract = abstract_clip(
        dataclasses.replace(whole, text=text, vocab=64), Dialect(), dtype=jnp.float32, remat=False
    )
    rng = np.random.default_rng(0)

    def drawn(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if len(shape) < 2 or dtype != jnp.float32:
            return np.ones(shape, dtype)
        # Scales differ, so that global budgets do.
        return rng.uniform(0.5, 1.5) * 0.02 * rng.standard_normal(shape, np.float32)

    return assemble(abstract, {p: drawn(v.shape, v.dtype) for p, v in variables(abstract).items()})


def tower(budget: Any) -> Calls:
    """The image tower end to end, one image: the dense CLIP and the subnets of a packed one."""
    clip = random_clip()
    specs = subnet_specs(clip, ("vision.blocks.*",))
    masks = jax.jit(lambda params: subnet_masks(params, specs, TOWER_SPARSITIES, budget=budget))(
        nnx.state(clip, nnx.Param)
    )
    packed = pack_clip(clip, masks, specs, TOWER_SPARSITIES)
    family = ClipFamily(packed, clip.architecture, clip.dialect)
    side = clip.architecture.image
    image = jnp.asarray(np.random.default_rng(1).standard_normal((1, side, side, 3), np.float32))
    graphdef, state = nnx.split(clip)
    xla = jax.jit(lambda s, x: nnx.merge(graphdef, s).encode_image(x)[0]).lower(state, image)
    ours = jax.jit(lambda c, x: c.encode_image(x)[0]).lower(family.at(0), image).compile()
    whole = xla.compile()
    calls: dict[str, Callable[[], Any]] = {"dense": lambda: whole(state, image)}
    for k, sparsity in enumerate(TOWER_SPARSITIES):
        member = family.at(k)
        calls[f"{sparsity}"] = lambda member=member: ours(member, image)
    return calls


def milliseconds(calls: Calls, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Medians of the calls' times, turn by turn."""
    repeats = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        before = time.perf_counter()
        jax.block_until_ready(call())
        repeats[name] = max(1, round(TURN_S / (time.perf_counter() - before)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE_S)
            before = clock()
            for _ in range(repeats[name]):
                jax.block_until_ready(call())
            taken[name].append(1e3 * (clock() - before) / repeats[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def row(title: str, times: Mapping[str, float], columns: list[str]) -> str:
    """A line of a table: the dense time, and of each vehicle its time and ratio."""
    first = times["dense"]

    def cell(name: str) -> str:
        return f"{times[name]:.3g} ({first / times[name]:.2f}x)" if name in times else "-"

    return " | ".join([f"| {title}", f"{first:.3g}", *map(cell, columns)]) + " |"


def header(title: str, columns: list[str]) -> str:
    """The head of a table; sparsities in per cent."""
    named = [f"{float(c):.0%}" if c[0] == "0" else c for c in columns]
    return f"| {' | '.join([title, 'dense XLA, ms', *named])} |\n|---|{'---:|' * (len(named) + 1)}"


def report_layers(rounds: int, clock: Callable[[], float]) -> None:
    """Single layers, and a token through a chain of them."""
    rng = np.random.default_rng(0)
    columns = [*map(str, SPARSITIES), "NumPy", "CSR 0.9", "CSR 0.95"]
    print(header("T x in x out", columns))
    for tokens, inputs, rows in SHAPES:
        times = milliseconds(layer(rng, tokens, inputs, rows), rounds, clock)
        print(row(f"{tokens} x {inputs} x {rows}", times, columns), flush=True)
    times = milliseconds(chain(rng), rounds, clock)
    print(row("one token, 12 MLPs from memory", times, columns), flush=True)


def report_tower(rounds: int, clock: Callable[[], float]) -> None:
    """The image tower."""
    columns = list(map(str, TOWER_SPARSITIES))
    print(header("image tower, one image", columns))
    for budget in ("global", "uniform"):
        times = milliseconds(tower(budget), rounds, clock)
        print(row(f"{budget} budgets", times, columns), flush=True)


def run_pinned(threads: int) -> None:
    """This program in a process of its own on so many processors."""
    command = [sys.executable, __file__, "--threads", str(threads), *sys.argv[1:]]
    limits = {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])  # a child has its parent's
    try:
        subprocess.run(command, check=True, env={**os.environ, **limits})
    finally:
        os.sched_setaffinity(0, allowed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="processors this process may use already")
    parser.add_argument("--only", choices=("layers", "tower"))
    args = parser.parse_args()
    if args.threads is None and hasattr(os, "sched_getaffinity"):
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            run_pinned(threads)
        return
    threads = args.threads or os.cpu_count() or 1
    clock = time.process_time if threads == 1 else time.perf_counter
    kind = "processor time" if threads == 1 else "wall time"
    kernel = "" if native.available() else ", WITHOUT the native kernel"
    print(f"\n{here(threads)}, {kind}, jax {jax.__version__}, numpy {np.__version__}{kernel}\n")
    if args.only != "tower":
        report_layers(args.rounds, clock)
        print()
    if args.only != "layers":
        report_tower(args.rounds, clock)


if __name__ == "__main__":
    main()
