"""Typed configuration of a fine-tuning run; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from codesign.architecture import Architecture, check_discrete, clip_vit_b16
from codesign.bounds import Ge, Le
from codesign.constraints import (
    LARGEST_COUNT,
    Count,
    Few,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
)
from codesign.errors import UserError
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.data.picture import check_augment

# Of one pair alone there is nothing to tell apart.
Pairs = Annotated[int, Ge(2), Le(LARGEST_COUNT)]


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
    contrastive: NonNegative = 1.0
    teacher: str | None = None
    distillation: NonNegative = 1.0
    features: NonNegative = 0.0


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

    batch_size: Pairs = 256
    micro_batches: Count = 1
    lr: Positive = 1e-5
    final_lr: Share = 0.0
    warmup_steps: Natural = 100
    weight_decay: NonNegative = 0.1
    beta2: ShareBelowOne = 0.98
    epsilon: Positive = 1e-6
    clip_norm: Positive = 1.0
    ema: ShareBelowOne = 0.0

    def check(self) -> None:
        """Refuses micro-batches that the batch has no even parts for.

        Raises:
          UserError: both, in one line.
        """
        if self.batch_size % self.micro_batches:
            raise UserError(
                f"--optim.micro_batches {self.micro_batches} does not divide the batch of "
                f"{self.batch_size}"
            )


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Steps.

    Attributes:
      steps: training steps.
      evaluate_steps: steps between evaluations on the validation data; 0: only at the end.
      checkpoint_steps: steps between checkpoints.
      log_steps: steps between looks at the metrics; all are written, one line a step.
    """

    steps: Count = 1000
    evaluate_steps: Natural = 200
    checkpoint_steps: Count = 200
    log_steps: Count = 10


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
    image: Count | None = None
    validation: SourceConfig = SourceConfig(path="")
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    lock: Literal["none", "vision", "text"] = "none"
    bfloat16: bool = False
    remat: bool = False
    threads: Few = 4
    seed: Seed = 0

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        optim, schedule, loss = self.optim, self.schedule, self.loss
        optim.check()
        if optim.warmup_steps > schedule.steps:
            raise UserError(
                f"--optim.warmup_steps {optim.warmup_steps} is more than the {schedule.steps} steps"
            )
        if loss.contrastive == 0 and loss.teacher is None:
            raise UserError(
                "--loss.contrastive is 0 and there is no --loss.teacher: nothing to learn"
            )
        if not self.train.path:
            raise UserError("--train.path is empty: give the images and captions to train on")
        check_augment(self.augment)
        if self.checkpoint is None:
            wanted = self.untrained
            try:
                check_discrete(dataclasses.replace(wanted, image=self.image or wanted.image))
            except ValueError as error:
                raise UserError(f"untrained: {error}") from None
