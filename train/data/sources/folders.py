"""Folders of pictures, one for each class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
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


# Folders that tell what their files are, not of which class.
_NO_CLASSES = frozenset(("images", "annotations"))


def class_names(root: Path) -> list[str]:
    """Names of the classes in `root`, in `class_order`.

    They are the folders that hold pictures, at any depth. Folders of `_NO_CLASSES` alone are none:
    then the classes are those of a list as TinyImageNet has it, if any, see `_annotations`.
    """
    found = picture_folders(root)
    if {name.lower() for name in found} <= _NO_CLASSES:
        found = list(_annotations(root).values())
    return class_order(found)


def class_root(root: Path) -> Path:
    """`root`, or the folder images in it where the classes are in there, as in CUB-200."""
    inner = next((f for f in subfolders(root) if f.name.lower() == "images"), root)
    return root if inner == root or class_names(root) or not class_names(inner) else inner


def picture_folders(root: Path) -> list[str]:
    """Names of the folders in `root` that hold pictures, at any depth.

    Raises:
      OSError: one cannot be read: without it the others would have other numbers.
    """
    known = (*IMAGE_SUFFIXES, *OTHER_PICTURES)
    return [f.name for f in subfolders(root) if _pictures(f, known, first=True)]


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
    """The folders in `root` that are not hidden nor the file system's, sorted by name."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return [root / name for name in names if not name.startswith(".") and name != "lost+found"]


def visible(root: Path, pattern: str) -> Iterator[Path]:
    """What matches a pattern in `root`, but what is hidden or in a hidden folder."""
    for path in root.glob(pattern):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


def has_pictures(folder: Path) -> bool:
    """Whether pictures lie directly in `folder`."""
    return any(_is_loose(entry) for entry in os.scandir(folder))


def is_picture(name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(suffixes) and not name.startswith(".")


def read(root: Path, classes: Sequence[str]) -> Source:
    """The pictures of ROOT/CLASS/..., class by class; a class may have none here.

    Those that are of no class are named, and so are the folders that cannot be read.

    Raises:
      DataError: `root` cannot be read.
    """
    lost: list[str] = []
    try:
        files = [
            (i, f) for i, name in enumerate(classes) for f in _pictures(root / name, lost=lost)
        ]
        loose = sorted(entry.path for entry in os.scandir(root) if _is_loose(entry))
        lost += [f"{file}: in no class's folder" for file in loose]
        if _NO_CLASSES.isdisjoint(map(str.lower, classes)):
            listed, unlisted = _annotated(root, classes)
            files += listed
            lost += unlisted
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}") from None
    for name in classes:
        others = _pictures(root / name, OTHER_PICTURES)
        lost += [f"{file}: pictures of this kind are not read" for file in others]
    return Source(
        name=str(root),
        labels=np.asarray([label for label, _ in files], np.int32),
        captions=lambda i: (),
        image=lambda i: read_file(Path(files[i][1])),
        where=lambda i: printable(files[i][1]),
        class_names=tuple(classes),
        lost=tuple(printable(line) for line in lost),
    )


def _is_loose(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and is_picture(entry.name)


def _annotations(root: Path) -> dict[str, str]:
    """The class of each picture in ROOT/images, by its name: lines of ROOT/val_annotations.txt.

    As TinyImageNet has them: picture, class and its box, with tabs between.

    Raises:
      DataError: a line has no class.
    """
    file = root / "val_annotations.txt"
    if not file.is_file():
        return {}
    found = {}
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        fields = [field.strip() for field in line.split("\t")]
        if line.strip() and (len(fields) < 2 or not all(fields[:2])):
            raise DataError(f"{file} line {number} holds no picture and class, with a tab between")
        if line.strip():
            found[fields[0]] = fields[1]
    return found


def _annotated(root: Path, classes: Sequence[str]) -> tuple[list[tuple[int, str]], list[str]]:
    """(label, file) of the pictures in `_NO_CLASSES`, and a line on each that has no class."""
    label_of = {name: label for label, name in enumerate(classes)}
    class_of = _annotations(root)
    listed: list[tuple[int, str]] = []
    lost: list[str] = []
    for folder in (f for f in subfolders(root) if f.name.lower() in _NO_CLASSES):
        for file in _pictures(folder, lost=lost):
            label = label_of.get(class_of.pop(os.path.relpath(file, folder), ""))
            if label is None:
                lost.append(f"{file}: in no class's folder")
            else:
                listed.append((label, file))
    lost += [f"{root}: {name} of val_annotations.txt is not there" for name in class_of]
    return listed, lost


def _pictures(
    folder: Path,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    first: bool = False,
    lost: list[str] | None = None,
) -> list[str]:
    """Files of the pictures under `folder`, sorted; with `first`, one is enough.

    Links to folders are followed, as torchvision does, but each folder is read once: a link may
    lead back to where it came from. Hidden files and folders (.ipynb_checkpoints) are left out.
    A folder that cannot be read gets a line in `lost`.

    Raises:
      OSError: with `first`, such a folder, which may hold the one.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        if first:
            raise error
        if lost is not None and not isinstance(error, FileNotFoundError):
            lost.append(f"{error.filename}: {(error.strerror or str(error)).lower()}")

    for place, below, names in os.walk(folder, onerror=note, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [os.path.join(place, name) for name in sorted(names) if is_picture(name, suffixes)]
        if first and found:
            break
    return found
