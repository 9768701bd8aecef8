"""Several runs on one page, overlaid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codesign.printable import printable, short_repr
from codesign.report import explorer, finetune, html, tables
from codesign.report.claims import run_claims
from codesign.report.names import distinct_names
from codesign.report.seeds import run_groups
from codesign.report.text import MISSING, duration
from codesign.runs import Run, write_bytes

COMPARISON = "comparison.html"
_TEMPLATE = "comparison.html"
_MOST_DIFFERENCES = 200


def write_searches(runs: Sequence[Run], file: Path) -> Path:
    """Writes the page of several searches, of CLIPs, of hardware or both; returns its path.

    Raises:
      UserError: a damaged correct.json.
      RunError: where the disk refuses.
    """
    names = distinct_names(runs)
    found = [run_claims(run) for run in runs]
    splits = [
        split for run in runs for split in explorer.splits_of(run.designs, run.record.get("config"))
    ]
    summaries = [
        tables.run_summary(name, run.designs, run.summary, claims)
        for name, run, claims in zip(names, runs, found, strict=True)
    ]
    rows = [["run", "seed", "within limits", "hypervolume", "wall time"]] + [
        [
            name,
            str(run.record.get("seed", MISSING)),
            f"{summary['feasible']} of {summary['designs']}",
            tables.volume_text(summary, summaries),
            duration(summary.get("wall_time_s")),
        ]
        for name, run, summary in zip(names, runs, summaries, strict=True)
    ]
    seeds = [
        [group.name, *cells]
        for group in run_groups(runs, found)
        for cells in tables.seed_rows(group)
    ]
    return _write(
        file,
        runs,
        names,
        rows,
        explorer.context(
            {name: run.designs for name, run in zip(names, runs, strict=True)}, splits=splits
        ),
        seeds,
    )


def write_finetunings(runs: Sequence[Run], file: Path) -> Path:
    """Writes the page of several runs of fine-tuning or DRESS; returns its path.

    Raises:
      UserError: a damaged run.
      RunError: where the disk refuses.
    """
    names = distinct_names(runs)
    measured = [
        dict(
            [
                ("steps", str(run.summary.get("steps", MISSING))),
                *finetune.measures(run.summary.get("validation") or {}),
                ("wall time", duration(run.summary.get("wall_time_s"))),
            ]
        )
        for run in runs
    ]
    heads = list(dict.fromkeys(head for each in measured for head in each))
    rows = [["run", *heads]] + [
        [name, *(each.get(head, MISSING) for head in heads)]
        for name, each in zip(names, measured, strict=True)
    ]
    curves = {name: finetune.curves(run) for name, run in zip(names, runs, strict=True)}
    designs = {name: finetune.designs(run) for name, run in zip(names, runs, strict=True)}
    return _write(file, runs, names, rows, explorer.context(designs, overlaid(curves)), [])


def overlaid(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Curves of several runs of one label and unit as one chart, their lines by the run's name."""
    charts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, own in curves.items():
        for curve in own:
            of_one = len(curve["series"]) == 1
            charts.setdefault((curve["label"], curve["unit"]), []).extend(
                {
                    "name": printable(name if of_one else f"{name}: {line['name']}"),
                    "points": line["points"],
                }
                for line in curve["series"]
            )
    return [
        {"label": label, "unit": unit, "series": series} for (label, unit), series in charts.items()
    ]


def differences(runs: Sequence[Run]) -> list[list[str]]:
    """Fields of the configs in which the runs differ: (field, value of each run)."""
    flat = [dict(_fields(run.record.get("config"), "")) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    different = [
        key for key in keys if len({json.dumps(each.get(key, MISSING)) for each in flat}) > 1
    ]
    return [
        [key, *(short_repr(each[key]) if key in each else MISSING for each in flat)]
        for key in different[:_MOST_DIFFERENCES]
    ]


def _fields(part: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(part, Mapping):
        return [
            field
            for key, value in part.items()
            for field in _fields(value, f"{path}.{key}" if path else str(key))
        ]
    return [(path, part)]


def _write(
    file: Path,
    runs: Sequence[Run],
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    explored: Mapping[str, Any],
    seeds: Sequence[Sequence[str]],
) -> Path:
    page = (
        html.environment()
        .get_template(_TEMPLATE)
        .render(
            name="Comparison of runs",
            names=names,
            folders=[str(run.path) for run in runs],
            rows=rows,
            seeds=seeds,
            differences=differences(runs),
            **explored,
        )
    )
    write_bytes(file, page.encode("utf-8", "backslashreplace"))
    return file
