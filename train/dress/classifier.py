"""The former place of `codesign.train.classifier`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    from codesign.train import classifier

    if name.startswith("__") or not hasattr(classifier, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.{name} is now codesign.train.classifier.{name}",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(classifier, name)
