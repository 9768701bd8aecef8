"""Compiled programs are kept for the next command, by JAX's persistent compilation cache.

A program's key holds its code, jaxlib's version, XLA_FLAGS (ours of `codesign.compiler` too), the
options it is compiled with and the kind of device. It does not tell CPUs apart, so that each kind
of CPU has a folder of its own. A program is machine code: the folder is the user's alone.

JAX reads its settings from the environment as it is imported, so that it must not have been. What
the user has set in JAX's own variables (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE,
JAX_COMPILATION_CACHE_MAX_SIZE, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS) stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import warnings
from pathlib import Path

from codesign.caches import NotPrivate, cache_folder, private_folder

FOLDER, ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
MOST_BYTES = "JAX_COMPILATION_CACHE_MAX_SIZE"
LEAST_COMPILE_S = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# The programs of some hundreds of runs; JAX then drops what was used least lately.
_MOST_BYTES = 1 << 30
# What compiles faster is hardly slower compiled than read.
_LEAST_COMPILE_S = 0.2
_LOCK, _PROGRAM, _USED = ".lockfile", "-cache", "-atime"  # JAX's
# How a compressed program begins: by zlib, or by zstandard where that is installed.
_BEGINNINGS = (b"\x78", b"\x28\xb5\x2f\xfd")


def start(*, wanted: bool = True) -> None:
    """Keeps programs from here on, where JAX is not there yet and the user has not said otherwise.

    Without a word where there is no place for them: a home that cannot be written, a folder that
    others can write to.

    Args:
      wanted: False: every program is compiled, and none kept.
    """
    if "jax" in sys.modules:
        return  # Its settings are those of whoever imported it.
    if not wanted:
        os.environ[ENABLED] = "false"
    if os.environ.get(ENABLED, "true").lower() in ("n", "no", "f", "false", "off", "0"):
        return
    # XLA reports an error for each program it loads on CPUs with +prefer-no-gather, a preference
    # that it takes for a missing instruction (openxla/xla issue 44565). What really fails is an
    # exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    ignore_damage()
    if FOLDER in os.environ:
        return
    try:
        folder = private_folder(cache_folder() / "programs" / _machine())
        if not os.access(folder, os.W_OK | os.X_OK):
            return
        if MOST_BYTES not in os.environ:  # -1 lets JAX write no times
            _mend(folder)
    except (OSError, RuntimeError, NotPrivate):  # RuntimeError: nobody's home is known
        return
    os.environ[FOLDER] = str(folder)
    os.environ.setdefault(MOST_BYTES, str(_MOST_BYTES))
    os.environ.setdefault(LEAST_COMPILE_S, str(_LEAST_COMPILE_S))


def ignore_damage() -> None:
    """No warning of a program that cannot be read or kept: JAX then compiles it."""
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _machine() -> str:
    """A name of this kind of CPU: of two with one name, each runs the other's machine code."""
    lines = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if not line.strip():
                break  # The others are of the same kind.
            if line.startswith(("model name", "flags", "Features", "CPU ", "isa")):
                lines.append(line.strip())
    about = "\n".join(lines) or platform.processor()
    digest = hashlib.sha256(about.encode()).hexdigest()[:12]
    return f"{platform.system()}-{platform.machine()}-{digest}".lower()


def _mend(folder: Path) -> None:
    """Removes what a kill or a power cut left in the middle: JAX would never replace it.

    A program without the time it was last used, which JAX writes after it, makes every later
    one fail to be kept too.
    """
    import filelock

    names = {path.name for path in folder.iterdir()}
    programs = {name.removesuffix(_PROGRAM) for name in names if name.endswith(_PROGRAM)}
    used = {name.removesuffix(_USED) for name in names if name.endswith(_USED)}
    halves = programs ^ used
    halves |= {key for key in programs & used if not _is_whole(folder, key)}
    if not halves:
        return
    # While another process writes, JAX holds the lock; what it has written is whole afterwards.
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / _LOCK, timeout=0):
        for key in halves:
            if not _is_whole(folder, key):
                for end in (_PROGRAM, _USED):
                    (folder / f"{key}{end}").unlink(missing_ok=True)


def _is_whole(folder: Path, key: str) -> bool:
    """Whether both files of a program are there and begin as they should."""
    try:
        with open(folder / f"{key}{_PROGRAM}", "rb") as file:
            begins = file.read(4)
        return begins.startswith(_BEGINNINGS) and (folder / f"{key}{_USED}").stat().st_size == 8
    except FileNotFoundError:
        return False
