"""Fine-tuning of a CLIP checkpoint on image-caption pairs of your own.

    codesign finetune clip --checkpoint openai/clip-vit-base-patch16 \
        --train.path 'shards/{00000..00099}.tar' --validation.path flickr30k/test.jsonl

Checkpoint and data are given on the command line: any format that `codesign.load_clip` reads,
pruned networks included, and any data of docs/data.md. The settings are OpenCLIP's usual ones
for fine-tuning at a batch that one GPU of 80 GB holds; with fewer gigabytes raise
--optim.micro_batches, which changes the memory but not the loss. A teacher,

    --loss.teacher CHECKPOINT --loss.features 1

is what a pruned network learns fastest from.
"""

from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.finetune.config import FinetuneConfig, OptimConfig, ScheduleConfig

config = FinetuneConfig(
    train=SourceConfig(path=""),
    augment=AugmentConfig(crop_scale=(0.9, 1.0)),
    optim=OptimConfig(batch_size=512, lr=1e-5, warmup_steps=500, weight_decay=0.2),
    schedule=ScheduleConfig(steps=10_000, evaluate_steps=1000, checkpoint_steps=500),
    bfloat16=True,
    threads=16,
)
