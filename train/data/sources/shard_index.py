"""Where the samples of a tar shard lie: walked once, header by header, and then kept.

The index of a shard is one file in the user's cache folder, by the shard's path, size and time
of change: one that has changed is walked anew. Python's tarfile walks some 25,000 headers a
second and holds the interpreter's lock meanwhile, so many shards are walked by processes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from codesign.errors import RunError
from codesign.npz import read_npz
from codesign.openers import unwaiting
from codesign.runs import write_bytes
from codesign.train.data.config import DataError
from codesign.train.data.files import MOST_BYTES
from codesign.train.data.sources.base import printable
from codesign.train.data.sources.folders import IMAGE_SUFFIXES

TEXT, JSON = 1, 2  # kinds of captions; 0 is none
# What holds a sample's caption, by suffix; text is taken before JSON.
_CAPTIONS = {"txt": TEXT, "caption": TEXT, "json": JSON}
_BLOCK = 512
# Of the files in the cache: a change of their contents needs another number.
_VERSION = 3
# Bytes of a sample's name: an index holds them all at one width.
_LONGEST_KEY = 255
# Bytes of a caption, of a class's number, of a picture, and of what tar says of one member.
_MOST_CAPTION = 1 << 24
_MOST_NUMBER = 64
_MOST_HEADER = 1 << 20
# Bytes read at a time of the zeros that fill an archive up.
_CHUNK = 1 << 20
_THREADS = 8
# A process takes as long to start as to walk a few shards.
_SHARDS_A_PROCESS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where a shard's samples lie, in bytes from its start.

    Attributes:
      key: bytes [N], names of the samples, without suffix, UTF-8.
      image: int64 [N, 2], offset and length of the picture.
      caption: int64 [N, 3], kind (TEXT, JSON or 0 for none), offset and length.
      label: int32 [N], -1 where there is no .cls.
      left_out: text [M], a line on each sample, or picture of one, that is not read.
      lost: why the end of the shard cannot be read; empty where it is whole.
    """

    key: np.ndarray
    image: np.ndarray
    caption: np.ndarray
    label: np.ndarray
    left_out: np.ndarray
    lost: str = ""


def kept_indices(
    paths: Sequence[Path], folder: Path, progress: Callable[[int, int], object] | None = None
) -> list[ShardIndex]:
    """The indices of all shards, from the cache folder where they are there.

    Args:
      paths: tar files.
      folder: where indices are kept.
      progress: told (shards walked, of so many).

    Raises:
      DataError: as `index_shard`.
    """
    missing = [path for path in paths if not _cache_file(path, folder).is_file()]
    _fill_cache(missing, folder, progress)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        pending = [pool.submit(kept_index, path, folder) for path in paths]
        try:
            return [future.result() for future in pending]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def kept_index(path: Path, folder: Path) -> ShardIndex:
    """The shard's index from the cache folder, or made and put there.

    Raises:
      DataError: as `index_shard`.
    """
    file = _cache_file(path, folder)
    try:
        arrays: dict[str, Any] = read_npz(file)
        return ShardIndex(**arrays | {"lost": str(arrays["lost"])})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged
    index = index_shard(path)
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(index))
    # The cache only saves time.
    with contextlib.suppress(OSError, RunError):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(file, buffer.getvalue())
    return index


def _cache_file(path: Path, folder: Path) -> Path:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    described = f"{_VERSION}|{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    return folder / f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.npz"


# Many shards


