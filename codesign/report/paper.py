"""The report of a study of a paper: a table a finding, a figure, and one page with all."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich import box
from rich.table import Table

from codesign.accelerator import Accelerator
from codesign.bounds import Ge, Le, MaxLen, MinLen
from codesign.constraints import Natural
from codesign.decode import read_checked
from codesign.report import plots
from codesign.report.html import Picture, write_page
from codesign.report.text import MISSING, significant
from codesign.runs import CONFIG, read_record, write_bytes
from codesign.study.finding import IN_PART, NO, YES
from codesign.study.paper import RESULT

FIGURE, TABLES = "paper.png", "paper.md"
_TEMPLATE = "paper.html"
_COLOURS = (plots.ORANGE, plots.BLUE)
# What a quantity is called, its unit, and its digits behind the point.
_QUANTITIES = {
    "carbon_kgco2e": ("carbon", "kgCO2e", 3),
    "latency_ms": ("latency", "ms", 1),
    "operational_percent": ("of it operational", "%", 0),
    "saving_percent": ("carbon saved", "%", 1),
    "more_carbon_percent": ("more carbon", "%", 1),
    "slowdown": ("times as long", "", 1),
    "speedup": ("times as fast", "", 1),
}
_NUMBER = Annotated[float, Ge(-1e30), Le(1e30)]
_FIELDS = {field.name for field in dataclasses.fields(Accelerator)}


@dataclasses.dataclass(frozen=True)
class _Costing:
    name: str
    accelerators: Natural


@dataclasses.dataclass(frozen=True)
class _Verdict:
    holds: str
    why: str

    def __post_init__(self) -> None:
        if self.holds not in (YES, IN_PART, NO):
            raise ValueError(f"a verdict is '{self.holds}': yes, in part or no")


@dataclasses.dataclass(frozen=True)
class _Row:
    """What of a number the report takes."""

    subject: str
    quantity: str
    published: _NUMBER | None
    source: str | None
    found: dict[str, _NUMBER | None]
    ratio: dict[str, _NUMBER | None]
    accelerators: dict[str, dict[str, float] | None]

    def __post_init__(self) -> None:
        if self.quantity not in _QUANTITIES:
            raise ValueError(f"'{self.quantity}' is none of {', '.join(_QUANTITIES)}")
        for chip in self.accelerators.values():
            if chip is not None and set(chip) != _FIELDS:
                raise ValueError(f"an accelerator of '{self.subject}' lacks fields or has others")


@dataclasses.dataclass(frozen=True)
class _Finding:
    name: str
    title: str
    claim: str
    rows: Annotated[tuple[_Row, ...], MaxLen(10_000)]
    verdicts: dict[str, _Verdict]


@dataclasses.dataclass(frozen=True)
class _Result:
    """What of paper.json the report takes."""

    paper: str
    costings: Annotated[tuple[_Costing, ...], MinLen(1), MaxLen(100)]
    findings: Annotated[tuple[_Finding, ...], MinLen(1), MaxLen(100)]
    left_out: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises ValueError where a finding lacks a costing."""
        names = {costing.name for costing in self.costings}
        for finding in self.findings:
            told = [set(finding.verdicts)]
            told += [set(x) for row in finding.rows for x in (row.found, row.ratio)]
            if any(each != names for each in told):
                raise ValueError(f"'{finding.name}' is not there under every costing")


def read_result(folder: Path) -> dict[str, Any]:
    """What a run has found.

    Raises:
      UserError: its file is not there or damaged.
    """
    result: dict[str, Any] = read_checked(folder / RESULT, _Result)
    return result


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Writes report.html, its figure and paper.md into the folder of a run, from that folder alone.

    Returns:
      The path of report.html.

    Raises:
      UserError: the folder holds no study of a paper, or a damaged one.
      RunError: where the disk refuses.
    """
    folder = Path(folder)
    result, record = read_result(folder), read_record(folder / CONFIG)
    write_bytes(folder / TABLES, ("\n".join(markdown(result)) + "\n").encode())
    columns = headings(result)
    return write_page(
        folder,
        _TEMPLATE,
        record,
        [Picture(FIGURE, *_WORDS, figure(result))],
        paper=result["paper"],
        costings=costings(result),
        grids=grids_text(result),
        findings=[
            finding | {"table": list(cells(result, finding))} for finding in result["findings"]
        ],
        headings=columns,
        left=[i for i, name in enumerate(columns) if name in _IN_WORDS],
        left_out=result["left_out"],
    )


_WORDS = (
    "Ours and the published figures",
    "Dot plot of ratios of computed to published figures, a finding a row, a colour a costing.",
    """Each mark is a figure that the paper prints: what is computed here over what is printed, on
    a logarithmic axis; on the line they agree. Numbers of the other sign are at the left edge.""",
)


def costings(result: Mapping[str, Any]) -> list[str]:
    """Their names."""
    return [costing["name"] for costing in result["costings"]]


def grids_text(result: Mapping[str, Any]) -> str:
    """How many accelerators each costing has a choice of."""
    each = [f"{c['accelerators']:,} under {c['name']}" for c in result["costings"]]
    return f"Accelerators: {', '.join(each)}."


# Columns of a finding's table that are words.
_IN_WORDS = ("of", "quantity", "source", "accelerator")


def headings(result: Mapping[str, Any]) -> list[str]:
    """Of a finding's table."""
    ours = [text for name in costings(result) for text in (name, "ratio", "accelerator")]
    return ["of", "quantity", "published", "source", *ours]


