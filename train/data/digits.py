"""The UCI handwritten digits that scikit-learn carries: 1,797 scans of 8 x 8 pixels."""

from __future__ import annotations

import numpy as np

from codesign.train.data import captions
from codesign.train.data.config import DataConfig
from codesign.train.data.raw import RawImages, RawSplit, stratified_split


def load_raw(config: DataConfig) -> RawImages:
    """The digits, split by class into train, validation and test."""
    from sklearn import datasets

    digits = datasets.load_digits()
    pixels = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
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
