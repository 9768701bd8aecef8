"""Fine-tuning of a CLIP checkpoint on image-caption pairs of your own.

    codesign finetune clip --checkpoint openai/clip-vit-base-patch16 \
        --train.path 'shards/{00000..00099}.tar' --validation.path flickr30k/test.jsonl

Checkpoint and data are given on the command line: any format that `codesign.load_clip` reads,
pruned networks included, and any data of docs/data.md. The settings are OpenCLIP's usual ones
for fine-tuning at a batch that one GPU of 80 GB holds; with fewer gigabytes raise
--optim.micro_batches, which changes the memory but not the loss. A teacher,

    --loss.teacher CHECKPOINT --loss.features 1

is what a pruned network learns fastest from.

The same data also search the networks that can be cut out of a checkpoint, and an accelerator
for each:

    codesign search clip --checkpoint openai/clip-vit-base-patch16 \
        --train.path 'shards/{00000..00099}.tar' --validation.path flickr30k/test.jsonl

The choices of each dimension end at the checkpoint's own; of a larger network, add some with
--space.vision.width and the like. The space is that of CATransformers (arXiv 2505.01386).
"""

from codesign.scenario import Scenario
from codesign.search.objectives import Limits
from codesign.space import TowerChoices
from codesign.train import config as of_search
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

search = of_search.SearchConfig(
    space=of_search.SpaceConfig(
        vision=TowerChoices(
            layers=(6, 8, 10, 12),
            width=(384, 512, 640, 768),
            heads=(6, 8, 10, 12),
            ffn=(768, 1536, 2304, 3072),
        ),
        text=TowerChoices(
            layers=(6, 8, 10, 12),
            width=(256, 384, 512),
            heads=(4, 6, 8),
            ffn=(1024, 1536, 2048),
        ),
    ),
    model=of_search.ModelConfig(patch=16, bfloat16=True),
    scenario=Scenario(),
    limits=Limits(tops=20.0),
    # Most of the carbon is that of 1 GB of DRAM, whatever the network.
    targets=of_search.TargetConfig(designs=2, low=0.88, high=0.96, worst_accuracy=0.0),
    schedule=of_search.ScheduleConfig(
        warmup_steps=0,
        joint_steps=2000,
        tune_steps=8000,
        checkpoint_steps=500,
        order_batches=8,
        snap_candidates=16,
        snap_images=256,
    ),
    optim=of_search.OptimConfig(
        batch_size=128, lr=1e-5, warmup_steps=200, weight_decay=0.2, design_lr=0.005
    ),
    train=SourceConfig(path=""),
    augment=AugmentConfig(crop_scale=(0.9, 1.0)),
    threads=16,
)
