"""Tables of captions: .csv, .tsv or .jsonl, one row a caption or a picture."""

from __future__ import annotations

import ast
import collections
import contextlib
import functools
import itertools
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from codesign.openers import unwaiting
from codesign.train.data.config import DataError, SourceConfig
from codesign.train.data.files import read_file
from codesign.train.data.sources.base import Source, printable
from codesign.train.data.sources.rows import header_of, is_strict, separator_of, split_rows

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
# The table of a folder, where it holds several.
STEMS = ("metadata", "captions")
IMAGE_COLUMNS = ("file_name", "filepath", "image", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
# Files looked for at once: all missing means a wrong folder, not a few lost pictures.
_LOOKED_FOR = 16
# Characters of a line: more than any caption has, less than memory minds.
_LONGEST_LINE = 1 << 26
# Names of columns that a message lists: each row of JSON may have other ones.
_MOST_NAMES = 50
_NO_UTF8 = "is no text in UTF-8"


def read(path: Path, config: SourceConfig) -> Source:
    """The pictures a table names, in its order; rows of one picture are its several captions.

    Raises:
      DataError: no table of these columns, no rows, or none of the files it names.
    """
    captions: dict[str, list[str]] = {}
    lost: list[str] = []
    unreadable: list[str] = []
    rows = 0
    for number, image, texts, why in _rows(path, config):
        rows += 1
        if not why:
            captions.setdefault(str(image), []).extend(texts_of(texts))
            continue
        lost.append(f"{path} line {number}: {why}")
        if image is None:
            unreadable.append(
                f"{path} {why}, in line {number}"
                if why is _NO_UTF8
                else f"{path} line {number} {why}"
            )
    # A few damaged lines are counted; a file of them is another file than it was taken for.
    if unreadable and 2 * len(unreadable) >= rows:
        raise DataError(unreadable[0])
    if not captions:
        why = f", such as {lost[0]}" if lost else ""
        raise DataError(f"{path} is empty: no row with a picture and a caption{why}")
    files = list(captions)
    folder = path.parent
    _check_files(path, [folder / file for file in files[:_LOOKED_FOR]])
    several = [tuple(texts) for texts in captions.values()]
    return Source(
        name=str(path),
        labels=np.full(len(files), -1, np.int32),
        captions=lambda i: several[i],
        image=lambda i: read_file(folder / files[i]),
        where=lambda i: printable(folder / files[i]),
        lost=tuple(lost),
    )


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


def _rows(path: Path, config: SourceConfig) -> Iterator[tuple[int, Any, Any, str]]:
    """(line, picture, captions, why not) of every row.

    `why not` is empty where the row is used, the picture None where the line cannot be read at all.
    """
    read_rows = _json_rows if path.suffix.lower() in (".jsonl", ".ndjson") else _separated_rows
    try:
        with _opened(path) as file:
            yield from read_rows(_lines(file, path), path, config)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _opened(path: Path) -> TextIO:
    """The text, with its line ends, which the csv module wants to see within quotes.

    Bytes that are not UTF-8 are told from text by the surrogates they become.
    """
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="", opener=unwaiting)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{path} line {number} is longer than {_LONGEST_LINE:,} characters")
        yield line


def _separated_rows(
    lines: Iterator[str], path: Path, config: SourceConfig
) -> Iterator[tuple[int, Any, Any, str]]:
    def found(names: Sequence[str]) -> bool:
        wanted = ((config.image_column, IMAGE_COLUMNS), (config.caption_column, CAPTION_COLUMNS))
        return all(any(n in names for n in ([one] if one else usual)) for one, usual in wanted)

    first = 1
    for header in lines:
        if header.strip():
            break
        first += 1
    else:
        return
    if not _is_text(header):
        raise DataError(f"{path} is no text in UTF-8")
    separator = separator_of(header, path.suffix, found)
    names = header_of(header, separator)
    image = names.index(pick_column(config.image_column, IMAGE_COLUMNS, names, str(path), "images"))
    caption = names.index(
        pick_column(config.caption_column, CAPTION_COLUMNS, names, str(path), "captions")
    )

    @functools.cache
    def strict() -> bool:
        if separator == "\t":
            return False  # mostly written without quoting: quotes are characters of captions
        with _opened(path) as file:
            return is_strict(
                itertools.islice(_lines(file, path), first, None), separator, len(names)
            )

    for number, fields in split_rows(lines, separator, len(names), strict):
        fields, why = _fitted(fields, len(names), caption, separator)
        if not _is_text("".join(fields)):
            yield first + number, None, None, _NO_UTF8
        elif why:
            yield first + number, "", None, why
        else:
            file_name, texts = fields[image].strip(), _listed(fields[caption])
            lacking = image if not file_name else caption if not texts_of(texts) else None
            why = "" if lacking is None else f"no {names[lacking]}"
            yield first + number, file_name, texts, why


