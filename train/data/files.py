"""Files of pictures, read whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# Bytes of a picture's file.
MOST_BYTES = 1 << 28


def read_file(path: Path) -> bytes:
    """A picture's file.

    Raises:
      OSError: "no such file" and the like, without the path: messages name it anyway.
      ValueError: a pipe, device or folder, or a file larger than `MOST_BYTES`.
    """
    try:
        # Asked before it is opened: opening a pipe waits for whoever writes to it.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"{status.st_size:,} bytes; pictures of up to {MOST_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise OSError((error.strerror or str(error)).lower()) from None
