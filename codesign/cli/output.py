"""How the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Piped output has no width of its own; the widest table needs this much.
_PIPE_WIDTH = 110


def console(stderr: bool = False) -> Console:
    """A console of rich, wide enough for every table where its output is piped."""
    from rich.console import Console

    out = Console(stderr=stderr)
    if not out.is_terminal:
        out.width = _PIPE_WIDTH
    return out


def print_json(obj: Any) -> None:
    """One JSON value on stdout."""
    print(json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False))


def shards_to_stderr() -> Callable[[int, int], None]:
    """Tells on stderr that tar shards are being indexed, a line every tenth of them."""
    out = console(stderr=True)

    def tell(done: int, of: int) -> None:
        if done % max(1, of // 10) == 0 or done == of:
            out.print(f"indexed {done} of {of} shards", highlight=False)

    return tell


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """For libraries that print where only a result belongs: Gloo does, from C++."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
