"""Rows of parquet files, from a folder or from the hub, as `datasets` reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codesign.train.data.config import DataError

CIFAR10 = "uoft-cs/cifar10"
# A data set of the hub, and after an @ its branch, tag or commit.
HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?")


def load_rows(
    source: str, files: Sequence[str] = (), user: str = "parquet data"
) -> Mapping[str, Any]:
    """The splits of a folder of parquet files or of a hub data set, as `datasets.Dataset`s.

    Args:
      source: the folder or hub name; with `files`, only what messages call them.
      files: single parquet files instead, which become one split "train".
      user: what needs the library, for the message where it is missing.

    Raises:
      DataError: the extra is not installed, or the rows cannot be loaded.
    """
    try:
        import datasets
        import PIL  # noqa: F401  (decodes later; its absence should show now)
    except ImportError as error:
        raise DataError(f"{user} needs the extra: pip install 'codesign[data]'") from error
    try:
        if files:
            return datasets.load_dataset("parquet", data_files=list(files))
        _check_source(source)
        if (local := _local(source)) is not None:
            return datasets.load_dataset(local)
        match = HUB_NAME.fullmatch(source)
        assert match is not None, "checked"
        revision = {} if match[2] is None else {"revision": match[2]}
        return datasets.load_dataset(match[1], **revision)
    # The library's own errors, those of Arrow (ValueError) and those of the network (OSError).
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(_why_unloadable(source, error)) from error


def files_by_split(folder: str) -> Mapping[str, list[str]]:
    """The parquet files that `load_rows` takes for each split of a folder, by their names.

    Where some names tell a split, the library leaves out all others. Nothing where it reads the
    folder as another format, or as its README.md says.
    """
    import datasets

    try:
        builder = datasets.load_dataset_builder(_local(folder) or folder)
        readme = (Path(os.path.expanduser(folder)) / "README.md").read_text(errors="replace")
    except FileNotFoundError:
        readme = ""
    if builder.name != "parquet" or "data_files" in readme:
        return {}
    return {str(split): list(map(str, files)) for split, files in builder.config.data_files.items()}


def _local(source: str) -> str | None:
    """The folder `source` names, or None where it names a hub data set."""
    folder = Path(os.path.expanduser(source))
    return str(folder) if folder.exists() else None


def _check_source(source: str) -> None:
    """Refuses what is neither a folder of parquet files nor shaped like a hub name."""
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        if next(folder.rglob("*.parquet"), None) is None:
            raise DataError(f"{source} holds no parquet files (*.parquet)")
    elif folder.exists():
        raise DataError(f"{source} is a file: give the folder that holds the parquet files")
    elif not HUB_NAME.fullmatch(source):
        raise DataError(f"{source} does not exist: give a folder, or a hub name like {CIFAR10}")


def _why_unloadable(source: str, error: Exception) -> str:
    """One line on why the library could not load `source`."""
    reason = _first_line(error)
    # What the library says of a data set whose files hold no rows.
    empty = re.search(r'"(\w+)" corresponds to no data', reason)
    if empty:
        return f"{source} is empty: no rows in its {empty[1]} split"
    asked = "" if _local(source) else " (no such folder, so the hub was asked)"
    return f"cannot load {source}{asked}: {reason}"


def _first_line(error: BaseException) -> str:
    """What went wrong at the root, in one line: the library wraps and wraps."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def encoded(rows: Any, column: str, source: str) -> Any:
    """`rows` whose image column yields the undecoded {bytes, path}.

    Raises:
      DataError: the column holds something else.
    """
    import datasets

    try:
        return rows.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # the last is Arrow's
        kind = rows.features[column]
        raise DataError(
            f"column {column} of {source} holds no encoded images but {kind}; "
            "it must be an Image feature or a struct of bytes and path"
        ) from error
