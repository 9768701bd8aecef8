"""The report of an ablation of effects: its table, its figure, and one page with both."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from rich import box
from rich.table import Table

from codesign.bounds import Ge, Gt, Le, MaxLen, MinLen
from codesign.constraints import Natural
from codesign.decode import read_checked
from codesign.report import plots
from codesign.report.html import Picture, write_page
from codesign.report.tables import accelerator_text
from codesign.report.text import MISSING, si, significant
from codesign.runs import CONFIG, read_record
from codesign.search.effects import RESULT, Row

FIGURE = "effects.png"
_TEMPLATE = "effects.html"
_COLOURS = (plots.BLUE, plots.VERMILION, plots.GREEN, plots.ORANGE, plots.GREY)
_MARKERS = "osD^v"
# Per cent from which an axis is logarithmic: below it all is as good as nothing.
_LINEAR = 0.1
_COST = Annotated[float, Gt(0), Le(1e30)]
_SHARE = Annotated[float, Ge(0), Le(1e30)]


@dataclasses.dataclass(frozen=True)
class _Effect:
    name: str
    without: str


@dataclasses.dataclass(frozen=True)
class _Best:
    """What of the best choices the report takes."""

    model: str
    latency_s: _COST
    accelerator: dict[str, float]
    taken_s: _COST
    value: _COST


@dataclasses.dataclass(frozen=True)
class _Choice:
    """What of a choice without an effect the report takes."""

    model: str
    latency_s: _COST
    effect: str
    accelerator: dict[str, float] | None
    same: bool
    fits: bool
    predicted: _COST | None
    actual: _COST | None
    regret: _SHARE | None
    misses: dict[str, _SHARE]

    def __post_init__(self) -> None:
        if self.predicted is None and self.actual is not None:
            raise ValueError("a choice with an actual cost lacks the predicted one")


@dataclasses.dataclass(frozen=True)
class _Result:
    """What of effects.json the report takes."""

    objective: str
    accelerators: Natural
    limits: dict[str, float]
    effects: Annotated[tuple[_Effect, ...], MinLen(1), MaxLen(1000)]
    best: Annotated[tuple[_Best, ...], MinLen(1), MaxLen(1000)]
    choices: tuple[_Choice, ...]

    def __post_init__(self) -> None:
        """Raises ValueError unless there is a choice of each effect at each limit, and no other."""
        limits = {(best.model, best.latency_s) for best in self.best}
        asked = {(effect.name, *limit) for effect in self.effects for limit in limits}
        told = {(choice.effect, choice.model, choice.latency_s) for choice in self.choices}
        for effect, model, latency_s in sorted(asked ^ told):
            which = f"of '{effect}' for '{model}' at {latency_s:g} s"
            if (effect, model, latency_s) in asked:
                raise ValueError(f"there is no choice {which}")
            raise ValueError(f"a choice {which} is of an effect or a limit that is not listed")


class Harm(NamedTuple):
    """How bad a choice is; a greater one is worse.

    Attributes:
      rank: 0: within the limits; 1: misses one; 2: does not run at all; 3: there is none.
      share: of regret, or by which a limit is missed.
    """

    rank: int
    share: float

    @property
    def text(self) -> str:
        """In a cell of a table."""
        match self.rank:
            case 0:
                return per_cent(self.share)
            case 1:
                return f"miss {per_cent(self.share)}"
            case 2:
                return "no fit"
        return "none"


def harm(choice: Row) -> Harm:
    """What a choice without an effect does."""
    if choice["accelerator"] is None:
        return Harm(3, 0.0)
    if not choice["fits"]:
        return Harm(2, 0.0)
    if choice["regret"] is None:
        return Harm(1, max(choice["misses"].values(), default=0.0))
    return Harm(0, choice["regret"])


def per_cent(share: float) -> str:
    """A share to two digits: "0.25 %", "130 %"; 0 is "0"."""
    return "0" if share == 0 else f"{significant(100 * share, 2)} %"


class Line(NamedTuple):
    """An effect in the table.

    Attributes:
      name, without: of the effect.
      harms: the worst over the limits, by model.
      worst: the worst of these.
      same: how many choices are those with all effects, and of how many.
      ratios: the least and the greatest of predicted over actual; None: nothing was predicted.
    """

    name: str
    without: str
    harms: dict[str, Harm]
    worst: Harm
    same: tuple[int, int]
    ratios: tuple[float, float] | None

    @property
    def cells(self) -> list[str]:
        """What the table says, but for the name."""
        ratios = MISSING
        if self.ratios is not None:
            ratios = "–".join(f"{ratio:.2f}" for ratio in self.ratios)
        return [
            *(each.text for each in self.harms.values()),
            self.worst.text,
            f"{self.same[0]} of {self.same[1]}",
            ratios,
        ]


def lines(result: Mapping[str, Any]) -> list[Line]:
    """The effects, the most harmful to leave out first."""
    found = []
    for effect in result["effects"]:
        mine = [c for c in result["choices"] if c["effect"] == effect["name"]]
        harms = {
            model: max(harm(c) for c in mine if c["model"] == model) for model in models(result)
        }
        ratios = [c["predicted"] / c["actual"] for c in mine if c["actual"] is not None]
        found.append(
            Line(
                effect["name"],
                effect["without"],
                harms,
                max(harms.values()),
                (sum(c["same"] for c in mine), len(mine)),
                (min(ratios), max(ratios)) if ratios else None,
            )
        )
    return sorted(found, key=lambda line: line.worst, reverse=True)


def models(result: Mapping[str, Any]) -> list[str]:
    """Names of the models, in the order of the config."""
    return list(dict.fromkeys(best["model"] for best in result["best"]))


def headings(result: Mapping[str, Any]) -> list[str]:
    """Of the table's columns."""
    return ["left out", *models(result), "worst", "same", "predicted / actual"]


