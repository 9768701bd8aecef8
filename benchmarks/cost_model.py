"""Speed of the cost model on this machine; what docs/results.md and docs/cost-model.md quote.

    python benchmarks/cost_model.py           a minute or two on two CPU cores
    python benchmarks/cost_model.py --json    the same numbers, one JSON object

The space is CLIP ViT-B/16's: 1,071,875 architectures on 3,240 accelerators. A design is a
whole CLIP (both towers, every operator mapped) on one accelerator. Times are the best of
several runs with everything compiled, unless a line says that compilation is included.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.architecture import clip_vit_b16
from codesign.cost import Costs, build_table, clip_costs
from codesign.cost.chips import accelerator_grid, run_grid
from codesign.scenario import Scenario
from codesign.space import DesignSpace, TowerChoices
from codesign.workload import clip_workload
from machine import cpu_name, load

SCENARIO = Scenario()
SPACE = DesignSpace(
    base=clip_vit_b16(),
    vision=TowerChoices(
        layers=tuple(range(6, 13)),
        width=tuple(range(384, 769, 96)),
        heads=tuple(range(6, 13)),
        ffn=tuple(range(1536, 3073, 384)),
    ),
    text=TowerChoices(
        layers=tuple(range(6, 13)),
        width=tuple(range(256, 513, 64)),
        heads=tuple(range(4, 9)),
        ffn=tuple(range(1024, 2049, 256)),
    ),
)
ARCHITECTURES = 310  # times 3,240 accelerators: a million designs
DIRECT_DESIGNS = 4096
RELAXED_DESIGNS = 512


def seconds(run: Callable[[], Any], repeats: int = 3) -> float:
    """Best wall-clock time of `repeats` runs, after one that compiles."""
    jax.block_until_ready(run())
    return min(once(run) for _ in range(repeats))


def once(run: Callable[[], Any]) -> float:
    """Wall-clock time of one run."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def objective(costs: Costs) -> jax.Array:
    """One number that depends on everything a search looks at."""
    return jnp.log(costs.latency_s) + jnp.log(costs.energy_j) + jnp.log(costs.carbon_kgco2e)


def random_indices(rng: np.random.Generator, designs: int) -> np.ndarray:
    """Choice indices [designs, d] of designs drawn uniformly from the space."""
    return rng.integers(0, SPACE.steps + 1, size=(designs, len(SPACE.steps)))


def tabulated(rng: np.random.Generator) -> dict[str, float]:
    """A million designs through the table, the mapping of their operators included."""
    build = lambda: build_table(SPACE, SCENARIO)  # noqa: E731
    cold_s = once(build)
    build_s = min(once(build) for _ in range(2))
    table = build()
    price = jax.jit(lambda t, indices: jax.vmap(t.on_every_accelerator)(indices))
    indices = jnp.asarray(random_indices(rng, ARCHITECTURES))
    evaluate_s = seconds(lambda: price(table, indices))
    designs = ARCHITECTURES * SPACE.accelerators
    return {
        "designs": designs,
        "build_with_compilation_s": cold_s,
        "build_s": build_s,
        "evaluate_s": evaluate_s,
        "designs_per_s_with_compilation": designs / (cold_s + evaluate_s),
        "designs_per_s_with_mapping": designs / (build_s + evaluate_s),
        "designs_per_s_from_table": designs / evaluate_s,
    }


def direct(rng: np.random.Generator) -> dict[str, float]:
    """Random designs through clip_costs, each with all its operators mapped anew."""
    z = jnp.asarray(SPACE.encode(random_indices(rng, DIRECT_DESIGNS)), jnp.float32)
    price = jax.jit(jax.vmap(lambda z: clip_costs(*SPACE.relax(z), SCENARIO)))
    run_s = seconds(lambda: price(z))
    return {"designs": DIRECT_DESIGNS, "run_s": run_s, "designs_per_s": DIRECT_DESIGNS / run_s}


