"""Text from outside (names of designs, runs and files) that a terminal shows and cannot obey."""

from __future__ import annotations

import re
import reprlib
import shlex
from collections.abc import Iterable
from typing import Any

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def short_repr(value: Any) -> str:
    """Python's notation of a value, cut in the middle where it is long."""
    try:
        return _short.repr(value)
    except ValueError:  # what has more digits than Python writes
        return f"a {type(value).__name__} of thousands of digits"


def printable(text: Any) -> str:
    """The text in one line of printable characters.

    What is none (escape sequences, line breaks, marks of writing direction, halves of surrogate
    pairs) is written as Python's escape for it, as "\\x1b".
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable_lines(text: str) -> str:
    """`printable` of text that keeps its line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def shell_line(words: Iterable[str]) -> str:
    """A command as it is typed in a POSIX shell, with no more quotes than it takes."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    # Single quotes hold all but their like, and then double ones are easier to read, unless there
    # is something inside that a shell would take for its own.
    if "'" not in word or set(word) & set("!$`"):
        return shlex.quote(word)
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'
