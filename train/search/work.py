"""What searches and the trials of rivals cost in MAC-eq; see codesign.search.work."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.design_file import parse_design
from codesign.search.work import forward_equivalents, mac_equivalents
from codesign.space import DesignSpace
from codesign.train.config import ScheduleConfig, SearchConfig
from codesign.train.search.elastic import make_pool, networks_of_step
from codesign.train.search.proxy import every_choice
from codesign.train.search.setup import Setup
from codesign.workload.clip import clip_workload


def macs_at(space: DesignSpace, networks: np.ndarray) -> np.ndarray:
    """Multiply-accumulates [n] for one image and one text, of choice indices [n, >= 8]."""
    own = zip(space.part(space.dimensions, "architecture"), np.asarray(networks).T, strict=False)
    values = np.stack([np.take(d.choices, indices) for d, indices in own], axis=1)
    return np.asarray(_macs(space, jnp.asarray(values, jnp.float32)), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _macs(space: DesignSpace, values: jax.Array) -> jax.Array:
    """Of values [n, architecture_size] of the elastic dimensions; one program, not hundreds."""
    of = jax.vmap(lambda row: clip_workload(space.with_dimensions(list(row))).macs)
    found: jax.Array = of(values)
    return found


def shared_work(schedule: ScheduleConfig) -> dict[str, float]:
    """MAC-eq of what every contestant starts from."""
    return {"warmup": float(schedule.warmup_steps), "order": float(schedule.order_batches)}


def share_of(setup: Setup, entry: dict[str, Any]) -> float:
    """Products of a design's network as a share of the supernet's."""
    space = setup.space
    own = space.nearest(parse_design(entry).architecture)
    mine, whole = macs_at(space, np.stack([own, space.part(space.steps, "architecture")]))
    return float(mine / whole)


def search_work(
    search: SearchConfig, setup: Setup, shares: list[float], tried: Sequence[float] = ()
) -> dict[str, float]:
    """MAC-eq of the parts of one of the product's searches.

    The yardstick `half`, which nothing needs, and measuring, as of all contestants, do not count.

    Args:
      search: its configuration.
      setup: of the same space, data and seed.
      shares: products of the designs found, as shares of the supernet's.
      tried: for each design whose roundings were trained before they were compared, the products
        of those, in all, as a share of the supernet's.

    Returns:
      By part: "warmup", "order", "teacher", and of the others those that there are.
    """
    schedule, space = search.schedule, setup.space
    batch = search.optim.batch_size
    whole = macs_at(space, space.steps[None])[0]
    work = shared_work(schedule)
    work["teacher"] = float(schedule.joint_steps + schedule.tune_steps)
    if schedule.elastic_steps:
        pool = make_pool(setup.tables.dense, search.targets.mode, search.seed)
        key = jax.random.key(search.seed)
        steps = jnp.arange(schedule.warmup_steps, schedule.warmup_steps + schedule.elastic_steps)
        z = jax.jit(jax.vmap(lambda step: networks_of_step(step, pool, key)[1]))(steps)
        networks = np.asarray(space.round(z.reshape(-1, z.shape[-1])))
        unique, counts = np.unique(networks, axis=0, return_counts=True)
        work["elastic"] = schedule.elastic_steps + mac_equivalents(
            counts, macs_at(space, unique), whole
        )
        images = min(schedule.proxy_images, len(setup.held_out.validation))
        texts = len(setup.held_out.validation.class_names or ()) * len(
            setup.held_out.validation.templates or ()
        )
        work["ranking"] = sum(
            forward_equivalents(seen, _tower_macs(space, tower), batch, whole)
            for tower, seen in (("vision", images), ("text", texts or images))
        )
    if schedule.joint_steps:
        work["joint"] = mac_equivalents(schedule.joint_steps, [whole] * len(shares), whole)
        seen = schedule.snap_candidates * schedule.snap_images
        work["snap"] = forward_equivalents(seen, np.array(shares), batch, 1.0)
        # Each time beside the supernet, which teaches.
        work["snap"] += float(schedule.snap_steps * sum(1 + share for share in tried))
    work["tune"] = mac_equivalents(schedule.tune_steps, shares, 1.0)
    return work


def _tower_macs(space: DesignSpace, tower: str) -> np.ndarray:
    """Multiply-accumulates of every choice of a tower, for one input, the other left out."""
    indices = np.asarray(space.round(jnp.asarray(every_choice(space, tower))))
    other = "text" if tower == "vision" else "vision"
    return macs_at(space, indices) - _macs_of(clip_workload(space.largest()), other)


def _macs_of(workload: Any, tower: str) -> float:
    """Multiply-accumulates of the operators of one tower."""
    mine = np.array([name.startswith(f"{tower}.") for name in workload.gemm_names])
    every = np.asarray(workload.m * workload.k * workload.n * workload.count)
    return float(every[mine].sum())
