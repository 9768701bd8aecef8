"""Designs and runs as tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from codesign.printable import printable
from codesign.quantities import percents, words_of
from codesign.report.claims import Claims
from codesign.report.costs import TOTALS
from codesign.report.entries import cost, is_reference, number
from codesign.report.seeds import Over
from codesign.report.text import (
    MISSING,
    amount,
    duration,
    is_number,
    percent,
    percent_interval,
    share,
    si,
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
    """An accelerator in short: its cores and arrays; its memories, the DRAM's channels last."""
    if not isinstance(accelerator, Mapping):
        return MISSING, ""
    keys = ("cores", "pe_x", "pe_y", "l2_kib", "l2_bytes_per_cycle")
    cores, pe_x, pe_y, l2, rate = (_plain(accelerator.get(key)) for key in keys)
    glb = accelerator.get("glb_mib")
    glb_text = _capacity(glb) if is_number(glb) else MISSING
    plural = "" if cores == "1" else "s"
    # Designs of before there was a choice of channels have none.
    channels = f" D {_plain(accelerator['channels'])}" if "channels" in accelerator else ""
    return f"{cores} core{plural} {pe_x}x{pe_y}", f"L2 {l2}K/{rate} G {glb_text}{channels}"


def _capacity(mib: float) -> str:
    return f"{mib:g}M" if mib >= 1 else f"{mib * 1024:g}K"


def _plain(value: Any) -> str:
    return f"{value:g}" if is_number(value) else MISSING


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
    shares = percents([level for level in levels if is_number(level)])
    sparse = "/".join(share.removesuffix("%") for share in shares)
    return printable(design.get("role", MISSING)) + (f" {sparse}%" if sparse else "")


COLUMNS = (
    Column("design", lambda d: printable(d.get("name", MISSING)), left=True),
    Column("role", _role, left=True),
    Column("vision", lambda d: tower_text(_part(d, "architecture", "vision")), left=True),
    Column("text", lambda d: tower_text(_part(d, "architecture", "text")), left=True),
    Column("array", lambda d: accelerator_text(d.get("accelerator"))[0], left=True),
    Column("memory", lambda d: accelerator_text(d.get("accelerator"))[1], left=True),
    Column("accuracy", lambda d: share(d.get("accuracy"), d.get("accuracy_standard_error"))),
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


def designs_table(
    designs: Sequence[Mapping[str, Any]], title: str = "", *, tuned: bool = True
) -> Table:
    """The designs as a rich table for a terminal of 105 characters.

    Args:
      designs: entries of designs.json.
      title: above it.
      tuned: whether networks were trained and measured; else only their proxies are known.
    """
    return _stacks_table(designs, stacked(_TERMINAL_STACKS) if tuned else _UNTUNED_STACKS, title)


def priced_table(designs: Sequence[Mapping[str, Any]]) -> Table:
    """What designs cost as a rich table, a row each, as narrow as `designs_table`."""
    return _stacks_table(designs, _PRICED_STACKS)


def _stacks_table(
    designs: Sequence[Mapping[str, Any]], stacks: Sequence[Sequence[Column]], title: str = ""
) -> Table:
    table = Table(
        title=Text(printable(title)) if title else None,
        box=box.HORIZONTALS,
        show_lines=True,
        padding=(0, 1, 0, 0),
        caption=_CAPTION,
        caption_justify="left",
    )
    for stack in stacks:
        heading = "\n".join(_SHORT.get(column.title, column.title) for column in stack)
        table.add_column(heading, justify="left" if stack[0].left else "right", no_wrap=True)
    for design in designs:
        cells = ["\n".join(column.text(design) for column in stack) for stack in stacks]
        table.add_row(*(Text(cell.replace("CO2e", "")) for cell in cells))
    return table


_UNTUNED_STACKS = [
    *stacked(_TERMINAL_STACKS[:3]),
    [Column("proxy", lambda d: percent(d.get("proxy_accuracy")))],
    *stacked(_TERMINAL_STACKS[4:7]),
]
_PRICED_STACKS = stacked((("design",), *_TERMINAL_STACKS[1:3], *_TERMINAL_STACKS[4:7]))
_CAPTION = (
    "Towers: layers x width, h heads, f FFN units. Array: PEs of a core. Memory: L2 capacity / "
    "bytes a cycle, G global buffer, D DRAM channels. Carbon: CO2e over the device's life, in use "
    "and embodied. Per cents beside a role: zeros in the weights of its subnets, whose accuracy "
    "and energy are means by their shares of use."
)


def claims_table(found: Claims) -> Table:
    """The figures of a run as a rich table, with their intervals."""
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0))
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("design")
    for figure, value, interval, design in claim_rows(found):
        table.add_row(figure, value, interval, Text(design))
    return table


