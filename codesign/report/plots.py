"""Figures of a run, as PNG bytes: Pareto front, carbon, trajectories, training.

Every function takes plain data and gives the bytes of a PNG, or None where the run has
nothing to show. Colours are Okabe and Ito's and matplotlib's cividis, which hold up for
colour-blind readers; shapes and labels repeat what colour says.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from codesign.printable import printable
from codesign.report.entries import cost, is_reference, number
from codesign.report.text import is_number, si

DPI = 150
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, LIGHT = "#555555", "#DDDDDD"
_PHASES = {"warmup": "#F3F3F3", "elastic": "#E9F2E4", "joint": "#E3EEF6", "tune": "#FBF1DD"}
# Networks that are trained beside the searched designs: black lines.
_FIXED = ("-", ":", "--", "-.")
# More lines than this are told apart by a colour bar, not by a legend.
_MOST_NAMES = 10

# What is larger is no quantity of this field, and axes overflow on their way to it.
LARGEST = 1e30
_LONGEST_NAME = 40

Row = Mapping[str, Any]


def pareto(designs: Sequence[Row]) -> bytes | None:
    """Accuracy against total carbon, coloured by latency, with the Pareto front."""
    axes = pareto_axes(designs)
    return None if axes is None else png(figure_of(axes))


def pareto_axes(designs: Sequence[Row], axes: Axes | None = None) -> Axes | None:
    """`pareto`, drawn on `axes` or on those of a new figure; None where there are no points."""
    points = [_Point(d) for d in designs if _Point.complete(d)]
    if not points:
        return None
    axes = new_figure(8.0, 5.0)[1] if axes is None else axes
    figure = figure_of(axes)
    found = [p for p in points if not p.reference]
    references = [p for p in points if p.reference]
    latencies = [p.latency_ms for p in points]
    drawn = _scatter(axes, found, "o", 70, "found", latencies)
    drawn = _scatter(axes, references, "*", 210, "reference", latencies) or drawn
    axes.errorbar(
        [p.carbon for p in points],
        [p.accuracy for p in points],
        yerr=[p.standard_error for p in points],
        fmt="none",
        ecolor=GREY,
        elinewidth=0.8,
        capsize=2,
        zorder=2.5,
    )
    _front(axes, [p for p in points if p.on_front])
    if any(not p.feasible for p in points):
        axes.scatter(
            [],
            [],
            s=70,
            facecolors="none",
            edgecolors=VERMILION,
            linewidths=1.8,
            label="breaks a limit",
        )
    axes.set_xscale("log")
    axes.margins(0.12)
    plain_log_ticks(axes)
    axes.set_xlabel("total carbon over the device's life, kgCO2e (log)")
    axes.set_ylabel("zero-shot accuracy, %")
    axes.grid(color=LIGHT, linewidth=0.6, zorder=0)
    assert drawn is not None
    figure.colorbar(drawn, ax=axes, label="latency, ms", pad=0.02)
    legend = axes.legend(loc="lower right", frameon=True, framealpha=0.9, fontsize=8)
    for handle in legend.legend_handles[: bool(found) + bool(references)]:
        if isinstance(handle, PathCollection):  # A shape has no one latency to be coloured by.
            handle.set_array(None)
            handle.set_facecolor("#BBBBBB")
            handle.set_edgecolor(GREY)
    labelled = references + [p for p in found if p.on_front]
    _label(figure, axes, labelled, points)
    return axes


def _scatter(
    axes: Axes, group: list[_Point], marker: str, size: float, label: str, latencies: list[float]
) -> PathCollection | None:
    """The points of one kind, on the colours of all latencies; None where there are none."""
    if not group:
        return None
    low, high = min(latencies), max(latencies)
    return axes.scatter(
        [p.carbon for p in group],
        [p.accuracy for p in group],
        c=[p.latency_ms for p in group],
        marker=marker,
        s=size,
        edgecolors=[GREY if p.feasible else VERMILION for p in group],
        linewidths=[0.8 if p.feasible else 1.8 for p in group],
        zorder=3,
        label=label,
        cmap="cividis",
        vmin=low,
        # A single latency still needs a range of colours.
        vmax=high if high > low else low * 1.1 + 1e-9,
    )


def name_text(name: Any) -> str:
    """A name as a figure shows it: short, printable, no mathematics, never hidden.

    matplotlib sets what stands between dollars as a formula and leaves labels that begin with
    an underscore out of legends.
    """
    shown = printable(name)
    shown = shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"
    return (f" {shown}" if shown.startswith("_") else shown).replace("$", r"\$")


def _drawable_steps(metrics: Iterable[Row]) -> list[Row]:
    return [row for row in metrics if _drawable(row.get("step"))]


def _drawable(value: Any) -> bool:
    return is_number(value) and abs(value) <= LARGEST


class _Point:
    """A design as the Pareto figure draws it."""

    def __init__(self, design: Row) -> None:
        self.name = name_text(design.get("name", ""))
        self.reference = is_reference(design)
        self.carbon = cost(design, "carbon_kgco2e") or 0.0
        self.accuracy = 100 * (number(design, "accuracy") or 0.0)
        error = number(design, "accuracy_standard_error")
        self.standard_error = 100 * error if error is not None and 0 <= error <= 1 else 0.0
        self.latency_ms = 1e3 * (cost(design, "latency_s") or 0.0)
        self.feasible = design.get("feasible") is not False
        self.on_front = design.get("pareto") is True

    @staticmethod
    def complete(design: Row) -> bool:
        """Whether the design can be drawn on a logarithmic axis of carbon."""
        carbon, latency = cost(design, "carbon_kgco2e"), cost(design, "latency_s") or 0.0
        if carbon is None or carbon < 1 / LARGEST:
            return False
        return all(map(_drawable, (carbon, latency, number(design, "accuracy"))))


def _front(axes: Axes, points: list[_Point]) -> None:
    """The staircase under which every point is dominated."""
    if not points:
        return
    points = sorted(points, key=lambda p: p.carbon)
    axes.step(
        [p.carbon for p in points],
        [p.accuracy for p in points],
        where="post",
        color=BLUE,
        linewidth=1.4,
        zorder=2,
        label="Pareto front",
    )


def _steps(points: list[_Point]) -> list[tuple[float, float]]:
    """Places along the front's staircase, so that no name is written across it."""
    front = sorted((p for p in points if p.on_front), key=lambda p: p.carbon)
    places: list[tuple[float, float]] = []
    for left, right in itertools.pairwise(front):
        across = np.geomspace(left.carbon, right.carbon, 50)
        places += [(float(x), left.accuracy) for x in across]
        places += [(right.carbon, float(y)) for y in np.linspace(left.accuracy, right.accuracy, 50)]
    return places


