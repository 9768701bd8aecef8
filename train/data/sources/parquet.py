"""Parquet files and data sets of the hub, read by `datasets` from their memory-mapped rows."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codesign.train.data import hub
from codesign.train.data.captions import CIFAR10_NAMES
from codesign.train.data.config import DataError, SourceConfig
from codesign.train.data.files import read_file
from codesign.train.data.sources.base import Source, Splits
from codesign.train.data.sources.table import CAPTION_COLUMNS, pick_column, texts_of

_IMAGE_COLUMNS = ("img", "image")


def read(name: str, config: SourceConfig) -> Splits:
    """The splits of a folder of parquet files or a hub data set.

    Raises:
      DataError: the extra is not installed, or the rows cannot be loaded.
    """
    return _splits(hub.load_rows(name), name, config)


def read_files(files: Sequence[Path], config: SourceConfig) -> Splits:
    """The rows of single files, as one split "train"."""
    name = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    return _splits(hub.load_rows(name, [str(file) for file in files]), name, config)


def _splits(rows: Mapping[str, Any], name: str, config: SourceConfig) -> Splits:
    known = {"val": "validation", "valid": "validation", "dev": "validation"}
    return {
        known.get(split, split): functools.partial(source_of, part, f"{name} {split}", config)
        for split, part in rows.items()
    }


def source_of(rows: Any, name: str, config: SourceConfig) -> Source:
    """The rows of one split.

    Raises:
      DataError: a column that is missing or holds something else.
    """
    image = pick_column(config.image_column, _IMAGE_COLUMNS, rows.column_names, name, "images")
    described = [*CAPTION_COLUMNS, "label"]
    caption = next((c for c in CAPTION_COLUMNS if c in rows.column_names), None)
    if config.caption_column:
        caption = pick_column(config.caption_column, (), rows.column_names, name, "captions")
    label = "label" if "label" in rows.column_names else None
    if config.label_column:
        label = pick_column(config.label_column, (), rows.column_names, name, "classes")
    if caption is None and label is None:
        pick_column(None, described, rows.column_names, name, "captions or classes")  # raises
    images = hub.encoded(rows, image, name).select_columns([image])
    texts = rows.select_columns([caption]) if caption else None

    def captions(i: int) -> tuple[str, ...]:
        return () if texts is None else texts_of(texts[i][caption])

    return Source(
        name=name,
        labels=_labels(rows, label, name),
        captions=captions,
        image=lambda i: _bytes(images[i][image]),
        where=lambda i: f"{name} row {i}",
        class_names=_class_names(rows, label, name) if label else (),
    )


def _class_names(rows: Any, label: str, name: str) -> tuple[str, ...]:
    """The names a ClassLabel declares; those of CIFAR-10 where the path says it is that."""
    names = getattr(rows.features[label], "names", None)
    if not names and re.search(r"cifar[-_]?10(?!0)", name.lower()):
        names = CIFAR10_NAMES
    return tuple(names or ())


def _bytes(image: dict[str, Any] | None) -> bytes:
    if image is None or (image["bytes"] is None and not image["path"]):
        raise ValueError("the row holds no image")
    return image["bytes"] if image["bytes"] is not None else read_file(Path(image["path"]))


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind))


def _labels(rows: Any, label: str | None, name: str) -> np.ndarray:
    """int32 [N], -1 where there is none."""
    if label is None:
        return np.full(len(rows), -1, np.int32)
    column = rows.select_columns([label]).with_format("arrow")[:][label]
    values = np.asarray(column.fill_null(-1)) if _is_integer(column.type) else None
    if values is None:
        raise DataError(
            f"column {label} of {name} must hold whole numbers, each row its class, "
            f"not {column.type}"
        )
    largest = np.iinfo(np.int32).max
    if values.size and values.max() > largest:
        row = int(values.argmax())
        raise DataError(
            f"{name} row {row} has label {values[row]} in column {label}: classes are numbered "
            f"from 0, up to {largest}"
        )
    names = getattr(rows.features[label], "names", None)
    if names and values.size and values.max() >= len(names):
        row = int(values.argmax())
        raise DataError(f"{name} row {row} has label {values[row]}: {len(names)} classes are named")
    return np.maximum(values, -1).astype(np.int32)
