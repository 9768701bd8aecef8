"""Fitting ensembles to oracle samples: many at a time, as one compiled program.

Each member holds some samples out of its own and keeps the weights that did best on them,
the initial ones included; these are the base itself, so that with few or misleading
samples an ensemble shrinks to its base.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.surrogate.config import FEWEST_SAMPLES, FitConfig
from codesign.surrogate.models import (
    Ensemble,
    Inputs,
    Kind,
    Prediction,
    forward,
    init_params,
)
from codesign.surrogate.points import Samples, observe

Array = jax.Array


class _Member(NamedTuple):
    """One network to fit; leaves [J, ...] where J are fitted side by side.

    Attributes:
      key: of its initial weights and batches.
      order: rows of the samples: those it trains on, those it holds out, those it never sees.
      trained, held: how many of the first two.
      mean, scale, unit: as in Ensemble.
    """

    key: Array
    order: Array | np.ndarray
    trained: Array | np.ndarray
    held: Array | np.ndarray
    mean: Array | np.ndarray
    scale: Array | np.ndarray
    unit: Array | np.ndarray


@functools.partial(jax.jit, static_argnames="config")
def _train(members: _Member, x: Array, y: Array, config: FitConfig) -> nnx.State:
    """Weights [J, ...] for features x [N, F] and residuals y [N, 2]."""
    between = config.steps // config.checks
    schedule = optax.cosine_decay_schedule(config.lr, config.steps)
    optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)

    def error(params: nnx.State, member: _Member, rows: Array | np.ndarray) -> Array:
        """Loss of each row, [rows]."""
        normal = (x[rows] - member.mean) * member.scale
        out = forward(params, normal, config.hidden)
        losses = optax.huber_loss(out, y[rows] / member.unit, delta=config.huber)
        return jnp.sum(losses, axis=-1)

    def train(member: _Member) -> nnx.State:
        init_key, batch_key = jax.random.split(member.key)
        params = init_params(init_key, x.shape[-1], config.hidden)
        place = jnp.arange(len(x))
        held = (place >= member.trained) & (place < member.trained + member.held)

        def score(params: nnx.State) -> Array:
            errors = error(params, member, member.order)
            return jnp.sum(jnp.where(held, errors, 0.0)) / member.held

        def step(carry: tuple, key: Array) -> tuple[tuple, None]:
            params, state = carry
            drawn = jax.random.randint(key, (config.batch_size,), 0, member.trained)
            grads = jax.grad(lambda p: jnp.mean(error(p, member, member.order[drawn])))(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def check(carry: tuple, key: Array) -> tuple[tuple, None]:
            params, state, best, best_score = carry
            (params, state), _ = jax.lax.scan(step, (params, state), jax.random.split(key, between))
            here = score(params)
            better = here < best_score
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), params, best)
            return (params, state, best, jnp.minimum(here, best_score)), None

        start = (params, optimizer.init(params), params, score(params))
        end, _ = jax.lax.scan(check, start, jax.random.split(batch_key, config.checks))
        return end[2]

    return jax.vmap(train)(members)


class Job(NamedTuple):
    """One ensemble to fit: the rows [n] of the samples it may see, and a seed."""

    rows: np.ndarray
    seed: int


def fit(kind: Kind, samples: Samples, config: FitConfig, seed: int = 0) -> Ensemble:
    """An ensemble fitted to all samples.

    Raises:
      ValueError: too few samples.
    """
    job = Job(np.arange(samples.size), seed)
    return fit_many(kind, observe(kind, samples.points), samples.truth, [job], config)[0]


def fit_many(
    kind: Kind, seen: Inputs, truth: Prediction, jobs: Sequence[Job], config: FitConfig
) -> list[Ensemble]:
    """One ensemble a job, all trained side by side.

    Args:
      kind: of all of them.
      seen: what they see of points [N], from `observe`.
      truth: what the points cost, [N].
      jobs: whose rows are among the N.
      config: how.

    Raises:
      ValueError: a job with too few samples on which some mapping fits.
    """
    residuals = np.log(np.stack(truth, axis=-1).astype(float)) - seen.log_base
    members = [_members(job, seen, residuals, config) for job in jobs]
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *members)
    params = _train(together, seen.features, residuals, config)
    return [
        Ensemble(
            params=jax.tree.map(lambda p, i=i: p[i * config.members :][: config.members], params),
            mean=jnp.asarray(group.mean[0]),
            scale=jnp.asarray(group.scale[0]),
            unit=jnp.asarray(group.unit[0]),
            kind=kind,
            hidden=config.hidden,
        )
        for i, group in enumerate(members)
    ]


def _members(job: Job, seen: Inputs, y: np.ndarray, config: FitConfig) -> _Member:
    """The members of one job, leaves [E, ...]; each holds other samples out."""
    x = seen.features
    rows = job.rows[seen.fits[job.rows]]
    if len(rows) < FEWEST_SAMPLES:
        raise ValueError(f"{len(rows)} samples are too few to fit: at least {FEWEST_SAMPLES}")
    rest = np.setdiff1d(np.arange(len(x)), rows)
    held = max(2, round(config.validation * len(rows)))
    rng = np.random.default_rng(job.seed)
    orders = [np.concatenate([rng.permutation(rows), rest]) for _ in range(config.members)]
    deviation = x[rows].std(axis=0)
    # A feature that never varied would take whatever weight it was born with.
    varies = deviation > 1e-4
    every = lambda a: np.broadcast_to(a, (config.members, *np.shape(a)))  # noqa: E731
    return _Member(
        key=jax.random.split(jax.random.key(job.seed), config.members),
        order=np.stack(orders).astype(np.int32),
        trained=every(np.int32(len(rows) - held)),
        held=every(np.int32(held)),
        mean=every(x[rows].mean(axis=0)),
        scale=every(np.where(varies, 1 / np.where(varies, deviation, 1), 0)),
        unit=every(np.maximum(np.sqrt((y[rows] ** 2).mean(axis=0)), 1e-3)),
    )
