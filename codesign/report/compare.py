"""The report of a comparison of searches: fronts, curves, and which contestant wins.

Designs are chosen by the validation images, as a search chooses them, and counted by the test
images: the hypervolume of a contestant at some time is that of the test accuracies of its
validation front until then.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from codesign.bounds import Ge, Gt, Le, MaxLen, MinLen
from codesign.constraints import Count
from codesign.decode import read_checked
from codesign.report import plots
from codesign.report.fidelity import Fidelity
from codesign.report.html import Picture, write_page
from codesign.report.text import MISSING, duration
from codesign.runs import CONFIG, read_record
from codesign.search.pareto import hypervolume, pareto_front
from codesign.search.statistics import Interval, mean_interval

RESULT = "compare.json"
# Parts of the work that are done before a contestant's own.
START = ("warmup", "order", "teacher")
_TEMPLATE = "compare.html"
_COLOURS = (
    plots.GREY,
    plots.GREEN,
    plots.ORANGE,
    plots.BLUE,
    "#CC79A7",
    plots.VERMILION,
    "#000000",
)
_AMOUNT = Annotated[float, Ge(0), Le(1e30)]
_COST = Annotated[float, Gt(0), Le(1e30)]
_SHARE = Annotated[float, Ge(0), Le(1)]
_CORRELATION = Annotated[float, Ge(-1), Le(1)]


@dataclasses.dataclass(frozen=True)
class _Trial:
    cost: _COST
    validation_accuracy: _SHARE
    accuracy: _SHARE
    mac_eq: _AMOUNT
    wall_s: _AMOUNT


@dataclasses.dataclass(frozen=True)
class _Run:
    seed: int
    work: dict[str, _AMOUNT]
    start_wall_s: _AMOUNT
    trials: tuple[_Trial, ...]


@dataclasses.dataclass(frozen=True)
class _Contestant:
    name: str
    title: str
    own: bool
    runs: Annotated[tuple[_Run, ...], MinLen(1), MaxLen(100)]


@dataclasses.dataclass(frozen=True)
class _Fidelity:
    seed: int
    designs: Count
    spearman: _CORRELATION | None
    at_equal_cost: _CORRELATION | None


@dataclasses.dataclass(frozen=True)
class _Result:
    """What of compare.json the report takes."""

    metric: str
    worst_cost: _COST
    best_cost: _COST
    worst_accuracy: _SHARE
    trials: Count
    hardware: str
    validation_images: Count
    test_images: Count
    contestants: Annotated[tuple[_Contestant, ...], MinLen(1), MaxLen(100)]
    rank_fidelity: Annotated[tuple[_Fidelity, ...], MaxLen(100)] = ()

    def __post_init__(self) -> None:
        """Raises ValueError unless contestants have the same seeds and the box is one."""
        if not self.best_cost < self.worst_cost:
            raise ValueError("best_cost is not below worst_cost")
        seeds = {tuple(run.seed for run in each.runs) for each in self.contestants}
        if len(seeds) > 1:
            raise ValueError("contestants have different seeds")


class Curve(NamedTuple):
    """How a contestant's front grew, one seed; a point for every trial.

    Attributes:
      mac_eq: work done by then, the warm-up and the teacher included, [T].
      wall_s: time taken by then, the same included, [T].
      volume: hypervolume of the test accuracies of the validation front, [T].
      front: designs on that front at the end.
    """

    mac_eq: np.ndarray
    wall_s: np.ndarray
    volume: np.ndarray
    front: int

    def volume_at(self, mac_eq: float) -> float:
        """The hypervolume that so much work reaches."""
        return float(max(self.volume[self.mac_eq <= mac_eq * (1 + 1e-9)], default=0.0))


def curve(run: Mapping[str, Any], sides: Mapping[str, float]) -> Curve:
    """The curve of one run.

    Args:
      run: of compare.json.
      sides: of the box.
    """
    trials = run["trials"]
    volumes, number = [], 0
    for done in range(1, len(trials) + 1):
        cost = [t["cost"] for t in trials[:done]]
        kept = pareto_front(cost, [t["validation_accuracy"] for t in trials[:done]])
        accuracy = [t["accuracy"] for t in trials[:done]]
        chosen = [i for i in range(done) if kept[i]]
        volumes.append(
            hypervolume([cost[i] for i in chosen], [accuracy[i] for i in chosen], **sides)
        )
        number = len(chosen)
    work = sum(run["work"].get(part, 0.0) for part in START)
    wall_s = run["start_wall_s"] + np.cumsum([t["wall_s"] for t in trials])
    return Curve(work + np.array([t["mac_eq"] for t in trials]), wall_s, np.array(volumes), number)


class Standing(NamedTuple):
    """A contestant over its seeds.

    Attributes:
      name, title, own: of it.
      curves: of each seed.
      volume: final hypervolume, mean over seeds.
      interval: Student's, of the mean; None: one seed.
    """

    name: str
    title: str
    own: bool
    curves: list[Curve]
    volume: float
    interval: Interval | None

    @property
    def mac_eq(self) -> float:
        """Work at the end, mean over seeds."""
        return float(np.mean([c.mac_eq[-1] for c in self.curves if len(c.mac_eq)] or [0.0]))

    @property
    def wall_s(self) -> float:
        """Time at the end, mean over seeds."""
        return float(np.mean([c.wall_s[-1] for c in self.curves if len(c.wall_s)] or [0.0]))

    @property
    def finals(self) -> list[float]:
        """Final hypervolumes by seed."""
        return [float(c.volume[-1]) if len(c.volume) else 0.0 for c in self.curves]


def standings(result: Mapping[str, Any]) -> list[Standing]:
    """All contestants, that of the largest hypervolume first."""
    sides = {key: result[key] for key in ("worst_cost", "best_cost", "worst_accuracy")}
    found = []
    for each in result["contestants"]:
        curves = [curve(run, sides) for run in each["runs"]]
        finals = [float(c.volume[-1]) if len(c.volume) else 0.0 for c in curves]
        found.append(
            Standing(each["name"], each["title"], each["own"], curves, *mean_interval(finals))
        )
    return sorted(found, key=lambda s: s.volume, reverse=True)


class Duel(NamedTuple):
    """One of the product's searches against the best rival.

    Attributes:
      name: of the search.
      rival: the other's.
      ratio: of hypervolumes at the work that the search took, mean over seeds; None: the rival has
        none there on some seed. A rival that stopped before is taken as it stopped.
      ratio_interval: Student's; None: one seed.
      rival_work: share of the search's work that the rival was given, at most 1, mean; below 1 the
        ratio is not one at equal work.
      final_ratio: of the final hypervolumes; None: the rival has none on some seed.
      reached: on how many seeds the search ends at the rival's final hypervolume or above.
      seeds: of how many.
      share: work of the search over the rival's on those seeds, warm-up and ordering left out of
        both, mean; None: it does not reach it on every seed.
    """

    name: str
    rival: str
    ratio: float | None
    ratio_interval: Interval | None
    rival_work: float
    final_ratio: float | None
    reached: int
    seeds: int
    share: float | None

    def __str__(self) -> str:
        text = f"{self.name} against {self.rival}, the best rival: "
        if self.ratio is None:
            text += "the rival has no front yet at the work that it takes"
        else:
            given, low_high = self.rival_work, self.ratio_interval
            text += f"{self.ratio:.3f} of its hypervolume"
            text += " at equal work" if given == 1 else f", the rival with {given:.0%} of the work"
            if low_high is not None:
                text += f" (95 % of seeds' means: {low_high.low:.3f} to {low_high.high:.3f})"
            # Less work excuses a rival that is behind, and none that is ahead.
            excused = given < 1 and self.ratio >= 1
            text += f"; {'more --trials would tell' if excused else _verdict(self.ratio, low_high)}"
        if self.share is not None:
            return (
                f"{text}. It reaches the rival's final hypervolume at {self.share:.2f} of its work"
            )
        return (
            f"{text}. It reaches the rival's final hypervolume on {self.reached} of {self.seeds} "
            "seeds"
        )


def _verdict(ratio: float, interval: Interval | None) -> str:
    if interval is None:
        return "one seed, which decides nothing"
    if interval.low <= 1 <= interval.high:
        return "the seeds do not tell them apart"
    return "it wins" if ratio > 1 else "the rival wins"


def duels(found: Sequence[Standing], result: Mapping[str, Any]) -> list[Duel]:
    """Every own search against the rival of the largest mean final hypervolume."""
    rivals = [each for each in found if not each.own]
    if not rivals:
        return []
    best = rivals[0]
    shared = {
        each["name"]: [
            sum(run["work"].get(part, 0.0) for part in ("warmup", "order")) for run in each["runs"]
        ]
        for each in result["contestants"]
    }
    made = []
    for own in (each for each in found if each.own):
        pairs = [
            (mine, theirs)
            for mine, theirs in zip(own.curves, best.curves, strict=True)
            if len(mine.volume) and len(theirs.volume)
        ]
        if not pairs:
            continue
        then = [theirs.volume_at(float(mine.mac_eq[-1])) for mine, theirs in pairs]
        ratios = [float(m.volume[-1]) / t for (m, _), t in zip(pairs, then, strict=True) if t > 0]
        ratio, interval = mean_interval(ratios) if len(ratios) == len(pairs) else (None, None)
        given = [min(1.0, float(t.mac_eq[-1]) / float(m.mac_eq[-1])) for m, t in pairs]
        ends = [float(m.volume[-1]) / float(t.volume[-1]) for m, t in pairs if t.volume[-1] > 0]
        reached = [float(m.volume[-1]) >= float(t.volume[-1]) > 0 for m, t in pairs]
        works = [
            (float(m.mac_eq[-1]) - a) / (float(t.mac_eq[-1]) - b)
            for (m, t), a, b in zip(pairs, shared[own.name], shared[best.name], strict=False)
        ]
        made.append(
            Duel(
                own.title,
                best.title,
                ratio,
                interval,
                float(np.mean(given)),
                float(np.mean(ends)) if len(ends) == len(pairs) else None,
                sum(reached),
                len(pairs),
                float(np.mean(works)) if all(reached) else None,
            )
        )
    return made


def lines(result: Mapping[str, Any]) -> list[str]:
    """What the comparison shows, in sentences."""
    found = standings(result)
    seeds = len(found[0].curves)
    first, *others = found
    if not first.volume:
        return ["no contestant has a design in the box of the hypervolume: nothing is decided"]
    said = [
        f"{first.title} ends at the largest hypervolume, {first.volume:.3f}"
        + ("" if not others else f", before {others[0].title}, {others[0].volume:.3f}")
        + (": a rival wins" if not first.own and any(each.own for each in found) else "")
    ]
    said += [str(duel) for duel in duels(found, result)]
    said += [f"seed {of['seed']}: {Fidelity.of_json(of)}" for of in result.get("rank_fidelity", ())]
    said.append(
        f"{seeds} seed{'s' if seeds > 1 else ''}; hypervolumes of {result['test_images']:,} test "
        f"images, of designs chosen by {result['validation_images']:,} others; work in steps of "
        "the whole supernet, weighted by products"
    )
    if seeds == 1:
        said.append("One seed says little: runs of one method differ as much as methods do")
    return said


HEADINGS = ("contestant", "hypervolume", "interval", "on the front", "MAC-eq", "time")


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, a contestant a row."""
    return [
        [
            each.title,
            f"{each.volume:.3f}",
            MISSING
            if each.interval is None
            else f"{each.interval.low:.3f} to {each.interval.high:.3f}",
            f"{np.mean([c.front for c in each.curves]):.3g}",
            f"{each.mac_eq:,.0f}",
            duration(each.wall_s),
        ]
        for each in standings(result)
    ]