def effects_table(result: Mapping[str, Any]) -> Table:
    """The effects as a rich table."""
    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    first, *rest = headings(result)
    table.add_column(first, no_wrap=True)
    for heading in rest:
        table.add_column(heading, justify="right", overflow="fold")
    for line in lines(result):
        table.add_row(line.name, *line.cells)
    return table


def notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know, in sentences."""
    limits = {
        model: ", ".join(
            si(best["latency_s"], "s") for best in result["best"] if best["model"] == model
        )
        for model in models(result)
    }
    others = "".join(f"; {key} <= {limit:g}" for key, limit in result["limits"].items())
    return [
        f"Regret in {result['objective']} of the best of {result['accelerators']:,} accelerators "
        "chosen without the effect, priced with all; the worst of the limits. miss: it misses a "
        "limit, by so much; no fit: an operator does not fit it; none: without the effect no "
        "accelerator seems to meet the limit. same: choices that are the best ones.",
        f"Limits of latency: {'; '.join(f'{m} {text}' for m, text in limits.items())}{others}.",
    ]


def figure(result: Mapping[str, Any]) -> bytes:
    """Regret and missed limits of every choice, an effect a row; PNG."""
    rows = lines(result)
    drawn = Figure(figsize=(9.0, 0.32 * len(rows) + 1.9), dpi=plots.DPI, layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = models(result)
    colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))
    place = {line.name: i for i, line in enumerate(rows)}
    largest = [_LINEAR, _LINEAR]
    for model in names:
        latencies = [b["latency_s"] for b in result["best"] if b["model"] == model]
        for choice in (c for c in result["choices"] if c["model"] == model):
            rank, share = harm(choice)
            if rank > 1:
                continue
            order = latencies.index(choice["latency_s"])
            spread = 0.6 * ((names.index(model) + 0.5) / len(names) - 0.5)
            style = (
                dict(color=plots.LIGHT, markersize=2.5)
                if choice["same"]
                else dict(color=colours[model], markersize=5)
            )
            (left, right)[rank].plot(
                100 * share,
                place[choice["effect"]] + spread,
                _MARKERS[order % len(_MARKERS)],
                alpha=0.8,
                markeredgewidth=0,
                clip_on=False,
                zorder=3,
                **style,
            )
            largest[rank] = max(largest[rank], 100 * share)
    for axes, most in zip((left, right), largest, strict=True):
        axes.set_xscale("symlog", linthresh=_LINEAR, linscale=0.5)
        ticks = [0.0] + [10.0**i for i in range(-1, math.ceil(math.log10(most)) + 1)]
        axes.set_xticks(ticks)
        axes.set_xlim(0, max(1.0, 1.5 * most))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} %"))
        axes.tick_params(labelsize=8)
        axes.grid(color=plots.LIGHT, linewidth=0.6, zorder=0)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_yticks(range(len(rows)), [plots.name_text(line.name) for line in rows], fontsize=8)
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlabel(f"regret: {plots.name_text(result['objective'])}", fontsize=9)
    right.set_xlabel("limit missed by", fontsize=9)
    _none_at_all(right, result, place)
    orders = range(max(sum(b["model"] == m for b in result["best"]) for m in names))
    handles = [
        *(
            Line2D([], [], color=colours[m], marker="o", linestyle="", label=plots.name_text(m))
            for m in names
        ),
        *(
            Line2D(
                [],
                [],
                color=plots.GREY,
                marker=_MARKERS[i % len(_MARKERS)],
                linestyle="",
                label=f"limit {i + 1}",
            )
            for i in orders
        ),
    ]
    drawn.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    return plots.png(drawn)


def _none_at_all(axes: Any, result: Mapping[str, Any], place: Mapping[str, int]) -> None:
    """Words for choices that do not run, or that there are none of: neither has a number."""
    counts = collections.Counter(
        (choice["effect"], harm(choice).text)
        for choice in result["choices"]
        if harm(choice).rank > 1
    )
    for effect, row in place.items():
        said = [f"{text}: {n}" for (name, text), n in sorted(counts.items()) if name == effect]
        axes.annotate(
            ", ".join(said),
            (1, row),
            xycoords=("axes fraction", "data"),
            fontsize=7,
            ha="right",
            va="center",
            color=plots.GREY,
        )


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Writes report.html and its figure into the folder of a run, from that folder alone.

    Returns:
      The path of report.html.

    Raises:
      UserError: the folder holds no ablation of effects, or a damaged one.
      RunError: where the disk refuses.
    """
    folder = Path(folder)
    result, record = read_result(folder), read_record(folder / CONFIG)
    return write_page(
        folder,
        _TEMPLATE,
        record,
        [Picture(FIGURE, *_WORDS, figure(result))],
        headings=headings(result),
        lines=lines(result),
        notes=notes(result),
        best=[_best_cells(best) for best in result["best"]],
        objective=result["objective"],
    )


