"""The cost model and the row-sparse product."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from accelerator_tasks.measuring import (
    FULL,
    Result,
    Scale,
    peak_bytes,
    timed,
)


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
    yield {
        "what": "from the table",
        "designs": designs,
        "build_s": build_s,
        **priced,
        "designs_per_s": designs / priced["seconds"],
        "peak_bytes": peak_bytes(),
    }
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
    yield {
        "what": "mapped anew",
        "designs": scale.designs,
        **priced,
        "designs_per_s": scale.designs / priced["seconds"],
        "peak_bytes": peak_bytes(),
    }
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
    return {
        "what": what,
        "designs": len(z),
        **taken,
        "designs_per_s": len(z) / taken["seconds"],
        "times_value": taken["seconds"] / alone["seconds"],
        "peak_bytes": peak_bytes(),
    }


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
                yield {
                    "product": shape,
                    "dtype": dtype,
                    "sparsity": sparsity,
                    **taken,
                    "times_dense": taken["seconds"] / dense["seconds"],
                }
