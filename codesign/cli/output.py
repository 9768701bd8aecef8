"""How the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Piped output has no width of its own; the widest table needs this much.
_PIPE_WIDTH = 110
# How our own signs are spelled where the terminal's encoding lacks them, as ASCII lacks all.
_SPELLED = {
    "µ": "u",
    "²": "2",
    "±": "+-",
    "×": "x",
    "–": "-",
    "—": "-",
    "·": "*",
    "≤": "<=",
    "≥": ">=",
    "…": "...",
}
_SPELLING = "codesign.spelled"


def spell_what_no_stream_holds() -> None:
    """stdout and stderr write what their encoding lacks in other signs, and never fail of it."""
    codecs.register_error(_SPELLING, _spelled)
    for stream in (sys.stdout, sys.stderr):
        encoding = str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        if not encoding.startswith("utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_SPELLING)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """The error handler of a codec: another spelling, or an escape such as \\u2192."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    escape = lambda sign: sign.encode("ascii", "backslashreplace").decode()  # noqa: E731
    return "".join(_SPELLED.get(sign) or escape(sign) for sign in signs), error.end


def console(stderr: bool = False) -> Console:
    """A console of rich, wide enough for every table where its output is piped.

    Strings are shown as they are, in tables too: brackets are no markup, and what is not
    printable is an escape. They may be names from files, which style nothing and move no cursor.
    """
    from rich.console import Console
    from rich.text import Text

    from codesign.printable import printable_lines

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError, which `main` takes for no failure

        def render_str(self, text: str, **style: Any) -> Text:
            return super().render_str(printable_lines(text), **style)

    out = Plain(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out.width = _PIPE_WIDTH
    return out


def print_json(obj: Any) -> None:
    """One JSON value on stdout, also where that is `only_results`'s.

    In ASCII where stdout cannot hold all of its characters.
    """
    out: Any = getattr(sys.stdout, "result", sys.stdout)
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(out.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(obj, indent=2, allow_nan=False)
    print(text, file=out)


class _Diverted:
    """stderr in stdout's place; `result` is the stdout that it stands for."""

    def __init__(self, result: TextIO) -> None:
        self.result = result

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextlib.contextmanager
def only_results() -> Iterator[None]:
    """Leaves stdout to `print_json`: what else is printed there, by whomever, goes to stderr."""
    before = sys.stdout
    with contextlib.ExitStack() as stack:
        result = before
        if _is_stdout(before):  # and not a test's or a notebook's
            kept = os.fdopen(os.dup(1), "w", encoding=before.encoding, errors=before.errors)
            result = stack.enter_context(kept)
        stack.enter_context(stdout_to_stderr())
        diverted: Any = _Diverted(result)
        stack.enter_context(contextlib.redirect_stdout(diverted))
        yield
        result.flush()


def _is_stdout(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):
        return False


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
