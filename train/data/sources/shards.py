"""WebDataset shards: tar files of KEY.jpg beside KEY.txt, KEY.json or KEY.cls.

Tar has no table of contents, so the headers are walked once and what matters is kept: where
each picture lies and where its caption. Every picture can then be read by itself, which makes
shuffling global and resuming exact. The index of a shard is one file in the user's cache folder
and is made anew when the shard changes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from codesign.errors import RunError
from codesign.oracle.cache import default_cache
from codesign.runs import write_bytes
from codesign.train.data.config import DataError, SourceConfig
from codesign.train.data.sources.base import Source
from codesign.train.data.sources.folders import IMAGE_SUFFIXES
from codesign.train.data.sources.table import CAPTION_COLUMNS, texts_of

_TEXT, _JSON = 1, 2  # kinds of captions; 0 is none
# What a sample's .txt and .json are called, the first of these that it has.
_CAPTIONS = {"txt": _TEXT, "caption": _TEXT, "json": _JSON}
# Class names beside the shards, as CLIP_benchmark has them.
_CLASS_NAMES = "classnames.txt"
_BLOCK = 512
# Of the files in the cache: a change of their contents needs another number.
_VERSION = 1
_THREADS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where a shard's samples lie, in bytes from its start.

    Attributes:
      key: bytes [N], names of the samples, without suffix, UTF-8.
      image: int64 [N, 2], offset and length of the picture.
      caption: int64 [N, 3], kind (1 text, 2 JSON, 0 none), offset and length.
      label: int32 [N], -1 where there is no .cls.
      lost: why the end of the shard cannot be read; empty where it is whole.
    """

    key: np.ndarray
    image: np.ndarray
    caption: np.ndarray
    label: np.ndarray
    lost: str = ""


def read(
    paths: Sequence[Path],
    config: SourceConfig,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Source:
    """The samples of all shards, in order.

    Args:
      paths: tar files.
      config: its caption_column is the key of the caption in a .json.
      progress: told (shards done, shards).
      cache: folder of the kept indices; default: the user's.

    Raises:
      DataError: a shard that is no plain tar file, links, or members that point outside.
    """
    folder = cache or default_cache().parent / "shards"
    indices = []
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        pending = [pool.submit(_kept_index, path, folder) for path in paths]
        try:
            for future in pending:
                indices.append(future.result())
                if progress:
                    progress(len(indices), len(paths))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _source(paths, indices, config)


def _source(paths: Sequence[Path], indices: Sequence[ShardIndex], config: SourceConfig) -> Source:
    shard = np.repeat(np.arange(len(paths)), [len(index.label) for index in indices])
    key = np.concatenate([index.key for index in indices])
    image = np.concatenate([index.image for index in indices])
    caption = np.concatenate([index.caption for index in indices])
    keys = (config.caption_column,) if config.caption_column else CAPTION_COLUMNS

    def captions(i: int) -> tuple[str, ...]:
        kind, offset, length = caption[i]
        if not kind:
            return ()
        try:
            return _texts(int(kind), _read(paths[shard[i]], offset, length), keys)
        except (OSError, ValueError):
            return ()  # no caption then: training skips the sample and counts it

    places = (paths[0].parent, paths[0].parent.parent)
    names = next((file for place in places if (file := place / _CLASS_NAMES).is_file()), None)
    return Source(
        name=str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more",
        labels=np.concatenate([index.label for index in indices]),
        captions=captions,
        image=lambda i: _read(paths[shard[i]], *image[i]),
        where=lambda i: f"{paths[shard[i]]}: {key[i].decode(errors='replace')}",
        class_names=_class_names(names) if names else (),
        lost=tuple(
            f"{path}: {index.lost}"
            for path, index in zip(paths, indices, strict=True)
            if index.lost
        ),
    )


def _class_names(file: Path) -> tuple[str, ...]:
    return tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line.strip())


def _read(path: Path, offset: Any, length: Any) -> bytes:
    # Opened each time: descriptors of thousands of shards are more than a process may hold.
    with open(path, "rb") as file:
        file.seek(int(offset))
        data = file.read(int(length))
    if len(data) < length:
        raise OSError("the shard has become shorter since it was indexed")
    return data


