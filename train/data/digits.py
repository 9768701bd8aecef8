"""The UCI handwritten digits: 1,797 scans of 8 x 8 pixels, as scikit-learn has them.

digits.npz is the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0): 1,797 scans by 13 writers, the order and
numbers unchanged, in NumPy's format. `images` uint8 [1797,8,8] counts in 0 to 16 the dark pixels
of each block of 4 x 4; `labels` uint8 [1797].
"""

from __future__ import annotations

import importlib.resources

import numpy as np

from codesign.train.data import captions
from codesign.train.data.config import DataConfig
from codesign.train.data.raw import RawImages, RawSplit, stratified_split


def scans() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [1797,8,8] of 0 to 16, and labels, int32 [1797]."""
    file = importlib.resources.files("codesign.train.data") / "digits.npz"
    with file.open("rb") as opened, np.load(opened) as stored:
        return stored["images"], stored["labels"].astype(np.int32)


def load_raw(config: DataConfig) -> RawImages:
    """The digits, split by class into train, validation and test."""
    images, labels = scans()
    pixels = images[..., None]
    train, validation, test = (
        RawSplit(pixels[chosen], labels[chosen])
        for chosen in stratified_split(
            labels, (config.validation_share, config.test_fraction), config.seed
        )
    )
    keep = slice(config.train_limit)
    return RawImages(
        train=RawSplit(train.pixels[keep], train.labels[keep]),
        validation=validation,
        test=test,
        peak=16,
        # Of all 1,797 images: normalisation then does not move with seed or train_limit.
        mean=(0.3053,),
        std=(0.3760,),
        class_names=captions.DIGIT_NAMES,
        templates=captions.DIGIT_TEMPLATES,
        # One pixel is an eighth of the image, and a mirrored digit is no digit.
        shift=1,
        flip=False,
    )