def claim_rows(found: Claims) -> list[tuple[str, str, str, str]]:
    """Figure, value, interval, and the design that it is of, of each figure of a run."""
    rows = []
    if found.hypervolume is not None:
        interval = interval_text(found.hypervolume_interval)
        rows.append(("hypervolume", si(found.hypervolume, ""), interval, ""))
    for at in found.matched:
        if found.box is not None:
            budget = f"{_level(at.share)} of the reference's {found.box.quantity}"
            rows.append(
                (
                    f"accuracy at {budget}, {found.box.text(at.cost)}",
                    share(at.accuracy, at.standard_error),
                    percent_interval(at.interval),
                    "no feasible design costs as little"
                    if at.design is None
                    else printable(at.design),
                )
            )
    return rows


def interval_text(interval: Sequence[float] | None) -> str:
    """The ends of an interval of plain numbers; None gives a dash."""
    return MISSING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _level(share: Any) -> str:
    return f"{100 * share:.0f} %" if is_number(share) else MISSING


def run_summary(
    name: str,
    designs: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    found: Claims | None = None,
) -> dict[str, Any]:
    """One run in a comparison of runs, as plain JSON values.

    Args:
      name: the run's.
      designs: entries of designs.json.
      summary: summary.json.
      found: what the designs show; None: not looked into.

    Returns:
      name, designs (how many were found), feasible (of these), accuracy (the best
      feasible), carbon_kgco2e (the least feasible), hypervolume, reference_point,
      wall_time_s, run_carbon_kgco2e of summary.json, None where not known, and what
      `Claims.summary` gives.
    """
    feasible = [d for d in designs if not is_reference(d)]
    good = [d for d in feasible if d.get("feasible") is not False]
    accuracies = [a for d in good if (a := number(d, "accuracy")) is not None]
    carbons = [c for d in good if (c := cost(d, "carbon_kgco2e")) is not None]
    kept = ("hypervolume", "reference_point", "wall_time_s", "run_carbon_kgco2e")
    return (
        {
            "name": name,
            "designs": len(feasible),
            "feasible": len(good),
            "accuracy": max(accuracies, default=None),
            "carbon_kgco2e": min(carbons, default=None),
        }
        | {key: summary.get(key) for key in kept}
        | (found.summary() if found else {})
    )


