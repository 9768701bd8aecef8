"""An opener for files from outside, which may be pipes."""

from __future__ import annotations

import os


def unwaiting(path: str, flags: int) -> int:
    """An opener for `open`: a pipe that nobody writes to is an empty file.

    Opened without it, a named pipe waits for a writer, which may never come. What a shell hands
    over, as `<(jq . design.json)`, has its writer and is read to the end.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)
    return descriptor
