"""Folders of pictures, one for each class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from codesign.train.data.config import DataError
from codesign.train.data.files import read_file
from codesign.train.data.sources.base import Source, printable

# What Pillow reads, where it was built with the decoder; see `picture.FORMATS`.
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".webp",
    ".avif",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".j2k",
    ".jpx",
    ".tga",
    ".ico",
    ".qoi",
    ".mpo",
    ".pcx",
    ".sgi",
    ".psd",
    ".dds",
)
# Pictures that are not read: without a decoder here, of vectors or of raw sensors.
OTHER_PICTURES = (
    ".heic",
    ".heif",
    ".hif",
    ".jxl",
    ".svg",
    ".svgz",
    ".xcf",
    ".eps",
    ".ai",
    ".pdf",
    ".raw",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".orf",
    ".rw2",
    ".raf",
    ".exr",
    ".hdr",
    ".pfm",
    ".icns",
    ".xbm",
    ".xpm",
    ".wmf",
    ".emf",
    ".fits",
    ".jxr",
    ".wdp",
    ".bpg",
)


def class_folders(root: Path) -> list[str]:
    """Names of the folders in `root` that hold pictures, at any depth, in `class_order`."""
    known = (*IMAGE_SUFFIXES, *OTHER_PICTURES)
    return class_order(f.name for f in subfolders(root) if _pictures(f, known, first=True))


def class_order(names: Iterable[str]) -> list[str]:
    """Each name once: sorted as text, or by number where all are whole numbers."""
    once = sorted(set(names))
    return sorted(once, key=int) if class_numbers(once) is not None else once


def class_numbers(names: Sequence[str]) -> list[int] | None:
    """The numbers that are the names of all classes, or None.

    Raises:
      DataError: two names of one number, such as 1 and 01.
    """
    if not names or not all(re.fullmatch(r"[0-9]{1,9}", name) for name in names):
        return None
    seen: dict[int, str] = {}
    for name in names:
        if seen.setdefault(int(name), name) != name:
            raise DataError(
                f"the classes {seen[int(name)]} and {name} have one number; join or rename them"
            )
    return [int(name) for name in names]


def subfolders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, sorted by name."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return [root / name for name in names if not name.startswith(".")]


def has_pictures(folder: Path) -> bool:
    """Whether pictures lie directly in `folder`."""
    return any(entry.is_file() and is_picture(entry.name) for entry in os.scandir(folder))


def is_picture(name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(suffixes) and not name.startswith(".")


def read(root: Path, classes: Sequence[str]) -> Source:
    """The pictures of ROOT/CLASS/..., class by class; a class may have none here."""
    files = [(label, file) for label, name in enumerate(classes) for file in _pictures(root / name)]
    loose = [f"{root / e.name}: in no class's folder" for e in os.scandir(root) if _is_loose(e)]
    others = [file for name in classes for file in _pictures(root / name, OTHER_PICTURES)]
    return Source(
        name=str(root),
        labels=np.asarray([label for label, _ in files], np.int32),
        captions=lambda i: (),
        image=lambda i: read_file(Path(files[i][1])),
        where=lambda i: printable(files[i][1]),
        class_names=tuple(classes),
        lost=(
            *(printable(line) for line in sorted(loose)),
            *(f"{printable(file)}: pictures of this kind are not read" for file in others),
        ),
    )


def _is_loose(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and is_picture(entry.name)


def _pictures(
    folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, first: bool = False
) -> list[str]:
    """Files of the pictures under `folder`, sorted; with `first`, one is enough."""
    found: list[str] = []
    for place, below, names in os.walk(folder):
        below.sort()
        found += [os.path.join(place, name) for name in sorted(names) if is_picture(name, suffixes)]
        if first and found:
            break
    return found
