"""What data a run or an evaluation reads, and the one error that reading may end in."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from codesign.bounds import Ge, Le
from codesign.constraints import (
    LARGEST_COUNT,
    Count,
    InnerShare,
    Natural,
    PositiveShare,
    Seed,
    ShareBelowOne,
    first_problem,
)
from codesign.errors import UserError


class DataError(UserError):
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
    train_limit: Count | None = None
    seed: Seed = 0
    validation_fraction: InnerShare | None = None
    test_fraction: InnerShare = 0.2
    context: Annotated[int, Ge(2), Le(LARGEST_COUNT)] = 16

    def check(self) -> None:
        """Refuses splits that leave no training images."""
        if self.name == "digits" and self.validation_share + self.test_fraction >= 1:
            raise DataError("validation_fraction + test_fraction leave nothing to train on")

    @property
    def validation_share(self) -> float:
        """`validation_fraction`, or the data set's own where it is left out."""
        if self.validation_fraction is not None:
            return self.validation_fraction
        return 0.1 if self.name == "cifar10" else 0.2


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Pictures with captions, classes or both, of any size: what to open.

    Attributes:
      path: "digits"; a table of captions (.csv, .tsv, .jsonl) or a folder with one; a folder
        of class folders; a parquet file, folder or hub name; tar shards, as "DIR/*.tar",
        "DIR/{0000..0099}.tar", a folder of them or several joined by "::"; "FILE.py:NAME", a
        function of your own that returns a `Source`, or a dict of them by split.
      split: "train", "validation", "test", another the data have, or "all". Data without
        splits are train, less what holdout keeps for validation.
      limit: use only this many pictures, drawn at random by seed; left out, all.
      holdout: share of train kept for validation, where the data have no validation of
        their own.
      seed: of holdout and limit, at least 0; not that of training.
      classes: file with the classes' names: one a line, a JSON list, or a JSON object from
        the data's names (of folders, say) to better ones; left out, the data's own.
      templates: captions of classes: "photo" (a photo of a {}.), "imagenet" (80 of OpenAI's),
        "imagenet7" (its 7 best), "cifar" (18), "digits", or a text file with one a line;
        "auto" is the data's own where they have some, else "photo".
      image_column: column with the picture; left out, file_name, filepath, image, path or img.
      caption_column: column with the caption, or key of a shard's .json; left out, caption,
        captions, text or title.
      label_column: column with the class's number, in parquet; left out, label.
    """

    path: str
    split: str = "train"
    limit: Count | None = None
    holdout: ShareBelowOne = 0.0
    seed: Seed = 0
    classes: str | None = None
    templates: str = "auto"
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None

    def check(self) -> None:
        """Refuses an empty path."""
        if not self.path:
            raise DataError("path is empty: name a folder, a table, shards or digits")


def check_data(config: DataConfig | SourceConfig) -> None:
    """Checks the fields, as `check_config` does, for callers from Python as well.

    Raises:
      DataError: one line on the first field that holds what it may not.
    """
    if (problem := first_problem(config)) is not None:
        raise DataError(problem)
    config.check()


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How training varies a picture.

    Attributes:
      crop_scale: least and largest share of the picture's area that a random crop shows;
        1 and 1 is no random crop but the preprocessing of evaluation.
      flip: whether to mirror left and right with probability 1/2.
      shift: largest random shift along each side, pixels; the edge is repeated.
    """

    crop_scale: tuple[PositiveShare, PositiveShare] = (0.9, 1.0)
    flip: bool = False
    shift: Natural = 0
