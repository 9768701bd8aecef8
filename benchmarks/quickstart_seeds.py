"""A search over several seeds: hypervolume and accuracy at matched cost, with intervals.

    python benchmarks/quickstart_seeds.py --out runs/seeds
    python benchmarks/quickstart_seeds.py --runs runs/seeds/*
    python benchmarks/quickstart_seeds.py --runs runs/after-* --before runs/before-*

The first runs the quickstart with five seeds (five minutes each on two cores) and prints the
README's table; an interrupted seed goes on where it was. The second reads runs that exist, the
third compares them with others seed by seed. Intervals are Student's, of the mean over seeds; a
difference is the mean of those of the single seeds.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from codesign.report.claims import run_claims
from codesign.report.text import MISSING
from codesign.runs import SUMMARY, Run, read_run
from codesign.search.statistics import mean_interval
from machine import here

HYPERVOLUME = "hypervolume"
Values = dict[str, float]


def search(config: str, seed: int, out: Path) -> Path:
    """The run of one seed, or the rest of it, in a process of its own."""
    if not (out / SUMMARY).exists():
        command = ["search", config, "--seed", str(seed), "--out", str(out), "--resume"]
        subprocess.run(
            [sys.executable, "-m", "codesign", *command], check=True, stdout=subprocess.DEVNULL
        )
    return out


def figures(run: Run) -> Values:
    """What is compared of a run, by name; of costs, only those that its front reaches."""
    claims = run_claims(run)
    found: Values = {} if claims.hypervolume is None else {HYPERVOLUME: claims.hypervolume}
    for at in claims.matched:
        if at.accuracy is not None and claims.box is not None:
            cost = f"{100 * at.share:.0f} % of the {claims.box.quantity}"
            found[f"accuracy at {cost}, {claims.box.text(at.cost)}"] = at.accuracy
    for saving in claims.savings:
        found[f"accuracy of {saving.reference}"] = saving.accuracy
        if saving.at_cost is not None and saving.at_cost.accuracy is not None:
            found[f"found at no higher cost, minus {saving.reference}"] = (
                saving.at_cost.accuracy - saving.accuracy
            )
    return found


def by_seed(paths: Sequence[Path]) -> dict[int, Run]:
    """The runs by their seeds, of which each may come once."""
    runs: dict[int, Run] = {}
    for path in paths:
        run = read_run(path)
        seed = int(run.record["seed"])
        if seed in runs:
            raise SystemExit(f"{path} and {runs[seed].path} have the same seed, {seed}")
        runs[seed] = run
    return dict(sorted(runs.items()))


def text(name: str, values: Sequence[float]) -> str:
    """Mean and interval of one figure."""
    if not values:
        return MISSING
    mean, interval = mean_interval(values)
    number = _hypervolume if name == HYPERVOLUME else _points if "minus" in name else _percent
    if interval is None:
        return f"{number(mean)} (one seed)"
    few = "" if len(values) > 2 else f", {len(values)} seeds"
    return f"{number(mean)} ({number(interval.low)} to {number(interval.high)}{few})"


def _hypervolume(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def difference_text(name: str, before: Mapping[int, float], after: Mapping[int, float]) -> str:
    """The paired difference of one figure, over the seeds that both have."""
    changes = [after[seed] - before[seed] for seed in before if seed in after]
    if len(changes) < 2:
        return MISSING
    mean, interval = mean_interval(changes)
    assert interval is not None
    number: Callable[[float], str] = _points
    if name == HYPERVOLUME:
        number = "{:+.3f}".format
    unsure = ", within noise" if interval.low <= 0 <= interval.high else ""
    return f"{number(mean)} ({number(interval.low)} to {number(interval.high)}{unsure})"


def rows(columns: Mapping[str, Mapping[int, Run]]) -> list[list[str]]:
    """A heading and a row for each figure: its mean and interval in each column."""
    found = {title: {s: figures(run) for s, run in runs.items()} for title, runs in columns.items()}
    names = dict.fromkeys(name for runs in found.values() for own in runs.values() for name in own)
    table = [["", *columns, *(["difference, seed by seed"] if len(columns) == 2 else [])]]
    for name in names:
        values = [
            {seed: own[name] for seed, own in runs.items() if name in own}
            for runs in found.values()
        ]
        cells = [text(name, list(own.values())) for own in values]
        table.append(
            [
                name,
                *cells,
                *([difference_text(name, *values)] if len(values) == 2 else []),
            ]
        )
    return table


def provenance(title: str, runs: Mapping[int, Run]) -> str:
    """What a column is of: seeds, days, versions."""
    days = {
        str(datetime.date.fromtimestamp((run.path / SUMMARY).stat().st_mtime))
        for run in runs.values()
    }
    told = {
        ", ".join(f"{package} {version}" for package, version in run.record["versions"].items())
        for run in runs.values()
    }
    seeds, when = ", ".join(map(str, runs)), " to ".join(sorted({min(days), max(days)}))
    return f"{title}: seeds {seeds}; run on {when}; {' / '.join(sorted(told))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="quickstart", help="what to search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"), help="where to run them")
    parser.add_argument("--runs", type=Path, nargs="+", help="read these runs instead")
    parser.add_argument("--before", type=Path, nargs="+", help="compare with these runs")
    args = parser.parse_args()
    machine = here()
    paths = args.runs or [search(args.config, s, args.out / str(s)) for s in args.seeds]
    columns = {"mean over seeds (95 % interval)": by_seed(paths)}
    if args.before:
        columns = {"before": by_seed(args.before), "after": by_seed(paths)}
    print(f"{machine}{' (where the runs were read)' if args.runs else ''}")
    for title, runs in columns.items():
        print(provenance(title, runs))
    print()
    heading, *body = rows(columns)
    for row in (heading, ["---", *["---:"] * (len(heading) - 1)], *body):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
