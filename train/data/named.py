"""The data sets that a search knows by name: digits and CIFAR-10."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from codesign.models.formats.image_settings import ImageSettings
from codesign.train.data import captions, hub
from codesign.train.data.config import (
    AugmentConfig,
    DataConfig,
    DataError,
    SourceConfig,
    check_data,
)
from codesign.train.data.sources import digits, parquet
from codesign.train.data.sources.base import Source, subset
from codesign.train.data.split import stratified_split


class OpenedData(NamedTuple):
    """The disjoint parts of a data set.

    Attributes:
      train, validation, test: their pictures.
      settings: how these are normalised, by a network that brings no other settings.
      augment: how training may vary them.
    """

    train: Source
    validation: Source
    test: Source
    settings: ImageSettings
    augment: AugmentConfig


def open_named(config: DataConfig) -> OpenedData:
    """Opens a data set by its name; every picture has a class, and classes have captions.

    Raises:
      DataError: the configuration or the data cannot be used.
    """
    check_data(config)
    if config.name not in _READERS:
        valid = ", ".join(_READERS)
        raise DataError(f"no data set is named {config.name!r}; choose one of: {valid}")
    opened = _READERS[config.name](config)
    for split in ("train", "validation", "test"):
        if not len(getattr(opened, split)):
            raise DataError(f"the {split} split of {config.name} is empty: change the fractions")
    # The parts are in random order already.
    train, validation, test = (
        dataclasses.replace(part, shuffled=True)
        for part in (opened.train, opened.validation, opened.test)
    )
    limited = subset(train, np.arange(len(train))[: config.train_limit])
    return opened._replace(train=limited, validation=validation, test=test)


def _digits(config: DataConfig) -> OpenedData:
    splits = digits.splits(config.seed, config.validation_share, config.test_fraction)
    return OpenedData(
        splits["train"](),
        splits["validation"](),
        splits["test"](),
        # Of all 1,797 images: normalisation then does not move with seed or train_limit.
        settings=ImageSettings(digits.SIDE, mean=(0.3053,), std=(0.3760,)),
        # One pixel is an eighth of the image, and a mirrored digit is no digit.
        augment=AugmentConfig(crop_scale=(1.0, 1.0), shift=1),
    )


def _cifar10(config: DataConfig) -> OpenedData:
    """CIFAR-10 with a validation set carved from its training images."""
    path = config.path or hub.CIFAR10
    rows = hub.load_rows(path, user="cifar10")
    for split in ("train", "test"):
        if split not in rows:
            raise DataError(
                f"{path} has no {split} split (it has: {', '.join(rows)}); "
                f"name its files {split}-*.parquet"
            )
        if len(rows[split]) == 0:
            raise DataError(f"{path} is empty: no rows in its {split} split")

    def source(split: str) -> Source:
        columns = SourceConfig(path, label_column="label")
        found = parquet.source_of(rows[split], f"the {split} split of {path}", columns)
        names = found.class_names or captions.CIFAR10_NAMES
        wrong = np.flatnonzero((found.labels < 0) | (found.labels >= len(names)))
        if wrong.size:
            label = found.labels[wrong[0]]
            raise DataError(
                f"{split} image {wrong[0]} has {'no label' if label < 0 else f'label {label}'}: "
                f"{len(names)} classes are known, 0 to {len(names) - 1}"
            )
        return dataclasses.replace(
            found,
            class_names=names,
            templates=captions.PHOTO_TEMPLATES,
            captions=lambda i: (),
            where=lambda i: f"{split} image {i}",
        )

    train = source("train")
    kept, held = stratified_split(train.labels, (config.validation_share,), config.seed)
    return OpenedData(
        subset(train, kept),
        subset(train, held),
        source("test"),
        # Of the 50,000 original training images, as commonly rounded: fixed, so that
        # normalisation does not move with seed, train_limit or the copy of the data.
        settings=ImageSettings(32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        # The usual CIFAR augmentation: pad by 4 and crop, and mirror.
        augment=AugmentConfig(crop_scale=(1.0, 1.0), flip=True, shift=4),
    )


_READERS = {"digits": _digits, "cifar10": _cifar10}
