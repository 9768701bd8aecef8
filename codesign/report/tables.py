"""Designs as tables, savings against the references, and numbers with their prefixes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from rich import box
from rich.table import Table
from rich.text import Text

MISSING = "–"

_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
_NO_PREFIX = ("mm²", "")


def si(value: Any, unit: str, digits: int = 3) -> str:
    """A number with an SI prefix: si(1.23e-3, "s") is "1.23 ms".

    Args:
      value: in `unit`; None or NaN gives a dash.
      unit: "s", "J", "kgCO2e", ...; one that starts with "kg" is counted in grams;
        "mm²" takes no prefix.
      digits: significant digits.
    """
    if not _is_number(value):
        return MISSING
    number, unit = (value * 1e3, unit[1:]) if unit.startswith("kg") else (value, unit)
    if number == 0 or unit in _NO_PREFIX:
        return f"{_significant(number, digits)} {unit}".rstrip()
    # Rounding first, so that 999.7 ms becomes 1.00 s.
    number = float(f"{number:.{digits - 1}e}")
    # A tonne of CO2e is not a MgCO2e to anyone, so grams stop at kilo.
    top = 3 if unit.startswith("g") else max(_PREFIXES)
    exponent = math.floor(math.log10(abs(number)) / 3 + 1e-9) * 3
    exponent = min(max(exponent, min(_PREFIXES)), top)
    return f"{_significant(number / 10.0**exponent, digits)} {_PREFIXES[exponent]}{unit}"


def _significant(number: float, digits: int) -> str:
    """`number` with `digits` significant digits, in plain notation where it is short."""
    if number == 0:
        return "0"
    if not 1e-4 <= abs(number) < 1e7:
        return f"{number:.{digits - 1}e}"
    number = float(f"{number:.{digits - 1}e}")
    return f"{number:.{max(digits - 1 - math.floor(math.log10(abs(number))), 0)}f}"


def percent(value: Any) -> str:
    """A share as percent: percent(0.5) is "50.0 %"; None gives a dash."""
    return f"{100 * value:.1f} %" if _is_number(value) else MISSING


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def cost(design: Mapping[str, Any], key: str) -> float | None:
    """One number of a design's costs, or None where it is not known."""
    costs = design.get("costs")
    value = costs.get(key) if isinstance(costs, Mapping) else None
    return float(value) if _is_number(value) else None


def number(design: Mapping[str, Any], key: str) -> float | None:
    """One number of a design's own, such as "accuracy", or None where it is not known."""
    value = design.get(key)
    return float(value) if _is_number(value) else None


def is_reference(design: Mapping[str, Any]) -> bool:
    """Whether the design is a reference, not one that the run found."""
    return design.get("role") == "reference"


def was_searched(design: Mapping[str, Any]) -> bool:
    """Whether the joint phase moved the design: found ones, and dense rivals of families."""
    return not is_reference(design) or any(
        key.startswith("target_") and value is not None for key, value in design.items()
    )


def tower_text(tower: Any) -> str:
    """A tower in short: 4 layers of width 32, 4 heads, 128 hidden units is "4x32 h4 f128"."""
    if not isinstance(tower, Mapping):
        return MISSING
    layers, width, heads, ffn = (
        _plain(tower.get(key)) for key in ("layers", "width", "heads", "ffn")
    )
    return f"{layers}x{width} h{heads} f{ffn}"


def accelerator_text(accelerator: Any) -> tuple[str, str]:
    """An accelerator in short: its cores and arrays, and its memories."""
    if not isinstance(accelerator, Mapping):
        return MISSING, ""
    keys = ("cores", "pe_x", "pe_y", "l2_kib", "l2_words_per_cycle")
    cores, pe_x, pe_y, l2, words = (_plain(accelerator.get(key)) for key in keys)
    glb = accelerator.get("glb_mib")
    glb_text = _capacity(glb) if _is_number(glb) else MISSING
    plural = "" if cores == "1" else "s"
    return f"{cores} core{plural} {pe_x}x{pe_y}", f"L2 {l2}K/{words} G {glb_text}"


