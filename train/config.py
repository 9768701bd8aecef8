"""Typed configuration of a joint search; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses

from codesign.architecture import Architecture, Tower
from codesign.scenario import Scenario
from codesign.search.objectives import Limits, Mode
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices
from codesign.train.data import DataConfig


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

    patch: int = 16
    projection: int = 512
    head_dim: int = 64
    activation: str = "gelu"
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
    sparsity: tuple[tuple[float, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """The family of designs to find: one per target of the cost that `mode` names.

    Attributes:
      mode: the cost to make small: carbon, latency or energy.
      designs: how many; targets are spaced evenly in the logarithm.
      low: least target, as a share of the supernet's cost on its best accelerator.
      high: largest target, as such a share.
      worst_accuracy: accuracy of the hypervolume's reference point.
      dense_designs: beside families of subnets, dense networks searched the same way at
        targets spread alike; they count as references.
    """

    mode: Mode = "carbon"
    designs: int = 6
    low: float = 0.2
    high: float = 0.8
    worst_accuracy: float = 0.7
    dense_designs: int = 0


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

    warmup_steps: int = 700
    joint_steps: int = 300
    tune_steps: int = 300
    chunk_steps: int = 20
    checkpoint_steps: int = 100
    order_batches: int = 16
    snap_candidates: int = 32
    snap_images: int = 512


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

    batch_size: int = 64
    lr: float = 4e-3
    lr_warmup_steps: int = 50
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    design_lr: float = 0.02
    cost_weight: float = 0.02
    stiffness: float = 2.0
    multiplier_rate: float = 0.05
    distillation: float = 1.0
    subnet_balance: float = 0.5


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
    seed: int = 0

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