def gradient_ratio(cost: Callable[[jax.Array], Costs], z: jax.Array) -> dict[str, float]:
    """Time of values with gradients over the time of values alone, for a batch z [B, d]."""
    scalar = lambda z: objective(cost(z))  # noqa: E731
    value = jax.jit(jax.vmap(scalar))
    both = jax.jit(jax.vmap(jax.value_and_grad(scalar)))
    if not bool(jnp.isfinite(both(z)[1]).all()):
        raise RuntimeError("a gradient is not finite")
    value_s, both_s = seconds(lambda: value(z)), seconds(lambda: both(z))
    return {
        "designs": z.shape[0],
        "value_s": value_s,
        "value_and_gradient_s": both_s,
        "ratio": both_s / value_s,
    }


def gradients(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Gradient over value time of both differentiable models, at relaxed designs."""
    z = jnp.asarray(rng.uniform(size=(RELAXED_DESIGNS, len(SPACE.steps))), jnp.float32)
    table = build_table(SPACE, SCENARIO)
    return {
        "direct": gradient_ratio(lambda z: clip_costs(*SPACE.relax(z), SCENARIO), z),
        "table": gradient_ratio(table.relaxed, z),
    }


def accelerator_grid_seconds() -> dict[str, float]:
    """ViT-B/16 on all 3,240 accelerators, twice over."""
    vit, chips = clip_vit_b16(), accelerator_grid(SPACE.accelerator)
    chips = jax.tree.map(jnp.asarray, chips)
    price = jax.jit(jax.vmap(lambda chip: clip_costs(vit, chip, SCENARIO)))
    workload = jax.tree.map(lambda x: x[None], clip_workload(vit))
    return {
        "vmap_clip_costs_s": seconds(lambda: price(chips)),
        "run_grid_s": seconds(lambda: run_grid([workload], chips, SCENARIO)),
    }


def conditions() -> dict[str, Any]:
    """Where and when this ran."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": None if (busy := load()) is None else round(busy, 1),
        "device": str(jax.devices()[0]),
        "jax": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    as_json = parser.parse_args().json
    rng = np.random.default_rng(0)
    results: dict[str, Any] = {"machine": conditions()}
    for name, measure in (
        ("tabulated", lambda: tabulated(rng)),
        ("direct", lambda: direct(rng)),
        ("gradients", lambda: gradients(rng)),
        ("accelerator_grid", accelerator_grid_seconds),
    ):
        results[name] = measure()
    print(json.dumps(results, indent=1) if as_json else text(results))


def text(results: dict[str, Any]) -> str:
    """The results as lines to read."""
    where, table, plain = (results[k] for k in ("machine", "tabulated", "direct"))
    grid = results["accelerator_grid"]
    lines = [
        f"{where['cpu']}, {where['cores']} cores (load {where['load']}), {where['device']}, "
        f"jax {where['jax']}, {where['date']}",
        f"table of {SPACE.architectures:,} architectures x {SPACE.accelerators:,} accelerators: "
        f"{table['build_s']:.2f} s ({table['build_with_compilation_s']:.2f} s with compilation)",
        f"{table['designs']:,} designs, mapping included: "
        f"{table['designs_per_s_with_mapping']:,.0f} designs/s "
        f"({table['designs_per_s_with_compilation']:,.0f} with compilation; "
        f"{table['designs_per_s_from_table']:,.0f} once the table stands)",
        f"{plain['designs']:,} random designs, every operator of each mapped anew: "
        f"{plain['designs_per_s']:,.0f} designs/s",
        *(
            f"value and gradient over value, {name}: {r['ratio']:.2f} "
            f"({1e6 * r['value_and_gradient_s'] / r['designs']:,.0f} over "
            f"{1e6 * r['value_s'] / r['designs']:,.0f} us a design, {r['designs']:,} at once)"
            for name, r in results["gradients"].items()
        ),
        f"ViT-B/16 on all {SPACE.accelerators:,} accelerators: "
        f"{grid['vmap_clip_costs_s']:.2f} s by vmap, {grid['run_grid_s']:.2f} s by run_grid",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
