"""The rows of a text table, whatever its separator and however its quotes are meant.

The csv module decides, one row at a time: where it finds quotes that enclose no field (6" plate,
"Hello" she said), the row is read as it stands. So a lone quote is a character of its caption
and never swallows the rows below it, unless every row of the table is as RFC 4180 has it.
"""

from __future__ import annotations

import collections
import csv
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from codesign.train.data.sources.folders import is_picture

SEPARATORS = (",", "\t", ";", "|")
# Lines and characters a field within quotes may go on for; a caption of a web page may be longer
# than the csv module's own 128 KiB.
_MOST_LINES = 1000
_MOST_CHARACTERS = 1 << 24


def _unknown() -> bool:
    return False


def split_rows(
    lines: Iterable[str],
    separator: str,
    columns: int = 0,
    strict: Callable[[], bool] = _unknown,
) -> Iterator[tuple[int, list[str]]]:
    """(line number from 1, fields) of every row; blank lines are none.

    Args:
      lines: with their ends.
      separator: one character.
      columns: of the header; where known, a line that reads like a row is not taken into a field
        that an unpaired quote above it has opened.
      strict: asked where there is such a line: whether the whole table `is_strict`, so that the
        line belongs to the field all the same.
    """
    source = _Lines(lines)
    while (line := source.next()) is not None:
        number = source.number
        if not line.strip():
            continue
        fields = None
        if '"' in line:
            fields = _quoted(line, source, separator, columns, strict)
        yield number, fields or line.rstrip("\r\n").split(separator)


def is_strict(lines: Iterable[str], separator: str, columns: int) -> bool:
    """Whether each row has so many fields, and quotes only around whole fields (RFC 4180)."""
    row: list[str] = []
    quotes = length = 0
    for line in lines:
        if not row and not line.strip():
            continue
        row.append(line)
        quotes += line.count('"')
        length += len(line)
        if quotes % 2 == 0:
            fields = _fields("".join(row), separator)
            if fields is None or len(fields) != columns:
                return False
            row, quotes, length = [], 0, 0
        elif len(row) > _MOST_LINES or length > _MOST_CHARACTERS:
            return False
    return not row


def separator_of(header: str, suffix: str, found: Callable[[Sequence[str]], bool]) -> str:
    """The separator of a table: the one by which its header names the columns.

    Args:
      header: the first line that is not blank.
      suffix: of the file; ".tsv" is separated by tabs.
      found: whether columns of these names will do.
    """
    if suffix.lower() == ".tsv":
        return "\t"
    by_use = sorted(SEPARATORS, key=lambda one: -header.count(one))
    good = (one for one in by_use if found(header_of(header, one)))
    return next(good, by_use[0] if header.count(by_use[0]) else ",")


def header_of(line: str, separator: str) -> list[str]:
    """Names of the columns, without blanks around them."""
    fields = next(split_rows([line], separator), (0, [""]))[1]
    return [name.strip() for name in fields]


class _Lines:
    """Lines one by one, some of which may be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._waiting: collections.deque[str] = collections.deque()
        self.number = 0

    def next(self) -> str | None:
        line = self._waiting.popleft() if self._waiting else next(self._lines, None)
        self.number += line is not None
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)


def _quoted(
    line: str, source: _Lines, separator: str, columns: int, strict: Callable[[], bool]
) -> list[str] | None:
    """The fields of a row by the rules of quotes; None where its quotes are no such quotes."""
    more: list[str] = []
    text, quotes = line, line.count('"')
    while len(more) < _MOST_LINES and len(text) < _MOST_CHARACTERS:
        if quotes % 2 == 0 and (fields := _strict(text, separator)) is not None:
            return fields
        if not _may_go_on(line, separator):
            break
        following = source.next()
        if following is None:
            break
        more.append(following)
        if columns and _reads_like_a_row(following, separator, columns) and not strict():
            break
        text += following
        quotes += following.count('"')
    source.put_back(more)
    return None


def _strict(text: str, separator: str) -> list[str] | None:
    csv.field_size_limit(_MOST_CHARACTERS)
    # keepends: the module wants to see line ends within quotes.
    parts = re.findall(r".*?(?:\r\n|\n|\r)|.+\Z", text, re.DOTALL)
    reader = csv.reader(parts, delimiter=separator, strict=True, skipinitialspace=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error:
        # As it is where blanks follow a quote that closes a field.
        return _fields(text, separator)
    return rows[0] if len(rows) == 1 else None


def _fields(text: str, separator: str) -> list[str] | None:
    """The fields of a row, each in quotes whole or without any; None where it has other quotes.

    Blanks around the quotes are none of the field's.
    """
    if '"' not in text:
        return text.rstrip("\r\n").split(separator)
    fields, place, more = [], 0, True
    while more:
        match = _field(separator).match(text, place)
        if match is None:
            return None
        quoted, plain, end = match.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        place, more = match.end(), end == separator
    return fields


@functools.cache
def _field(separator: str) -> re.Pattern[str]:
    """(what is in quotes or None, what is without, separator or line end) of a field."""
    one = re.escape(separator)
    return re.compile(rf' *+(?:"((?:[^"]|"")*+)" *+|([^"\r\n{one}]*+))({one}|[\r\n]*+\Z)')


def _may_go_on(line: str, separator: str) -> bool:
    """Whether a field of the line begins with a quote."""
    return re.search(rf'(?:^|{re.escape(separator)}) *"', line) is not None


def _reads_like_a_row(line: str, separator: str, columns: int) -> bool:
    fields = line.rstrip("\r\n").split(separator)
    pictures = any(is_picture(field.strip().strip('"')) for field in fields)
    return len(fields) >= columns and (separator == "\t" or pictures)
