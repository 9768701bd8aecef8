"""Files from outside, which may be pipes, and of any size."""

from __future__ import annotations

import os

from codesign.errors import UserError


def unwaiting(path: str, flags: int) -> int:
    """An opener for `open`: a pipe that nobody writes to is an empty file.

    Opened without it, a named pipe waits for a writer, which may never come. What a shell hands
    over, as `<(jq . design.json)`, has its writer and is read to the end.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)
    return descriptor


def read_bounded(path: str | os.PathLike[str], most_bytes: int, what: str) -> bytes:
    """All of a file that is not too large for what it should be, such as "a JSON file".

    Raises:
      UserError: one line that names the file: it is missing, unreadable or too large.
    """
    try:
        with open(path, "rb", opener=unwaiting) as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > most_bytes:
        raise UserError(f"{path} is larger than {most_bytes} bytes, too large for {what}")
    return data
