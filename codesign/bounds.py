"""The bounds that annotated fields state: those of `annotated_types`.

Models, training steps and the cost model state bounds without reading them, so they run where
nothing but JAX and Flax is installed, on a borrowed accelerator for example. Whatever reads the
bounds (`constraints.check_config`, `decode.decode`) does so through pydantic, which brings
`annotated_types` with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from annotated_types import BaseMetadata as BaseMetadata
    from annotated_types import DocInfo as DocInfo
    from annotated_types import Ge as Ge
    from annotated_types import Gt as Gt
    from annotated_types import Le as Le
    from annotated_types import Lt as Lt
    from annotated_types import MaxLen as MaxLen
    from annotated_types import MinLen as MinLen
    from annotated_types import MultipleOf as MultipleOf
    from annotated_types import Predicate as Predicate
    from annotated_types import doc as doc
except ModuleNotFoundError:
    if not TYPE_CHECKING:

        class BaseMetadata:
            """A bound that nothing reads."""

            def __init__(self, stated: Any) -> None:
                self.stated = stated

        Ge = Gt = Le = Lt = MaxLen = MinLen = MultipleOf = BaseMetadata
        DocInfo = Predicate = doc = BaseMetadata
