"""The costings by name: codesign.cost.costing, which is imported with the rules it is made of."""

from codesign.cost.costing import (
    CATRANSFORMERS,
    NAMES,
    PHYSICAL,
    Costing,
    conventional,
    costing_of,
)

__all__ = ["CATRANSFORMERS", "NAMES", "PHYSICAL", "Costing", "conventional", "costing_of"]
