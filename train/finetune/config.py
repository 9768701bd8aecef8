"""Typed configuration of a fine-tuning run; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from codesign.architecture import Architecture, clip_vit_b16
from codesign.errors import UserError
from codesign.train.data import AugmentConfig, SourceConfig


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is minimised: contrastive x its loss + distillation x KL + features x distance.

    Attributes:
      kind: "softmax", CLIP's InfoNCE over the global batch, or "sigmoid", SigLIP's, in which
        every pair is judged alone.
      same_label: where the data have labels, pairs of one label are positive too; otherwise
        captions of one class would be pushed away from each other's images.
      contrastive: weight of the contrastive loss.
      teacher: checkpoint to learn from, of any format; left out, none.
      distillation: weight of the divergence from the teacher's distribution over the batch.
      features: weight of the squared distance to the teacher's embeddings, which then must have
        the same width.
    """

    kind: Literal["softmax", "sigmoid"] = "softmax"
    same_label: bool = True
    contrastive: float = 1.0
    teacher: str | None = None
    distillation: float = 1.0
    features: float = 0.0


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimisation.

    Attributes:
      batch_size: image-caption pairs a step, over all devices and processes.
      micro_batches: parts the batch goes through the towers in, to save memory; the loss and
        its gradient remain those of the whole batch.
      lr: peak learning rate of AdamW.
      final_lr: share of it that is left at the end of the cosine.
      warmup_steps: steps of linear warm-up.
      weight_decay: decoupled, on matrices and tables only.
      beta2: decay of the second moment.
      epsilon: of AdamW.
      clip_norm: largest gradient norm.
      ema: decay of a moving average of the weights, which is then what is evaluated and
        saved; 0: none.
    """

    batch_size: int = 256
    micro_batches: int = 1
    lr: float = 1e-5
    final_lr: float = 0.0
    warmup_steps: int = 100
    weight_decay: float = 0.1
    beta2: float = 0.98
    epsilon: float = 1e-6
    clip_norm: float = 1.0
    ema: float = 0.0


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Steps.

    Attributes:
      steps: training steps.
      evaluate_steps: steps between evaluations on the validation data; 0: only at the end.
      checkpoint_steps: steps between checkpoints.
      log_steps: steps between looks at the metrics; all are written, one line a step.
    """

    steps: int = 1000
    evaluate_steps: int = 200
    checkpoint_steps: int = 200
    log_steps: int = 10


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Training of one CLIP on captioned images.

    Attributes:
      train: the data to train on.
      checkpoint: where to start: a file, folder or hub name in any format, pruned or not;
        left out, an untrained network.
      untrained: its dimensions, where there is no checkpoint; the vocabulary is the tokenizer's.
      tokenizer: folder or hub name of the tokenizer; left out, the checkpoint's own, or for an
        untrained network the words of the training captions.
      image: side of the images, pixels, where it is not the checkpoint's.
      validation: data to evaluate on; an empty path: none.
      augment: random variation of the training images.
      loss: what is minimised.
      optim: optimisation.
      schedule: steps.
      lock: tower that stays as it is: "vision" (LiT), "text", or "none".
      bfloat16: compute in bfloat16; parameters and reductions stay float32.
      remat: recompute each block in the backward pass, for memory.
      threads: threads that read and decode images.
      seed: of initial weights, order and augmentation.
    """

    train: SourceConfig
    checkpoint: str | None = None
    untrained: Architecture = dataclasses.field(default_factory=clip_vit_b16)
    tokenizer: str | None = None
    image: int | None = None
    validation: SourceConfig = SourceConfig(path="")
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    lock: Literal["none", "vision", "text"] = "none"
    bfloat16: bool = False
    remat: bool = False
    threads: int = 4
    seed: int = 0


def check(config: FinetuneConfig) -> None:
    """Refuses values that no data could make sense of.

    Raises:
      UserError: the first such value, and the mend.
    """
    optim, schedule, loss = config.optim, config.schedule, config.loss
    at_least = {
        "optim.batch_size": (optim.batch_size, 2),
        "optim.micro_batches": (optim.micro_batches, 1),
        "optim.warmup_steps": (optim.warmup_steps, 0),
        "schedule.steps": (schedule.steps, 1),
        "schedule.evaluate_steps": (schedule.evaluate_steps, 0),
        "schedule.checkpoint_steps": (schedule.checkpoint_steps, 1),
        "schedule.log_steps": (schedule.log_steps, 1),
        "threads": (config.threads, 1),
        "seed": (config.seed, 0),
        "loss.contrastive": (loss.contrastive, 0),
        "loss.distillation": (loss.distillation, 0),
        "loss.features": (loss.features, 0),
        "optim.weight_decay": (optim.weight_decay, 0),
        "optim.final_lr": (optim.final_lr, 0),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"--{name} is {value}: it must be at least {least}")
    positive = {"optim.lr": optim.lr, "optim.clip_norm": optim.clip_norm}
    for name, value in positive.items():
        if value <= 0:
            raise UserError(f"--{name} is {value}: it must be above 0")
    if not 0 <= optim.ema < 1:
        raise UserError(f"--optim.ema is {optim.ema}: it must be at least 0 and below 1")
    if optim.batch_size % optim.micro_batches:
        raise UserError(
            f"--optim.micro_batches {optim.micro_batches} does not divide the batch of "
            f"{optim.batch_size}"
        )
    if optim.warmup_steps > schedule.steps:
        raise UserError(
            f"--optim.warmup_steps {optim.warmup_steps} is more than the {schedule.steps} steps"
        )
    if loss.contrastive == 0 and loss.teacher is None:
        raise UserError("--loss.contrastive is 0 and there is no --loss.teacher: nothing to learn")
    if not config.train.path:
        raise UserError("--train.path is empty: give the images and captions to train on")