def _fill_cache(
    paths: Sequence[Path], folder: Path, progress: Callable[[int, int], object] | None
) -> None:
    """Walks shards by as many processes as pay.

    What they cannot do, because they do not start or the cache cannot be written, is left to
    the caller, and so is every error: a shard without an index is walked again.
    """
    workers = min(os.cpu_count() or 1, len(paths) // _SHARDS_A_PROCESS)
    if workers < 2:
        for done, path in enumerate(paths, 1):
            kept_index(path, folder)
            if progress:
                progress(done, len(paths))
        return
    counter, stop = itertools.count(1), threading.Event()
    # Not multiprocessing: that would run a user's script again where it has no __main__ guard.
    # -P: a codesign/ in the working directory is not the package.
    program = f"from {__name__} import walk_on_demand as walk; walk()"
    command = [sys.executable, "-P", "-c", program, str(folder)]

    def hand_out(share: Sequence[Path]) -> None:
        with (
            contextlib.suppress(OSError),
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as child,
        ):
            assert child.stdin and child.stdout
            for path in share:
                print(json.dumps(str(path)), file=child.stdin, flush=True)
                if not child.stdout.readline() or stop.is_set():
                    return
                if progress:
                    progress(next(counter), len(paths))

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            list(pool.map(hand_out, [paths[i::workers] for i in range(workers)]))
        except BaseException:
            stop.set()
            raise


def walk_on_demand() -> None:
    """The program of such a process: reads a path a line, keeps its index, answers a line."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            with contextlib.suppress(DataError):
                kept_index(Path(json.loads(line)), Path(sys.argv[1]))
            print("done", flush=True)


# One shard


def index_shard(path: Path) -> ShardIndex:
    """Walks a shard's headers.

    A shard cut short, by a download say, keeps the samples that are whole: among thousands of
    shards one is always damaged, and a run should neither stop for it nor hide it.

    Raises:
      DataError: no plain tar file, links, or members that point outside.
    """
    runs: list[_Run] = []
    left_out: list[str] = []
    try:
        with open(path, "rb", opener=unwaiting) as file:
            size = os.fstat(file.fileno()).st_size
            lost = "empty file" if size == 0 else _walk(path, file, size, runs)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    keys: list[bytes] = []
    parts_of: list[dict[str, Any]] = []
    for run in _samples(runs):
        # A name need not be UTF-8: its bytes are kept.
        key = run.key.encode("utf-8", "surrogateescape")
        why = run.parts.get("lost") or (
            "" if "image" in run.parts else "no picture that can be read"
        )
        if len(key) > _LONGEST_KEY:
            why = f"a name of {len(key):,} bytes; up to {_LONGEST_KEY} are read"
        if not why:
            keys.append(key)
            parts_of.append(run.parts)
        if more := why or run.parts.get("more", ""):
            left_out.append(f"{printable(key.decode(errors='replace'))}: {more}")
    return ShardIndex(
        key=np.asarray(keys, np.bytes_).reshape(len(keys)),
        image=np.asarray([p["image"] for p in parts_of], np.int64).reshape(-1, 2),
        caption=np.asarray([p.get("caption", (0, 0, 0)) for p in parts_of], np.int64).reshape(
            -1, 3
        ),
        label=np.asarray([p.get("label", -1) for p in parts_of], np.int32),
        left_out=np.asarray(left_out, np.str_).reshape(len(left_out)),
        lost=lost,
    )


@dataclasses.dataclass(slots=True)
class _Run:
    """Neighbouring members of one key, none of whose suffixes comes twice.

    Attributes:
      key: name of all of them, without suffix.
      suffixes: theirs.
      parts: what they are to their sample, see `_add`.
    """

    key: str
    suffixes: list[str] = dataclasses.field(default_factory=list)
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)


def _samples(runs: list[_Run]) -> list[_Run]:
    """The samples: as WebDataset has it, each run is one.

    But tar writes the files of a folder in any order, say all pictures first: runs of one key that
    make one sample, without a suffix or a picture twice, are put together.
    """
    by_key: dict[str, list[_Run]] = {}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    if len(by_key) == len(runs):
        return runs
    apart = {key: alike for key, alike in by_key.items() if len(alike) > 1 and _is_one(alike)}
    samples = []
    for run in runs:
        if run.key not in apart:
            samples.append(run)
        elif run is apart[run.key][0]:
            samples.append(_put_together(apart[run.key]))
    return samples


def _is_one(runs: Sequence[_Run]) -> bool:
    suffixes = [suffix for run in runs for suffix in run.suffixes]
    return len(suffixes) == len(set(suffixes)) and sum("image" in run.parts for run in runs) <= 1


def _put_together(runs: Sequence[_Run]) -> _Run:
    captions = [run.parts["caption"] for run in runs if "caption" in run.parts]
    parts = {name: part for run in runs for name, part in run.parts.items()}
    return _Run(
        runs[0].key,
        [suffix for run in runs for suffix in run.suffixes],
        parts | ({"caption": min(captions)} if captions else {}),
    )


def _walk(path: Path, file: BinaryIO, size: int, runs: list[_Run]) -> str:
    """Fills `runs`; returns why the end is lost, or nothing.

    `cat a.tar b.tar` is one file of two archives, each with its end.
    """
    start: int | None = 0
    while start is not None:
        end, lost = _walk_archive(path, file, size, start, runs)
        if lost:
            return lost
        start = _after_zeros(file, end)
    return ""


def _walk_archive(
    path: Path, file: BinaryIO, size: int, start: int, runs: list[_Run]
) -> tuple[int, str]:
    """(where an archive ends that begins at `start`, why its end is lost or nothing)."""
    end = start
    file.seek(start)
    with _plain_tar(path, file) as tar:
        while (member := _next(tar)) is not None:
            # It would keep every header of the shard; the stubs do not know the list.
            tar.members = []  # type: ignore[attr-defined]
            _check_member(path, member)
            if member.size < 0:  # or the walk would go back, for ever
                break
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            if member.offset_data + member.size > size:
                if runs and _goes_on(runs[-1], *_split_name(member.name)):
                    runs.pop()
                return end, f"cut short within {printable(member.name)}"
            if member.isreg() and not _is_hidden(member.name):
                _note(file, member, runs)
    # tarfile takes a damaged header, or none, for the archive's end, which is a block of zeros.
    file.seek(end)
    after = file.read(_BLOCK)
    if len(after) == _BLOCK and not any(after):
        return end, ""
    if end == start > 0:
        return end, f"no tar file from byte {start:,} on, after the end of the archive"
    # Members of the last one may be lost.
    last = runs.pop().key if runs else ""
    return end, f"cut short or damaged after {printable(last)}"


def _after_zeros(file: BinaryIO, end: int) -> int | None:
    """The first block from `end` on that is not of zeros, or None."""
    file.seek(end)
    while chunk := file.read(_CHUNK):
        filled = np.flatnonzero(np.frombuffer(chunk, np.uint8))
        if filled.size:
            return end + int(filled[0]) // _BLOCK * _BLOCK
        end += len(chunk)
    return None


class _Headers:
    """A shard as tarfile reads it, which takes a member's long name at any length it claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Some bytes.

        Raises:
          tarfile.ReadError: more than any header has.
        """
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError("header too long")
        return self._file.read(size)


def _plain_tar(path: Path, file: BinaryIO) -> tarfile.TarFile:
    try:
        headers: Any = _Headers(file)
        return tarfile.open(fileobj=headers, mode="r:")
    except tarfile.TarError:
        raise DataError(
            f"{path} is no plain tar file: unpack it where it is compressed, or fetch it again"
        ) from None


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member; None at the end and where the headers are damaged."""
    try:
        return tar.next()
    # A pax header's numbers may be none, or too large to seek.
    except (tarfile.TarError, ValueError, OverflowError):
        return None


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    name = member.name
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise DataError(f"{path}: member {member.name!r} points outside; rebuild the shard")
    if not (member.isreg() or member.isdir()) or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "no plain file"
        raise DataError(f"{path}: member {member.name!r} is {kind}; rebuild the shard")


def _split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member: WebDataset cuts at the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _is_hidden(name: str) -> bool:
    """Whether a file is hidden, as those are that macOS puts beside others (._a.jpg)."""
    return name.rpartition("/")[2].startswith(".")


def _goes_on(run: _Run, key: str, suffix: str) -> bool:
    """Whether a member belongs to the run before it."""
    return run.key == key and suffix not in run.suffixes


def _note(file: BinaryIO, member: tarfile.TarInfo, runs: list[_Run]) -> None:
    """Puts a member into the last run, or into a new one."""
    key, suffix = _split_name(member.name)
    if not runs or not _goes_on(runs[-1], key, suffix):
        runs.append(_Run(key))
    runs[-1].suffixes.append(sys.intern(suffix))
    _add(file, member, suffix, runs[-1].parts)


def _add(file: BinaryIO, member: tarfile.TarInfo, suffix: str, parts: dict[str, Any]) -> None:
    """Notes what a member is to its sample."""
    place = (member.offset_data, member.size)
    if f".{suffix}" in IMAGE_SUFFIXES:
        if member.size > MOST_BYTES:
            parts["lost"] = f"a picture of {member.size:,} bytes; up to {MOST_BYTES:,} are read"
        if parts.setdefault("image", place) != place:
            parts["more"] = f"a second picture, {printable(member.name)}, is not read"
    elif suffix in _CAPTIONS:
        if member.size > _MOST_CAPTION:
            parts["lost"] = f"a text of {member.size:,} bytes; up to {_MOST_CAPTION:,} are read"
        kind = _CAPTIONS[suffix]
        if "caption" not in parts or kind < parts["caption"][0]:
            parts["caption"] = (kind, *place)
    elif suffix == "cls":
        label = _class_number(file, member)
        if label is None:
            parts["lost"] = f"member {printable(member.name)!r} holds no class number"
        else:
            parts["label"] = label


def _class_number(file: BinaryIO, member: tarfile.TarInfo) -> int | None:
    """The class in a .cls, -1 for none where it is below 0; None where it is no 32-bit number."""
    if member.size > _MOST_NUMBER:
        return None
    file.seek(member.offset_data)
    text = file.read(member.size).strip()
    if not re.fullmatch(rb"[+-]?[0-9]+", text):  # int() takes 1_0 as well
        return None
    number = int(text)
    return max(number, -1) if number <= np.iinfo(np.int32).max else None
