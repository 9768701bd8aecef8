"""Reading entries of designs.json, of which any part may be absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codesign.report.text import is_number


def cost(design: Mapping[str, Any], key: str) -> float | None:
    """One number of a design's costs, or None where it is not known."""
    costs = design.get("costs")
    value = costs.get(key) if isinstance(costs, Mapping) else None
    return float(value) if is_number(value) else None


def number(design: Mapping[str, Any], key: str) -> float | None:
    """One number of a design's own, such as "accuracy", or None where it is not known."""
    value = design.get(key)
    return float(value) if is_number(value) else None


def is_reference(design: Mapping[str, Any]) -> bool:
    """Whether the design is a reference, not one that the run found."""
    return design.get("role") == "reference"


def was_searched(design: Mapping[str, Any]) -> bool:
    """Whether the joint phase moved the design: found ones, and dense rivals of families."""
    return not is_reference(design) or any(
        key.startswith("target_") and value is not None for key, value in design.items()
    )