def read_result(folder: Path) -> dict[str, Any]:
    """What a run has found.

    Raises:
      UserError: its file is not there or damaged.
    """
    result: dict[str, Any] = read_checked(folder / RESULT, _Result)
    return result


_WORDS = (
    "What decides",
    "Dot plot of regret, and of missed limits, an effect a row, a dot for each model and limit.",
    """Each mark is the accelerator that is chosen without the effect, for one model and limit,
    priced with all effects: by how much its cost exceeds the best choice's or, on the right, by
    how much it misses a limit. A shape is a limit, the tightest first. Small grey ones are the
    best choice itself. Axes are logarithmic from 0.1 % on.""",
)


def _best_cells(best: Row) -> list[str]:
    chip = best["accelerator"]
    return [
        best["model"],
        si(best["latency_s"], "s"),
        " ".join(accelerator_text(chip)),
        si(best["taken_s"], "s"),
        f"{best['value']:.4g}",
    ]


def markdown(result: Mapping[str, Any]) -> list[str]:
    """The table in lines of Markdown, with what each effect is."""
    first, *rest = headings(result)
    titles = [first, "what holds then", *rest]
    return [
        "| " + " | ".join(titles) + " |",
        "|" + "---|" * len(titles),
        *("| " + " | ".join([x.name, x.without, *x.cells]) + " |" for x in lines(result)),
    ]
