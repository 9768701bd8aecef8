"""The two errors a user sees as one clear line; anything else is a bug and shows a traceback."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

# A longer list of valid names hides the one that is meant.
_MOST_NAMES = 12


class UserError(Exception):
    """Bad input: one line that names the thing and the mend. Exit code 2."""


class RunError(Exception):
    """A failure on good input: one line that says what failed. Exit code 1."""


class Stalled(RunError):
    """Data that do not come. Threads may wait for them for ever, so none of them is waited for."""


# As XLA has it, whose errors have one class.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
_MOST_CHARACTERS = 120
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def out_of_space(error: BaseException) -> str | None:
    """The text "No space left on device" at the bottom of an error; None: it is not there.

    Libraries that are not written in Python tell of the system's error in their text alone.
    """
    links = _links(error)
    for number in _DISK_FULL:
        said = os.strerror(number)
        if any(getattr(one, "errno", None) == number or said in str(one) for one in links):
            return said
    return None


def out_of_memory(error: BaseException) -> str | None:
    """What was too large, in a line, where memory that is not there is what an error is about."""
    for link in _links(error):
        said = " ".join(str(link).split())
        if isinstance(link, MemoryError) or any(words in said for words in _NO_MEMORY):
            return said[:_MOST_CHARACTERS] or type(link).__name__
    return None


def _links(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The mend for a misspelt name.

    Args:
      name: what the user wrote.
      valid: every name that would have been right.

    Returns:
      "did you mean 'width'?", or the valid names where none is close.
    """
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not names:
        return "there is none to choose from"
    shown = ", ".join(names[:_MOST_NAMES])
    return f"choose from {shown}" + (", ..." if len(names) > _MOST_NAMES else "")
