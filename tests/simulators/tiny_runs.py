"""Configs of runs that take seconds, one of every kind, for tests that start processes."""

DIGITS = """
import dataclasses
from codesign.architecture import Architecture, Tower
from codesign.models.resnet import ResNetConfig
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.dress.classifier_config import (
    ClassifierDressConfig, ClassifierOptimConfig, PicturesConfig,
)
from codesign.train.dress.config import DressConfig, SubnetsConfig
from codesign.train.finetune.config import FinetuneConfig, OptimConfig, ScheduleConfig

shared = dict(
    train=SourceConfig(path="digits"),
    augment=AugmentConfig(crop_scale=(1.0, 1.0), shift=1),
    schedule=ScheduleConfig(steps=6, evaluate_steps=0, checkpoint_steps=2, log_steps=2),
    threads=1,
)
clip = dict(
    untrained=Architecture(
        vision=Tower(layers=2, width=16, heads=2, ffn=32),
        text=Tower(layers=1, width=16, heads=2, ffn=32),
        patch=4, image=8, channels=1, context=12, projection=16, head_dim=8,
    ),
    optim=OptimConfig(batch_size=16, lr=3e-3, warmup_steps=1),
)
subnets = SubnetsConfig(sparsities=(0.5, 0.8), dense_steps=4, joint_steps=4, post_steps=4)
"""
SEARCH = """
import dataclasses
from codesign.configs.quickstart import config as quickstart
from codesign.space import AcceleratorChoices, TowerChoices
from codesign.train.config import ScheduleConfig, SpaceConfig, TargetConfig

tower = TowerChoices(layers=(1, 2), width=(8, 16), heads=(1, 2), ffn=(16, 32))
chip = AcceleratorChoices(
    cores=(1,), pe_x=(4, 8), pe_y=(2, 4), l2_kib=(4, 8), l2_bytes_per_cycle=(8,),
    glb_mib=(1 / 64, 1 / 32),
)
config = dataclasses.replace(
    quickstart,
    space=SpaceConfig(vision=tower, text=tower, accelerator=chip),
    targets=TargetConfig(designs=2, low=0.75, high=0.9),
    schedule=ScheduleConfig(
        warmup_steps=5, elastic_steps=5, joint_steps=5, tune_steps=5, chunk_steps=2,
        checkpoint_steps=2, order_batches=2, snap_candidates=4, snap_images=64,
    ),
    optim=dataclasses.replace(quickstart.optim, batch_size=16, warmup_steps=1),
)
"""
RESNET = """
config = ClassifierDressConfig(
    **shared, network=ResNetConfig(depth=8, width=2, channels=1),
    pictures=PicturesConfig(size=8, mean=(0.3,), std=(0.4,)),
    optim=ClassifierOptimConfig(batch_size=16, warmup_steps=1),
    subnets=dataclasses.replace(subnets, include=("blocks.2.*",)),
)
"""
# Command, config, and how often each step is compiled by a whole run: the warm-up of a search is
# of one network, its elastic phase of one at several sizes, its joint phase of a population, its
# tuning of as many frames as pay, here one. Its phases end with half a chunk.
RUNS = {
    "search": (
        "search",
        SEARCH,
        {"warmup_chunk": 1, "elastic_chunk": 1, "population_chunk": 1, "tune_chunk": 1},
    ),
    "finetune": (
        "finetune",
        DIGITS + "config = FinetuneConfig(**shared, **clip)",
        {"train_step": 1},
    ),
    "ema": (
        "finetune",
        DIGITS
        + "config = FinetuneConfig(**shared, **clip)\n"
        + "config = dataclasses.replace(config, lock='text', "
        + "optim=dataclasses.replace(config.optim, ema=0.9, micro_batches=2))",
        {"train_step": 1},
    ),
    "dress": (
        "dress",
        DIGITS + "config = DressConfig(**shared, **clip, subnets=subnets)",
        {"train_step": 1, "joint_step": 1, "post_step": 1, "masks": 1},
    ),
    "resnet": (
        "dress",
        DIGITS + RESNET,
        {"train_step": 1, "joint_step": 1, "post_step": 1},
    ),
}
