"""Captions: class names in templates, the prompt ensembles of CLIP (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

DIGIT_TEMPLATES = (
    "a scan of the digit {}",
    "the handwritten number {}",
    "a small picture of a {}",
    "the numeral {} written by hand",
    "a low resolution image of the number {}",
    "a person wrote the digit {}",
)

CIFAR10_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

# Of the CIFAR-10 prompts in openai/CLIP `data/prompts.md`, those that no colour contradicts.
PHOTO_TEMPLATES = (
    "a photo of a {}",
    "a blurry photo of a {}",
    "a bad photo of a {}",
    "a good photo of a {}",
    "a photo of a small {}",
    "a photo of a big {}",
    "a low contrast photo of a {}",
    "a photo of the {}",
)


def captions(class_names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Every caption, as [classes][templates]; underscores in a class name become spaces."""
    words = [name.replace("_", " ") for name in class_names]
    return [[template.replace("{}", word) for template in templates] for word in words]
