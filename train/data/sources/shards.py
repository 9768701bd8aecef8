"""WebDataset shards: tar files of KEY.jpg beside KEY.txt, KEY.json or KEY.cls.

Tar has no table of contents, so the headers are walked once and what matters is kept: where
each picture lies and where its caption. Every picture can then be read by itself, which makes
shuffling global and resuming exact.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codesign.caches import cache_folder
from codesign.train.data.config import SourceConfig
from codesign.train.data.prompts import read_class_names
from codesign.train.data.sources.base import Source, printable
from codesign.train.data.sources.shard_index import TEXT, ShardIndex, kept_indices
from codesign.train.data.sources.table import CAPTION_COLUMNS, texts_of

# Class names beside the shards, as CLIP_benchmark has them.
_CLASS_NAMES = "classnames.txt"


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
    return _source(paths, kept_indices(paths, folder, progress), config)


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
        except (OSError, ValueError, RecursionError):
            return ()  # no caption then: training skips the sample and counts it

    places = (paths[0].parent, paths[0].parent.parent)
    names = next((file for place in places if (file := place / _CLASS_NAMES).is_file()), None)
    return Source(
        name=str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more",
        labels=np.concatenate([index.label for index in indices]),
        captions=captions,
        image=lambda i: _read(paths[shard[i]], *image[i]),
        where=lambda i: f"{paths[shard[i]]}: {printable(key[i].decode(errors='replace'))}",
        class_names=tuple(read_class_names(str(names))[1]) if names else (),
        lost=tuple(
            f"{path}: {why}"
            for path, index in zip(paths, indices, strict=True)
            for why in [*index.left_out.tolist(), *([index.lost] if index.lost else [])]
        ),
    )


def _read(path: Path, offset: Any, length: Any) -> bytes:
    # Opened each time: descriptors of thousands of shards are more than a process may hold.
    with open(path, "rb") as file:
        file.seek(int(offset))
        data = file.read(int(length))
    if len(data) < length:
        raise OSError("the shard has become shorter since it was indexed")
    return data


def _texts(kind: int, data: bytes, keys: Sequence[str]) -> tuple[str, ...]:
    if kind == TEXT:
        return texts_of(data.decode())
    fields = json.loads(data)
    if not isinstance(fields, dict):
        return ()
    return texts_of(next((fields[key] for key in keys if fields.get(key)), None))
