"""The two errors a user sees as one clear line; anything else is a bug and shows a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# A longer list of valid names hides the one that is meant.
_MOST_NAMES = 12


class UserError(Exception):
    """Bad input: one line that names the thing and the mend. Exit code 2."""


class RunError(Exception):
    """A failure on good input: one line that says what failed. Exit code 1."""


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
