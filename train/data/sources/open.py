"""Which format a path has, and which of its pictures are asked for."""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from codesign.errors import UserError
from codesign.termination import Terminated
from codesign.train.data import captions, hub, prompts
from codesign.train.data.config import DataError, SourceConfig, check_data
from codesign.train.data.sources import digits, folders, parquet, shards, table
from codesign.train.data.sources.base import (
    UNSPLIT,
    Source,
    Splits,
    joined,
    printable,
    renumbered,
    subset,
)
from codesign.train.data.sources.braces import expand
from codesign.train.data.split import stratified_split
from codesign.userfile import is_member, load_member

Progress = Callable[[int, int], object]

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
# Pictures that are asked whether they have a caption or a class.
_LOOKED_AT = 16


def open_source(config: SourceConfig, progress: Progress | None = None) -> Source:
    """Opens pictures with captions or classes; what they are is seen from the path.

    No picture is read but the headers of tar shards, once: their index is kept.

    Args:
      config: what to open.
      progress: told (done, of) while shards are indexed.

    Raises:
      DataError: one line on what is wrong with the path or the data.
    """
    check_data(config)
    source = _split(_read(config, progress), config)
    if config.limit is not None and config.limit < len(source):
        # Of one stream of permutations, so that a larger limit only adds pictures.
        order = np.random.default_rng(config.seed).permutation(len(source))
        source = subset(source, np.sort(order[: config.limit]))
    if not len(source):
        why = f": {source.lost[0]}" if source.lost else ""
        raise DataError(f"{source.name} holds no pictures in split {config.split}{why}")
    if config.classes is not None:
        source = _named(source, config.classes)
    names = source.class_names
    _check_labels(source)
    own = source.templates
    if not own and {name.lower() for name in names} == set(captions.CIFAR10_NAMES):
        own = captions.PHOTO_TEMPLATES
    templates = prompts.load_templates(config.templates, own)
    source = dataclasses.replace(source, templates=templates)
    _check_described(source)
    return source


def _named(source: Source, path: str) -> Source:
    """With the class names of a file: by number where the data's own are numbers.

    ImageNetV2's folders are 0 to 999: as text, 10 comes before 2, and a class without pictures
    has no folder. So a list goes by the numbers.
    """
    labels, known = source.labels, source.class_names
    numbers = folders.class_numbers(known)
    file, listed = prompts.read_class_names(path)
    if numbers is None or isinstance(listed, dict):
        names = prompts.load_class_names(path, known, int(labels.max()) + 1)
        return dataclasses.replace(source, class_names=names)
    if max(numbers) >= len(listed):
        raise DataError(
            f"{file} has {len(listed)} class names, for the classes 0 to {len(listed) - 1}, but "
            f"{source.name} has a class {max(numbers)}; give a JSON object from each class to "
            "its name"
        )
    by_number = renumbered(labels, numbers)
    return dataclasses.replace(source, labels=by_number, class_names=tuple(listed))


def _check_labels(source: Source) -> None:
    """Refuses classes beyond the names, which no caption could be right for."""
    names, largest = source.class_names, int(source.labels.max())
    if names and largest >= len(names):
        where = printable(source.where(int(source.labels.argmax())))
        raise DataError(
            f"{where} is of class {largest}, but there are names for {len(names)} classes, 0 to "
            f"{len(names) - 1}; complete them, or give classes, a file with one name a line"
        )


def _check_described(source: Source) -> None:
    """Refuses pictures of which nothing is known."""
    for i in np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(int):
        if source.captions(int(i)) or (source.class_names and source.labels[i] >= 0):
            return
    if (source.labels >= 0).any():
        raise DataError(
            f"{source.name} has classes without names; give classes, a file with one name a line"
        )
    raise DataError(f"{source.name} has neither captions nor classes")


# Splits


