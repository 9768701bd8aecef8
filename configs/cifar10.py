"""Joint search of a CIFAR-10 CLIP and an accelerator.

Data: CIFAR-10 in the hub's parquet schema, by default uoft-cs/cifar10 from the hub, with
`--data.path FOLDER` from a folder of parquet files. Images of 32 x 32 in patches of 4
make 65 tokens. The scenario is a camera that looks 30 times a second, day and night, with a
die of HyperRAM stacked in the chip's package.

    codesign search cifar10 --data.path FOLDER

is meant for a GPU. On two CPU cores, `--schedule.warmup_steps 200
--schedule.joint_steps 80 --schedule.tune_steps 80 --data.train_limit 5000` shows that it
runs, not what it reaches.
"""

from codesign.scenario import Scenario
from codesign.search.objectives import Limits
from codesign.space import TowerChoices
from codesign.train.config import (
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    SearchConfig,
    SpaceConfig,
    TargetConfig,
)
from codesign.train.data import DataConfig

config = SearchConfig(
    data=DataConfig(name="cifar10", context=12),
    model=ModelConfig(patch=4, projection=128, head_dim=32),
    space=SpaceConfig(
        vision=TowerChoices(
            layers=(2, 3, 4, 5, 6),
            width=(64, 96, 128, 160, 192),
            heads=(1, 2, 3, 4, 5, 6),
            ffn=(128, 256, 384, 512, 640, 768),
        ),
        text=TowerChoices(
            layers=(1, 2, 3),
            width=(32, 64, 96, 128),
            heads=(1, 2, 3, 4),
            ffn=(64, 128, 192, 256),
        ),
    ),
    scenario=Scenario(
        dram_technology="hyperram",
        dram_system_gb=0.0,
        dram_package_g=0.0,
        inferences_per_s=30.0,
        hours_per_day=24.0,
    ),
    limits=Limits(latency_s=5e-3, area_mm2=32.0, tops=20.48),
    targets=TargetConfig(designs=6, low=0.3, high=0.8, worst_accuracy=0.4),
    schedule=ScheduleConfig(
        warmup_steps=6000, joint_steps=3000, tune_steps=6000, checkpoint_steps=500
    ),
    optim=OptimConfig(
        batch_size=256, lr=1e-3, warmup_steps=300, weight_decay=0.05, design_lr=0.005
    ),
)
