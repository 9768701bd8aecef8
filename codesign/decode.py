"""Parsed JSON as annotated classes: the one reader of what other programs wrote.

    @dataclasses.dataclass(frozen=True)
    class Vision:
        hidden_size: Count = 768

    decode(Vision, read_json(path), str(path), at="vision_config")

The annotations say what is allowed (see `constraints`) and pydantic reads them: a number is a
number and never a text or a truth value, a list becomes a tuple, an object a dataclass. The first
fault is told as "config.json: vision_config.hidden_size is '64', expected a whole number, at
least 1".
"""

from __future__ import annotations

import functools
import json
import os
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar

from codesign.constraints import describe, is_huge
from codesign.errors import UserError, did_you_mean
from codesign.hints import type_hints
from codesign.json_text import read_json
from codesign.printable import short_repr

T = TypeVar("T")
Path = tuple[str | int, ...]


def decode(kind: type[T], obj: Any, where: str, *, at: str = "", exact: bool = False) -> T:
    """A value as an instance of an annotated type.

    Args:
      kind: a dataclass, its fields annotated with types and ranges.
      obj: parsed JSON, as `json_text` reads it.
      where: what holds it, such as its file's name.
      at: its dotted path there; "": it is the whole.
      exact: as `dataclasses.asdict` wrote it: an object has every field of its class, also those
        with a default, and no other key. Else other keys are passed over.

    Raises:
      UserError: one line with the path of the first field that is not as annotated, what was
        expected and what was found.
    """
    from pydantic import ValidationError

    before = (at,) if at else ()
    try:
        # As JSON, because there an object may become a dataclass and a list a tuple while numbers
        # and texts stay what they are.
        adapter = _adapter(typing.cast(typing.Hashable, kind))
        (decoded,) = adapter.validate_json(json.dumps([obj]), strict=True)
    except ValidationError as error:
        worst = _deepest(error.errors(include_url=False))
        if worst["type"] == "json_invalid":
            raise UserError(f"{where}: it holds text with half a surrogate pair") from None
        raise UserError(f"{where}: {_problem(kind, obj, worst, before)}") from None
    if exact and (odd := next(_inexact(kind, obj, before), None)):
        raise UserError(f"{where}: {odd}")
    return typing.cast(T, decoded)


def read_checked(path: str | os.PathLike[str], kind: type) -> Any:
    """The JSON of a file as it stands there, of which all that a dataclass has is as it says.

    Raises:
      UserError: the file is not there, or holds something else: the line names the field.
    """
    found = read_json(path)
    decode(kind, found, os.fspath(path))
    return found


@functools.cache
def _adapter(kind: Any) -> Any:
    """Of a list with one such value, as only so a dataclass takes a setting from outside."""
    from pydantic import ConfigDict, TypeAdapter

    # A whole number of hundreds of digits would become an infinite float.
    return TypeAdapter(tuple[kind], config=ConfigDict(allow_inf_nan=False))


def _deepest(errors: list[Any]) -> Any:
    """Of the first error and those beside it the one that tells most of its place.

    A value that is no member of a union has an error for each; of an object the one of its fields.
    """
    around = errors[0]["loc"][:-1]
    return max(
        (e for e in errors if e["loc"][: len(around)] == around), key=lambda e: len(e["loc"])
    )


def _problem(kind: Any, obj: Any, error: Any, before: Path) -> str:
    """ "vision.width is 'a', expected ...", of the place that pydantic complains about."""
    path = list(before)
    for part in error["loc"][1:]:
        if _is_union(kind) and part in (m.__name__ for m in typing.get_args(kind) if _fields(m)):
            continue  # pydantic's name for a member
        inside = _inside(kind, part)
        if inside is None or not isinstance(obj, (dict, list)):
            break  # a member that is no object: the union is told as a whole
        path.append(part)
        if isinstance(obj, dict) and part not in obj:
            return f"{_dotted(path)} is missing"
        kind, obj = inside, obj[part]
    if error["type"] == "value_error":  # of a dataclass's own __post_init__
        return f"{_dotted(path)}: {error['ctx']['error']}"
    expected = _described(kind) + (", and far smaller" if is_huge(obj) else "")
    return f"{_dotted(path)} is {short_repr(obj)}, expected {expected}"


def _described(kind: Any) -> str:
    if _is_union(kind):
        members = (m for m in typing.get_args(kind) if m is not type(None))
        return " or ".join(_described(member) for member in members)
    return "an object" if _fields(kind) or typing.get_origin(kind) is dict else describe(kind)


def _inside(kind: Any, part: str | int) -> Any:
    """The annotation of an object's field or a list's element; None: there is none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _inside(arguments[0], part)
    if _is_union(kind):
        objects = [member for member in arguments if _fields(member)]
        return _inside(objects[0], part) if len(objects) == 1 else None
    if origin is dict:
        return arguments[1]
    if origin is tuple and isinstance(part, int):
        return arguments[0] if arguments[-1] is Ellipsis else arguments[part]
    return _fields(kind).get(str(part))


def _fields(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass; none of what is no dataclass."""
    made_by = typing.cast(typing.Hashable, kind)
    hints = type_hints(made_by, bounds=True) if is_dataclass(kind) else {}
    return {field.name: hints[field.name] for field in fields(kind)} if hints else {}


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _inexact(kind: Any, obj: Any, path: Path) -> Iterator[str]:
    """ "unknown key 'vision.widht'; ...", "vision.width is missing", of each such key."""
    known = _fields(next(filter(_fields, typing.get_args(kind)), None) if _is_union(kind) else kind)
    inside = dict(obj if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else {})
    for key, value in inside.items():
        if known and key not in known:
            yield f"unknown key '{_dotted([*path, key])}'; {did_you_mean(str(key), known)}"
        else:
            yield from _inexact(_inside(kind, key), value, (*path, key))
    if isinstance(obj, dict):
        yield from (f"{_dotted([*path, key])} is missing" for key in known if key not in inside)


def _dotted(path: Sequence[str | int]) -> str:
    """The path as "vision_config.sizes[0]"; "it" where it is the whole."""
    text = ""
    for part in path:
        name = part if isinstance(part, str) and part.isprintable() else short_repr(part)
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text or "it"
