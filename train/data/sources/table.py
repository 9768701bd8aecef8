"""Tables of captions: .csv, .tsv or .jsonl, one row a caption or a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codesign.train.data.config import DataError, SourceConfig
from codesign.train.data.sources.base import Source

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
# The table of a folder, where it holds several.
STEMS = ("metadata", "captions")
IMAGE_COLUMNS = ("file_name", "filepath", "image", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
# Files looked for at once: all missing means a wrong folder, not a few lost pictures.
_LOOKED_FOR = 16
# A caption of a web page may be longer than the csv module's 128 KiB.
_LONGEST_FIELD = 1 << 27


def read(path: Path, config: SourceConfig) -> Source:
    """The pictures a table names, in its order; rows of one picture are its several captions.

    Raises:
      DataError: no table of these columns, no rows, or none of the files it names.
    """
    captions: dict[str, list[str]] = {}
    lost: list[str] = []
    for number, row, image, caption in _rows(path, config):
        texts = texts_of(row.get(caption))
        if not row.get(image) or not texts:
            lacking = caption if row.get(image) else image
            lost.append(f"{path} line {number}: no {lacking}")
            continue
        captions.setdefault(str(row[image]), []).extend(texts)
    if not captions:
        raise DataError(f"{path} is empty: no row with a picture and a caption")
    files = list(captions)
    folder = path.parent
    _check_files(path, [folder / file for file in files[:_LOOKED_FOR]])
    several = [tuple(texts) for texts in captions.values()]
    return Source(
        name=str(path),
        labels=np.full(len(files), -1, np.int32),
        captions=lambda i: several[i],
        image=lambda i: read_file(folder / files[i]),
        where=lambda i: str(folder / files[i]),
        lost=tuple(lost),
    )


def read_file(path: Path) -> bytes:
    """A picture's file.

    Raises:
      OSError: "no such file" and the like, without the path: messages name it anyway.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError((error.strerror or str(error)).lower()) from None


def pick_column(
    asked: str | None, usual: Sequence[str], columns: Sequence[str], where: str, what: str
) -> str:
    """The column named by the user, else the first of the usual ones that is there.

    Raises:
      DataError: there is none.
    """
    wanted = [asked] if asked else usual
    found = next((name for name in wanted if name in columns), None)
    if found is None:
        raise DataError(
            f"{where} has no column {' or '.join(wanted)} for {what}; "
            f"its columns are: {', '.join(columns)}"
        )
    return found


def _rows(path: Path, config: SourceConfig) -> Iterator[tuple[int, Mapping[str, Any], str, str]]:
    """(line, row, image column, caption column) of every row."""
    read_rows = _json_rows if path.suffix in (".jsonl", ".ndjson") else _csv_rows
    columns: tuple[str, str] | None = None
    try:
        # newline="": the csv module wants to see line ends within quotes.
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in read_rows(file, path):
                columns = columns or (
                    pick_column(config.image_column, IMAGE_COLUMNS, list(row), str(path), "images"),
                    pick_column(
                        config.caption_column, CAPTION_COLUMNS, list(row), str(path), "captions"
                    ),
                )
                yield number, row, *columns
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8") from None


def _csv_rows(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    header = file.readline()
    # OpenCLIP writes tables with tabs and calls them .csv.
    tabs = path.suffix == ".tsv" or header.count("\t") > header.count(",")
    delimiter = "\t" if tabs else ","
    columns = next(csv.reader([header], delimiter=delimiter), [])
    reader = csv.DictReader(file, fieldnames=columns, delimiter=delimiter, restval="")
    try:
        for row in reader:
            yield reader.line_num + 1, row
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num + 1} is not CSV: {error}") from None


def _json_rows(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} is no JSON object")
        yield number, row


def texts_of(value: Any) -> tuple[str, ...]:
    """The captions in a field, a text or a list of texts, without empty ones."""
    values = value if isinstance(value, list) else [value]
    return tuple(text.strip() for text in values if isinstance(text, str) and text.strip())


def _check_files(table: Path, files: list[Path]) -> None:
    if not any(file.is_file() for file in files):
        raise DataError(
            f"{table} names {files[0]}, which does not exist, nor do the next "
            f"{len(files) - 1} files; paths are relative to the table's folder"
        )
