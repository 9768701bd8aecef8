"""Compiled programs of one process, for which Linux has so much room.

A program of XLA for CPUs takes a dozen mappings of memory or more, and a process may have 65,530
of them (vm.max_map_count). Without any left LLVM ends the process, with nothing for Python to
catch. A search takes some 15,000, so that a comparison of searches over several seeds, or a
notebook that makes one search after the other, would come to that end.
"""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

import jax

_OWN, _MOST = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
# Of the mappings: what is left is room for the largest of runs.
_SHARE = 0.2


def make_room() -> bool:
    """Drops all compiled programs where they take much of the room; whether it did.

    What is called again is compiled again, or read from the compilation cache. Where there is no
    such limit, as on other systems than Linux, nothing is dropped.
    """
    with contextlib.suppress(OSError, ValueError):
        if mappings() > _SHARE * int(_MOST.read_text()):
            jax.clear_caches()
            gc.collect()  # of programs in cycles of references
            return True
    return False


def mappings() -> int:
    """Mappings of memory that this process has.

    Raises:
      OSError: on a system that does not tell.
    """
    with _OWN.open("rb") as file:
        return sum(1 for _ in file)
