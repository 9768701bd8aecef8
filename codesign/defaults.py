"""Fields that a class of configs has gained since a config was written: they had their defaults."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from codesign.hints import type_hints


def with_defaults(kind: type, written: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values, and the defaults of what another has besides, at any depth.

    Args:
      kind: the dataclass that both are of; its fields may be dataclasses.
      written: values by name, those of dataclasses mappings; what they are is not looked at.
      now: the other's.
    """
    hints = type_hints(kind)
    filled = dict(written)
    for field in dataclasses.fields(kind):
        name, hint = field.name, hints[field.name]
        if name not in now:
            continue
        if name not in filled:
            if field.default is not dataclasses.MISSING:
                filled[name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                filled[name] = field.default_factory()
        elif dataclasses.is_dataclass(hint) and all(
            isinstance(x[name], Mapping) for x in (filled, now)
        ):
            filled[name] = with_defaults(typing.cast(type, hint), filled[name], now[name])
    return filled