def _label(figure: Figure, axes: Axes, labelled: list[_Point], points: list[_Point]) -> None:
    """Names beside the points, each in the first place free of other names and points."""
    shown_by = figure.canvas
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    figure.set_canvas(shown_by)  # It may be a window's.
    inside = axes.get_window_extent(renderer)
    legend = axes.get_legend()
    taken = [legend.get_window_extent(renderer).padded(2)] if legend else []
    radius = 2 * figure.dpi / 72
    dots = axes.transData.transform([(p.carbon, p.accuracy) for p in points] + _steps(points))
    for point in labelled:
        text = axes.annotate(
            point.name,
            (point.carbon, point.accuracy),
            textcoords="offset points",
            xytext=(0, 0),
            fontsize=8,
            fontweight="bold" if point.reference else "normal",
            color="black",
            zorder=4,
        )
        for (dx, dy), (across, up) in itertools.product(((9, 4), (14, 11), (20, 20)), _SIDES):
            text.set_position((dx * across, dy * up))
            text.set(ha=("center", "left", "right")[across], va=("center", "bottom", "top")[up])
            box = text.get_window_extent(renderer).padded(1)
            free = not any(box.overlaps(other) for other in taken)
            near = box.padded(radius)
            if free and not any(near.contains(x, y) for x, y in dots) and _within(box, inside):
                taken.append(box)
                break
        else:
            text.remove()  # A crowd: the table names it.


_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))


def _within(box: Any, frame: Any) -> bool:
    return bool(
        box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    )


def carbon(designs: Sequence[Row]) -> bytes | None:
    """Operational and embodied carbon of each design, stacked; embodied by part if known."""
    known = [(d, _carbon_parts(d)) for d in designs if cost(d, "carbon_kgco2e") is not None]
    known = [(d, part) for d, part in known if all(map(_drawable, part.values()))]
    if not known:
        return None
    shown, parts = [d for d, _ in known], [part for _, part in known]
    kinds = [kind for kind in _CARBON_COLOURS if any(kind in part for part in parts)]
    figure, axes = new_figure(8.0, 1.5 + 0.34 * len(shown))
    places = np.arange(len(shown))
    start = np.zeros(len(shown))
    for kind in kinds:
        width = np.array([part.get(kind, 0.0) for part in parts])
        colour, hatch = _CARBON_COLOURS[kind]
        axes.barh(
            places,
            width,
            left=start,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.6,
            label=kind,
            height=0.72,
        )
        start += width
    for place, total in enumerate(start):
        axes.text(total, place, f"  {si(total, 'kgCO2e')}", va="center", fontsize=8, color=GREY)
    names = [f"{name_text(d.get('name', ''))}{' *' if is_reference(d) else ''}" for d in shown]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlim(0, max(start) * 1.18 or 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: si(x, "kg")))
    axes.set_xlabel("carbon over the device's life, CO2e   (* reference)")
    axes.grid(axis="x", color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(kinds), frameon=False, fontsize=8)
    return png(figure)