def _listed(text: str) -> Any:
    """A field's list of captions, as JSON or Python writes it into a table; else the text."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text)
            if found and all(isinstance(one, str | None) for one in found):
                return found
    if text.startswith(("['", '["')) and text.endswith("]"):
        with (
            contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError),
            warnings.catch_warnings(action="ignore"),
        ):
            found = ast.literal_eval(text)
            # Not what Python takes for one text, as NumPy's ['one' 'two'].
            if repr(found) == text and all(isinstance(one, str) for one in found):
                return found
    return text


def _fitted(fields: list[str], columns: int, caption: int, separator: str) -> tuple[list[str], str]:
    """As many fields as columns, or why there are not."""
    while len(fields) > columns and not fields[-1].strip():
        fields = fields[:-1]
    if len(fields) <= columns:
        return fields + [""] * (columns - len(fields)), ""
    if caption == columns - 1:  # what follows can only be more of it
        return [*fields[:caption], separator.join(fields[caption:])], ""
    return fields, f"{len(fields)} fields, the header has {columns}; put the caption in quotes"


def _json_rows(
    lines: Iterator[str], path: Path, config: SourceConfig
) -> Iterator[tuple[int, Any, Any, str]]:
    asked = [name for name in (config.image_column, config.caption_column) if name]
    wanted = {*asked, *IMAGE_COLUMNS, *CAPTION_COLUMNS}
    rows: list[tuple[int, dict[str, Any] | None, str]] = []
    uses: collections.Counter[str] = collections.Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row, why = _json_object(line)
        if row is not None:
            uses.update(n for n in row if n in wanted or n in uses or len(uses) < _MOST_NAMES)
            row = {name: value for name, value in row.items() if name in wanted}
        rows.append((number, row, why))
    if not uses:
        yield from ((number, None, None, why or "is an empty object") for number, _, why in rows)
        return

    def column(asked: str | None, usual: Sequence[str], what: str) -> str:
        # That which most rows have: a first row may lack what all others have.
        by_use = sorted(usual, key=lambda name: -uses[name])
        return pick_column(asked, by_use, list(uses), str(path), what)

    image = column(config.image_column, IMAGE_COLUMNS, "images")
    caption = column(config.caption_column, CAPTION_COLUMNS, "captions")
    for number, row, why in rows:
        if row is None:
            yield number, None, None, why
            continue
        texts = row.get(caption)
        lacking = image if not row.get(image) else caption if not texts_of(texts) else ""
        yield number, row.get(image) or "", texts, f"no {lacking}" if lacking else ""


def _json_object(line: str) -> tuple[dict[str, Any] | None, str]:
    """The object in a line, or why there is none."""
    if not _is_text(line):
        return None, _NO_UTF8
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return None, f"is not JSON: {error.msg}"
    except (ValueError, RecursionError):  # thousands of digits or of levels
        return None, "is not JSON: a number too long, or too many levels"
    return (row, "") if isinstance(row, dict) else (None, "is no JSON object")


def _is_text(line: str) -> bool:
    return line.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in line)


def texts_of(value: Any) -> tuple[str, ...]:
    """The captions in a field, a text or a list of texts, without empty ones."""
    values = value if isinstance(value, list) else [value]
    return tuple(_valid(text.strip()) for text in values if isinstance(text, str) and text.strip())


def _valid(text: str) -> str:
    """The text with a mark in place of each half of a character, which JSON may hold."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _check_files(table: Path, files: list[Path]) -> None:
    # os.path's, which takes names that no file can have for those of no file.
    if not any(os.path.isfile(file) for file in files):
        raise DataError(
            f"{table} names {printable(files[0])}, which does not exist, nor do the next "
            f"{len(files) - 1} files; paths are relative to the table's folder"
        )
