"""CIFAR-10, and what else has the hub's parquet schema, from a folder or from the hub.

The schema: one row an image; a column `img` (or `image`) of {bytes, path}, declared as
an Image feature or as that plain struct, and an integer column `label`, declared as a
ClassLabel or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codesign.train.data import captions
from codesign.train.data.config import DataConfig, DataError
from codesign.train.data.decode import decode
from codesign.train.data.files import read_file
from codesign.train.data.raw import RawImages, RawSplit, stratified_split

_HUB_NAME = "uoft-cs/cifar10"
_SIDE = 32
_IMAGE_COLUMNS = ("img", "image")


def load_raw(config: DataConfig) -> RawImages:
    """CIFAR-10 with a validation set carved from its training images.

    Only the images that are used get decoded, so a small `train_limit` loads fast.

    Raises:
      DataError: the extra is not installed, or the data is missing or unusable.
    """
    source = config.path or _HUB_NAME
    rows = _open(source)
    names = _class_names(rows["train"])
    labels = {split: _labels(rows[split], split, len(names)) for split in ("train", "test")}
    train, validation = stratified_split(labels["train"], (config.validation_share,), config.seed)

    def decoded(split: str, chosen: np.ndarray) -> RawSplit:
        return RawSplit(_decode(rows[split], split, chosen), labels[split][chosen])

    return RawImages(
        train=decoded("train", train[: config.train_limit]),
        validation=decoded("train", validation),
        test=decoded("test", np.arange(len(labels["test"]))),
        peak=255,
        # Of the 50,000 original training images, as commonly rounded: fixed, so that
        # normalisation does not move with seed, train_limit or the copy of the data.
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        class_names=names,
        templates=captions.PHOTO_TEMPLATES,
        # The usual CIFAR augmentation: pad by 4 and crop, and mirror.
        shift=4,
        flip=True,
    )


def _open(source: str) -> dict[str, Any]:
    """The `train` and `test` rows of a folder or hub data set, as `datasets.Dataset`s."""
    splits = load_rows(source, user="cifar10")
    for split in ("train", "test"):
        if split not in splits:
            raise DataError(
                f"{source} has no {split} split (it has: {', '.join(splits)}); "
                f"name its files {split}-*.parquet"
            )
        if len(splits[split]) == 0:
            raise DataError(f"{source} is empty: no rows in its {split} split")
    return {split: _with_image_bytes(splits[split], source) for split in ("train", "test")}


def load_rows(
    source: str, files: Sequence[str] = (), user: str = "parquet data"
) -> Mapping[str, Any]:
    """The splits of a folder of parquet files or of a hub data set, as `datasets.Dataset`s.

    Args:
      source: the folder or hub name; with `files`, only what messages call them.
      files: single parquet files instead, which become one split "train".
      user: what needs the library, for the message where it is missing.

    Raises:
      DataError: the extra is not installed, or the rows cannot be loaded.
    """
    try:
        import datasets
        import PIL  # noqa: F401  (decodes later; its absence should show now)
    except ImportError as error:
        raise DataError(f"{user} needs the extra: pip install 'codesign[data]'") from error
    try:
        if files:
            return datasets.load_dataset("parquet", data_files=list(files))
        _check_source(source)
        return datasets.load_dataset(_local(source) or source)
    # The library's own errors, those of Arrow (ValueError) and those of the network (OSError).
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(_why_unloadable(source, error)) from error


def _local(source: str) -> str | None:
    """The folder `source` names, or None where it names a hub data set."""
    folder = Path(source).expanduser()
    return str(folder) if folder.exists() else None


def _check_source(source: str) -> None:
    """Refuses what is neither a folder of parquet files nor shaped like a hub name."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if next(folder.rglob("*.parquet"), None) is None:
            raise DataError(f"{source} holds no parquet files (*.parquet)")
    elif folder.exists():
        raise DataError(f"{source} is a file: give the folder that holds the parquet files")
    elif not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise DataError(f"{source} does not exist: give a folder, or a hub name like {_HUB_NAME}")


