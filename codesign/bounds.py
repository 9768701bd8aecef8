"""The bounds that annotated fields state: those of `annotated_types`.

Models, training steps and the cost model state bounds without reading them, so they run where
nothing but JAX and Flax is installed, on a borrowed accelerator for example. Whatever reads the
bounds (`constraints.check_config`, `decode.decode`) does so through pydantic, which brings
`annotated_types` with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annotated_types import (
        BaseMetadata,
        DocInfo,
        Ge,
        Gt,
        Le,
        Lt,
        MaxLen,
        MinLen,
        MultipleOf,
        Predicate,
        doc,
    )
else:
    try:
        from annotated_types import (
            BaseMetadata,
            DocInfo,
            Ge,
            Gt,
            Le,
            Lt,
            MaxLen,
            MinLen,
            MultipleOf,
            Predicate,
            doc,
        )
    except ModuleNotFoundError:

        class BaseMetadata:
            """A bound that nothing reads."""

            def __init__(self, stated: Any) -> None:
                self.stated = stated

        Ge = Gt = Le = Lt = MaxLen = MinLen = MultipleOf = BaseMetadata
        DocInfo = Predicate = doc = BaseMetadata

__all__ = [
    "BaseMetadata",
    "DocInfo",
    "Ge",
    "Gt",
    "Le",
    "Lt",
    "MaxLen",
    "MinLen",
    "MultipleOf",
    "Predicate",
    "doc",
]
