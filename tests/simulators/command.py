"""The program in a process forked from one that has imported what takes seconds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest
import transformers

# Of commands that train; nothing of all this starts a backend or a thread.
from codesign.cli import main
from codesign.train import run
from codesign.train.search import run as search_run

SLOW_TO_IMPORT = (jax, plt, search_run, run, getattr(transformers, "CLIPImageProcessorPil", None))
IMPORTED_BY = os.getpid()
gc.set_threshold(100_000, 10, 10)  # as in conftest.py; each resumed run traces its steps anew


def fork_server() -> ForkServerContext:
    """Starts processes that have this module from their parent."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    # What it cannot import it passes over, and it looks along no path but that of a new process.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        ensure_running()
    return server


def run_command(argv: list[str], folder: str, errors: str) -> None:
    """`codesign argv` in a folder, programs cached there, stderr to the file `errors` in it."""
    assert os.getpid() != IMPORTED_BY, "imported here, not by the parent"
    os.chdir(folder)
    with Path(errors).open("w") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    sys.exit(main(argv))
