"""Typed configuration of a classifier's DRESS run; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from codesign.bounds import Ge, Le
from codesign.constraints import LARGEST_COUNT, NonNegative, Positive, ShareBelowOne
from codesign.errors import UserError
from codesign.models.resnet import ResNetConfig
from codesign.train.data import AugmentConfig
from codesign.train.dress.config import SubnetsConfig, SubnetTrainingConfig
from codesign.train.shared_config import BatchSize, TrainingOptimConfig

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
class ClassifierOptimConfig(TrainingOptimConfig):
    """Optimisation of a classifier.

    Attributes:
      batch_size: images a step, over all devices and processes.
      lr: peak learning rate of the first stage.
      weight_decay: of the kernels.
      kind: "sgd" with Nesterov's momentum of 0.9, or "adamw".
    """

    batch_size: BatchSize = 128
    lr: Positive = 0.1
    weight_decay: NonNegative = 5e-4
    kind: Literal["sgd", "adamw"] = "sgd"


@dataclasses.dataclass(frozen=True)
class ClassifierDressConfig(SubnetTrainingConfig):
    """Training of nested row-sparse subnets of one ResNet.

    Attributes:
      train: the data to train on; every picture has a class.
      network: the dimensions.
      pictures: what the network sees of them.
      loss: what is minimised.
      optim: optimisation.
      subnets: the subnets and their stages. post_lr 0 only measures each subnet's BatchNorm
        statistics.
    """

    augment: AugmentConfig = AugmentConfig(crop_scale=(1.0, 1.0))
    subnets: SubnetsConfig = SubnetsConfig(include=("blocks.*",), joint_lr=0.02, post_lr=1e-3)
    network: ResNetConfig = ResNetConfig()
    pictures: PicturesConfig = PicturesConfig()
    loss: ClassifierLossConfig = ClassifierLossConfig()
    optim: ClassifierOptimConfig = ClassifierOptimConfig()

    def check(self) -> None:
        """See `TrainingConfig.check`."""
        super().check()
        pictures, channels = self.pictures, self.network.channels
        if self.subnets.dense_steps == 0:
            raise UserError("--subnets.dense_steps is 0: subnets start from a trained network")
        for name, values in (("mean", pictures.mean), ("std", pictures.std)):
            if len(values) != channels:
                raise UserError(
                    f"--pictures.{name} has {len(values)} numbers, --network.channels is "
                    f"{channels}: give one number a channel"
                )
        if channels not in (1, 3):
            raise UserError(f"--network.channels is {channels}: pictures have 1 or 3")
