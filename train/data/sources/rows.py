"""The rows of a text table, whatever its separator and however its quotes are meant.

The csv module decides, one row at a time: where it finds quotes that enclose no field (6" plate,
"Hello" she said), the row is read as it stands. So a lone quote is a character of its caption
and never swallows the rows below it.
"""

from __future__ import annotations

import collections
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from codesign.train.data.sources.folders import is_picture

SEPARATORS = (",", "\t", ";", "|")
# Lines and characters a field within quotes may go on for; a caption of a web page may be longer
# than the csv module's own 128 KiB.
_MOST_LINES = 1000
_MOST_CHARACTERS = 1 << 24


def split_rows(
    lines: Iterable[str], separator: str, columns: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """(line number from 1, fields) of every row; blank lines are none.

    Args:
      lines: with their ends.
      separator: one character.
      columns: of the header; where known, a line that reads like a row is not taken into a field
        that an unpaired quote above it has opened.
    """
    source = _Lines(lines)
    while (line := source.next()) is not None:
        number = source.number
        if not line.strip():
            continue
        fields = None
        if '"' in line:
            fields = _quoted(line, source, separator, columns)
        yield number, fields or line.rstrip("\r\n").split(separator)


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


def _quoted(line: str, source: _Lines, separator: str, columns: int) -> list[str] | None:
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
        if columns and _reads_like_a_row(following, separator, columns):
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
        return None
    return rows[0] if len(rows) == 1 else None


def _may_go_on(line: str, separator: str) -> bool:
    """Whether a field of the line begins with a quote."""
    return re.search(rf'(?:^|{re.escape(separator)}) *"', line) is not None


def _reads_like_a_row(line: str, separator: str, columns: int) -> bool:
    fields = line.rstrip("\r\n").split(separator)
    pictures = any(is_picture(field.strip().strip('"')) for field in fields)
    return len(fields) >= columns and (separator == "\t" or pictures)
