"""Nested row-sparse subnets of a ResNet-20 on CIFAR-10: DRESS (Qu et al., CVPR-ECV 2022).

    codesign dress cifar10_resnet_dress --train.path FOLDER --validation.path FOLDER

FOLDER holds CIFAR-10 in the hub's parquet schema; left out, uoft-cs/cifar10 from the hub. Needs
the extra `codesign[data]`. 40 epochs of dense training, 20 of joint training, one of
post-training; pruned are the convolutions of the blocks, which do 98.9 % of the products. Meant
for a GPU: a joint step costs as much as four of the dense network. On CPU try
`--network.depth 8 --subnets.dense_steps 2000 --subnets.joint_steps 1000`.
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
    train=SourceConfig(path="uoft-cs/cifar10"),
    validation=SourceConfig(path="uoft-cs/cifar10", split="test"),
    network=ResNetConfig(depth=20, width=16, classes=10),
    # Of the 50,000 training images.
    pictures=PicturesConfig(size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    augment=AugmentConfig(crop_scale=(1.0, 1.0), flip=True, shift=4),
    optim=ClassifierOptimConfig(batch_size=128, lr=0.1, warmup_steps=400, weight_decay=5e-4),
    schedule=IntervalsConfig(evaluate_steps=2000, checkpoint_steps=500, log_steps=50),
    subnets=SubnetsConfig(
        sparsities=(0.5, 0.8, 0.9, 0.95),
        include=("blocks.*",),
        dense_steps=15_600,
        joint_steps=7_800,
        post_steps=390,
        joint_lr=0.02,
        post_lr=1e-3,
    ),
    threads=4,
)