def comparison_table(result: Mapping[str, Any]) -> Table:
    """The contestants as a rich table."""
    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for cells in rows(result):
        table.add_row(*cells)
    return table


def claims_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the comparison shows as plain JSON values."""
    found = standings(result)
    return {
        "standings": [
            {
                "name": each.name,
                "hypervolume": each.volume,
                "interval": None if each.interval is None else list(each.interval),
                "hypervolume_by_seed": each.finals,
                "mac_eq": each.mac_eq,
                "wall_s": each.wall_s,
                "curves": [
                    {
                        "mac_eq": c.mac_eq.tolist(),
                        "wall_s": c.wall_s.tolist(),
                        "hypervolume": c.volume.tolist(),
                    }
                    for c in each.curves
                ],
            }
            for each in found
        ],
        "duels": [
            duel._asdict()
            | {"ratio_interval": None if duel.ratio_interval is None else list(duel.ratio_interval)}
            for duel in duels(found, result)
        ],
    }


def figure(result: Mapping[str, Any], against: str) -> bytes:
    """Hypervolume of every contestant against its work or its time; PNG.

    Args:
      result: of compare.json.
      against: "mac_eq" or "wall_s".
    """
    drawn, axes = plots.new_figure(8.0, 5.0)
    order = [each["name"] for each in result["contestants"]]
    colours = dict(zip(order, itertools.cycle(_COLOURS), strict=False))
    for each in standings(result):
        for i, c in enumerate(each.curves):
            if not len(c.volume):
                continue
            x = getattr(c, against)
            style = {
                "color": colours[each.name],
                "label": None if i else plots.name_text(each.title),
            }
            if each.own:  # all at its end
                axes.plot(x[-1], c.volume[-1], "*", markersize=14, zorder=4, **style)
            else:
                axes.step(x, c.volume, where="post", linewidth=1.4, alpha=0.85, **style)
    axes.set_xlabel(
        "work, steps of the whole supernet (MAC-eq), start included"
        if against == "mac_eq"
        else "wall time, s, start included"
    )
    axes.set_ylabel("hypervolume")
    axes.set_ylim(bottom=0)
    axes.grid(color=plots.LIGHT, linewidth=0.6, zorder=0)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, fontsize=8)
    return plots.png(drawn)


_WORDS = {
    "mac_eq": (
        "compare-work.png",
        "Hypervolume against work",
        "Line chart of the hypervolume of every rival against work; stars are the own searches.",
        """A line is one seed of a rival, a step a trial. Stars are the product's searches, whose
        designs are all there at the end. Work is training steps, each counted by the products of
        its network; warm-up and teacher, which all share, are included.""",
    ),
    "wall_s": (
        "compare-time.png",
        "Hypervolume against time",
        "Line chart of the hypervolume of every rival against wall time; stars: own searches.",
        """The same against wall time on the machine that ran it. Networks are tuned as the gated
        supernet here, whatever their size, by rivals and by the product.""",
    ),
}


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Writes report.html and its figures into the folder of a run, from that folder alone.

    Returns:
      The path of report.html.

    Raises:
      UserError: the folder holds no comparison, or a damaged one.
      RunError: where the disk refuses.
    """
    folder = Path(folder)
    result, record = read_result(folder), read_record(folder / CONFIG)
    pictures = [
        Picture(file, title, alt, caption, figure(result, against))
        for against, (file, title, alt, caption) in _WORDS.items()
    ]
    return write_page(
        folder,
        _TEMPLATE,
        record,
        pictures,
        headings=HEADINGS,
        rows=rows(result),
        lines=lines(result),
    )


def read_result(folder: Path) -> dict[str, Any]:
    """What a run has found.

    Raises:
      UserError: its file is not there or damaged.
    """
    result: dict[str, Any] = read_checked(folder / RESULT, _Result)
    return result


def markdown(result: Mapping[str, Any]) -> list[str]:
    """The table in lines of Markdown."""
    return [
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(cells) + " |" for cells in rows(result)),
    ]
