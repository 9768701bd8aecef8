"""Learning rates of the weights, by the phase of a search."""

from __future__ import annotations

from typing import NamedTuple

import optax

from codesign.train.config import SearchConfig
from codesign.train.optim import warmup_cosine


class Rates(NamedTuple):
    """Learning rates of the weights, each from the first step of its optimizer."""

    warmup: optax.Schedule
    elastic: optax.Schedule
    candidates: optax.Schedule


def learning_rates(config: SearchConfig) -> Rates:
    """Each rises to its peak along a line.

    The warm-up's then stays, the elastic phase's falls along a cosine, and that of the candidates
    does so while their designs are tuned: with no joint phase they rise in the tuning itself. No
    phase that falls rises for more than half of it.
    """
    optim, schedule = config.optim, config.schedule
    low, elastic_steps = optim.final_lr, max(1, schedule.elastic_steps)
    steps = schedule.joint_steps + schedule.tune_steps
    rising = min(optim.warmup_steps, max(schedule.joint_steps, steps // 2))
    peak = max(schedule.joint_steps, rising)
    falling = optax.cosine_decay_schedule(optim.lr, max(1, steps - peak), low)
    return Rates(
        warmup=_rising(optim.lr, optim.warmup_steps),
        elastic=warmup_cosine(
            optim.elastic_lr, min(optim.warmup_steps, elastic_steps // 2), elastic_steps, low
        ),
        candidates=optax.join_schedules([_rising(optim.lr, rising), falling], [peak]),
    )


def _rising(peak: float, steps: int) -> optax.Schedule:
    """From 0 to the peak in so many steps, and there on."""
    parts = [optax.linear_schedule(0.0, peak, steps), optax.constant_schedule(peak)]
    return optax.join_schedules(parts, [steps])