def cells(result: Mapping[str, Any], finding: Mapping[str, Any]) -> Iterator[list[str]]:
    """The rows of a finding's table."""
    for row in finding["rows"]:
        name, unit, digits = _QUANTITIES[row["quantity"]]
        ours = []
        for costing in costings(result):
            ratio = row["ratio"][costing]
            chip = row["accelerators"].get(costing)
            ours += [
                _number(row["found"][costing], digits),
                MISSING if ratio is None else f"{ratio:.2f}",
                "" if chip is None else chip_text(chip),
            ]
        yield [
            row["subject"],
            f"{name}, {unit}" if unit else name,
            MISSING if row["published"] is None else f"{row['published']:.4g}",
            row["source"] or "",
            *ours,
        ]


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def chip_text(chip: Mapping[str, float]) -> str:
    """An accelerator in a cell: cores x columns x rows, L2 KiB, GLB MiB, DRAM channels."""
    pes = " x ".join(
        significant(chip[name], 3) if chip[name] < 1 else f"{chip[name]:g}"
        for name in ("cores", "pe_x", "pe_y")
    )
    return f"{pes}, L2 {chip['l2_kib']:g}, G {chip['glb_mib']:.3g}, D {chip['channels']:g}"


def verdicts_table(result: Mapping[str, Any]) -> Table:
    """Whether each finding holds, as a rich table."""
    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for heading in ("finding", *costings(result), "claim of the paper"):
        table.add_column(heading, overflow="fold")
    for finding in result["findings"]:
        held = [finding["verdicts"][costing]["holds"] for costing in costings(result)]
        table.add_row(finding["name"], *held, finding["claim"])
    return table


def figure(result: Mapping[str, Any]) -> bytes:
    """Ratios of computed to published figures, a finding a row; PNG."""
    shown = [f for f in result["findings"] if any(r["published"] for r in f["rows"])]
    drawn = Figure(figsize=(9.0, 0.5 * len(shown) + 1.6), dpi=plots.DPI, layout="constrained")
    axes = drawn.subplots()
    names = costings(result)
    colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))
    least, most = 0.05, 20.0
    for place, finding in enumerate(shown):
        for i, name in enumerate(names):
            ratios = [r["ratio"][name] for r in finding["rows"] if r["ratio"][name] is not None]
            ratios = [min(max(ratio, least), most) for ratio in ratios]
            level = place + 0.3 * ((i + 0.5) / len(names) - 0.5) * 2
            axes.plot(
                ratios,
                [level] * len(ratios),
                "o",
                color=colours[name],
                alpha=0.6,
                markersize=4.5,
                markeredgewidth=0,
                clip_on=False,
                zorder=3,
            )
    axes.axvline(1, color=plots.GREY, linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(least, most)
    axes.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_yticks(range(len(shown)), [plots.name_text(f["name"]) for f in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("computed / published", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color=plots.LIGHT, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color=colours[n], marker="o", linestyle="", label=plots.name_text(n))
        for n in names
    ]
    drawn.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return plots.png(drawn)


def markdown(result: Mapping[str, Any]) -> list[str]:
    """Every finding with its verdicts and its published figures, in lines of Markdown.

    A finding without any published figure has all of its rows.
    """
    lines = [
        "| finding | " + " | ".join(costings(result)) + " |",
        "|---|" + "---|" * len(costings(result)),
    ]
    for finding in result["findings"]:
        held = [finding["verdicts"][costing]["holds"] for costing in costings(result)]
        lines.append("| " + " | ".join([finding["title"], *held]) + " |")
    for finding in result["findings"]:
        lines += ["", f"### {finding['title']}", "", f"The paper: {finding['claim']}", ""]
        lines += [
            f"- {costing}, **{verdict['holds']}**: {verdict['why']}"
            for costing, verdict in finding["verdicts"].items()
        ]
        titles = headings(result)
        shown = [i for i, title in enumerate(titles) if title != "accelerator"]
        printed = [row["published"] is not None for row in finding["rows"]]
        lines += ["", "| " + " | ".join(titles[i] for i in shown) + " |", "|" + "---|" * len(shown)]
        lines += [
            "| " + " | ".join(row[i] for i in shown) + " |"
            for row, is_printed in zip(cells(result, finding), printed, strict=True)
            if is_printed or not any(printed)
        ]
    return lines
