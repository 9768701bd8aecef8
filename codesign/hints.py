"""The annotations of dataclasses, resolved once: that takes longer than what asks for them."""

from __future__ import annotations

import functools
import typing
from typing import Any


@functools.cache
def type_hints(kind: type, *, bounds: bool = False) -> dict[str, Any]:
    """The annotation of every field of a dataclass by its name; not to be changed.

    Args:
      kind: the dataclass.
      bounds: with what `Annotated` adds to a type.
    """
    return typing.get_type_hints(kind, include_extras=bounds)