def _why_unloadable(source: str, error: Exception) -> str:
    """One line on why the library could not load `source`."""
    reason = _first_line(error)
    # What the library says of a data set whose files hold no rows.
    empty = re.search(r'"(\w+)" corresponds to no data', reason)
    if empty:
        return f"{source} is empty: no rows in its {empty[1]} split"
    asked = "" if _local(source) else " (no such folder, so the hub was asked)"
    return f"cannot load {source}{asked}: {reason}"


def _first_line(error: BaseException) -> str:
    """What went wrong at the root, in one line: the library wraps and wraps."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _with_image_bytes(rows: Any, source: str) -> Any:
    """`rows` with an image column named `img` that yields the undecoded {bytes, path}."""
    name = next((name for name in _IMAGE_COLUMNS if name in rows.column_names), None)
    if name is None or "label" not in rows.column_names:
        missing = "img or image" if name is None else "label"
        raise DataError(
            f"{source} has no column {missing}; its columns are: {', '.join(rows.column_names)}"
        )
    rows = encoded(rows, name, source)
    return rows if name == "img" else rows.rename_column(name, "img")


def encoded(rows: Any, column: str, source: str) -> Any:
    """`rows` whose image column yields the undecoded {bytes, path}.

    Raises:
      DataError: the column holds something else.
    """
    import datasets

    try:
        return rows.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # the last is Arrow's
        kind = rows.features[column]
        raise DataError(
            f"column {column} of {source} holds no encoded images but {kind}; "
            "it must be an Image feature or a struct of bytes and path"
        ) from error


def _class_names(rows: Any) -> tuple[str, ...]:
    """The names a ClassLabel declares, or CIFAR-10's."""
    names = getattr(rows.features["label"], "names", None)
    return tuple(names) if names else captions.CIFAR10_NAMES


def _labels(rows: Any, split: str, classes: int) -> np.ndarray:
    """int32 [N], every one checked to name a class."""
    labels = np.asarray(rows["label"][:])
    if labels.dtype.kind not in "iu":
        raise DataError(f"column label of the {split} split must hold integers only")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"{split} image {wrong[0]} has label {labels[wrong[0]]}: "
            f"{classes} classes are known, 0 to {classes - 1}"
        )
    return labels.astype(np.int32)


def _decode(rows: Any, split: str, chosen: np.ndarray) -> np.ndarray:
    """Pixels of the chosen rows, uint8 [len(chosen), 32, 32, 3].

    One thread: images this small spend their time under the interpreter's lock, and two
    threads were measured to take 1.6 times as long as one.
    """
    from PIL import Image

    damage = (OSError, SyntaxError, ValueError, TypeError, EOFError, Image.DecompressionBombError)
    pixels = np.empty((len(chosen), _SIDE, _SIDE, 3), np.uint8)
    if not len(chosen):
        return pixels
    images: Sequence[Any] = rows.select(chosen)["img"][:]
    for position, (index, image) in enumerate(zip(chosen, images, strict=True)):
        try:
            pixels[position] = _decode_one(image)
        except damage as error:  # Pillow reports it under all of these names
            raise DataError(
                f"{split} image {index} cannot be decoded ({_first_line(error)}): "
                "repair or remove that row"
            ) from error
    return pixels


def _decode_one(image: dict[str, Any] | None) -> np.ndarray:
    """An encoded image as uint8 [32, 32, 3]; other sizes are resampled to 32 x 32."""
    from PIL import Image

    if image is None or not (image["bytes"] or image["path"]):
        raise ValueError("the row holds no image")
    rgb = decode(image["bytes"] or read_file(Path(image["path"])), "RGB")
    if rgb.size != (_SIDE, _SIDE):
        rgb = rgb.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(rgb)
