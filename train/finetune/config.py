"""Typed configuration of a fine-tuning run; configs/ holds instances of it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from codesign.architecture import Architecture, check_discrete, clip_vit_b16
from codesign.constraints import Count, Natural, NonNegative, Positive, ShareBelowOne
from codesign.errors import UserError
from codesign.train.shared_config import IntervalsConfig, TrainingConfig, TrainingOptimConfig


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
class OptimConfig(TrainingOptimConfig):
    """Optimisation of a CLIP by AdamW.

    Attributes:
      batch_size: image-caption pairs a step, over all devices and processes.
      weight_decay: decoupled, on matrices and tables only.
      micro_batches: parts the batch goes through the towers in, to save memory; the loss and
        its gradient remain those of the whole batch.
      logits_chunk: rows of the batch's logits that are computed at once, over all devices, to save
        memory; the loss and its gradient remain the same. 0: all of them.
      beta2: decay of the second moment.
      epsilon: of AdamW.
      clip_norm: largest gradient norm.
      ema: decay of a moving average of the weights, which is then what is evaluated and
        saved; 0: none.
    """

    micro_batches: Count = 1
    logits_chunk: Natural = 0
    beta2: ShareBelowOne = 0.98
    epsilon: Positive = 1e-6
    clip_norm: Positive = 1.0
    ema: ShareBelowOne = 0.0

    def check(self) -> None:
        """Refuses micro-batches and chunks that the batch has no even parts for.

        Raises:
          UserError: both, in one line.
        """
        if self.batch_size % self.micro_batches:
            raise UserError(
                f"--optim.micro_batches {self.micro_batches} does not divide the batch of "
                f"{self.batch_size}"
            )
        if self.logits_chunk and self.batch_size % self.logits_chunk:
            raise UserError(
                f"--optim.logits_chunk {self.logits_chunk} does not divide the batch of "
                f"{self.batch_size}"
            )


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(IntervalsConfig):
    """Steps.

    Attributes:
      steps: training steps.
    """

    steps: Count = 1000


@dataclasses.dataclass(frozen=True)
class ClipTrainingConfig(TrainingConfig):
    """What fine-tuning and DRESS of a CLIP share.

    Attributes:
      train: the captioned images to train on.
      checkpoint: where to start: a file, folder or hub name in any format, pruned or not;
        left out, an untrained network.
      untrained: its dimensions, where there is no checkpoint; the vocabulary is the tokenizer's.
      tokenizer: folder or hub name of the tokenizer; left out, the checkpoint's own, or for an
        untrained network the words of the training captions.
      image: side of the images, pixels, where it is not the checkpoint's.
      loss: what is minimised.
      optim: optimisation.
      lock: tower that stays as it is: "vision" (LiT), "text", or "none".
      remat: recompute each block in the backward pass, for memory.
    """

    checkpoint: str | None = None
    untrained: Architecture = dataclasses.field(default_factory=clip_vit_b16)
    tokenizer: str | None = None
    image: Count | None = None
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    lock: Literal["none", "vision", "text"] = "none"
    remat: bool = False

    def check(self) -> None:
        """See `TrainingConfig.check`."""
        super().check()
        self.optim.check()
        if self.loss.contrastive == 0 and self.loss.teacher is None:
            raise UserError(
                "--loss.contrastive is 0 and there is no --loss.teacher: nothing to learn"
            )
        if self.checkpoint is None:
            wanted = self.untrained
            try:
                check_discrete(dataclasses.replace(wanted, image=self.image or wanted.image))
            except ValueError as error:
                raise UserError(f"untrained: {error}") from None


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(ClipTrainingConfig):
    """Training of one CLIP on captioned images.

    Attributes:
      schedule: steps, and how often the run is looked at.
    """

    schedule: ScheduleConfig = ScheduleConfig()

    def check(self) -> None:
        """See `TrainingConfig.check`."""
        super().check()
        warmup_steps, steps = self.optim.warmup_steps, self.schedule.steps
        if warmup_steps > steps:
            raise UserError(f"--optim.warmup_steps {warmup_steps} is more than the {steps} steps")
