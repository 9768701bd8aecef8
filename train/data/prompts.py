"""Prompt ensembles: the captions that classes get, and files of such templates and names.

A template has one `{}` for the class's name. As in the published ensembles the article does
not bend ("a photo of a apple"): released weights were measured so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.json_text import parse_json
from codesign.train.data import captions
from codesign.train.data.config import DataError

PHOTO = ("a photo of a {}.",)

# openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb: the 80 templates of the paper's
# ImageNet result (Radford et al., 2021, section 3.1.4).
IMAGENET = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

# The same notebook: seven that together do as well as the 80.
IMAGENET_BEST = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

# openai/CLIP, data/prompts.md, the same for CIFAR-10 and CIFAR-100.
_CIFAR_KINDS = (
    "",
    "blurry ",
    "black and white ",
    "low contrast ",
    "high contrast ",
    "bad ",
    "good ",
)
CIFAR = tuple(
    template
    for article in ("a", "the")
    for template in (
        *(f"a {kind}photo of {article} {{}}." for kind in _CIFAR_KINDS),
        *(f"a photo of {article} {size} {{}}." for size in ("small", "big")),
    )
)

_ENSEMBLES = {
    "photo": PHOTO,
    "imagenet": IMAGENET,
    "imagenet7": IMAGENET_BEST,
    "cifar": CIFAR,
    "digits": captions.DIGIT_TEMPLATES,
}


def load_templates(name: str, own: Sequence[str]) -> tuple[str, ...]:
    """The templates a name or a file stands for.

    Args:
      name: "auto", a name of an ensemble, or a text file with one template a line.
      own: the data's, for "auto"; empty where they have none.

    Raises:
      DataError: neither a name nor a file, or a line without `{}`.
    """
    if name == "auto":
        return tuple(own) or PHOTO
    if name in _ENSEMBLES:
        return _ENSEMBLES[name]
    path = Path(os.path.expanduser(name))
    if not path.is_file():
        raise DataError(
            f"templates is {name!r}: neither a file nor one of auto, {', '.join(_ENSEMBLES)}"
        )
    lines = [line.strip() for line in _read(path).splitlines()]
    # {c} is what the benchmark sets of CLIP_benchmark write.
    templates = tuple(line.replace("{c}", "{}") for line in lines if line)
    if not templates:
        raise DataError(f"{path} is empty: write one template a line, such as {PHOTO[0]}")
    for template in templates:
        if template.replace("{}", "", 1) == template or "{}" in template.replace("{}", "", 1):
            raise DataError(
                f"{path}: template {template!r} must have one {{}} for the class's name"
            )
    return templates


def load_class_names(path: str, known: Sequence[str], classes: int) -> tuple[str, ...]:
    """Class names of a file, indexed by label.

    Args:
      path: text with one name a line, a JSON list, or a JSON object {known name: better one}.
      known: the data's own names by label; empty where they have none.
      classes: how many there must be at least, one more than the largest label.

    Raises:
      DataError: no such file, not of these forms, or not of the data's length.
    """
    file, found = read_class_names(path)
    if isinstance(found, dict):
        missing = [name for name in known if name not in found]
        if missing or not known:
            lacks = f"no name for {missing[0]!r}" if known else "names, but the data have none"
            raise DataError(f"{file} has {lacks}; give a list of all {classes} names instead")
        return tuple(found[name] for name in known)
    wanted = len(known) or classes
    if len(found) != wanted if known else len(found) < wanted:
        raise DataError(f"{file} has {len(found)} class names, the data have {wanted} classes")
    return tuple(found)


def read_class_names(path: str) -> tuple[Path, dict[str, str] | list[str]]:
    """The file, and the names in it: a list by label, or {known name: better one}.

    Raises:
      DataError: no such file, or not of these forms.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise DataError(f"classes is {path}: there is no such file")
    text = _read(file)
    found: Any = _lines(file, text)
    if text.lstrip()[:1] in ("[", "{"):
        found = _parse_json(file, text)
    names = list(found.values()) if isinstance(found, dict) else found
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{file}: every class name must be a text that is not empty")
    return file, found


def _lines(file: Path, text: str) -> list[str]:
    """The lines of a text, without blank ones at its end; within, each would move all below it."""
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if text.strip() and "" in lines:
        raise DataError(f"{file} line {lines.index('') + 1} is blank: the class has no name")
    return lines if text.strip() else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} as text: {error}") from None


def _parse_json(path: Path, text: str) -> Any:
    try:
        return parse_json(text, str(path))
    except UserError as error:
        raise DataError(str(error)) from None
