"""Text from outside (names of designs, runs and files) that a terminal shows and cannot obey."""

from __future__ import annotations

from typing import Any


def printable(text: Any) -> str:
    """The text in one line of printable characters.

    What is none (escape sequences, line breaks, marks of writing direction, halves of surrogate
    pairs) is written as Python's escape for it, as "\\x1b".
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
    )


def printable_lines(text: str) -> str:
    """`printable` of text that keeps its line breaks."""
    return "\n".join(map(printable, text.split("\n")))
