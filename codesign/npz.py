"""NumPy's .npz archives from outside, read within limits: their arrays, or why not."""

from __future__ import annotations

import lzma
import os
import struct
import tokenize
import zipfile
import zlib

import numpy as np

# What the arrays of a file may take, those that are compressed too.
MOST_BYTES = 1 << 30
# Of NumPy, its readers of headers and of sizes that are not there, and of zip files.
_DAMAGE = (
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays by name; of objects there are none, as they would be unpickled.

    Raises:
      OSError: the file cannot be read.
      ValueError: no such archive, a damaged one, or one larger than `MOST_BYTES`; says why.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        if claimed > MOST_BYTES:
            raise ValueError(f"its arrays claim {claimed:,} bytes, {MOST_BYTES:,} at most")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except _DAMAGE as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(why) from error
