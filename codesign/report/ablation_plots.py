"""Figures of an ablation, as PNG bytes, in the colours of codesign.report.plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from codesign.report.plots import BLUE, DPI, GREY, LIGHT, ORANGE, png

Row = Mapping[str, Any]
COLOURS = {"analytic": GREY, "learned": ORANGE, "corrected": BLUE}
_MARKERS = {"analytic": "s", "learned": "^", "corrected": "o"}
# Panels in order: level and metric to a title.
_PANELS = {
    ("gemm", "cycles"): "GEMM: cycles",
    ("gemm", "energy_pj"): "GEMM: energy, pJ",
    ("design", "latency_s"): "design: latency, s",
    ("design", "energy_j"): "design: energy, J",
    ("design", "carbon_kgco2e"): "design: carbon, kgCO2e",
    ("design", "area_mm2"): "design: area, mm²",
    ("pool", "latency_s"): "one CLIP: latency, s",
    ("pool", "energy_j"): "one CLIP: energy, J",
    ("pool", "carbon_kgco2e"): "one CLIP: carbon, kgCO2e",
}
_REGRETS = {
    "latency_s": "latency",
    "energy_j": "energy",
    "carbon_kgco2e": "carbon",
    "edp_js": "energy x delay",
}


def scatter(points: Sequence[Row]) -> bytes | None:
    """Predicted against true, one panel a metric; rows of points.csv."""

    def draw(axes: Axes, rows: Sequence[Row]) -> None:
        truth = np.array([row["truth"] for row in rows])
        ends = np.array([truth.min() / 1.3, truth.max() * 1.3])
        axes.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
        for share in (0.9, 1.1):
            axes.plot(ends, share * ends, color=GREY, linewidth=0.7, linestyle=":", zorder=1)
        for name, colour in COLOURS.items():
            own = [row for row in rows if row["surrogate"] == name]
            axes.scatter(
                [row["truth"] for row in own],
                [row["predicted"] for row in own],
                s=9,
                color=colour,
                marker=_MARKERS[name],
                alpha=0.6,
                linewidths=0,
                label=name,
                zorder=2,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
            if ends[1] < 100 * ends[0]:  # Powers of ten alone would leave it bare.
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_xlabel("oracle", fontsize=8)
        axes.set_ylabel("surrogate", fontsize=8)

    groups = {
        title: [row for row in points if (row["level"], row["metric"]) == key]
        for key, title in _PANELS.items()
    }
    return _panels(groups, draw)


def errors(rows: Sequence[Row]) -> bytes | None:
    """Mean error against budget, one panel a metric; averaged rows of errors.csv."""
    groups = {
        title: [
            row for row in rows if (row["level"], row["metric"]) == key and row["subset"] == "all"
        ]
        for key, title in _PANELS.items()
        if key[1] != "area_mm2"
    }
    return _panels(groups, lambda axes, own: _budget_lines(axes, own, "mape", "mean error"))


def regrets(rows: Sequence[Row]) -> bytes | None:
    """Regret against budget, one panel a metric; averaged rows of regrets.csv."""
    groups = {
        title: [row for row in rows if row["metric"] == metric]
        for metric, title in _REGRETS.items()
    }
    return _panels(groups, lambda axes, own: _budget_lines(axes, own, "regret", "regret"))


def _budget_lines(axes: Axes, rows: Sequence[Row], value: str, label: str) -> None:
    budgets = sorted({row["budget"] for row in rows if row["budget"]})
    for name, colour in COLOURS.items():
        known = [r for r in rows if r["surrogate"] == name and r[value] is not None]
        for buying, style in (("random", "-"), ("active", "--")):
            line = sorted((r["budget"], r[value]) for r in known if r["buying"] == buying)
            if line:
                axes.plot(
                    *zip(*line, strict=True),
                    style,
                    color=colour,
                    marker=_MARKERS[name],
                    markersize=4,
                    linewidth=1.3,
                    label=name if buying == "random" else f"{name}, bought actively",
                )
        for row in known:
            if row["buying"] == "none":
                axes.axhline(row[value], color=colour, linewidth=1.3, label=name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))
    if budgets:
        axes.set_xscale("log")
        axes.set_xticks(budgets, [str(b) for b in budgets])
        axes.minorticks_off()
    axes.set_xlabel("samples", fontsize=8)
    axes.set_ylabel(label, fontsize=8)


def _panels(
    groups: Mapping[str, Sequence[Row]], draw: Callable[[Axes, Sequence[Row]], None]
) -> bytes | None:
    """A grid with a panel for each group that has rows, and one legend; None where none has."""
    filled = {title: rows for title, rows in groups.items() if rows}
    if not filled:
        return None
    columns = min(3, len(filled))
    lines = math.ceil(len(filled) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.6 * lines + 0.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    labels: dict[str, Any] = {}
    for axes, (title, rows) in zip(grid.flat, filled.items(), strict=False):
        draw(axes, rows)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(color=LIGHT, linewidth=0.6, zorder=0)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
    for axes in grid.flat[len(filled) :]:
        axes.set_visible(False)
    figure.legend(
        labels.values(),
        labels.keys(),
        loc="outside upper center",
        ncols=len(labels),
        frameon=False,
        fontsize=8,
    )
    return png(figure)
