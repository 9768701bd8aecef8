"""Typed configuration of a DRESS run; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses

from codesign.dress.budgets import Budget
from codesign.dress.masks import checked_sparsities
from codesign.errors import UserError
from codesign.models.subnets import BLOCK_KERNELS
from codesign.train.finetune.config import FinetuneConfig
from codesign.train.finetune.config import check as check_finetune


@dataclasses.dataclass(frozen=True)
class SubnetsConfig:
    """The subnets, and the three stages of their training.

    Attributes:
      sparsities: share of zeros in the pruned kernels, one per subnet, increasing.
      gamma: of the loss weights pi_k, proportional to (1 - sparsity)^gamma: 0 weighs all subnets
        alike, more the dense ones more.
      budget: weights per row by one "global" ranking of all layers, or "uniform".
      floor: weights that every row keeps.
      refresh_steps: joint steps between new masks.
      dense_member: train the dense network as one more member of the family.
      in_place: weight of the divergence from the densest member's distribution in the others'
        loss; beyond the paper.
      include: shell patterns of the kernels to prune.
      exclude: of those to leave out of them.
      vmapped: all subnets at once instead of one after another: more memory.
      dense_steps: steps of the first stage, plain training.
      joint_steps: of the second, all subnets in each step.
      post_steps: of the third, each subnet's own LayerNorm scales and biases.
      joint_lr: peak learning rate of the second stage; its warm-up is optim.warmup_steps.
      post_lr: of the third.
    """

    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9)
    gamma: float = 1.0
    budget: Budget = "global"
    floor: int = 1
    refresh_steps: int = 10
    dense_member: bool = False
    in_place: float = 0.0
    include: tuple[str, ...] = BLOCK_KERNELS
    exclude: tuple[str, ...] = ()
    vmapped: bool = False
    dense_steps: int = 0
    joint_steps: int = 1000
    post_steps: int = 100
    joint_lr: float = 1e-5
    post_lr: float = 1e-4


@dataclasses.dataclass(frozen=True)
class DressConfig(FinetuneConfig):
    """Training of a family of nested row-sparse subnets of one CLIP.

    Attributes:
      subnets: the subnets and their stages; schedule.steps is not used, optim.lr is of the
        first stage.
    """

    subnets: SubnetsConfig = SubnetsConfig()


def staged(config: DressConfig, steps: int, lr: float) -> DressConfig:
    """The config of a stage: its steps, its rate, a warm-up that fits into it."""
    return dataclasses.replace(
        config,
        schedule=dataclasses.replace(config.schedule, steps=max(1, steps)),
        optim=dataclasses.replace(
            config.optim, lr=lr, warmup_steps=min(config.optim.warmup_steps, steps // 2)
        ),
    )


def check(config: DressConfig) -> None:
    """Refuses values that no data could make sense of.

    Raises:
      UserError: the first such value, and the mend.
    """
    subnets = config.subnets
    check_finetune(staged(config, subnets.dense_steps, config.optim.lr))
    try:
        checked_sparsities(subnets.sparsities)
    except ValueError as error:
        raise UserError(f"--subnets.sparsities: {error}") from None
    at_least = {
        "floor": (subnets.floor, 1),
        "refresh_steps": (subnets.refresh_steps, 1),
        "dense_steps": (subnets.dense_steps, 0),
        "joint_steps": (subnets.joint_steps, 1),
        "post_steps": (subnets.post_steps, 0),
        "gamma": (subnets.gamma, 0),
        "in_place": (subnets.in_place, 0),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"--subnets.{name} is {value}: it must be at least {least}")
    for name, rate in (("joint_lr", subnets.joint_lr), ("post_lr", subnets.post_lr)):
        if rate <= 0:
            raise UserError(f"--subnets.{name} is {rate}: it must be above 0")
    if config.lock != "none":
        raise UserError(
            f"--lock {config.lock}: subnets change both towers; leave a tower dense with "
            f"--subnets.exclude '[{config.lock}.*]'"
        )
    if config.optim.ema:
        raise UserError("--optim.ema: an average of weights under moving masks is no subnet's; 0")
    if config.checkpoint is None and subnets.dense_steps == 0:
        raise UserError(
            "--subnets.dense_steps is 0 and there is no --checkpoint: subnets start from a "
            "trained network"
        )
