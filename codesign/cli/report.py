"""`codesign report`: reports of finished runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from codesign.cli.ablate import print_ablations, print_effects
from codesign.cli.arguments import add_command
from codesign.cli.compare import print_comparisons
from codesign.cli.output import console, print_json
from codesign.cli.search import print_run
from codesign.errors import UserError
from codesign.kinds import ABLATION, COMPARISON, EFFECTS, FINETUNE, SEARCH, kind_of_run

# Writes the report of a run's folder.
Reporter: TypeAlias = Callable[[str | Path], Path]


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands, "report", run, "rebuild the reports of runs; compare several runs"
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, such as runs/NAME")


def run(args: argparse.Namespace) -> int:
    """`codesign report`."""
    from codesign.runs import check_folder

    for path in args.runs:
        check_folder(path)
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


def _report_comparisons(args: argparse.Namespace, write_report: Reporter) -> int:
    print_comparisons([write_report(path).parent for path in args.runs], args.json)
    return 0


def _report_finetunings(args: argparse.Namespace, write_report: Reporter) -> int:
    from codesign.report.finetune import comparison_table
    from codesign.runs import read_run

    runs = [read_run(path) for path in args.runs]
    reports = [write_report(run.path) for run in runs]
    if args.json:
        print_json(
            [
                {"run": str(run.path), "report": str(report)} | run.summary
                for run, report in zip(runs, reports, strict=True)
            ]
        )
        return 0
    console().print(comparison_table({run.name: run.summary for run in runs}))
    for report in reports:
        console().print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _report_searches(args: argparse.Namespace, write_report: Reporter) -> int:
    from codesign.report.claims import run_claims
    from codesign.report.seeds import run_groups
    from codesign.report.tables import comparison_table, run_summary, seeds_table
    from codesign.runs import jsonable, read_run

    # All are read before one is written: a misspelt folder leaves the others as they were.
    runs = [read_run(path) for path in args.runs]
    found = [run_claims(run) for run in runs]
    reports = [write_report(run.path) for run in runs]
    summaries = [
        run_summary(run.name, run.designs, run.summary, claims) | {"seed": run.record.get("seed")}
        for run, claims in zip(runs, found, strict=True)
    ]
    groups = run_groups(runs, found)
    if args.json:
        print_json(
            [
                {"run": str(run.path), "report": str(report)}
                | summary
                | {"savings": jsonable(claims.savings)}
                | next(({"over_seeds": group.json()} for group in groups if i in group.runs), {})
                for i, (run, report, summary, claims) in enumerate(
                    zip(runs, reports, summaries, found, strict=True)
                )
            ]
        )
        return 0
    for run, report, claims in zip(runs, reports, found, strict=True):
        print_run(run.name, run.designs, claims, str(report))
    if len(runs) > 1:
        console().print(comparison_table(summaries))
    if groups:
        console().print(seeds_table(groups))
    return 0


_REPORTS = {
    ABLATION.a_run: _report_ablations,
    EFFECTS.a_run: _report_effects,
    COMPARISON.a_run: _report_comparisons,
    FINETUNE.a_run: _report_finetunings,
    SEARCH.a_run: _report_searches,
}
