"""A small CLIP on captions of CIFAR-10 from nothing, and what is fine-tuned after pruning it.

    codesign finetune cifar10_clip --train.path FOLDER --validation.path FOLDER

FOLDER holds CIFAR-10 in the hub's parquet schema; left out, uoft-cs/cifar10 from the hub. Needs
the extra `codesign[data]`. 2,000 steps are five epochs; patches of 8 make 17 tokens, which two
CPU cores train in some ten minutes. `benchmarks/finetune_cifar10.py` goes on from here.
"""

from codesign.architecture import Architecture, Tower
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.finetune.config import FinetuneConfig, OptimConfig, ScheduleConfig

config = FinetuneConfig(
    train=SourceConfig(path="uoft-cs/cifar10", templates="cifar"),
    validation=SourceConfig(path="uoft-cs/cifar10", split="test", templates="cifar", limit=2000),
    untrained=Architecture(
        vision=Tower(layers=6, width=128, heads=4, ffn=512),
        text=Tower(layers=2, width=64, heads=2, ffn=128),
        patch=8,
        image=32,
        context=16,
        projection=64,
        head_dim=32,
    ),
    augment=AugmentConfig(crop_scale=(1.0, 1.0), flip=True, shift=4),
    optim=OptimConfig(batch_size=128, lr=1e-3, warmup_steps=150, weight_decay=0.05),
    schedule=ScheduleConfig(steps=2000, evaluate_steps=500, checkpoint_steps=250),
    threads=2,
)