_CARBON_COLOURS = {
    "operational": (BLUE, ""),
    "embodied": (ORANGE, ""),
    "embodied: chip": (ORANGE, ""),
    "embodied: DRAM": (GREEN, "//"),
}


def _carbon_parts(design: Row) -> dict[str, float]:
    """A design's carbon by part, kgCO2e."""
    parts = {"operational": cost(design, "operational_kgco2e") or 0.0}
    breakdown = design["costs"].get("breakdown")
    split = breakdown.get("embodied_kgco2e") if isinstance(breakdown, Mapping) else None
    if isinstance(split, Mapping) and all(is_number(split.get(k)) for k in ("chip", "dram")):
        parts |= {"embodied: chip": split["chip"], "embodied: DRAM": split["dram"]}
    else:
        parts["embodied"] = cost(design, "embodied_kgco2e") or 0.0
    return parts


def trajectories(
    metrics: Sequence[Row], space: Mapping[str, Any], names: Sequence[str] = ()
) -> bytes | None:
    """Each relaxed dimension over the steps, a line a design, over the choices it has.

    Args:
      metrics: rows of metrics.jsonl; those with "relaxed" are drawn.
      space: choices by group and dimension, {"vision": {"layers": [2, 4]}, ...}.
      names: a name for each line, where known.
    """
    metrics = _drawable_steps(metrics)
    rows = [row for row in metrics if isinstance(row.get("relaxed"), Mapping)]
    dimensions = list(dict.fromkeys(key for row in rows for key in row["relaxed"]))
    dimensions = [key for key in dimensions if _varies(key, space)]
    if not dimensions:
        return None
    columns = min(4, len(dimensions))
    lines = math.ceil(len(dimensions) / columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 1.9 * lines + 0.7), dpi=DPI, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    snap = _snap_step(metrics)
    count = max(len(_as_list(row["relaxed"].get(key))) for row in rows for key in dimensions)
    styles = _line_styles(count)
    for axes, key in zip(grid.flat, dimensions, strict=False):
        _trajectory(axes, key, rows, _choices(key, space), snap, styles)
    for axes in grid.flat[len(dimensions) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(len(dimensions) - columns, 0) : len(dimensions)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("step", fontsize=8)
    _line_key(figure, styles, names, snap)
    return png(figure)


def _trajectory(
    axes: Axes,
    key: str,
    rows: Sequence[Row],
    choices: Sequence[float],
    snap: int | None,
    styles: Sequence[Mapping[str, Any]],
) -> None:
    for choice in choices:
        axes.axhline(choice, color=LIGHT, linewidth=0.9, zorder=1)
    held = [row for row in rows if key in row["relaxed"]]
    steps = [row["step"] for row in held]
    for i, style in enumerate(styles):
        values = [_at(_as_list(row["relaxed"][key]), i) for row in held]
        axes.plot(steps, values, linewidth=1.2, zorder=2, **style)
    if snap is not None:
        axes.axvline(snap, color=VERMILION, linewidth=1.0, linestyle="--", zorder=3)
    if len(choices) > 1 and _geometric(choices):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
    if choices:
        shown = choices[:: math.ceil(len(choices) / 6)]
        axes.set_yticks(shown, [f"{choice:g}" for choice in shown])
    axes.set_title(name_text(key.replace(".", " ").replace("_", " ")), fontsize=8.5)
    axes.tick_params(labelsize=7)


def training(
    metrics: Sequence[Row], names: Sequence[str] = (), fixed: Sequence[str] = ()
) -> bytes | None:
    """Loss of each design over the steps, the phases shaded.

    Args:
      metrics: rows of metrics.jsonl; those with "loss" are drawn.
      names: of the searched designs, whose losses come last.
      fixed: of the networks that are not searched, whose losses come first.
    """
    metrics = _drawable_steps(metrics)
    rows = [row for row in metrics if _as_list(row.get("loss"))]
    if not rows:
        return None
    figure, axes = new_figure(8.0, 3.6)
    count = max(len(_as_list(row["loss"])) for row in rows)
    if count != len(fixed) + len(names):
        fixed = ()
    styles = _line_styles(count - len(fixed))
    dashes = itertools.islice(itertools.cycle(_FIXED), len(fixed))
    styles = [*({"color": "black", "linestyle": dash} for dash in dashes), *styles]
    # A phase that trains one network for all designs has one loss: it is drawn alone.
    for alone, group in itertools.groupby(rows, key=lambda row: len(_as_list(row["loss"])) == 1):
        part = list(group)
        steps = [row["step"] for row in part]
        shown: list[dict[str, Any]] = [{"color": GREY}] if alone and count > 1 else styles
        for i, style in enumerate(shown):
            values = [_at(_as_list(row["loss"]), i) for row in part]
            axes.plot(steps, values, linewidth=1.1, **style)
    _shade_phases(axes, metrics)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.margins(x=0.01)
    _line_key(figure, styles, [*fixed, *names], None)
    return png(figure)


def _shade_phases(axes: Axes, metrics: Sequence[Row]) -> None:
    spans = [
        (phase, [row["step"] for row in group])
        for phase, group in itertools.groupby(metrics, key=lambda row: row.get("phase"))
        if phase
    ]
    for i, (phase, steps) in enumerate(spans):
        end = spans[i + 1][1][0] if i + 1 < len(spans) else steps[-1]
        axes.axvspan(steps[0], end, color=_PHASES.get(str(phase), "#EEEEEE"), zorder=0, linewidth=0)
        axes.annotate(
            name_text(phase),
            (steps[0], 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=GREY,
        )


def _line_styles(count: int) -> list[dict[str, Any]]:
    """Of lines whose colours go from dark to light, short of the palest."""
    import matplotlib

    shares = np.linspace(0, 0.92, max(count, 1))
    return [{"color": matplotlib.colormaps["cividis"](share)} for share in shares]


def _line_key(
    figure: Figure,
    styles: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    snap: int | None,
) -> None:
    """Says which line is which design: by name where there are few and each has one."""
    from matplotlib.lines import Line2D

    handles = []
    count = len(styles)
    if 1 < count <= _MOST_NAMES:
        numbered = [f"design {i}" for i in range(count)]
        known = [name_text(name) for name in names] if len(names) == count else numbered
        handles = [Line2D([], [], label=n, **s) for s, n in zip(styles, known, strict=True)]
    elif count > 1:
        handles = [Line2D([], [], label=f"design {i}", **styles[i]) for i in (0, count - 1)]
    if snap is not None:
        handles.append(
            Line2D([], [], color=VERMILION, linestyle="--", label="snapped to the choices")
        )
    if handles:
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=min(len(handles), 7),
            frameon=False,
            fontsize=7.5,
        )


def _snap_step(metrics: Iterable[Row]) -> int | None:
    """The first step after the joint phase, at which designs are rounded to choices."""
    phases = [(row["step"], row.get("phase")) for row in metrics]
    last = max((step for step, phase in phases if phase == "joint"), default=None)
    after = [step for step, phase in phases if last is not None and step > last]
    return min(after, default=None)


def _choices(key: str, space: Mapping[str, Any]) -> list[float]:
    value: Any = space
    for name in key.split("."):
        if isinstance(value, list):  # each subnet's sparsities go by its number
            value = {str(i): choices for i, choices in enumerate(value)}
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return sorted(float(v) for v in value if _drawable(v))


def _varies(key: str, space: Mapping[str, Any]) -> bool:
    """Whether there is something to see: a dimension of one choice is a flat line."""
    return len(_choices(key, space)) != 1


def _geometric(choices: Sequence[float]) -> bool:
    return choices[0] > 0 and choices[-1] / choices[0] >= 6


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value]


def _at(values: Sequence[Any], i: int) -> float:
    return float(values[i]) if i < len(values) and _drawable(values[i]) else math.nan


def plain_log_ticks(axes: Axes) -> None:
    """Plain numbers on a logarithmic axis, enough of them where it spans under a decade."""
    low, high = axes.get_xlim()
    axes.xaxis.set_minor_formatter(NullFormatter())
    if high / low > 1e4:
        return
    if high / low < 8:  # Powers of ten, and their small multiples, would leave it bare.
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.minorticks_off()
    elif high / low < 200:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.6g}"))


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches, and its axes."""
    # Figure, not pyplot: no global state, no display, nothing to close.
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def figure_of(axes: Axes) -> Figure:
    """The figure that the axes are on, in whichever of its parts."""
    figure: Any = axes.figure
    while not isinstance(figure, Figure):
        figure = figure.figure
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
