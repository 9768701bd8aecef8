"""The report of an ablation: what its tables say in short, and one page with figures."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from codesign.bounds import Ge, Le
from codesign.constraints import Natural
from codesign.decode import decode, read_checked
from codesign.errors import UserError
from codesign.openers import unwaiting
from codesign.report import ablation_plots as plots
from codesign.report.html import Picture, write_page
from codesign.report.text import MISSING, percent
from codesign.runs import CONFIG, read_record
from codesign.surrogate.config import RESULT

_TEMPLATE = "ablation.html"
_NOT_IN_NAMES = re.compile(r"[^\w.-]", re.ASCII)
_TRIAL = ("oracle", "surrogate", "buying", "budget")
_ACCURACY = ("mape", "max_error", "kendall", "spearman", "top_k_recall")
_SLOPES = ("sign_agreement", "cosine", "relative_error")
NAMES = {
    "cycles": "latency",
    "energy_pj": "energy",
    "latency_s": "latency",
    "energy_j": "energy",
    "area_mm2": "area",
    "carbon_kgco2e": "carbon",
    "edp_js": "energy x delay",
}
LEVELS = {"gemm": "GEMMs", "design": "designs", "pool": "one CLIP"}

Row = dict[str, Any]
# The keys of these two.
_Metric = Literal[
    "cycles", "energy_pj", "latency_s", "energy_j", "area_mm2", "carbon_kgco2e", "edp_js"
]
_Level = Literal["gemm", "design", "pool"]
# What a logarithmic axis can show.
_Cost = Annotated[float, Ge(0), Le(1e30)]


@dataclasses.dataclass(frozen=True)
class _Trial:
    """What of a row of ablation.json the report takes: which surrogate, fitted to what."""

    oracle: str
    surrogate: str
    buying: str
    budget: Natural
    metric: _Metric


@dataclasses.dataclass(frozen=True)
class _Errors(_Trial):
    level: _Level
    subset: str
    count: Natural
    mape: _Cost | None
    max_error: _Cost | None
    kendall: float | None
    spearman: float | None
    top_k_recall: float | None


@dataclasses.dataclass(frozen=True)
class _Regrets(_Trial):
    pool: Natural
    regret: _Cost | None


@dataclasses.dataclass(frozen=True)
class _Gradients(_Trial):
    factor: str
    estimate: str
    pairs: Natural
    directed: Natural
    sign_agreement: float | None
    cosine: float | None
    relative_error: float | None


@dataclasses.dataclass(frozen=True)
class _Oracle:
    name: str
    fingerprint: str
    failures: tuple[str, ...]
    shipped: Natural
    bought: Natural
    unanswered: Natural
    train: Natural
    gemms: Natural
    designs: Natural
    pool: Natural
    neighbours: Natural


@dataclasses.dataclass(frozen=True)
class _Ablation:
    """What of ablation.json the report takes."""

    oracles: tuple[_Oracle, ...]
    errors: tuple[_Errors, ...]
    regrets: tuple[_Regrets, ...]
    gradients: tuple[_Gradients, ...]


@dataclasses.dataclass(frozen=True)
class _Point:
    """What of a row of points.csv the report takes."""

    oracle: str
    surrogate: str
    level: _Level
    metric: _Metric
    truth: _Cost
    predicted: _Cost


def average(rows: Iterable[Row], keys: Sequence[str], values: Sequence[str]) -> list[Row]:
    """Rows of equal `keys` as one, with the mean of each of `values` that is known."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    return [
        group[0] | {value: _mean(row[value] for row in group) for value in values}
        for group in groups.values()
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def largest(rows: Iterable[Row]) -> list[Row]:
    """The rows of each oracle's largest budget, and those of surrogates without one."""
    rows = [row for row in rows if row["buying"] != "active"]
    top = {row["oracle"]: 0 for row in rows}
    for row in rows:
        top[row["oracle"]] = max(top[row["oracle"]], row["budget"])
    return [row for row in rows if row["budget"] in (0, top[row["oracle"]])]


