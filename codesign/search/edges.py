"""Optima that lie on an edge of their choices: a better one may lie behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from codesign.cost.sram import CAPACITIES_KIB
from codesign.design_file import ACCELERATOR_BOUNDS
from codesign.space import AcceleratorChoices, Dimension, accelerator_dimensions


class Edge(NamedTuple):
    """A dimension whose least or largest choice some designs have, though more can be built.

    Attributes:
      dimension: its dotted name, such as "accelerator.glb_mib" or "vision.layers".
      value: that choice.
      least: whether it is the least of them; else the largest.
      designs: names of the designs.
      wider: the choices with one more behind the edge.
    """

    dimension: str
    value: float
    least: bool
    designs: tuple[str, ...]
    wider: tuple[float, ...]

    def line(self, option: str) -> str:
        """What it means and how to look further, where `option` sets the choices."""
        which = "least" if self.least else "largest"
        choices = ",".join(f"{x:g}" for x in self.wider)
        return (
            f"{self.dimension} {self.value:g} of {', '.join(self.designs)} is the {which} of its "
            f"choices; look further by --{option} '[{choices}]'"
        )


def edges(dimensions: Sequence[Dimension], designs: Mapping[str, Sequence[float]]) -> list[Edge]:
    """The edges on which designs lie.

    A dimension of one choice is the user's, and at its bound there is nothing to widen: neither
    counts.

    Args:
      dimensions: of a space; names of an accelerator's begin with "accelerator.".
      designs: by name, the choice of each along every dimension.
    """
    found = []
    for axis, (name, choices) in enumerate(dimensions):
        if len(choices) < 2:
            continue
        low, high = _bounds(name)
        # Half or twice: what hardware comes in, and far enough in a network.
        for end, behind in ((choices[0], choices[0] / 2), (choices[-1], 2 * choices[-1])):
            there = tuple(design for design, values in designs.items() if values[axis] == end)
            if not there or not low <= behind <= high or not _exists(name, behind):
                continue
            wider = tuple(sorted({*choices, behind}))
            found.append(Edge(name, end, end == choices[0], there, wider))
    return found


def chip_edges(choices: AcceleratorChoices, designs: Sequence[Mapping[str, Any]]) -> list[Edge]:
    """Edges of an accelerator's choices on which designs, as in designs.json, lie.

    A network's own choices end with its supernet, which the user has; its targets decide how much
    of it pays. Designs of runs from before there were all of the fields are left out.
    """
    dimensions = accelerator_dimensions(choices)
    fields = [dimension.name.removeprefix("accelerator.") for dimension in dimensions]
    return edges(
        dimensions,
        {
            design["name"]: [design["accelerator"][field] for field in fields]
            for design in designs
            if set(fields) <= set(design["accelerator"])
        },
    )


# Below it CACTI has no data; smaller buffers can be asked for, but are no reason to look further.
_LEAST_KIB = CAPACITIES_KIB[0]


def _bounds(name: str) -> tuple[float, float]:
    part, _, field = name.partition(".")
    if part != "accelerator":
        return 1, float("inf")
    low, high = ACCELERATOR_BOUNDS[field]
    return (max(low, _LEAST_KIB) if field == "l2_kib" else low), high


def _exists(name: str, value: float) -> bool:
    """Whether a dimension has such a value: memories alone come in fractions of their unit."""
    return value == int(value) or name == "accelerator.glb_mib"
