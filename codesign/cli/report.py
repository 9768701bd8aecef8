"""`codesign report`: reports of finished runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from codesign.cli.ablate import print_ablations, print_effects
from codesign.cli.arguments import add_command
from codesign.cli.compare import print_comparisons
from codesign.cli.output import console, print_json
from codesign.cli.search import print_run
from codesign.cli.study import print_studies
from codesign.errors import UserError
from codesign.kinds import (
    ABLATION,
    COMPARISON,
    EFFECTS,
    FINETUNE,
    SEARCH,
    STUDY,
    kind_of_run,
)

if TYPE_CHECKING:
    from codesign.runs import Run

# Writes the report of a run's folder.
Reporter: TypeAlias = Callable[[str | Path], Path]
# Writes the page of several runs into a file.
_Writer: TypeAlias = "Callable[[Sequence[Run], Path], Path]"


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands, "report", run, "rebuild the reports of runs; compare several runs"
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, such as runs/NAME")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="of several runs: the page that lays them over each other "
        "(default: comparison.html in the first run's folder)",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign report`."""
    from codesign.runs import check_folder

    for path in args.runs:
        check_folder(path)
    if args.out is not None and len(args.runs) < 2:
        raise UserError("--out is the page that compares several runs; give two run folders")
    kinds = [kind_of_run(path) for path in args.runs]
    others = next((k for k in kinds if k.a_run != kinds[0].a_run), None)
    if others is not None:
        raise UserError(
            f"{args.runs[0]} is {kinds[0].a_run}, {args.runs[kinds.index(others)]} is "
            f"{others.a_run}: report on them apart"
        )
    return _REPORTS[kinds[0].a_run](args, kinds[0].reporter())


def _report_ablations(args: argparse.Namespace, write_report: Reporter) -> int:
    print_ablations([write_report(path).parent for path in args.runs], args.json)
    return 0


def _report_effects(args: argparse.Namespace, write_report: Reporter) -> int:
    print_effects([write_report(path).parent for path in args.runs], args.json)
    return 0


def _report_studies(args: argparse.Namespace, write_report: Reporter) -> int:
    print_studies([write_report(path).parent for path in args.runs], args.json)
    return 0


def _report_comparisons(args: argparse.Namespace, write_report: Reporter) -> int:
    print_comparisons([write_report(path).parent for path in args.runs], args.json)
    return 0


def _report_finetunings(args: argparse.Namespace, write_report: Reporter) -> int:
    from codesign.report import comparison
    from codesign.report.finetune import comparison_table
    from codesign.report.names import distinct_names
    from codesign.runs import read_run

    runs = [read_run(path) for path in args.runs]
    reports = [write_report(run.path) for run in runs]
    compared = _compared(args, runs, comparison.write_finetunings)
    if args.json:
        print_json(
            [
                {"run": str(run.path), "report": str(report)} | compared | run.summary
                for run, report in zip(runs, reports, strict=True)
            ]
        )
        return 0
    names = distinct_names(runs)
    console().print(
        comparison_table({name: run.summary for name, run in zip(names, runs, strict=True)})
    )
    for report in reports:
        console().print(f"report: {report}", soft_wrap=True)
    _print_compared(compared)
    return 0


def _compared(args: argparse.Namespace, runs: Sequence[Run], write: _Writer) -> dict[str, str]:
    """Writes the page of several runs: {"comparison": its path}; nothing of one run."""
    from codesign.report.comparison import COMPARISON

    if len(runs) < 2:
        return {}
    file = Path(args.out) if args.out else runs[0].path / COMPARISON
    if not file.resolve().parent.is_dir():
        raise UserError(f"--out {file}: there is no folder {file.parent}; make it first")
    return {"comparison": str(write(runs, file))}


def _print_compared(compared: dict[str, str]) -> None:
    for page in compared.values():
        console().print(f"comparison: {page}", soft_wrap=True)


def _report_searches(args: argparse.Namespace, write_report: Reporter) -> int:
    from codesign.report import comparison
    from codesign.report.claims import run_claims
    from codesign.report.names import distinct_names
    from codesign.report.seeds import run_groups
    from codesign.report.tables import comparison_table, run_summary, seeds_table
    from codesign.runs import jsonable, read_run

    # All are read before one is written: a misspelt folder leaves the others as they were.
    runs = [read_run(path) for path in args.runs]
    found = [run_claims(run) for run in runs]
    reports = [write_report(run.path) for run in runs]
    compared = _compared(args, runs, comparison.write_searches)
    names = distinct_names(runs)
    summaries = [
        run_summary(name, run.designs, run.summary, claims) | {"seed": run.record.get("seed")}
        for name, run, claims in zip(names, runs, found, strict=True)
    ]
    groups = run_groups(runs, found)
    if args.json:
        print_json(
            [
                {"run": str(run.path), "report": str(report)}
                | compared
                | summary
                | {"savings": jsonable(claims.savings)}
                | next(({"over_seeds": group.json()} for group in groups if i in group.runs), {})
                for i, (run, report, summary, claims) in enumerate(
                    zip(runs, reports, summaries, found, strict=True)
                )
            ]
        )
        return 0
    for name, run, report, claims in zip(names, runs, reports, found, strict=True):
        print_run(name, run.designs, claims, str(report))
    if len(runs) > 1:
        console().print(comparison_table(summaries))
    if groups:
        console().print(seeds_table(groups))
    _print_compared(compared)
    return 0


_REPORTS = {
    ABLATION.a_run: _report_ablations,
    EFFECTS.a_run: _report_effects,
    STUDY.a_run: _report_studies,
    COMPARISON.a_run: _report_comparisons,
    FINETUNE.a_run: _report_finetunings,
    SEARCH.a_run: _report_searches,
}
