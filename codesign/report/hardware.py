"""A hardware search as designs, as a table and as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from rich import box
from rich.table import Table

from codesign.report import plots
from codesign.report.costs import totals_json
from codesign.report.entries import cost
from codesign.report.tables import accelerator_text
from codesign.report.text import si
from codesign.runs import jsonable
from codesign.scenario import Scenario
from codesign.search.hardware import HardwareSearch
from codesign.search.objectives import objective
from codesign.workload.load import Model

Row = Mapping[str, Any]
# The front's lines in the terminal's table; all are in the JSON and in designs.json.
_MOST_LINES = 12
_AXES = ("latency_s", "carbon_kgco2e")


def hardware_designs(
    model: Model, scenario: Scenario, found: HardwareSearch
) -> list[dict[str, Any]]:
    """The best accelerators, then the front from the fastest on, as in designs.json.

    A design that `codesign cost` can price has its "architecture"; of other models the
    "model" says what runs.
    """
    what: dict[str, Any] = (
        {"model": model.name}
        if model.architecture is None
        else {
            "model": model.name,
            "architecture": model.architecture,
        }
    )

    if model.sparsity:
        what["sparsity"] = model.sparsity

    def design(name: str, index: int) -> dict[str, Any]:
        chip, costs = found.at(index)
        plain: dict[str, Any] = jsonable(
            {
                "name": name,
                **what,
                "accelerator": chip,
                "scenario": scenario,
                "costs": totals_json(costs, found.objectives),
                "feasible": True,
                "pareto": index in found.front,
            }
        )
        return plain

    names = [objective(mode).name for mode in found.objectives]
    best = [design(f"least-{name}", found.best[name]) for name in names]
    digits = len(str(len(found.front)))
    front = [design(f"front-{i:0{digits}d}", index) for i, index in enumerate(found.front, start=1)]
    return best + front


def hardware_table(designs: Sequence[Row]) -> Table:
    """The designs as a rich table; of a long front, evenly spaced lines and its ends."""
    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for title in ("accelerator", "array", "memory"):
        table.add_column(title, no_wrap=True)
    for title in ("latency", "energy", "area", "TOPS", "embodied", "carbon"):
        table.add_column(title, justify="right", no_wrap=True)
    front = [d for d in designs if d["name"].startswith("front")]
    shown = [d for d in designs if d not in front]
    spaced = {round(i * (len(front) - 1) / (_MOST_LINES - 1)) for i in range(_MOST_LINES)}
    for design in shown + [d for i, d in enumerate(front) if i in spaced]:
        costs = design["costs"]
        table.add_row(
            design["name"],
            *accelerator_text(design["accelerator"]),
            si(costs["latency_s"], "s"),
            si(costs["energy_j"], "J"),
            si(costs["area_mm2"], "mm²"),
            si(costs["tops"], ""),
            *(
                si(costs[f], "kgCO2e").replace("CO2e", "")
                for f in ("embodied_kgco2e", "carbon_kgco2e")
            ),
        )
        if design is shown[-1]:
            table.add_section()
    return table


def front_figure(designs: Sequence[Row]) -> bytes | None:
    """Latency against total carbon: the front, and the best of each cost; PNG.

    None where no design of a front has both.
    """
    known = [d for d in designs if cost(d, "latency_s") and cost(d, "carbon_kgco2e")]
    known = [d for d in known if max(cost(d, key) or 0.0 for key in _AXES) <= plots.LARGEST]
    if not any(str(d.get("name")).startswith("front") for d in known):
        return None
    return plots.png(plots.figure_of(front_axes(known)))


def front_axes(designs: Sequence[Row], axes: Axes | None = None) -> Axes:
    """`front_figure`, drawn on `axes` or on those of a new figure."""
    axes = plots.new_figure(7.0, 4.5)[1] if axes is None else axes
    at = lambda d: (1e3 * d["costs"]["latency_s"], d["costs"]["carbon_kgco2e"])  # noqa: E731
    front = [at(d) for d in designs if str(d.get("name")).startswith("front")]
    axes.step(
        *zip(*front, strict=True),
        where="post",
        color=plots.BLUE,
        label="Pareto front",
        marker="o",
        markersize=4,
    )
    colours = itertools.cycle((plots.GREEN, plots.VERMILION, plots.ORANGE))
    best = [d for d in designs if str(d.get("name")).startswith("least")]
    for design, colour in zip(best, colours, strict=False):
        label = plots.name_text(design["name"])
        axes.plot(*at(design), "*", color=colour, markersize=13, label=label)
    axes.set_xscale("log")
    plots.plain_log_ticks(axes)
    axes.set_xlabel("latency of one inference, ms (log)")
    axes.set_ylabel("total carbon, kgCO2e")
    axes.grid(color=plots.LIGHT, linewidth=0.6, zorder=0)
    axes.legend(fontsize=8)
    return axes
