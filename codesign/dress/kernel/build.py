"""Compiles the native part at first use, into a folder that only the user can write to.

The build's name holds a hash of the sources, the flags, the compiler, jaxlib and the C library,
so that a change of any of them compiles anew. A build is a folder with the library and its
SHA-256, made aside and renamed: of two processes that compile at once, either's build serves
both, and what is not whole is never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jax

from codesign import caches

_SOURCES = ("tile.h", "tile.cc", "call.cc")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=fast", "-w")
_INSTRUCTION_SETS = {
    "kBaseline": (),
    "kAvx2": ("-mavx2", "-mfma"),
    "kAvx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
}
_COMPILERS = ("c++", "g++", "clang++")
_PATIENCE_S = 300.0

_LIBRARY, _DIGEST = "row_sparse.so", "sha256"
# Folders that a build is made in; one that is older than any build takes was left by a kill.
_ASIDE = ".aside-"
_ABANDONED_S = 10 * _PATIENCE_S
# Other processes may put theirs in place, or put a damaged one away, between any two steps.
_TRIES = 5


class CannotCompile(Exception):
    """One line that says why there is no library."""


def library() -> Path:
    """The compiled library, compiled now where it is missing or damaged: 5 s or so.

    The compiler is $CXX, which may have options and a launcher ("ccache g++ -O2"), or the first
    of c++, g++ and clang++. Whoever can write to the cache can run code as its user, so a folder
    that others can write to is not used at all.

    Raises:
      CannotCompile: no compiler, one that fails, a folder that cannot be written, or one that is
        not the user's alone.
    """
    compiler = _compiler()
    folder = cache_folder()
    try:
        folder = caches.private_folder(folder)
        build = folder / f"row_sparse-{_key(compiler)}"
        if not _is_intact(build):
            _make(compiler, build)
    except OSError as error:
        raise CannotCompile(f"{folder} cannot be written: {error}") from None
    except caches.NotPrivate as error:
        raise CannotCompile(str(error)) from None
    return build / _LIBRARY


def cache_folder() -> Path:
    """Where libraries are kept: $CODESIGN_CACHE/kernel, or the platform's cache folder."""
    return caches.cache_folder() / "kernel"


# ---- what may be loaded ----------------------------------------------------------------------


def _is_intact(build: Path) -> bool:
    """Whether a build is the user's alone, and its library what was compiled."""
    try:
        whole = stat.S_ISDIR(os.lstat(build).st_mode)
        for path in (build, build / _LIBRARY, build / _DIGEST):
            about = os.lstat(path)
            whole &= path is build or stat.S_ISREG(about.st_mode)
            whole &= caches.is_mine(path) and not caches.writable_by_others(about)
        if not whole:
            return False
        with open(build / _LIBRARY, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return (build / _DIGEST).read_bytes() == digest.encode()
    except OSError:
        return False


# ---- compiling -------------------------------------------------------------------------------


def _make(compiler: Sequence[str], build: Path) -> None:
    """Compiles a build and puts it in place of whatever is there, unless that is whole by now."""
    folder = build.parent
    _clear_abandoned(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_ASIDE) as name:
        aside = Path(name)
        compiled = _compiled(compiler, aside).read_bytes()
        made = aside / "build"
        made.mkdir(mode=0o700)
        _write(made / _LIBRARY, compiled)
        _write(made / _DIGEST, hashlib.sha256(compiled).hexdigest().encode())
        _sync(made)
        for attempt in range(_TRIES):
            try:
                os.rename(made, build)
                break
            except OSError:
                if _is_intact(build):
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.rename(build, aside / f"damaged-{attempt}")
        else:
            raise OSError(f"{build.name} cannot be replaced")
        _sync(folder)


def _write(path: Path, data: bytes) -> None:
    """A new file of the user's alone, whatever the umask is, and on the disk for good."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Puts a folder's entries on the disk, where the system can do that."""
    if not caches.has_owners():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear_abandoned(folder: Path) -> None:
    for aside in folder.glob(f"{_ASIDE}*"):
        with contextlib.suppress(OSError):
            if time.time() - aside.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(aside)


def _compiler() -> list[str]:
    """The words of the command that compiles, its program as a path."""
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise CannotCompile(f"CXX is {os.environ['CXX']!r}: {error}") from None
    commands = [chosen] if chosen else [[name] for name in _COMPILERS]
    for program, *words in commands:
        if found := shutil.which(program):
            return [found, *words]
    names = ", ".join(command[0] for command in commands)
    raise CannotCompile(f"there is no C++ compiler ({names})")


def _key(compiler: Sequence[str]) -> str:
    about = [*compiler, _run([*compiler, "--version"])]
    about += [importlib.metadata.version("jaxlib"), platform.machine()]
    about += [*platform.libc_ver(), *_FLAGS, str(_INSTRUCTION_SETS)]
    sources = resources.files(__package__)
    about += [sources.joinpath(name).read_text() for name in _SOURCES]
    return hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]


def _own_options(compiler: Sequence[str]) -> list[str]:
    """The options that a compiler's command ends in: of "ccache g++ -O2" the "-O2"."""
    options: list[str] = []
    for word in compiler[1:]:
        options = [*options, word] if word.startswith("-") else []
    return options


def _compiled(compiler: Sequence[str], folder: Path) -> Path:
    """The library, made in this folder."""
    for name in _SOURCES:
        folder.joinpath(name).write_text(resources.files(__package__).joinpath(name).read_text())
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    # Of two options that disagree compilers take the last: the user's, not ours.
    flags = [*_FLAGS, *_own_options(compiler)]
    objects = []

    def compile_one(source: str, to: str, *more: str) -> None:
        objects.append(str(folder / to))
        _run([*compiler, *flags, *more, "-c", str(folder / source), "-o", objects[-1]])

    for name in _INSTRUCTION_SETS if x86 else ("kBaseline",):
        compile_one("tile.cc", f"{name}.o", f"-DINSTRUCTION_SET={name}", *_INSTRUCTION_SETS[name])
    compile_one("call.cc", "call.o", "-isystem", jax.ffi.include_dir())
    result = folder / _LIBRARY
    _run([*compiler, "-shared", "-pthread", *objects, "-o", str(result)])
    if not result.is_file():
        raise CannotCompile(f"{compiler[0]} makes no library")
    return result


def _run(command: Sequence[str]) -> str:
    """What a command says.

    Raises:
      CannotCompile: it fails, with its first line of complaint.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        first = next((line for line in said if "error" in line), said[0])
        raise CannotCompile(f"{command[0]} fails: {first}")
    return done.stdout
