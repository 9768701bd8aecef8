"""The package's own digits, so that everything can be tried with data that are at hand."""

from __future__ import annotations

import functools

import numpy as np

from codesign.train.data import digits
from codesign.train.data.config import DataConfig, SourceConfig
from codesign.train.data.raw import RawSplit
from codesign.train.data.sources.base import Source, Splits


def read(config: SourceConfig) -> Splits:
    """Train, validation and test, as a search splits them with the same seed."""
    share = config.holdout or None
    raw = digits.load_raw(DataConfig(seed=config.seed, validation_fraction=share))

    def source(split: RawSplit) -> Source:
        # Of 17 levels of grey, spread over the 256 of an 8-bit image.
        pixels = np.rint(split.pixels[..., 0] * (255 / raw.peak)).astype(np.uint8)
        return Source(
            name="digits",
            labels=split.labels,
            captions=lambda i: (),
            image=lambda i: pixels[i],
            where=lambda i: f"digits image {i}",
            class_names=raw.class_names,
            templates=raw.templates,
        )

    parts = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    return {name: functools.partial(source, part) for name, part in parts.items()}
