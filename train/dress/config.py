"""Typed configuration of a DRESS run; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses

from codesign.constraints import Count, Natural, NonNegative, Positive
from codesign.dress.budgets import Budget
from codesign.dress.masks import checked_sparsities
from codesign.errors import UserError
from codesign.models.subnets import BLOCK_KERNELS
from codesign.renamed import accepts_old_names
from codesign.train.finetune.config import ClipTrainingConfig
from codesign.train.shared_config import IntervalsConfig, TrainingConfig


@accepts_old_names
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
      train_dense: train the dense network as well in each joint step.
      in_place: weight of the divergence from the densest one's distribution in the others'
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
    gamma: NonNegative = 1.0
    budget: Budget = "global"
    floor: Count = 1
    refresh_steps: Count = 10
    train_dense: bool = False
    in_place: NonNegative = 0.0
    include: tuple[str, ...] = BLOCK_KERNELS
    exclude: tuple[str, ...] = ()
    vmapped: bool = False
    dense_steps: Natural = 0
    joint_steps: Count = 1000
    post_steps: Natural = 100
    joint_lr: Positive = 1e-5
    post_lr: NonNegative = 1e-4

    def check(self) -> None:
        """Refuses sparsities that are none.

        Raises:
          UserError: sparsities out of range or order.
        """
        try:
            checked_sparsities(self.sparsities)
        except ValueError as error:
            raise UserError(f"--subnets.sparsities: {error}") from None


@dataclasses.dataclass(frozen=True)
class SubnetTrainingConfig(TrainingConfig):
    """Training of nested row-sparse subnets of any network.

    Attributes:
      schedule: how often the run is looked at; its steps are those of the stages.
      subnets: the subnets and their stages.
    """

    schedule: IntervalsConfig = IntervalsConfig()
    subnets: SubnetsConfig = SubnetsConfig()

    def __post_init__(self) -> None:
        """Keeps the intervals alone of a fine-tuning's schedule, whose steps nothing would read."""
        if type(self.schedule) is not IntervalsConfig:
            names = [field.name for field in dataclasses.fields(IntervalsConfig)]
            intervals = IntervalsConfig(**{name: getattr(self.schedule, name) for name in names})
            object.__setattr__(self, "schedule", intervals)

    def check(self) -> None:
        """See `TrainingConfig.check`."""
        super().check()
        self.subnets.check()


@dataclasses.dataclass(frozen=True)
class DressConfig(ClipTrainingConfig, SubnetTrainingConfig):
    """Training of nested row-sparse subnets of one CLIP; optim.lr is the first stage's."""

    def check(self) -> None:
        """See `TrainingConfig.check`."""
        super().check()
        subnets = self.subnets
        if subnets.post_lr == 0:
            raise UserError(
                "--subnets.post_lr is 0.0: it must be above 0; a CLIP has no statistics to measure"
            )
        if self.lock != "none":
            raise UserError(
                f"--lock {self.lock}: subnets change both towers; leave a tower dense with "
                f"--subnets.exclude '[{self.lock}.*]'"
            )
        if self.optim.ema:
            raise UserError(
                "--optim.ema: an average of weights under moving masks is no subnet's; 0"
            )
        if self.checkpoint is None and subnets.dense_steps == 0:
            raise UserError(
                "--subnets.dense_steps is 0 and there is no --checkpoint: subnets start from a "
                "trained network"
            )