def headline(result: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The result in short: at the largest budget, means over the repetitions.

    Args:
      result: what ablation.json holds.

    Returns:
      "errors" per level, subset and metric, "gradients" over all factors, "regrets".
    """
    keys = (*_TRIAL, "level", "subset", "metric")
    errors = average(largest(result["errors"]), keys, _ACCURACY)
    regrets = average(largest(result["regrets"]), (*_TRIAL, "metric"), ("regret",))
    slopes = [row for row in result["gradients"] if row["factor"] == "all"]
    keep = lambda rows, *names: [{n: row[n] for n in names} for row in rows]  # noqa: E731
    return {
        "errors": keep(errors, *keys, "count", *_ACCURACY),
        "gradients": keep(slopes, *_TRIAL, "metric", "estimate", "pairs", "directed", *_SLOPES),
        "regrets": keep(regrets, *_TRIAL, "metric", "pool", "regret"),
    }


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Writes report.html and its figures into the folder of an ablation, from that folder alone.

    Returns:
      The path of report.html.

    Raises:
      UserError: the folder holds no ablation, or a damaged one.
      RunError: where the disk refuses.
    """
    folder = Path(folder)
    result, record = read_checked(folder / RESULT, _Ablation), read_record(folder / CONFIG)
    return write_page(
        folder,
        _TEMPLATE,
        record,
        pictures(result, _read_points(folder / "points.csv")),
        oracles=result["oracles"],
        short=headline(result),
        names=NAMES,
        levels=LEVELS,
        percent=percent,
        correlation=correlation,
    )


def _read_points(path: Path) -> list[Row]:
    try:
        with open(path, encoding="utf-8", newline="", opener=unwaiting) as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table of text; run the ablation again") from error
    points = [_point(row, f"{path} line {number}") for number, row in enumerate(rows, start=2)]
    return [point for point in points if math.isfinite(point["predicted"])]


def _point(row: Mapping[str, Any], where: str) -> Row:
    try:
        point = {name: row[name] for name in ("oracle", "surrogate", "level", "metric")}
        point |= {name: float(row[name]) for name in ("truth", "predicted")}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where} is not a point; run the ablation again") from None
    # Of a design that does not fit: no axis shows it.
    predicted = {} if point["predicted"] != math.inf else {"predicted": 0.0}
    decode(_Point, point | predicted, where)
    return point


def pictures(result: Mapping[str, Any], points: Sequence[Row]) -> list[Picture]:
    """The figures of every oracle that the ablation has data for."""
    shown = []
    errors = average(result["errors"], (*_TRIAL, "level", "subset", "metric"), _ACCURACY)
    regrets = average(result["regrets"], (*_TRIAL, "metric"), ("regret",))
    for oracle in (o["name"] for o in result["oracles"]):
        mine = lambda rows, name=oracle: [r for r in rows if r["oracle"] == name]  # noqa: E731
        drawn = {
            "scatter": plots.scatter(mine(points)),
            "errors": plots.errors(mine(errors)),
            "regrets": plots.regrets(mine(regrets)),
        }
        for kind, png in drawn.items():
            if png is not None:
                title, alt, caption = _WORDS[kind]
                name = f"{kind}-{_NOT_IN_NAMES.sub('_', oracle)[:60]}.png"
                shown.append(Picture(name, f"{title}: {oracle}", alt, caption, png))
    return shown


_WORDS = {
    "scatter": (
        "Predicted against true",
        "Scatter plots of predictions against the oracle's values, one panel a metric.",
        """Points that no surrogate was fitted on, at the largest budget. On the line a
        prediction is exact; dotted lines are 10 % off.""",
    ),
    "errors": (
        "Error against budget",
        "Line charts of the mean error over the number of samples, one panel a metric.",
        """Mean absolute error on held-out points. The analytic model needs no sample. Dashed:
        samples bought where the ensemble disagrees, instead of at random.""",
    ),
    "regrets": (
        "Regret against budget",
        "Line charts of the regret over the number of samples, one panel a metric.",
        """How much worse, in the oracle's eyes, the accelerator is that the surrogate takes for
        the best one than the oracle's own best. Lines at 0 lie upon each other.""",
    ),
}


def correlation(value: float | None) -> str:
    """A correlation to three places; None gives a dash."""
    return MISSING if value is None else f"{value:.3f}"


def headline_table(result: Mapping[str, Any]) -> Table:
    """The result in short, for a terminal: held-out errors and regret per surrogate."""
    short = headline(result)
    table = Table(
        box=box.HORIZONTALS,
        padding=(0, 1, 0, 0),
        caption="Errors on held-out points at the largest budget: single GEMMs, whole designs, one "
        "CLIP on many accelerators. Regret: of the accelerator chosen for that one.",
        caption_justify="left",
    )
    for heading in ("oracle", "held out", "metric", "surrogate"):
        table.add_column(heading, no_wrap=True)
    for heading in ("samples", "mean error", "worst", "Kendall", "Spearman", "top-k", "regret"):
        table.add_column(heading, justify="right")
    regret = {
        (row["oracle"], row["surrogate"], row["metric"]): row["regret"] for row in short["regrets"]
    }
    for row in short["errors"]:
        # The area is no surrogate's: one row is enough.
        repeated = row["metric"] == "area_mm2" and row["surrogate"] != "analytic"
        if row["subset"] != "all" or repeated:
            continue
        of_pool = row["level"] == "pool"
        key = (row["oracle"], row["surrogate"], row["metric"])
        table.add_row(
            *(
                Text(t)
                for t in (
                    row["oracle"],
                    LEVELS[row["level"]],
                    NAMES[row["metric"]],
                    row["surrogate"],
                )
            ),
            str(row["budget"] or MISSING),
            percent(row["mape"]),
            percent(row["max_error"]),
            correlation(row["kendall"]),
            correlation(row["spearman"]),
            percent(row["top_k_recall"]),
            percent(regret.get(key)) if of_pool else "",
        )
    return table
