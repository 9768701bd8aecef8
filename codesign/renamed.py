"""Fields that have a new name: the old one is read wherever it may stand, the new one written.

RENAMED is the one table. Classes with such fields are marked `accepts_old_names`; whatever
reads files or command lines passes its keys through `current` or `current_keys`.

Fields that are no more are passed over wherever they may stand, with a line that says what has
taken their place: `passes_over`, `without_retired`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from codesign.errors import UserError

C = TypeVar("C", bound=type)

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        # These were bytes all along.
        "l2_words_per_cycle": "l2_bytes_per_cycle",
        "dram_words_per_cycle": "dram_bytes_per_cycle",
        "glb_words_per_cycle": "glb_bytes_per_cycle",
        "dram_words": "dram_bytes",
        # As of all other training.
        "lr_warmup_steps": "warmup_steps",
        # Told of 8-bit words only.
        "register_bytes": "register_words",
        # The others that a joint step trains are called subnets.
        "dense_member": "train_dense",
    }
)
RETIRED_OF_SCENARIO: Mapping[str, str] = MappingProxyType(
    {
        "dram_bytes_per_cycle": "the bandwidth of DRAM is now that of accelerator.channels (2 "
        "where none are stated) of scenario.dram_technology, at its data rate and usable share",
    }
)
RETIRED_OF_INTERVALS: Mapping[str, str] = MappingProxyType(
    {
        "steps": "the stages of DRESS have their own: subnets.dense_steps, joint_steps and "
        "post_steps",
    }
)
# Retired fields of each group of a config, by a field that tells the group.
RETIRED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"use_grid": RETIRED_OF_SCENARIO, "log_steps": RETIRED_OF_INTERVALS}
)
# These call a class's constructor on behalf of whoever called them.
_REPLACING = ("copy", "dataclasses")


class RetiredWarning(UserWarning):
    """A file, a command or a program sets what is no more: the line says what it now means."""


def warn_retired(name: str, instead: str, depth: int = 2) -> None:
    """Says in a line that a field is passed over, and what has taken its place."""
    warnings.warn(f"{name} is passed over: {instead}", RetiredWarning, stacklevel=depth + 1)


def without_retired(obj: Mapping[str, Any], retired: Mapping[str, str], where: str) -> dict:
    """The mapping, by present names, without fields that are no more; warns of each in a line.

    Args:
      obj: what a file holds.
      retired: what has taken the place of each such field.
      where: path of `obj` in the file.
    """
    for name in retired.keys() & obj.keys():
        warn_retired(_join(where, name), retired[name])
    return {key: value for key, value in obj.items() if key not in retired}


def passes_over(retired: Mapping[str, str]) -> Callable[[C], C]:
    """Class decorator: constructor and `dataclasses.replace` take fields that are no more.

    By their last name or an older one, and warn (`RetiredWarning`). Below `accepts_old_names`.
    """

    def decorate(cls: C) -> C:
        made = cls.__init__  # type: ignore[misc]

        @functools.wraps(made)
        def taking(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in [key for key in kwargs if current(key) in retired]:
                warn_retired(f"{cls.__name__}: {name}", retired[current(name)], depth=3)
                del kwargs[name]
            made(self, *args, **kwargs)

        cls.__init__ = taking  # type: ignore[misc]
        return cls

    return decorate


def current(name: str) -> str:
    """The present name of a field, or of the field that a dotted path ends in."""
    path, dot, last = name.rpartition(".")
    return path + dot + RENAMED.get(last, last)


def current_keys(obj: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The mapping by present names.

    Args:
      obj: what a file holds.
      where: path of `obj` in it, for the message.

    Raises:
      UserError: a field is there by its old name and by its new one.
    """
    for old in obj:
        new = current(old)
        if new != old and new in obj:
            raise UserError(f"{_join(where, old)} is the old name of {new}; keep one of them")
    return {current(key): value for key, value in obj.items()}


def current_nest(obj: Any, where: str = "") -> Any:
    """Any nest of JSON's lists and objects, each object by present names.

    Raises:
      UserError: as `current_keys`.
    """
    if isinstance(obj, Mapping):
        plain = current_keys(obj, where)
        return {key: current_nest(value, _join(where, key)) for key, value in plain.items()}
    if isinstance(obj, list):
        return [current_nest(value, f"{where}[{i}]") for i, value in enumerate(obj)]
    return obj


def accepts_old_names(cls: C) -> C:
    """Class decorator above `@dataclass`, or of a NamedTuple: old names go on working in Python.

    The constructor, `dataclasses.replace` and `_replace` take an old keyword, and an old
    attribute has the new one's value; each warns, with the new name.

    Raises:
      TypeError: on construction, a field given by both names; here, a class without such fields.
    """
    fields = _field_names(cls)
    names = {old: new for old, new in RENAMED.items() if new in fields}
    if not names:
        raise TypeError(f"{cls.__name__} has no field that was renamed")
    # A NamedTuple is made by __new__, and its _replace makes one by no constructor.
    for method in ("__new__", "_replace") if issubclass(cls, tuple) else ("__init__",):
        setattr(cls, method, _taking(names, getattr(cls, method), cls.__name__))
    for old, new in names.items():
        setattr(cls, old, property(functools.partial(_attribute, old, new), doc=f"Old: {new}."))
    return cls


def _field_names(cls: type) -> Iterable[str]:
    if issubclass(cls, tuple):
        names: tuple[str, ...] = getattr(cls, "_fields", ())
        return names
    return [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]


def _taking(names: Mapping[str, str], made: Callable[..., Any], owner: str) -> Callable[..., Any]:
    """A constructor or replacing method that takes old keywords as well."""

    @functools.wraps(made)
    def taking(*args: Any, **kwargs: Any) -> Any:
        # Every tree of a traced function is made here: the usual case must cost nothing.
        if names.keys().isdisjoint(kwargs):
            return made(*args, **kwargs)
        caller, depth, replacing = sys._getframe(1), 2, False
        while caller.f_globals.get("__name__") in _REPLACING and caller.f_back is not None:
            caller, depth, replacing = caller.f_back, depth + 1, True
        for old in names.keys() & kwargs.keys():
            new = names[old]
            # `replace` gives every field that it was not asked to replace.
            if new in kwargs and not replacing:
                raise TypeError(f"{owner}: {old} is the old name of {new}; give one of them")
            kwargs[new] = kwargs.pop(old)
            _warn(owner, old, new, depth + 1)
        return made(*args, **kwargs)

    return taking


def _attribute(old: str, new: str, self: Any) -> Any:
    _warn(type(self).__name__, old, new, 3)
    return getattr(self, new)


def _warn(owner: str, old: str, new: str, depth: int) -> None:
    text = f"{owner}: {old} is now called {new}"
    warnings.warn(text, DeprecationWarning, stacklevel=depth)


def former_names(
    module: str, now: str, names: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """A `__getattr__` for a module, by which names that are now elsewhere go on working.

        __getattr__ = former_names(__name__, "codesign.search.grid")

    Args:
      module: that had the names.
      now: the module that has them.
      names: the present name of each; None: every name of `now` is as before.
    """

    def found(name: str) -> Any:
        new = (name if names is None else names.get(name, "")) if name[:1] != "_" else ""
        there = importlib.import_module(now) if new else None
        if not hasattr(there, new):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        text = f"{module}.{name} is now {now}.{new}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(there, new)

    return found


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
