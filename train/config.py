"""Typed configuration of a joint search; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from codesign.architecture import Architecture, Tower
from codesign.bounds import Ge, Le
from codesign.constraints import (
    MOST_AT_ONCE,
    Count,
    Few,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
)
from codesign.errors import UserError
from codesign.renamed import accepts_old_names
from codesign.scenario import Scenario
from codesign.search.objectives import Limits, Mode
from codesign.space import JOINT_GRID, AcceleratorChoices, DesignSpace, TowerChoices
from codesign.train.data import AugmentConfig, DataConfig, SourceConfig
from codesign.train.data.picture import check_augment
from codesign.train.finetune.config import OptimConfig as ClipOptimConfig
from codesign.train.shared_config import BatchSize


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
    accelerator: AcceleratorChoices = JOINT_GRID
    sparsity: tuple[tuple[ShareBelowOne, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """The designs to find: one per target of the cost that `mode` names.

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
    designs: Few = 6
    low: Positive = 0.2
    high: Positive = 0.8
    worst_accuracy: ShareBelowOne = 0.7
    dense_designs: Annotated[int, Ge(0), Le(MOST_AT_ONCE)] = 0


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Steps of each phase.

    Attributes:
      warmup_steps: plain CLIP training of the supernet, before units are ordered.
      elastic_steps: of the supernet for all sizes at once; then it ranks every network of the
        space, and each target gets the best that it pays for. Without any, designs start as the
        whole supernet.
      joint_steps: relaxed designs and weights together; then designs snap to choices.
      tune_steps: training of the chosen networks under hard gates.
      chunk_steps: steps per compiled call; progress is shown and Ctrl-C heard between.
      checkpoint_steps: steps between checkpoints, rounded up to whole chunks.
      order_batches: batches the importance of units is measured on.
      snap_candidates: roundings of each design that are compared by their loss.
      snap_images: training images they are compared on.
      snap_steps: where rounding costs most of what a candidate has learnt, training of each
        rounding before they are compared; 0: they are compared as they are.
      proxy_images: validation images that networks are ranked on.
    """

    warmup_steps: Natural = 700
    elastic_steps: Natural = 0
    joint_steps: Natural = 300
    tune_steps: Natural = 300
    chunk_steps: Count = 20
    checkpoint_steps: Count = 100
    order_batches: Count = 16
    snap_candidates: Count = 32
    snap_images: Count = 512
    snap_steps: Natural = 60
    proxy_images: Count = 512


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class OptimConfig(ClipOptimConfig):
    """Optimisation, of each network's weights as in fine-tuning, and of designs.

    Attributes:
      elastic_lr: peak of the elastic phase, from which it falls along a cosine.
      warmup_steps: steps of linear warm-up, at the start of each phase but the last; of that too
        where no joint phase as long comes before it, then at most half of both.
      ema: 0: candidates have no moving average.
      design_lr: learning rate of the relaxed design (Adam on the unit cube, projected).
      cost_weight: weight of the log cost itself, so that hardware stays lean where no
        constraint asks for it.
      stiffness: weight of squared excess over target and limits.
      multiplier_rate: share of the excess added to the multipliers each step.
      distillation: weight of the supernet's soft contrastive targets in the others' loss.
      subnet_balance: of a subnet's weight in its family's loss, the part that is equal for
        all; the rest is its share of use. At 0 a subnet that is used little is trained little.
    """

    batch_size: BatchSize = 64
    lr: Positive = 4e-3
    elastic_lr: Positive = 2e-3
    warmup_steps: Natural = 50
    weight_decay: NonNegative = 0.0
    beta2: ShareBelowOne = 0.999
    epsilon: Positive = 1e-8
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
      data: what is trained and measured on, by its name; or else train and validation.
      model: fixed dimensions of the CLIP.
      scenario: how designs are made and used.
      limits: what every design must meet.
      targets: the designs to find.
      schedule: steps of each phase.
      optim: optimisation.
      seed: of initial weights and batches.
      train: pictures with captions or classes to train on, in place of data.
      validation: those to measure on, beside train.
      test: those to measure the accuracies of the report on; an empty path: validation's.
      checkpoint: the supernet: a file, folder or hub name in any format, pruned or not, whose
        dimensions end the choices of the space; left out, an untrained one.
      tokenizer: folder or hub name of the tokenizer; left out, the checkpoint's own, or for an
        untrained network the words of the training captions.
      image: side of the images, pixels, where it is not the data's or the checkpoint's.
      augment: random variation of the images of train.
      threads: threads that read and decode images.
      stall_s: seconds without a new training picture after which a line names what is being read;
        after twice as long the run is saved and ends. 0: it waits for ever.
      fsdp: devices over which weights and optimizers, of the supernet and of every candidate, are
        split, for memory; batches are split over all devices whatever it is.
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
    train: SourceConfig = SourceConfig(path="")
    validation: SourceConfig = SourceConfig(path="")
    test: SourceConfig = SourceConfig(path="")
    checkpoint: str | None = None
    tokenizer: str | None = None
    image: Count | None = None
    augment: AugmentConfig = AugmentConfig()
    threads: Few = 4
    stall_s: NonNegative = 300.0
    fsdp: Few = 1

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        self.optim.check()
        if self.optim.ema:
            raise UserError("--optim.ema: a search keeps no moving average of weights; 0")
        check_augment(self.augment)
        if self.train.path and not self.validation.path:
            raise UserError("--train.path is given without --validation.path: designs are measured")
        for name in ("validation", "test"):
            if getattr(self, name).path and not self.train.path:
                raise UserError(f"--{name}.path is given without --train.path")
        if self.train.path and self.checkpoint is None and self.image is None:
            raise UserError(
                "--train.path is given without --checkpoint: give --image, the side of the images "
                "that an untrained network reads"
            )
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
