"""Nested row-sparse subnets of a ResNet that reads digits, on embedded data: minutes on a CPU.

    codesign dress digits_resnet_dress
    codesign eval runs/digits_resnet_dress/family --subnet 2 --data digits

DRESS's three stages (Qu et al., 2022); pruned are the convolutions of the blocks.
"""

from codesign.models.resnet import ResNetConfig
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.dress.classifier_config import (
    ClassifierDressConfig,
    ClassifierOptimConfig,
    PicturesConfig,
)
from codesign.train.dress.config import SubnetsConfig
from codesign.train.shared_config import IntervalsConfig

config = ClassifierDressConfig(
    train=SourceConfig(path="digits"),
    validation=SourceConfig(path="digits", split="validation"),
    network=ResNetConfig(depth=8, width=16, classes=10, channels=1),
    pictures=PicturesConfig(size=8, mean=(0.3053,), std=(0.3760,)),
    augment=AugmentConfig(crop_scale=(1.0, 1.0), shift=1),
    optim=ClassifierOptimConfig(batch_size=64, lr=0.05, warmup_steps=40),
    schedule=IntervalsConfig(evaluate_steps=200, checkpoint_steps=100, log_steps=20),
    subnets=SubnetsConfig(
        sparsities=(0.5, 0.8, 0.9),
        include=("blocks.*",),
        dense_steps=400,
        joint_steps=300,
        post_steps=50,
        joint_lr=0.02,
        post_lr=1e-3,
    ),
    threads=2,
)
