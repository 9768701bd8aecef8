"""Nested row-sparse subnets of a CLIP that reads digits, on embedded data: minutes on a CPU.

    codesign dress digits_dress
    codesign eval runs/digits_dress/family --subnet 2 --data digits
    codesign convert runs/digits_dress/family OUT --subnet 2 --to openclip

The network and data of configs/digits_clip.py, then DRESS's three stages (Qu et al., 2022).
"""

import dataclasses

from codesign.configs.digits_clip import config as dense
from codesign.train.dress.config import DressConfig, SubnetsConfig

config = DressConfig(
    **{field.name: getattr(dense, field.name) for field in dataclasses.fields(dense)},
    subnets=SubnetsConfig(
        sparsities=(0.5, 0.8, 0.9),
        dense_steps=500,
        joint_steps=400,
        post_steps=100,
        joint_lr=2e-3,
        post_lr=2e-3,
    ),
)
