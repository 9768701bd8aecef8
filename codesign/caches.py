"""The folder for what can be made again: bought samples, compiled kernels and programs, shards."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

# Root, and whom containers show where they have no number for an owner outside, such as root.
_SYSTEM = (0, 65534)


def cache_folder() -> Path:
    """$CODESIGN_CACHE, or codesign/ in the platform's cache folder; it need not exist."""
    chosen = os.environ.get("CODESIGN_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    if sys.platform == "darwin":
        base = _home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", _home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache")
    return base / "codesign"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # of a number that no user has, as containers run under
        return Path(tempfile.gettempdir()) / f"codesign-{os.getuid()}"


class NotPrivate(Exception):
    """One line that says who else could put something into a folder."""


def private_folder(folder: Path) -> Path:
    """Makes a folder of code that is run, and refuses one in which somebody else could put some.

    Returns:
      Its real path: from here on no link on the way to it matters.

    Raises:
      OSError: it cannot be made.
      NotPrivate: it belongs to another user, or others can write to it or replace it.
    """
    for part in reversed((folder, *folder.parents)):
        part.mkdir(mode=0o700, exist_ok=True)  # as the XDG specification has it
    folder = folder.resolve()
    mend = "set CODESIGN_CACHE to a folder of your own"
    if not is_mine(folder):
        raise NotPrivate(f"{folder} belongs to another user; {mend}")
    if writable_by_others(os.stat(folder)):
        raise NotPrivate(f"others can write to {folder}; chmod go-w it after a look, or {mend}")
    for parent in folder.parents if has_owners() else ():
        about = parent.stat()
        if about.st_uid not in (*_SYSTEM, os.getuid()):
            raise NotPrivate(f"others can replace {folder}, as {parent} is another's; {mend}")
        # A sticky folder, such as /tmp, lets nobody rename what is another's.
        if about.st_mode & stat.S_IWOTH and not about.st_mode & stat.S_ISVTX:
            raise NotPrivate(f"others can replace {folder}, as {parent} is open to all; {mend}")
    return folder


def is_mine(path: Path) -> bool:
    """Whether the user owns what is at the path itself, links not followed."""
    return not has_owners() or os.lstat(path).st_uid == os.getuid()


def writable_by_others(about: os.stat_result) -> bool:
    """Whether a mode lets the group or all write."""
    return has_owners() and bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def has_owners() -> bool:
    """Whether the system's files have owners and modes, as those of POSIX have."""
    return hasattr(os, "getuid")
