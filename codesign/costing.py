"""The costings by name: codesign.cost.costing, which is imported with the rules it is made of."""

from codesign.cost.costing import (
    CATRANSFORMERS,
    NAMES,
    PHYSICAL,
    Costing,
    costing_of,
    default_scenario,
)

__all__ = ["CATRANSFORMERS", "NAMES", "PHYSICAL", "Costing", "costing_of", "default_scenario"]
