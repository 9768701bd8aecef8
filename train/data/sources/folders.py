"""Folders of pictures, one for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codesign.train.data.sources.base import Source
from codesign.train.data.sources.table import read_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


def class_folders(root: Path) -> list[str]:
    """Names of the folders in `root` that hold pictures, at any depth, sorted."""
    return [folder.name for folder in subfolders(root) if _pictures(folder, first=True)]


def subfolders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, sorted by name."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return [root / name for name in names if not name.startswith(".")]


def has_pictures(folder: Path) -> bool:
    """Whether pictures lie directly in `folder`."""
    return any(entry.is_file() and is_picture(entry.name) for entry in os.scandir(folder))


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def read(root: Path, classes: Sequence[str]) -> Source:
    """The pictures of ROOT/CLASS/..., class by class; a class may have none here."""
    files = [(label, file) for label, name in enumerate(classes) for file in _pictures(root / name)]
    return Source(
        name=str(root),
        labels=np.asarray([label for label, _ in files], np.int32),
        captions=lambda i: (),
        image=lambda i: read_file(Path(files[i][1])),
        where=lambda i: files[i][1],
        class_names=tuple(classes),
    )


def _pictures(folder: Path, first: bool = False) -> list[str]:
    """Files of the pictures under `folder`, sorted; with `first`, one is enough."""
    found: list[str] = []
    for place, below, names in os.walk(folder):
        below.sort()
        found += [os.path.join(place, name) for name in sorted(names) if is_picture(name)]
        if first and found:
            break
    return found