def comparison_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Runs side by side, from run_summary.

    Hypervolumes and accuracies at matched cost are shown only where all runs measured them
    from one reference point: others cannot be compared.
    """
    points = {json.dumps(run.get("reference_point")) for run in runs}
    comparable = len(points) == 1
    note = (
        "Accuracies: at shares of the reference's cost. Below each figure its 95 % interval "
        "over the test images of that run."
        if comparable
        else "hypervolumes have different reference points: not shown"
    )
    table = Table(
        title="runs",
        caption=note,
        caption_justify="left",
        box=box.HORIZONTALS,
        padding=(0, 1, 0, 0),
        show_lines=True,
    )
    table.add_column("run")
    levels = _levels(runs) if comparable else []
    headings = [f"at {_level(level)}" for level in levels]
    for heading in ("found", "hypervolume", *headings, "wall time", "own\ncarbon"):
        table.add_column(heading, justify="right")
    for run in runs:
        volume = run.get("hypervolume") if comparable else None
        interval = run.get("hypervolume_interval") if comparable else None
        table.add_row(
            Text(_run_name(run)),
            f"{run['feasible']} of {run['designs']}",
            _below(si(volume, ""), interval, 1.0, 3),
            *(_at_level(run, level) for level in levels),
            duration(run.get("wall_time_s")),
            si(run.get("run_carbon_kgco2e"), "kgCO2e").replace("CO2e", ""),
        )
    return table


def volume_text(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """A run's hypervolume and its interval, where all runs measured it from one point.

    Args:
      run: of run_summary.
      runs: those that it stands beside, itself included.
    """
    if len({json.dumps(other.get("reference_point")) for other in runs}) > 1:
        return MISSING
    interval = run.get("hypervolume_interval")
    ends = "" if interval is None else f" ({interval_text(interval)})"
    return si(run.get("hypervolume"), "") + ends


def _run_name(run: Mapping[str, Any]) -> str:
    seed = run.get("seed")
    return printable(run["name"]) + ("" if seed is None else f"\nseed {printable(seed)}")


def _levels(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    matched = (at for run in runs for at in run.get("accuracy_at_cost", ()))
    return list(dict.fromkeys(at["share"] for at in matched))


def _at_level(run: Mapping[str, Any], level: float) -> str:
    matched = {at["share"]: at for at in run.get("accuracy_at_cost", ())}
    at = matched.get(level, {})
    return _below(percent(at.get("accuracy")), at.get("interval"), 100.0, 1)


def _below(figure: str, interval: Sequence[float] | None, scale: float, digits: int) -> str:
    """A figure with its interval, in units of 1 / scale, in the line below."""
    if interval is None:
        return figure
    low, high = (f"{scale * end:.{digits}f}" for end in interval)
    return f"{figure}\n{low}–{high}"


def seeds_table(groups: Sequence[Over]) -> Table:
    """Mean and interval over the seeds of each config as a rich table."""
    table = Table(
        title="over seeds",
        caption=SEEDS_CAPTION,
        caption_justify="left",
        box=box.HORIZONTALS,
        padding=(0, 2, 0, 0),
    )
    for heading in ("runs", "figure"):
        table.add_column(heading)
    for heading in ("mean", "95 % interval", "seeds"):
        table.add_column(heading, justify="right")
    for group in groups:
        for i, (figure, mean, interval, count) in enumerate(seed_rows(group)):
            name = printable(group.name) if i == 0 else ""
            table.add_row(Text(name), figure, mean, interval, count)
    return table


SEEDS_CAPTION = (
    "Student's interval of the mean over runs that differ in seed alone; accuracies at shares of "
    "the reference's cost."
)


def seed_rows(group: Over) -> list[tuple[str, str, str, str]]:
    """Figure, mean, interval and number of seeds of each figure of a group of runs."""
    rows = []
    for figure in group.figures:
        shown = (
            (si(figure.mean, ""), interval_text(figure.interval))
            if figure.share is None
            else (percent(figure.mean), percent_interval(figure.interval))
        )
        words = "hypervolume" if figure.share is None else f"accuracy at {_level(figure.share)}"
        rows.append((words, *shown, str(figure.seeds)))
    return rows


# What the table of `codesign cost` lists: the DRAM is among the parts of the carbon.
_TOTALS = tuple(key for key in TOTALS if key != "dram_gb")


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
    for field in _TOTALS:
        total = costs.get(field)
        table.add_row(Text(words_of(field), style="bold"), amount(field, total), "")
        for part, value in breakdown.get(field, {}).items():
            share = percent(value / total if total else None)
            table.add_row(f"  {part}", amount(field, value), share)
    return table


def intervals_table(intervals: Mapping[str, tuple[float, float]]) -> Table:
    """Intervals of costs as a rich table.

    Args:
      intervals: least and greatest by field of designs.json.
    """
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0))
    table.add_column("by the components' ranges (90 %)")
    table.add_column("from", justify="right")
    table.add_column("to", justify="right")
    for field in _TOTALS:
        if field in intervals:
            table.add_row(words_of(field), *(amount(field, end) for end in intervals[field]))
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
            str(k),
            percent(subnet.get("sparsity")),
            percent(subnet.get("share")),
            si(subnet.get("latency_s"), "s"),
            si(subnet.get("energy_j"), "J"),
            si(subnet.get("weight_bytes"), "B"),
        ]
        accuracy = share(subnet.get("accuracy"), subnet.get("accuracy_standard_error"))
        table.add_row(*cells, *([accuracy] if measured else []))
    return table
