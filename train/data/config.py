"""What data a run reads, and the one error that reading may end in."""

from __future__ import annotations

import dataclasses


class DataError(Exception):
    """Data that cannot be used. The message is one line: what came, and the mend."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What data a run reads.

    Attributes:
      name: data set, "digits" (1,797 scans, part of the installation) or "cifar10"
        (any ten classes in the hub's parquet schema; needs the extra `codesign[data]`).
      path: where cifar10 lies: a local folder of hub-style parquet files, or the name of
        a hub data set; left out, the hub's uoft-cs/cifar10. Unused by digits.
      train_limit: use only this many training images, the first after a seeded shuffle;
        left out, all of them.
      seed: seed of the splits and of the order that train_limit cuts, at least 0. It is
        not the seed of training: evaluate with the one trained with, or the held-out
        images of one are the training images of the other.
      validation_fraction: share held out for validation, of all digits or of the
        training images of cifar10; left out, 0.2 of digits and 0.1 of cifar10.
      test_fraction: share of digits held out for the test; cifar10 has its own test set.
      context: caption length in tokens, start and end tokens included.
    """

    name: str = "digits"
    path: str | None = None
    train_limit: int | None = None
    seed: int = 0
    validation_fraction: float | None = None
    test_fraction: float = 0.2
    context: int = 16

    @property
    def validation_share(self) -> float:
        """`validation_fraction`, or the data set's own where it is left out."""
        if self.validation_fraction is not None:
            return self.validation_fraction
        return 0.1 if self.name == "cifar10" else 0.2
