"""Typed configuration that all kinds of training share; each kind's own fields derive from it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

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
)
from codesign.errors import UserError
from codesign.renamed import RETIRED_OF_INTERVALS, passes_over
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.data.picture import check_augment

# A contrastive loss compares the pairs of a batch, and BatchNorm its images.
BatchSize = Annotated[int, Ge(2), Le(LARGEST_COUNT)]


@dataclasses.dataclass(frozen=True)
class TrainingOptimConfig:
    """Optimisation of a network's weights.

    Attributes:
      batch_size: examples a step, over all devices and processes.
      lr: peak learning rate.
      final_lr: share of the peak that is left at the end of the cosine.
      warmup_steps: steps of linear warm-up.
      weight_decay: of the weights that decay.
    """

    batch_size: BatchSize = 256
    lr: Positive = 1e-5
    final_lr: Share = 0.0
    warmup_steps: Natural = 100
    weight_decay: NonNegative = 0.1


@passes_over(RETIRED_OF_INTERVALS)
@dataclasses.dataclass(frozen=True)
class IntervalsConfig:
    """How often a run looks at itself.

    Attributes:
      evaluate_steps: steps between evaluations on the validation data; 0: only at the end.
      checkpoint_steps: steps between checkpoints.
      log_steps: steps between looks at the metrics; all are written, one line a step.
    """

    evaluate_steps: Natural = 200
    checkpoint_steps: Count = 200
    log_steps: Count = 10


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """What every kind of training has.

    Attributes:
      train: the data to train on.
      validation: data to evaluate on; an empty path: none.
      augment: random variation of the training images.
      bfloat16: compute in bfloat16; parameters and reductions stay float32.
      threads: threads that read and decode images.
      stall_s: seconds without a new training picture after which a line names what is being read;
        after twice as long the run is saved and ends. 0: it waits for ever.
      fsdp: devices over which weights, optimizer, moving average and teacher are split, for
        memory; batches are split over all devices whatever it is.
      seed: of initial weights, order and augmentation.
    """

    train: SourceConfig
    validation: SourceConfig = SourceConfig(path="")
    augment: AugmentConfig = AugmentConfig()
    bfloat16: bool = False
    threads: Few = 4
    stall_s: NonNegative = 300.0
    fsdp: Few = 1
    seed: Seed = 0

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        if not self.train.path:
            raise UserError("--train.path is empty: give the images to train on")
        check_augment(self.augment)