def _texts(kind: int, data: bytes, keys: Sequence[str]) -> tuple[str, ...]:
    if kind == _TEXT:
        return texts_of(data.decode())
    fields = json.loads(data)
    if not isinstance(fields, dict):
        return ()
    return texts_of(next((fields[key] for key in keys if fields.get(key)), None))


# The index of one shard


def _kept_index(path: Path, folder: Path) -> ShardIndex:
    """The shard's index from the cache, or made and put there."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    described = f"{_VERSION}|{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    file = folder / f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files if name != "lost"}
            return ShardIndex(**arrays, lost=str(kept["lost"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        pass  # not there, or damaged
    index = index_shard(path)
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(index))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(file, buffer.getvalue())
    except (OSError, RunError):
        pass  # the cache only saves time
    return index


def index_shard(path: Path) -> ShardIndex:
    """Walks a shard's headers.

    A shard cut short, by a download say, keeps the samples that are whole: among thousands of
    shards one is always damaged, and a run should neither stop for it nor hide it.

    Raises:
      DataError: no plain tar file, links, or members that point outside.
    """
    samples: dict[str, dict[str, Any]] = {}
    lost = ""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            lost = "empty file" if size == 0 else _walk(path, file, size, samples)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    whole = {key: parts for key, parts in samples.items() if "image" in parts}
    return ShardIndex(
        key=np.asarray([key.encode() for key in whole], np.bytes_).reshape(len(whole)),
        image=np.asarray([p["image"] for p in whole.values()], np.int64).reshape(-1, 2),
        caption=np.asarray([p.get("caption", (0, 0, 0)) for p in whole.values()], np.int64).reshape(
            -1, 3
        ),
        label=np.asarray([p.get("label", -1) for p in whole.values()], np.int32),
        lost=lost,
    )


def _walk(path: Path, file: BinaryIO, size: int, samples: dict[str, dict[str, Any]]) -> str:
    """Fills `samples` {key: parts}; returns why the end is lost, or nothing."""
    key, end = "", 0
    with _plain_tar(path, file) as tar:
        while (member := _next(tar)) is not None:
            # It would keep every header of the shard; the stubs do not know the list.
            tar.members = []  # type: ignore[attr-defined]
            _check_member(path, member)
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            if member.offset_data + member.size > size:
                samples.pop(_split_name(member.name)[0], None)
                return f"cut short within {member.name}"
            if member.isreg():
                key, suffix = _split_name(member.name)
                _add(path, file, member, suffix, samples.setdefault(key, {}))
    # tarfile takes a damaged header, or none, for the archive's end, which is a block of zeros.
    file.seek(end)
    after = file.read(_BLOCK)
    if len(after) == _BLOCK and not any(after):
        return ""
    samples.pop(key, None)  # of which members may be lost
    return f"cut short or damaged after {key}"


def _plain_tar(path: Path, file: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except tarfile.TarError:
        raise DataError(
            f"{path} is no plain tar file: unpack it where it is compressed, or fetch it again"
        ) from None


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member; None at the end and where the headers are damaged."""
    try:
        return tar.next()
    except tarfile.TarError:
        return None


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise DataError(f"{path}: member {member.name!r} points outside; rebuild the shard")
    if not (member.isreg() or member.isdir()) or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "no plain file"
        raise DataError(f"{path}: member {member.name!r} is {kind}; rebuild the shard")


def _split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member: WebDataset cuts at the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _add(
    path: Path, file: BinaryIO, member: tarfile.TarInfo, suffix: str, parts: dict[str, Any]
) -> None:
    """Notes what a member is to its sample."""
    place = (member.offset_data, member.size)
    if f".{suffix}" in IMAGE_SUFFIXES:
        parts.setdefault("image", place)
    elif suffix in _CAPTIONS:
        kind = _CAPTIONS[suffix]
        if "caption" not in parts or kind < parts["caption"][0]:
            parts["caption"] = (kind, *place)
    elif suffix == "cls":
        file.seek(member.offset_data)
        try:
            parts["label"] = max(int(file.read(member.size)), -1)
        except ValueError:
            raise DataError(f"{path}: member {member.name!r} holds no class number") from None
