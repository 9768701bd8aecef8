"""The program in a process forked from one that has imported what takes seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax

# Of commands that train; nothing of it starts a backend or a thread.
from codesign.cli import main


def run(argv: list[str], folder: str, errors: str) -> None:
    """`codesign argv` in a folder, programs cached there, stderr to the file `errors` in it."""
    os.chdir(folder)
    with Path(errors).open("w") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    sys.exit(main(argv))