def _capacity(mib: float) -> str:
    return f"{mib:g}M" if mib >= 1 else f"{mib * 1024:g}K"


def _plain(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else MISSING


def _flag(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, MISSING) if isinstance(value, bool) else MISSING


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the designs' table.

    Attributes:
      title: its heading.
      text: the cell of one design.
      left: whether it is words, which stand to the left.
    """

    title: str
    text: Callable[[Mapping[str, Any]], str]
    left: bool = False


def _part(design: Mapping[str, Any], *keys: str) -> Any:
    value: Any = design
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _role(design: Mapping[str, Any]) -> str:
    """The design's role, and the sparsities of its subnets: "found 30/80%"."""
    levels = design.get("sparsity") or []
    sparse = "/".join(f"{100 * level:.0f}" for level in levels if _is_number(level))
    return str(design.get("role", MISSING)) + (f" {sparse}%" if sparse else "")


COLUMNS = (
    Column("design", lambda d: str(d.get("name", MISSING)), left=True),
    Column("role", _role, left=True),
    Column("vision", lambda d: tower_text(_part(d, "architecture", "vision")), left=True),
    Column("text", lambda d: tower_text(_part(d, "architecture", "text")), left=True),
    Column("array", lambda d: accelerator_text(d.get("accelerator"))[0], left=True),
    Column("memory", lambda d: accelerator_text(d.get("accelerator"))[1], left=True),
    Column("accuracy", lambda d: percent(d.get("accuracy"))),
    Column("recall@1", lambda d: percent(d.get("recall_at_1"))),
    Column("latency", lambda d: si(cost(d, "latency_s"), "s")),
    Column("energy", lambda d: si(cost(d, "energy_j"), "J")),
    Column("area", lambda d: si(cost(d, "area_mm2"), "mm²")),
    Column("operational", lambda d: si(cost(d, "operational_kgco2e"), "kgCO2e")),
    Column("embodied", lambda d: si(cost(d, "embodied_kgco2e"), "kgCO2e")),
    Column("total carbon", lambda d: si(cost(d, "carbon_kgco2e"), "kgCO2e")),
    Column("feasible", lambda d: _flag(d.get("feasible")), left=True),
    Column("Pareto", lambda d: _flag(d.get("pareto")), left=True),
)


def design_rows(designs: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The designs as text, one row each, one cell for each of COLUMNS."""
    return [[column.text(design) for column in COLUMNS] for design in designs]


# Related columns may share one, a line each.
PAGE_STACKS = (
    ("design", "role"),
    ("vision", "text"),
    ("array", "memory"),
    *((column.title,) for column in COLUMNS[6:]),
)
_TERMINAL_STACKS = (
    *PAGE_STACKS[:3],
    ("accuracy", "recall@1"),
    ("latency", "energy"),
    ("total carbon", "area"),
    ("operational", "embodied"),
    ("feasible", "Pareto"),
)
# Headings that would be wider than their column, as a terminal shows them.
_SHORT = {
    "accuracy": "acc.",
    "recall@1": "R@1",
    "total carbon": "carbon",
    "operational": "in use",
    "feasible": "ok",
    "Pareto": "front",
}


def stacked(titles: Iterable[Iterable[str]]) -> list[list[Column]]:
    """COLUMNS by title, those that share one together."""
    by_title = {column.title: column for column in COLUMNS}
    return [[by_title[title] for title in stack] for stack in titles]


def designs_table(designs: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """The designs as a rich table for a terminal of 105 characters."""
    table = Table(
        title=title or None,
        box=box.HORIZONTALS,
        show_lines=True,
        padding=(0, 1, 0, 0),
        caption=_CAPTION,
        caption_justify="left",
    )
    stacks = stacked(_TERMINAL_STACKS)
    for stack in stacks:
        heading = "\n".join(_SHORT.get(column.title, column.title) for column in stack)
        table.add_column(heading, justify="left" if stack[0].left else "right", no_wrap=True)
    for design in designs:
        cells = ["\n".join(column.text(design) for column in stack) for stack in stacks]
        table.add_row(*(Text(cell.replace("CO2e", "")) for cell in cells))
    return table


_CAPTION = (
    "Towers: layers x width, h heads, f FFN units. Array: PEs of a core. Memory: L2 capacity / "
    "bytes a cycle, G global buffer. Carbon: CO2e over the device's life, in use and embodied. "
    "Per cents beside a role: zeros in the weights of its subnets, whose accuracy and energy are "
    "means by their shares of use."
)


@dataclasses.dataclass(frozen=True)
class Saving:
    """What the cheapest design as accurate as a reference saves.

    Attributes:
      reference: the reference's name.
      accuracy: the reference's accuracy, a share.
      carbon_kgco2e: the reference's total carbon.
      design: the cheapest feasible found design that is as accurate, which means not
        below the reference by more than the standard error of its measured accuracy
        (its `accuracy_standard_error`; 0 where not known); None: none is.
      design_accuracy: its accuracy.
      design_carbon_kgco2e: its total carbon.
      saved_kgco2e: reference minus design; negative where the design costs more.
      saved_share: the same as a share of the reference.
    """

    reference: str
    accuracy: float
    carbon_kgco2e: float
    design: str | None = None
    design_accuracy: float | None = None
    design_carbon_kgco2e: float | None = None
    saved_kgco2e: float | None = None
    saved_share: float | None = None

    def __str__(self) -> str:
        """One line for people."""
        at = f"{self.reference} ({percent(self.accuracy)}, {si(self.carbon_kgco2e, 'kgCO2e')})"
        if self.saved_kgco2e is None:
            return f"{at}: no feasible design found is as accurate"
        verb = "saves" if self.saved_kgco2e >= 0 else "costs"
        more = "" if self.saved_kgco2e >= 0 else " more"
        share = percent(abs(self.saved_share)) if self.saved_share is not None else MISSING
        return (
            f"{at}: {self.design} ({percent(self.design_accuracy)}, "
            f"{si(self.design_carbon_kgco2e, 'kgCO2e')}) {verb} "
            f"{si(abs(self.saved_kgco2e), 'kgCO2e')}{more}, {share}"
        )


def savings(designs: Iterable[Mapping[str, Any]]) -> list[Saving]:
    """For each reference, what the cheapest design as accurate saves in total carbon.

    Only designs that are not infeasible count; references whose accuracy or carbon is
    not known are left out.

    Args:
      designs: entries of designs.json.
    """
    designs = list(designs)
    found = [d for d in designs if not is_reference(d) and d.get("feasible") is not False]
    return [
        _saving(reference, found)
        for reference in designs
        if is_reference(reference)
        and cost(reference, "carbon_kgco2e") is not None
        and number(reference, "accuracy") is not None
    ]


def _saving(reference: Mapping[str, Any], found: list[Mapping[str, Any]]) -> Saving:
    accuracy = number(reference, "accuracy") or 0.0
    enough = accuracy - (number(reference, "accuracy_standard_error") or 0.0)
    carbon = cost(reference, "carbon_kgco2e") or 0.0
    name = str(reference.get("name", MISSING))
    reaching = [
        (design_carbon, design_accuracy, design)
        for design in found
        if (design_carbon := cost(design, "carbon_kgco2e")) is not None
        and (design_accuracy := number(design, "accuracy")) is not None
        and design_accuracy >= enough
    ]
    if not reaching:
        return Saving(name, accuracy, carbon)
    design_carbon, design_accuracy, design = min(reaching, key=lambda item: item[0])
    return Saving(
        reference=name,
        accuracy=accuracy,
        carbon_kgco2e=carbon,
        design=str(design.get("name", MISSING)),
        design_accuracy=design_accuracy,
        design_carbon_kgco2e=design_carbon,
        saved_kgco2e=carbon - design_carbon,
        saved_share=(carbon - design_carbon) / carbon if carbon else None,
    )


def run_summary(
    name: str, designs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """One run in a comparison of runs, as plain JSON values.

    Returns:
      name, designs (how many were found), feasible (of these), accuracy (the best
      feasible), carbon_kgco2e (the least feasible), and hypervolume, reference_point,
      wall_time_s, run_carbon_kgco2e of summary.json, None where not known.
    """
    found = [d for d in designs if not is_reference(d)]
    good = [d for d in found if d.get("feasible") is not False]
    accuracies = [a for d in good if (a := number(d, "accuracy")) is not None]
    carbons = [c for d in good if (c := cost(d, "carbon_kgco2e")) is not None]
    kept = ("hypervolume", "reference_point", "wall_time_s", "run_carbon_kgco2e")
    return {
        "name": name,
        "designs": len(found),
        "feasible": len(good),
        "accuracy": max(accuracies, default=None),
        "carbon_kgco2e": min(carbons, default=None),
    } | {key: summary.get(key) for key in kept}


def comparison_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Runs side by side, from run_summary.

    Hypervolumes are shown only where all runs measured them from one reference point:
    others cannot be compared.
    """
    points = {json.dumps(run.get("reference_point")) for run in runs}
    comparable = len(points) == 1
    note = None if comparable else "hypervolumes have different reference points: not shown"
    table = Table(title="runs", caption=note, caption_justify="left")
    table.add_column("run")
    for heading in ("found", "feasible", "best accuracy", "least carbon", "hypervolume",
                    "wall time", "run's own carbon"):  # fmt: skip
        table.add_column(heading, justify="right")
    for run in runs:
        volume = run.get("hypervolume") if comparable else None
        table.add_row(
            str(run["name"]),
            str(run["designs"]),
            str(run["feasible"]),
            percent(run.get("accuracy")),
            si(run.get("carbon_kgco2e"), "kgCO2e"),
            si(volume, ""),
            duration(run.get("wall_time_s")),
            si(run.get("run_carbon_kgco2e"), "kgCO2e"),
        )
    return table


def duration(seconds: Any) -> str:
    """A time as people say it: "4.20 s", "3 min 05 s", "2 h 07 min"."""
    if not _is_number(seconds):
        return MISSING
    if seconds < 60:
        return si(seconds, "s")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


# The totals of a design, as the table of `codesign cost` lists them: (field, name, unit).
_TOTALS = (
    ("latency_s", "latency", "s"),
    ("energy_j", "energy", "J"),
    ("area_mm2", "area", "mm²"),
    ("tops", "peak", "TOPS"),
    ("operational_kgco2e", "operational carbon", "kgCO2e"),
    ("embodied_kgco2e", "embodied carbon", "kgCO2e"),
    ("carbon_kgco2e", "total carbon", "kgCO2e"),
)


def costs_table(costs: Mapping[str, Any]) -> Table:
    """One design's costs as a rich table, each total followed by its parts.

    Args:
      costs: as in designs.json, with "breakdown" {field: {part: value}} where known.
    """
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0))
    table.add_column("cost of one design")
    table.add_column("value", justify="right")
    table.add_column("share", justify="right")
    breakdown = costs.get("breakdown") or {}
    for field, name, unit in _TOTALS:
        total = costs.get(field)
        text = f"{_significant(total, 3)} TOPS" if unit == "TOPS" and _is_number(total) else None
        table.add_row(Text(name, style="bold"), text or si(total, unit), "")
        for part, value in breakdown.get(field, {}).items():
            table.add_row(f"  {part}", si(value, unit), percent(value / total if total else None))
    return table


def subnets_table(subnets: Sequence[Mapping[str, Any]]) -> Table:
    """The subnets of a family as a rich table.

    Args:
      subnets: as in designs.json; "accuracy" is shown where it is known.
    """
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0))
    table.add_column("subnet")
    headings = ["sparsity", "share of use", "latency", "energy", "weights"]
    measured = any(number(subnet, "accuracy") is not None for subnet in subnets)
    for heading in [*headings, *(["accuracy"] if measured else [])]:
        table.add_column(heading, justify="right")
    for k, subnet in enumerate(subnets):
        cells = [
            str(k), percent(subnet.get("sparsity")), percent(subnet.get("share")),
            si(subnet.get("latency_s"), "s"), si(subnet.get("energy_j"), "J"),
            si(subnet.get("weight_bytes"), "B"),
        ]  # fmt: skip
        table.add_row(*cells, *([percent(subnet.get("accuracy"))] if measured else []))
    return table
