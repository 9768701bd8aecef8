"""WebDataset shards: tar files of KEY.jpg beside KEY.txt, KEY.json or KEY.cls.

Tar has no table of contents, so the headers are walked once and what matters is kept: where
each picture lies and where its caption. Every picture can then be read by itself, which makes
shuffling global and resuming exact.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codesign.caches import cache_folder
from codesign.train.data.config import DataError, SourceConfig
from codesign.train.data.prompts import read_class_names
from codesign.train.data.sources.base import Source, joined, printable
from codesign.train.data.sources.shard_index import TEXT, ShardIndex, kept_indices
from codesign.train.data.sources.table import CAPTION_COLUMNS, texts_of

# What CLIP_benchmark puts beside the shards or above them: the classes' names, and what kind of
# data they are. Of "retrieval" each line of a text is a caption.
_CLASS_NAMES = "classnames.txt"
_KIND = "dataset_type.txt"


def read(
    paths: Sequence[Path],
    config: SourceConfig,
    progress: Callable[[int, int], object] | None = None,
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
    folder = cache or cache_folder() / "shards"
    indices = kept_indices(paths, folder, progress)
    beside = {place: _beside(place) for place in dict.fromkeys(path.parent for path in paths)}
    parts = []
    for told, places in itertools.groupby(range(len(paths)), lambda i: beside[paths[i].parent]):
        run = list(places)
        parts.append(_source([paths[i] for i in run], [indices[i] for i in run], told, config))
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return parts[0] if len(parts) == 1 else dataclasses.replace(joined(parts), name=name)


class _Beside(NamedTuple):
    """The files that tell what the shards of a folder are, where there are such files."""

    names: Path | None
    kind: Path | None


def _beside(folder: Path) -> _Beside:
    def found(name: str) -> Path | None:
        places = (folder / name, folder.parent / name)
        return next((file for file in places if file.is_file()), None)

    return _Beside(found(_CLASS_NAMES), found(_KIND))


def _source(
    paths: Sequence[Path], indices: Sequence[ShardIndex], beside: _Beside, config: SourceConfig
) -> Source:
    shard = np.repeat(np.arange(len(paths)), [len(index.label) for index in indices])
    key = np.concatenate([index.key for index in indices])
    image = np.concatenate([index.image for index in indices])
    caption = np.concatenate([index.caption for index in indices])
    keys = (config.caption_column,) if config.caption_column else CAPTION_COLUMNS
    by_line = beside.kind is not None and _is_retrieval(beside.kind)

    def captions(i: int) -> tuple[str, ...]:
        kind, offset, length = caption[i]
        if not kind:
            return ()
        try:
            return _texts(int(kind), _read(paths[shard[i]], offset, length), keys, by_line)
        except (OSError, ValueError, RecursionError):
            return ()  # no caption then: training skips the sample and counts it

    names = read_class_names(str(beside.names))[1] if beside.names else ()
    return Source(
        name=str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more",
        labels=np.concatenate([index.label for index in indices]),
        captions=captions,
        image=lambda i: _read(paths[shard[i]], *image[i]),
        where=lambda i: f"{paths[shard[i]]}: {printable(key[i].decode(errors='replace'))}",
        class_names=tuple(names),
        lost=tuple(
            f"{path}: {why}"
            for path, index in zip(paths, indices, strict=True)
            for why in [*index.left_out.tolist(), *([index.lost] if index.lost else [])]
        ),
    )


def _is_retrieval(kind: Path) -> bool:
    try:
        return kind.read_text(encoding="utf-8-sig", errors="replace").strip().lower() == "retrieval"
    except OSError as error:
        raise DataError(f"cannot read {kind}: {error.strerror}") from None


def _read(path: Path, offset: Any, length: Any) -> bytes:
    # Opened each time: descriptors of thousands of shards are more than a process may hold.
    with open(path, "rb") as file:
        file.seek(int(offset))
        data = file.read(int(length))
    if len(data) < length:
        raise OSError("the shard has become shorter since it was indexed")
    return data


def _texts(kind: int, data: bytes, keys: Sequence[str], by_line: bool) -> tuple[str, ...]:
    if kind == TEXT:
        text = data.decode()
        return texts_of(text.splitlines() if by_line else text)
    fields = json.loads(data)
    if not isinstance(fields, dict):
        return ()
    return texts_of(next((fields[key] for key in keys if fields.get(key)), None))
