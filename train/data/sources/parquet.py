"""Parquet files and data sets of the hub, read by `datasets` from their memory-mapped rows."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codesign.train.data import hub
from codesign.train.data.captions import CIFAR10_NAMES
from codesign.train.data.config import DataError, SourceConfig
from codesign.train.data.files import read_file
from codesign.train.data.sources.base import UNSPLIT, Source, Splits
from codesign.train.data.sources.folders import visible
from codesign.train.data.sources.table import CAPTION_COLUMNS, pick_column, texts_of

_IMAGE_COLUMNS = ("img", "image")


def read(name: str, config: SourceConfig) -> Splits:
    """The splits of a folder of parquet files or a hub data set.

    Raises:
      DataError: the extra is not installed, or the rows cannot be loaded.
    """
    splits = _splits(hub.load_rows(name), name, config)
    folder = Path(os.path.expanduser(name))
    files = hub.files_by_split(name) if folder.is_dir() else {}
    used = {os.path.realpath(file) for of_split in files.values() for file in of_split}
    _check_class_names(sorted(used), config)
    files_there = sorted(visible(folder, "**/*.parquet")) if used else []
    if others := [file for file in files_there if os.path.realpath(file) not in used]:
        splits[UNSPLIT] = functools.partial(_others, others, config)
    return splits


def read_files(files: Sequence[Path], config: SourceConfig) -> Splits:
    """The rows of single files, as one split "train"."""
    _check_class_names([str(file) for file in files], config)
    name = _name(files)
    return _splits(hub.load_rows(name, [str(file) for file in files]), name, config)


def _name(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _splits(
    rows: Mapping[str, Any], name: str, config: SourceConfig
) -> dict[str, Callable[[], Source]]:
    known = {"val": "validation", "valid": "validation", "dev": "validation"}
    return {
        known.get(split, split): functools.partial(source_of, part, f"{name} {split}", config)
        for split, part in rows.items()
    }


def _others(files: Sequence[Path], config: SourceConfig) -> Source:
    """The files whose names tell no split, beside others whose names do; else a line on each.

    They need not be of the same data: tables of statistics are parquet files as well.
    """
    name = _name(files)
    try:
        return source_of(hub.load_rows(name, [str(file) for file in files])["train"], name, config)
    except DataError as error:
        why = str(error)
    return Source(
        name=name,
        labels=np.zeros(0, np.int32),
        captions=lambda i: (),
        image=lambda i: b"",
        where=lambda i: name,
        lost=tuple(f"{file}: of no split, and not read: {why}" for file in files),
    )


def _check_class_names(files: Sequence[str], config: SourceConfig) -> None:
    """Refuses files that name their classes otherwise: `datasets` takes the first's for all."""
    label = config.label_column or "label"
    first: tuple[str, list[str]] | None = None
    for file in files if len(files) > 1 else ():
        names = _declared_names(file, label)
        if names and first and names != first[1]:
            raise DataError(
                f"{file} names the classes of column {label} otherwise than {first[0]}: read one "
                "of them at a time, or write them with the same names in one order"
            )
        first = first or ((file, names) if names else None)


def _declared_names(file: str, label: str) -> list[str]:
    """The names of a ClassLabel in what `datasets` has written into a file; none without it."""
    from pyarrow import parquet

    try:
        stored = (parquet.read_schema(file).metadata or {}).get(b"huggingface", b"{}")
        return list(json.loads(stored)["info"]["features"][label]["names"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []  # a file that is damaged is refused where it is loaded


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
    lost = ""
    if label and caption and not config.label_column and not _is_integer(_kind(rows, label)):
        lost = f"{name}: column {label} holds {_kind(rows, label)}, no numbers of classes: not used"
        label = None
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
        lost=(lost,) if lost else (),
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


def _kind(rows: Any, column: str) -> Any:
    """Arrow's type of a column."""
    return rows.features.arrow_schema.field(column).type


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind))


def _labels(rows: Any, label: str | None, name: str) -> np.ndarray:
    """int32 [N], -1 where there is none."""
    if label is None:
        return np.full(len(rows), -1, np.int32)
    column = rows.select_columns([label]).with_format("arrow")[:][label]
    # Nulls are filled in by 0, which unsigned numbers have as well.
    values = np.asarray(column.fill_null(0)) if _is_integer(column.type) else None
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
    labels = np.maximum(values.astype(np.int64), -1).astype(np.int32)
    return np.where(np.asarray(column.is_null()), -1, labels).astype(np.int32)