def _split(splits: Splits, config: SourceConfig) -> Source:
    """The pictures of the split that is asked for."""
    asked = _SPLIT_NAMES.get(config.split.lower(), config.split)
    if asked == "all":
        return joined([open_part() for open_part in splits.values()])
    whole = splits.get("train", splits.get(UNSPLIT))
    carved = config.holdout > 0 and "validation" not in splits
    if whole is not None and carved and asked in ("train", "validation"):
        source = whole()
        if not len(source):
            return source  # refused by name later
        kept, held = stratified_split(source.labels, (config.holdout,), config.seed)
        return subset(source, np.sort(kept if asked == "train" else held))
    if whole is not None and asked == "train":
        return whole()
    if asked in splits:
        return splits[asked]()
    named = [name for name in splits if name != UNSPLIT]
    has = f"it has: {', '.join(named)}" if named else "it has none"
    mend = "holdout keeps a share of train for validation" if asked == "validation" else ""
    raise DataError(
        f"{config.path} has no split {config.split} ({has}); {mend or 'split all is everything'}"
    )


# Formats


def _read(config: SourceConfig, progress: Progress | None) -> Splits:
    if config.path == "digits":
        return digits.read(config)
    if is_member(config.path):
        return _read_own(config.path)
    path = Path(os.path.expanduser(config.path))
    if path.is_dir():
        return _read_folder(path, config, progress)
    if path.is_file():
        return _read_files([path], config, progress)
    if "::" in config.path or re.search(r"[*?\[{]", config.path):
        return _read_files(_matches(config.path), config, progress)
    match = hub.HUB_NAME.fullmatch(config.path)
    if match is not None and not Path(match[1]).suffix:
        return parquet.read(config.path, config)
    if re.match(r"\w+:", config.path) and not path.drive:
        raise DataError(f"{config.path}: only local files are read; copy or mount them first")
    raise DataError(f"{config.path} does not exist: give a file, a folder, shards or digits")


def _read_own(name: str) -> Splits:
    """What a user's file makes: a source, or sources by split; "FILE.py:NAME" is a function."""
    make = load_member(name, "data")
    try:
        made = make() if callable(make) else make
    except (UserError, KeyboardInterrupt, Terminated):
        raise
    except Exception as error:  # the user's own code: any error in it is bad input
        text = str(error).partition("\n")[0]
        raise DataError(f"{name}: {type(error).__name__}: {text}") from error
    parts = dict(made) if isinstance(made, Mapping) else {UNSPLIT: made}
    for part in parts.values():
        if not isinstance(part, Source):
            raise DataError(
                f"{name} gives a {type(part).__name__}: it must give a codesign.train.data.Source, "
                "or a dict of them by split"
            )
    return {split: functools.partial(_itself, part) for split, part in parts.items()}


def _everything(splits: Splits, lines: Sequence[str]) -> Source:
    """All of a split's folder, whatever its files are called; `lines` are on what lies beside."""
    source = joined([open_part() for open_part in splits.values()])
    return dataclasses.replace(source, lost=(*source.lost, *lines))


def _itself(source: Source) -> Source:
    return source


def _read_files(files: list[Path], config: SourceConfig, progress: Progress | None) -> Splits:
    kinds = {file.suffix.lower() for file in files}
    for file in files:
        if file.name.lower().endswith(_ARCHIVES):
            raise DataError(f"{file} is an archive that cannot be read in place: unpack it first")
    if kinds == {".tar"}:
        return {UNSPLIT: functools.partial(shards.read, files, config, progress)}
    if kinds == {".parquet"}:
        return parquet.read_files(files, config)
    if len(files) == 1 and files[0].suffix.lower() in table.SUFFIXES:
        return {UNSPLIT: functools.partial(table.read, files[0], config)}
    if len(files) > 1 and len(kinds) > 1:
        raise DataError(f"{config.path} names files of several kinds: {', '.join(sorted(kinds))}")
    expected = ".tar, .parquet, " + ", ".join(table.SUFFIXES)
    what = "one table at a time" if kinds <= set(table.SUFFIXES) else f"expected {expected}"
    raise DataError(f"{files[0]} cannot be read: {what}")


def _read_folder(path: Path, config: SourceConfig, progress: Progress | None) -> Splits:
    """A folder of split folders, or of one set without splits."""
    try:
        parts = _split_folders(path)
        if not parts:
            return _read_flat(path, config, progress)
        # Classes are numbered over all splits, though one may lack some.
        classes = folders.class_order(
            name
            for part in parts.values()
            if _table_of(part) is None
            for name in folders.class_names(folders.class_root(part))
        )
        beside = _beside(path) if classes else []
        splits: dict[str, Callable[[], Source]] = {}
        for name, part in parts.items():
            flat = _read_flat(part, config, progress, classes)
            splits[name] = functools.partial(_everything, flat, beside)
        return splits
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from None


