"""Typed configuration of a classifier's DRESS run; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from codesign.bounds import Ge, Le
from codesign.constraints import (
    LARGEST_COUNT,
    Few,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
)
from codesign.errors import UserError
from codesign.models.resnet import ResNetConfig
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.data.picture import check_augment
from codesign.train.dress.config import SubnetsConfig
from codesign.train.finetune.config import Pairs, ScheduleConfig

# Halved twice within the network, an image should not become a single position.
_LEAST_IMAGE = 5


@dataclasses.dataclass(frozen=True)
class PicturesConfig:
    """How pictures become the network's input.

    Attributes:
      size: side S, pixels; pictures are resized to it.
      mean: of every channel over the data, of pixels in [0, 1].
      std: standard deviation, likewise.
    """

    size: Annotated[int, Ge(_LEAST_IMAGE), Le(LARGEST_COUNT)] = 32
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[Positive, ...] = (0.25, 0.25, 0.25)


@dataclasses.dataclass(frozen=True)
class ClassifierLossConfig:
    """What is minimised: cross-entropy.

    Attributes:
      label_smoothing: share of a label's weight that is spread over all classes.
    """

    label_smoothing: ShareBelowOne = 0.0


@dataclasses.dataclass(frozen=True)
class ClassifierOptimConfig:
    """Optimisation.

    Attributes:
      kind: "sgd" with Nesterov's momentum of 0.9, or "adamw".
      batch_size: images a step, over all devices and processes.
      lr: peak learning rate of the first stage.
      final_lr: share of it that is left at the end of the cosine.
      warmup_steps: steps of linear warm-up.
      weight_decay: of the kernels.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    batch_size: Pairs = 128
    lr: Positive = 0.1
    final_lr: Share = 0.0
    warmup_steps: Natural = 100
    weight_decay: NonNegative = 5e-4


@dataclasses.dataclass(frozen=True)
class ClassifierDressConfig:
    """Training of a family of nested row-sparse subnets of one ResNet.

    Attributes:
      train: the data to train on; every picture has a class.
      validation: data to evaluate on; an empty path: none.
      network: the dimensions.
      pictures: what the network sees of them.
      augment: random variation of the training images.
      loss: what is minimised.
      optim: optimisation.
      schedule: intervals; its steps are not used, the stages have their own.
      subnets: the subnets and their stages. post_lr 0 only measures each subnet's BatchNorm
        statistics.
      bfloat16: compute in bfloat16; parameters and reductions stay float32.
      threads: threads that read and decode images.
      seed: of initial weights, order and augmentation.
    """

    train: SourceConfig
    validation: SourceConfig = SourceConfig(path="")
    network: ResNetConfig = ResNetConfig()
    pictures: PicturesConfig = PicturesConfig()
    augment: AugmentConfig = AugmentConfig(crop_scale=(1.0, 1.0))
    loss: ClassifierLossConfig = ClassifierLossConfig()
    optim: ClassifierOptimConfig = ClassifierOptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    subnets: SubnetsConfig = SubnetsConfig(include=("blocks.*",), joint_lr=0.02, post_lr=1e-3)
    bfloat16: bool = False
    threads: Few = 4
    seed: Seed = 0

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        subnets, pictures, channels = self.subnets, self.pictures, self.network.channels
        if subnets.dense_steps == 0:
            raise UserError("--subnets.dense_steps is 0: subnets start from a trained network")
        if not self.train.path:
            raise UserError("--train.path is empty: give the pictures to train on")
        check_augment(self.augment)
        subnets.check()
        for name, values in (("mean", pictures.mean), ("std", pictures.std)):
            if len(values) != channels:
                raise UserError(
                    f"--pictures.{name} has {len(values)} numbers, --network.channels is "
                    f"{channels}: give one number a channel"
                )
        if channels not in (1, 3):
            raise UserError(f"--network.channels is {channels}: pictures have 1 or 3")
