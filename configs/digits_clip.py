"""A CLIP that reads handwritten digits, trained from nothing on embedded data: a minute on a CPU.

    codesign finetune digits_clip
    codesign eval runs/digits_clip/clip --data digits

Shows every part of `codesign finetune` without a download; scikit-learn's 1,797 scans.
"""

from codesign.architecture import Architecture, Tower
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.finetune.config import FinetuneConfig, OptimConfig, ScheduleConfig

config = FinetuneConfig(
    train=SourceConfig(path="digits"),
    validation=SourceConfig(path="digits", split="validation"),
    untrained=Architecture(
        vision=Tower(layers=4, width=48, heads=4, ffn=128),
        text=Tower(layers=2, width=32, heads=2, ffn=64),
        patch=2,
        image=8,
        channels=1,
        context=12,
        projection=32,
        head_dim=12,
    ),
    augment=AugmentConfig(crop_scale=(1.0, 1.0), shift=1),
    optim=OptimConfig(batch_size=64, lr=4e-3, warmup_steps=50, weight_decay=0.0),
    schedule=ScheduleConfig(steps=700, evaluate_steps=100, checkpoint_steps=100, log_steps=20),
    threads=1,
)
