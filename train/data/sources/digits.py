"""The UCI handwritten digits: 1,797 scans of 8 x 8 pixels, as scikit-learn has them.

digits.npz is the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0): 1,797 scans by 13 writers, the order and
numbers unchanged, in NumPy's format. `images` uint8 [1797,8,8] counts in 0 to 16 the dark pixels
of each block of 4 x 4; `labels` uint8 [1797].
"""

from __future__ import annotations

import functools
import importlib.resources

import numpy as np

from codesign.train.data import captions
from codesign.train.data.config import SourceConfig
from codesign.train.data.sources.base import Source, Splits
from codesign.train.data.split import stratified_split

SIDE = 8
# The digits have 17 levels of grey, 0 to 16.
_LEVEL = 255 / 16
_TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2


def scans() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [1797,8,8] of 0 to 16, and labels, int32 [1797]."""
    file = importlib.resources.files("codesign.train.data") / "digits.npz"
    with file.open("rb") as opened, np.load(opened) as stored:
        return stored["images"], stored["labels"].astype(np.int32)


def read(config: SourceConfig) -> Splits:
    """Train, validation and test of 8-bit images, as a search splits them with the same seed."""
    return splits(config.seed, config.holdout or VALIDATION_SHARE, _TEST_SHARE)


def splits(seed: int, validation_share: float, test_share: float) -> Splits:
    """Train, validation and test of 8-bit images, in each of which every class has its share.

    Args:
      seed: of the splits.
      validation_share: of all digits.
      test_share: likewise.
    """
    images, labels = scans()
    pixels = np.rint(images * _LEVEL).astype(np.uint8)

    def source(chosen: np.ndarray) -> Source:
        own = pixels[chosen]
        return Source(
            name="digits",
            labels=labels[chosen],
            captions=lambda i: (),
            image=lambda i: own[i],
            where=lambda i: f"digits image {i}",
            class_names=captions.DIGIT_NAMES,
            templates=captions.DIGIT_TEMPLATES,
        )

    parts = stratified_split(labels, (validation_share, test_share), seed)
    names = "train", "validation", "test"
    return {n: functools.partial(source, part) for n, part in zip(names, parts, strict=True)}
