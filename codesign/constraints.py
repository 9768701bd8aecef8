"""What the fields of a config may hold, said at the fields and checked in one place.

A field's annotation gives its type and its range, `lr: Positive = 1e-3`; pydantic reads both.
`check_config` goes through every field of a config, nested dataclasses included, before a run
does anything. What two fields must agree on is in the config's own method `check`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from codesign.bounds import BaseMetadata, DocInfo, Ge, Gt, Le, Lt, MinLen, MultipleOf
from codesign.errors import UserError
from codesign.hints import type_hints
from codesign.printable import short_repr

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# What JAX's indices hold, and numbers whose squares float32 holds. Messages tell of these two
# only where they are passed.
LARGEST_COUNT, LARGEST = 2**31 - 1, 1e18
Count = Annotated[int, Ge(1), Le(LARGEST_COUNT)]
Natural = Annotated[int, Ge(0), Le(LARGEST_COUNT)]
# What a process holds side by side: threads, or designs that are trained together.
MOST_AT_ONCE = 1024
Few = Annotated[int, Ge(1), Le(MOST_AT_ONCE)]
# Sets of components that an interval may be of.
MOST_SETS = 100_000
# What JAX's and NumPy's generators tell apart alike.
Seed = Annotated[int, Ge(0), Lt(2**32)]
# Of a dataclass whose leaves may also be traced or batched; in a config it is one whole number.
Dimension = Annotated[Any, MultipleOf(1), Ge(1), Le(LARGEST_COUNT)]
Positive = Annotated[float, Gt(0), Le(LARGEST)]
NonNegative = Annotated[float, Ge(0), Le(LARGEST)]
Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
InnerShare = Annotated[float, Gt(0), Lt(1)]
CountChoices = Annotated[tuple[Count, ...], MinLen(1)]
PositiveChoices = Annotated[tuple[Positive, ...], MinLen(1)]

_BOUNDS = ((Gt, "gt", "above"), (Ge, "ge", "at least"), (Lt, "lt", "below"), (Le, "le", "at most"))


def check_config(config: Any) -> None:
    """Checks every field of a config, and then what its own method `check` asks for.

    Args:
      config: an instance of a dataclass.

    Raises:
      UserError: for the first field that holds what it may not: one line with the field, what
        came and what is allowed.
    """
    problem = first_problem(config, "--")
    if problem is not None:
        raise UserError(problem)
    together = getattr(config, "check", None)
    if together is not None:
        together()


def first_problem(config: Any, prefix: str = "") -> str | None:
    """One line about the first field that holds what it may not; None where all are right.

    Args:
      config: an instance of a dataclass.
      prefix: of the fields' names.
    """
    from codesign.design_file import check_choices, checked_scenario
    from codesign.scenario import Scenario
    from codesign.space import AcceleratorChoices

    kind: Any = type(config)
    hints = type_hints(kind, bounds=True)
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value) and _is_instance(value, hint):
            if (problem := first_problem(value, f"{prefix}{field.name}.")) is not None:
                return problem
        elif field.init and not _holds(hint, value):
            allowed = describe(hint)
            if is_huge(value) and " below " not in allowed:
                allowed += ", and far smaller"
            return f"{prefix}{field.name} is {short_repr(value)}: it must be {allowed}"
    # Two whose ranges are those of a design file.
    try:
        if isinstance(config, Scenario):
            checked_scenario(config, prefix.removesuffix("."))
        elif isinstance(config, AcceleratorChoices):
            check_choices(config, prefix.removesuffix("."))
    except UserError as error:
        return str(error)
    return None


def check_arguments(function: str, **arguments: tuple[Any, Any]) -> None:
    """Checks arguments as fields of a config are.

    Args:
      function: whose, for the message.
      **arguments: what each may hold, an annotated type, and what it holds.

    Raises:
      UserError: for the first that holds what it may not.
    """
    for name, (hint, value) in arguments.items():
        if not _holds(hint, value):
            raise UserError(
                f"{function}: {name} is {short_repr(value)}: it must be {describe(hint)}"
            )


def is_huge(value: Any) -> bool:
    """Whether a number, or one of a list, is beyond `LARGEST_COUNT`."""
    if isinstance(value, (list, tuple)):
        return any(map(is_huge, value))
    return isinstance(value, (int, float)) and LARGEST_COUNT < value < float("inf")


def _is_instance(value: Any, hint: Any) -> bool:
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    """What checks values of an annotated type; pydantic takes milliseconds to make one."""
    from pydantic import ConfigDict, TypeAdapter

    options = (
        None
        if dataclasses.is_dataclass(hint)
        else ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
    )
    return TypeAdapter(hint, config=options)


def _is_hashable(hint: Any) -> bool:
    try:
        hash(hint)
    except TypeError:  # an annotation of a user's own, with a list in it
        return False
    return True


def _holds(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotated type, and in its range; numbers are finite."""
    from pydantic import ValidationError

    make = _adapter if _is_hashable(hint) else _adapter.__wrapped__
    try:
        make(hint).validate_python(value, strict=True)
    except (ValidationError, TypeError):  # TypeError: no comparison of such a value
        return False
    return True


def describe(hint: Any) -> str:
    """What an annotation allows, as a user reads it: "a whole number, at least 1"."""
    if typing.get_origin(hint) is Annotated:
        base, *metadata = typing.get_args(hint)
        for one in metadata:
            if isinstance(one, DocInfo):
                return str(one.documentation)  # the annotation's own words
        bounds = " and ".join(_bounds(metadata))
        name = "a whole number" if any(isinstance(m, MultipleOf) for m in metadata) else None
        name = name or describe(base)
        if any(isinstance(m, MinLen) for m in metadata):
            name = name.replace("a list", "a list of one or more", 1)
        return f"{name}, {bounds}" if bounds else name
    if _is_union(hint):
        return ", or ".join(describe(member) for member in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return _describe_tuple(typing.get_args(hint))
    return "a finite number" if hint is float else type_name(hint)


def _describe_tuple(members: tuple[Any, ...]) -> str:
    if members[-1:] == (Ellipsis,):
        return f"a list, each element {describe(members[0])}"
    return f"a list of {len(members)}: " + "; ".join(describe(member) for member in members)


def _bounds(metadata: Sequence[BaseMetadata]) -> Iterator[str]:
    for one in metadata:
        for kind, name, words in _BOUNDS:
            if isinstance(one, kind) and getattr(one, name) not in (LARGEST_COUNT, LARGEST):
                yield f"{words} {getattr(one, name):.10g}"


def type_name(kind: Any) -> str:
    """A type as a user reads it: "a number", "tuple[int, ...]", "text or null", "'a' or 'b'"."""
    origin = typing.get_origin(kind)
    if _is_union(kind):
        return " or ".join(type_name(member) for member in typing.get_args(kind))
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(kind))
    if origin is tuple:
        return f"a list such as [1,2] ({kind})"
    names = {
        type(None): "null",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
    }
    return names.get(kind) or str(getattr(kind, "__name__", kind))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
