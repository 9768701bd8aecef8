"""Which weights decay, and the optimizer of CLIP training."""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import nnx

from codesign.train.finetune.config import OptimConfig


def decayed(params: nnx.State) -> Any:
    """True for the matrices and tables, which weight decay shrinks, as in OpenCLIP's training.

    Biases, norms, the class token and the scale of the logits are free of it. A bias of
    attention is stored by head and channel, so the rank alone does not tell: its name does.

    Args:
      params: a CLIP's `Param` state; L, the axis of stacked layers, does not count.

    Returns:
      A tree of bools with one leaf for each variable of `params`.
    """

    def decays(path: tuple[Any, ...], variable: nnx.Variable) -> bool:
        name = str(path[-1].key)
        return len(variable.axes.replace("L", "")) >= 2 and not name.endswith("_bias")

    return jax.tree_util.tree_map_with_path(
        decays, params, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )


def clipped_adamw(
    optim: OptimConfig, rate: optax.Schedule, decays: Any
) -> optax.GradientTransformation:
    """AdamW of gradients of limited norm.

    Args:
      optim: its constants.
      rate: the learning rate.
      decays: tree of bools: what decays.
    """
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.adamw(
            rate, b2=optim.beta2, eps=optim.epsilon, weight_decay=optim.weight_decay, mask=decays
        ),
    )


def warmup_cosine(peak: float, warmup_steps: int, steps: int, final_share: float) -> optax.Schedule:
    """Linear rise to `peak`, then half a cosine down to `final_share` of it at `steps`."""
    if warmup_steps == 0:
        return optax.cosine_decay_schedule(peak, max(1, steps), final_share)
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    fall = optax.cosine_decay_schedule(peak, max(1, steps - warmup_steps), final_share)
    return optax.join_schedules([rise, fall], [warmup_steps])
