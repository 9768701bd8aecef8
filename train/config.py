"""Typed configuration of a joint search; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from codesign.architecture import Architecture, Tower
from codesign.constraints import (
    Count,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
)
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.search.objectives import Limits, Mode
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices
from codesign.train.data import DataConfig
from codesign.train.finetune.config import Pairs


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The dimensions of the CLIP that are not searched.

    Attributes:
      patch: side of an image patch, pixels.
      projection: width of the joint embedding.
      head_dim: channels per attention head.
      activation: "gelu" or "quick_gelu".
      bfloat16: compute in bfloat16; parameters and reductions stay float32.
    """

    patch: Count = 16
    projection: Count = 512
    head_dim: Count = 64
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    bfloat16: bool = False


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """Choices of every searched dimension, each strictly increasing.

    Attributes:
      vision: choices of the image tower.
      text: choices of the text tower.
      accelerator: choices of the accelerator.
      sparsity: of each DRESS subnet, the densest first, choices of its share of zeros in the
        blocks' weights, all below those of the next; empty: dense networks. The scenario's
        subnet_shares tell how much each is used.
    """

    vision: TowerChoices
    text: TowerChoices
    accelerator: AcceleratorChoices = AcceleratorChoices()
    sparsity: tuple[tuple[ShareBelowOne, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """The family of designs to find: one per target of the cost that `mode` names.

    Attributes:
      mode: the cost to make small: "carbon", "latency", "energy", "area", "edp",
        "carbon-delay", ..., a product of powers of these, or a function of Costs; see
        codesign.search.objectives.
      designs: how many; targets are spaced evenly in the logarithm.
      low: least target, as a share of the supernet's cost on its best accelerator.
      high: largest target, as such a share.
      worst_accuracy: accuracy of the hypervolume's reference point.
      dense_designs: beside families of subnets, dense networks searched the same way at
        targets spread alike; they count as references.
    """

    mode: Mode = "carbon"
    designs: Count = 6
    low: Positive = 0.2
    high: Positive = 0.8
    worst_accuracy: ShareBelowOne = 0.7
    dense_designs: Natural = 0


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Steps of each phase.

    Attributes:
      warmup_steps: plain CLIP training of the supernet, before units are ordered.
      joint_steps: relaxed designs and weights together; then designs snap to choices.
      tune_steps: training of the chosen networks under hard gates.
      chunk_steps: steps per compiled call; progress is shown and Ctrl-C heard between.
      checkpoint_steps: steps between checkpoints, rounded up to whole chunks.
      order_batches: batches the importance of units is measured on.
      snap_candidates: roundings of each design that are compared by their loss.
      snap_images: training images they are compared on.
    """

    warmup_steps: Natural = 700
    joint_steps: Natural = 300
    tune_steps: Natural = 300
    chunk_steps: Count = 20
    checkpoint_steps: Count = 100
    order_batches: Count = 16
    snap_candidates: Count = 32
    snap_images: Count = 512


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimisation.

    Attributes:
      batch_size: image-caption pairs a step.
      lr: peak learning rate of the weights (Adam).
      lr_warmup_steps: linear warm-up at the start of the first two phases.
      weight_decay: decoupled, on matrices only.
      clip_norm: largest gradient norm of one network.
      design_lr: learning rate of the relaxed design (Adam on the unit cube, projected).
      cost_weight: weight of the log cost itself, so that hardware stays lean where no
        constraint asks for it.
      stiffness: weight of squared excess over target and limits.
      multiplier_rate: share of the excess added to the multipliers each step.
      distillation: weight of the supernet's soft contrastive targets in the others' loss.
      subnet_balance: of a subnet's weight in its family's loss, the part that is equal for
        all; the rest is its share of use. At 0 a subnet that is used little is trained little.
    """

    batch_size: Pairs = 64
    lr: Positive = 4e-3
    lr_warmup_steps: Natural = 50
    weight_decay: NonNegative = 0.0
    clip_norm: Positive = 1.0
    design_lr: NonNegative = 0.02
    cost_weight: NonNegative = 0.02
    stiffness: NonNegative = 2.0
    multiplier_rate: NonNegative = 0.05
    distillation: NonNegative = 1.0
    subnet_balance: Share = 0.5


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """A joint search of CLIP and accelerator.

    Attributes:
      space: what may be chosen.
      data: what is trained and measured on.
      model: fixed dimensions of the CLIP.
      scenario: how designs are made and used.
      limits: what every design must meet.
      targets: the family to find.
      schedule: steps of each phase.
      optim: optimisation.
      seed: of initial weights and batches.
    """

    space: SpaceConfig
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    scenario: Scenario = Scenario()
    limits: Limits = Limits()
    targets: TargetConfig = TargetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optim: OptimConfig = OptimConfig()
    seed: Seed = 0

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        targets, shares = self.targets, self.scenario.subnet_shares
        if targets.low > targets.high:
            raise UserError(
                f"--targets.low {targets.low:g} is above --targets.high {targets.high:g}"
            )
        subnets = len(self.space.sparsity)
        if subnets and shares is not None and len(shares) != subnets:
            raise UserError(
                f"--scenario.subnet_shares has {len(shares)} shares for the {subnets} subnets of "
                "--space.sparsity; give one for each"
            )
        try:  # of an image of one patch, as long as the data are not open
            self.design_space(image=self.model.patch, channels=1, context=2, vocab=1)
        except ValueError as error:
            raise UserError(f"--{error}") from None

    def design_space(self, *, image: int, channels: int, context: int, vocab: int) -> DesignSpace:
        """The space, given what only the data know.

        Raises:
          ValueError: choices that are no increasing positive numbers, or patches that do
            not tile the image.
        """
        if image % self.model.patch:
            raise ValueError(f"model.patch {self.model.patch} does not divide the image's {image}")
        nothing = Tower(0, 0, 0, 0)
        base = Architecture(
            vision=nothing,
            text=nothing,
            patch=self.model.patch,
            image=image,
            channels=channels,
            context=context,
            projection=self.model.projection,
            head_dim=self.model.head_dim,
            vocab=vocab,
            activation=self.model.activation,
        )
        return DesignSpace(
            base=base,
            vision=self.space.vision,
            text=self.space.text,
            accelerator=self.space.accelerator,
            sparsity=self.space.sparsity,
        )
