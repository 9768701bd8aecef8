"""The part of a page that can be explored: its table of designs, and what its script reads."""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from codesign.report import entries, explore, tables
from codesign.report.text import MISSING

if TYPE_CHECKING:
    from markupsafe import Markup

    from codesign.report.operators import Split

Row = Mapping[str, Any]
# Designs that are taken apart by operator: of a long front, evenly spaced ones.
_MOST_SPLIT = 24
_BEFORE = ("design", "role", "vision", "text", "array", "memory")
_AFTER = ("feasible", "Pareto")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table that the script sorts.

    Attributes:
      text: as people read it.
      value: the number that it is sorted by and saved as; None: its text.
      left: whether it is words, which stand to the left.
    """

    text: str
    value: float | None = None
    left: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """One design's row.

    Attributes:
      cells: one for each heading.
      reference: whether it is one.
      infeasible: whether it is known to break a limit.
    """

    cells: list[Cell]
    reference: bool
    infeasible: bool


def designs_lines(runs: Mapping[str, Sequence[Row]]) -> tuple[list[Cell], list[Line]]:
    """Headings and rows of the designs of one run, or of several with their names.

    Columns that no design has anything in are left out.
    """
    pairs = [(name, design) for name, designs in runs.items() for design in designs]
    designs = [design for _, design in pairs]
    by_title = {column.title: column for column in tables.COLUMNS}
    quantities = explore.quantities(designs)

    def words(titles: Sequence[str]) -> list[tuple[Cell, list[Cell]]]:
        return [
            (Cell(title, left=True), [Cell(by_title[title].text(d), left=True) for d in designs])
            for title in titles
        ]

    numbers = [
        (Cell(q.heading), [Cell(q.text(d), q.value(d)) for d in designs]) for q in quantities
    ]
    columns = words(_BEFORE) + numbers + words(_AFTER)
    if len(runs) > 1:
        columns.insert(1, (Cell("run", left=True), [Cell(name, left=True) for name, _ in pairs]))
    columns = [
        (head, cells)
        for head, cells in columns
        if head.text == "design" or any(cell.text not in ("", MISSING) for cell in cells)
    ]
    return [head for head, _ in columns], [
        Line(
            [cells[i] for _, cells in columns],
            entries.is_reference(design),
            design.get("feasible") is False,
        )
        for i, design in enumerate(designs)
    ]


def splits_of(designs: Sequence[Row], config: Any) -> list[Split | None]:
    """Operators and parts of the designs, of many of them only of some."""
    from codesign.report.operators import split  # not above: it starts JAX

    known: Row = config if isinstance(config, Mapping) else {}
    chosen = _chosen(designs)
    found = dict(zip(chosen, split([designs[i] for i in chosen], known), strict=True))
    return [found.get(i) for i in range(len(designs))]


def _chosen(designs: Sequence[Row]) -> list[int]:
    """All designs, or those that are no part of a front and evenly spaced ones of that."""
    if len(designs) <= _MOST_SPLIT:
        return list(range(len(designs)))
    front = [i for i, design in enumerate(designs) if explore.group_of(design) == "front"]
    others = [i for i in range(len(designs)) if i not in set(front)][:_MOST_SPLIT]
    places = max(_MOST_SPLIT - len(others), 0)
    spaced = {round(k * (len(front) - 1) / max(places - 1, 1)) for k in range(places)}
    return sorted([*others, *(front[k] for k in spaced if k < len(front))])


def context(
    runs: Mapping[str, Sequence[Row]],
    curves: Sequence[Row] = (),
    splits: Sequence[Split | None] = (),
) -> dict[str, Any]:
    """What explore.html is given: table, JSON and script.

    Args:
      runs: entries of designs.json by the run's name.
      curves: of `explore.curves`.
      splits: of all designs one after the other; empty: not known.
    """
    from markupsafe import Markup

    headings, lines = designs_lines(runs)
    island = explore.json_island(explore.island(runs, curves, splits))
    return {
        "headings": headings,
        "lines": lines,
        "island": Markup(island),
        "script": script(),
    }


def script() -> Markup:
    """The script of all pages, ours and not to be escaped."""
    from markupsafe import Markup

    file = importlib.resources.files("codesign.report").joinpath("explore.js")
    return Markup(file.read_text("utf-8"))
