"""Compiles the native part at first use, into a folder of the user's.

The library's name holds a hash of its sources, the flags, the compiler and jaxlib, so that a
change of any of them compiles anew. It is written aside and renamed: of two processes that
compile at once, either's library serves both.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jax
import jaxlib

from codesign.oracle.cache import default_cache

_SOURCES = ("tile.h", "tile.cc", "call.cc")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=fast", "-w")
_INSTRUCTION_SETS = {
    "kBaseline": (),
    "kAvx2": ("-mavx2", "-mfma"),
    "kAvx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
}
_COMPILERS = ("c++", "g++", "clang++")
_PATIENCE_S = 300.0


class CannotCompile(Exception):
    """One line that says why there is no library."""


def library() -> Path:
    """The compiled library, compiled now where it is not yet there: 5 s or so.

    The compiler is $CXX, or the first of c++, g++ and clang++.

    Raises:
      CannotCompile: no compiler, one that fails, or a folder that cannot be written.
    """
    compiler = _compiler()
    target = cache_folder() / f"row_sparse-{_key(compiler)}.so"
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as aside:
                os.replace(_compiled(compiler, Path(aside)), target)
        except OSError as error:
            raise CannotCompile(f"{target.parent} cannot be written: {error}") from None
    return target


def cache_folder() -> Path:
    """Where libraries are kept: $CODESIGN_CACHE/kernel, or the platform's cache folder."""
    return default_cache().with_name("kernel")


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else list(_COMPILERS)
    for name in names:
        if found := shutil.which(name):
            return found
    raise CannotCompile(f"there is no C++ compiler ({', '.join(names)})")


def _key(compiler: str) -> str:
    about = [compiler, _run([compiler, "--version"]), jaxlib.__version__, platform.machine()]
    about += [*_FLAGS, str(_INSTRUCTION_SETS)]
    sources = resources.files(__package__)
    about += [sources.joinpath(name).read_text() for name in _SOURCES]
    return hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]


def _compiled(compiler: str, folder: Path) -> Path:
    """The library, made in this folder."""
    for name in _SOURCES:
        folder.joinpath(name).write_text(resources.files(__package__).joinpath(name).read_text())
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    objects = []

    def compile_one(source: str, to: str, *flags: str) -> None:
        objects.append(str(folder / to))
        _run([compiler, *_FLAGS, *flags, "-c", str(folder / source), "-o", objects[-1]])

    for name in _INSTRUCTION_SETS if x86 else ("kBaseline",):
        compile_one("tile.cc", f"{name}.o", f"-DINSTRUCTION_SET={name}", *_INSTRUCTION_SETS[name])
    compile_one("call.cc", "call.o", "-isystem", jax.ffi.include_dir())
    result = folder / "library.so"
    _run([compiler, "-shared", "-pthread", *objects, "-o", str(result)])
    return result


def _run(command: Sequence[str]) -> str:
    """What a command says.

    Raises:
      CannotCompile: it fails, with its first line of complaint.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        first = next((line for line in said if "error" in line), said[0])
        raise CannotCompile(f"{command[0]} fails: {first}")
    return done.stdout