def _read_flat(
    path: Path, config: SourceConfig, progress: Progress | None, classes: list[str] | None = None
) -> Splits:
    """A folder's table, else its shards, its parquet files, its class folders."""
    found = _table_of(path)
    if found is not None:
        return {UNSPLIT: functools.partial(table.read, found, config)}
    # Before parquet: beside its shards img2dataset puts parquet files without pictures.
    tars = sorted(folders.visible(path, "*.tar")) or sorted(folders.visible(path, "*/*.tar"))
    if tars:
        return {UNSPLIT: functools.partial(shards.read, tars, config, progress)}
    if next(folders.visible(path, "**/*.parquet"), None) is not None:
        return parquet.read(str(path), config)
    root = folders.class_root(path)
    classes = classes or folders.class_names(root)
    if classes:
        return {UNSPLIT: functools.partial(folders.read, root, classes)}
    holding = next((f for f in (path, *folders.subfolders(path)) if folders.has_pictures(f)), None)
    if holding is not None:
        raise DataError(
            f"{holding} holds pictures but no captions: add metadata.csv with the columns "
            "file_name and caption, or sort them into class folders"
        )
    archive = next((f for f in sorted(path.iterdir()) if f.name.lower().endswith(_ARCHIVES)), None)
    if archive is not None:
        raise DataError(f"{archive} is an archive that cannot be read in place: unpack it first")
    raise DataError(
        f"{path} holds no data: no table of captions, tar shards, parquet files or class folders"
    )


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders train, validation, test in `path`, unless they are classes of these names.

    They are classes where pictures lie in each of them as in the folders beside them.
    """
    if _table_of(path) is not None:
        return {}
    named = [f for f in folders.subfolders(path) if f.name.lower() in _SPLIT_NAMES]
    whole = [f for f in named if _table_of(f) is not None or not folders.has_pictures(f)]
    splits = whole
    if len(whole) < len(named):  # asked only then: it takes a while for many classes
        classed = [f for f in named if folders.class_names(f)]
        if not whole and len(classed) < 2 and _beside(path):
            return {}
        # A folder of pictures alone is a split beside class folders: its pictures are counted.
        splits = named if classed or not whole else whole
    found: dict[str, Path] = {}
    for folder in splits:
        name = _SPLIT_NAMES[folder.name.lower()]
        if name in found:
            raise DataError(f"{path} has two folders for {name}: {found[name].name}, {folder.name}")
        found[name] = folder
    return found


def _beside(path: Path) -> list[str]:
    """A line on each folder with pictures that is no split."""
    return [
        f"{printable(path / name)}: beside the splits, not read"
        for name in folders.picture_folders(path)
        if name.lower() not in _SPLIT_NAMES
    ]


def _table_of(folder: Path) -> Path | None:
    """The table of captions in a folder: of a usual name, or the only one."""
    files = sorted(folders.visible(folder, "*"))
    tables = [file for file in files if file.suffix.lower() in table.SUFFIXES]
    usual = [f for stem in table.STEMS for f in tables if f.stem.lower() == stem]
    if usual:
        return usual[0]
    if len(tables) > 1:
        names = ", ".join(f.name for f in tables)
        raise DataError(f"{folder} holds several tables ({names}): name one, or call it metadata")
    return tables[0] if tables else None


def _matches(pattern: str) -> list[Path]:
    """The files of "A::B", with globs and braces, in order and each once."""
    found: dict[str, None] = {}
    for part in pattern.split("::"):
        for name in expand(os.path.expanduser(part)):
            matches = sorted(glob.glob(name)) if re.search(r"[*?\[]", name) else [name]
            if not matches:
                raise DataError(f"{name} matches no file")
            missing = next((match for match in matches if not os.path.isfile(match)), None)
            if missing is not None:
                raise DataError(f"{missing} does not exist, but {pattern} names it")
            found |= dict.fromkeys(matches)
    return [Path(name) for name in found]
